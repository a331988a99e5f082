//! What the node is, and whether it is well.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use catalog::Consistency;
use flow::wire::control::NodeState;
use flow::wire::session::{Device, GpuRecord};
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::problem::{Code, Problem};
use crate::kv::place::CatalogPlace;

/// How long the catalog may take to answer when it is well.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(3);

/// The node is well, and so is the catalog.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    /// Always `ok`; what is not ok is a problem.
    status: &'static str,
    /// The last revision of the catalog.
    revision: u64,
}

/// The node.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Status {
    /// Its name.
    name: String,
    /// Its id, in hexadecimal digits.
    id: String,
    /// The cluster, in hexadecimal digits.
    cluster: String,
    /// Where other nodes reach it.
    address: String,
    /// The rack it stands in; empty when unknown.
    rack: String,
    /// Whether it keeps the catalog.
    head: bool,
    /// Where the catalog is.
    catalog: CatalogStatus,
    /// alive or draining.
    state: &'static str,
    /// The version of the program.
    version: &'static str,
    /// Milliseconds since it started.
    uptime_ms: u64,
    /// Members of the cluster that are not dead, as this node knows it.
    live_nodes: usize,
    /// Bytes of memory for chunks.
    memory_limit: u64,
    /// Bytes of it that are in use.
    memory_used: u64,
    /// Bytes of chunks on NVMe.
    nvme_used: u64,
    /// Its GPUs, by their numbers.
    gpus: Vec<GpuStatus>,
}

/// A GPU of the node.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct GpuStatus {
    /// The device, such as `gpu:0`.
    device: String,
    /// What its maker calls it.
    name: String,
    /// What no other GPU is called; empty for a stand-in.
    uuid: String,
    /// Where it is on the machine's PCI bus; empty for a stand-in.
    bus: String,
    /// Bytes of memory that it has.
    memory_bytes: u64,
    /// Bytes of them that the node may take.
    limit_bytes: u64,
    /// Bytes that the node has taken.
    used_bytes: u64,
    /// Whether it is a stand-in in the host's memory.
    emulated: bool,
}

impl From<GpuRecord> for GpuStatus {
    fn from(gpu: GpuRecord) -> Self {
        let GpuRecord { index, name, uuid, bus, memory_bytes, limit_bytes, used_bytes, is_emulated } = gpu;
        let device = Device::Gpu(index).to_string();
        Self { device, name, uuid, bus, memory_bytes, limit_bytes, used_bytes, emulated: is_emulated }
    }
}

/// Where the catalog is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CatalogStatus {
    /// `embedded` on this node, at the `head`, or on `etcd`.
    kind: &'static str,
    /// Who is asked, `host:port` each; none when it is this node.
    endpoints: Vec<String>,
    /// Whether somebody answered when they were asked last.
    reached: bool,
    /// The last revision that is known here; absent where the head has to be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
}

/// Says whether the node can read the catalog.
#[utoipa::path(
    get, path = "/v1/health", operation_id = "getHealth", tag = "node",
    responses((status = 200, description = "The node and the catalog are well", body = Health))
)]
pub(super) async fn health(State(api): State<Api>) -> Result<Json<Health>, Problem> {
    let read = tokio::time::timeout(HEALTH_TIMEOUT, api.catalog.get(&[], Consistency::Quorum)).await;
    let found = read.map_err(|_| {
        let text = format!("the catalog did not answer within {} s", HEALTH_TIMEOUT.as_secs());
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, Code::Unreachable, text, "")
    })??;
    Ok(Json(Health { status: "ok", revision: found.revision }))
}

/// Describes the node.
#[utoipa::path(
    get, path = "/v1/status", operation_id = "getStatus", tag = "node",
    responses((status = 200, description = "What the node is", body = Status))
)]
pub(super) async fn status(State(api): State<Api>) -> Json<Status> {
    let record = api.node.record();
    let CatalogPlace { kind, endpoints, reached, revision } = CatalogPlace::of(&api.node).await;
    Json(Status {
        id: format!("{:016x}", record.node),
        cluster: format!("{:016x}", api.catalog.cluster_id()),
        name: record.name,
        address: record.address,
        rack: record.rack,
        head: record.head,
        catalog: CatalogStatus { kind, endpoints, reached, revision },
        state: if record.state == NodeState::Draining { "draining" } else { "alive" },
        version: env!("CARGO_PKG_VERSION"),
        uptime_ms: api.node.clock.uptime_ms(),
        live_nodes: api.node.members.view().live().count(),
        memory_limit: record.memory_limit,
        memory_used: record.memory_used,
        nvme_used: record.nvme_used,
        gpus: api.node.engine.gpus().into_iter().map(GpuStatus::from).collect(),
    })
}
