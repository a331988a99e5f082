//! Environment variables that mean something.

/// The variables that mean something to some command of Shoal.
const VARIABLES: [&str; 24] = [
    "SHOAL_ADVERTISE",
    "SHOAL_ALLOW_SEND",
    "SHOAL_ALLOW_SOURCE",
    "SHOAL_BINARY",
    "SHOAL_CATALOG",
    "SHOAL_CONFIG",
    "SHOAL_CONGESTION_CONTROL",
    "SHOAL_CORES",
    "SHOAL_DATA_DIR",
    "SHOAL_EMULATE_GPUS",
    "SHOAL_GPU_MEMORY",
    "SHOAL_INSECURE",
    "SHOAL_JOIN",
    "SHOAL_LISTEN",
    "SHOAL_LOG",
    "SHOAL_MAX_MEMORY",
    "SHOAL_NAME",
    "SHOAL_NODE",
    "SHOAL_RACK",
    "SHOAL_RDMA",
    "SHOAL_SOURCE_CA",
    "SHOAL_TOKEN_FILE",
    "SHOAL_TRANSPORTS",
    "SHOAL_UPLINKS",
];

/// Those of `names` that look like settings and are none, most likely misspelt. They are no error: Kubernetes gives
/// every pod beside a service called shoal variables such as `SHOAL_PORT` and `SHOAL_SERVICE_HOST`.
pub(crate) fn unknown_variables(names: impl Iterator<Item = String>) -> Vec<String> {
    let of_a_service = |name: &str| name.starts_with("SHOAL_PORT") || name.starts_with("SHOAL_SERVICE_");
    let unknown = |name: &String| {
        name.starts_with("SHOAL_") && !VARIABLES.contains(&name.as_str()) && !of_a_service(name)
    };
    names.filter(unknown).collect()
}
