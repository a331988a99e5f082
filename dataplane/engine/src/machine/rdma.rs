//! RDMA: the library, and each device with its ports.

use std::net::IpAddr;

use verbs::{Context, Device, Library, Port, PortState, Transport};

use super::{Finding, names_in};

/// Where the kernel lists them.
const DEVICES: &str = "/sys/class/infiniband";
/// What the engine does without the library or a device.
const NOT_USED: &str = "TCP between nodes";
/// What it does with the library.
const LOADED: &str = "loaded when a node starts";
/// What it does with a device. The node's log says whether it could.
const USED: &str = "RDMA to nodes that it reaches, unless --transports says otherwise";

pub(super) fn probe() -> Vec<Finding> {
    let known_to_kernel = names_in(DEVICES);
    vec![library(!known_to_kernel.is_empty()), devices(&known_to_kernel), gpu_direct(&known_to_kernel)]
}

/// Whether the kernel knows an RDMA device.
pub(super) fn has_devices() -> bool {
    !names_in(DEVICES).is_empty()
}

/// Whether a device could reach the memory of a GPU by itself (GPUDirect RDMA): through nvidia-peermem, or dmabuf.
fn gpu_direct(rdma_devices: &[String]) -> Finding {
    let topic = "GPUDirect RDMA";
    let taken = "not used yet by this build; chunks live in DRAM and on NVMe";
    let has_gpus = !names_in("/proc/driver/nvidia/gpus").is_empty();
    if rdma_devices.is_empty() || !has_gpus {
        let lacking = match (rdma_devices.is_empty(), has_gpus) {
            (true, true) => "no RDMA device",
            (false, _) => "no NVIDIA GPU",
            (true, false) => "neither an RDMA device nor an NVIDIA GPU",
        };
        return Finding::new(topic, lacking, taken);
    }
    let has_peermem = std::path::Path::new("/sys/module/nvidia_peermem").exists();
    let has_dmabuf = Library::get().is_ok_and(|library| library.has_dmabuf());
    match (has_peermem, has_dmabuf) {
        (true, _) => Finding::new(topic, "nvidia-peermem is loaded", taken),
        (false, true) => Finding::new(topic, "libibverbs takes dmabuf; nvidia-peermem is not loaded", taken),
        (false, false) => Finding::new(topic, "neither nvidia-peermem nor dmabuf", taken)
            .remedy("`modprobe nvidia-peermem`, or rdma-core 34 with the open NVIDIA kernel modules"),
    }
}

/// Whether what user space needs is there. To install it makes sense only where the kernel has a device.
fn library(is_of_use: bool) -> Finding {
    let topic = "RDMA library";
    let remedy = |finding: Finding, error: verbs::LoadError| {
        if is_of_use { finding.remedy(error.to_string()) } else { finding }
    };
    let library = match Library::get() {
        Ok(library) => library,
        Err(error) => {
            return remedy(Finding::new(topic, "libibverbs is missing or too old", NOT_USED), error);
        }
    };
    let dmabuf = if library.has_dmabuf() { "libibverbs" } else { "libibverbs without dmabuf" };
    match verbs::connection_manager() {
        Ok(()) => Finding::new(topic, format!("{dmabuf}, librdmacm"), LOADED),
        // Lanes between iWARP devices alone need it, and such a device says so.
        Err(_) => Finding::new(topic, format!("{dmabuf}; no librdmacm"), LOADED),
    }
}

fn devices(known_to_kernel: &[String]) -> Finding {
    let topic = "RDMA devices";
    if known_to_kernel.is_empty() {
        return Finding::new(topic, "none in /sys/class/infiniband", NOT_USED);
    }
    let devices = match verbs::devices() {
        Ok(devices) => devices,
        // What is missing stands with the library.
        Err(_) => return Finding::new(topic, known_to_kernel.join(", "), NOT_USED),
    };
    let seen: Vec<Seen> = devices.iter().map(Seen::look).collect();
    let found: Vec<&str> = seen.iter().map(|seen| seen.description.as_str()).collect();
    let mut remedies: Vec<String> = seen.iter().filter_map(|seen| seen.remedy.clone()).collect();
    if devices.is_empty() {
        remedies.push(
            "the library sees none of them: apt install ibverbs-providers, modprobe ib_uverbs".to_owned(),
        );
    }
    let found = if found.is_empty() { known_to_kernel.join(", ") } else { found.join("; ") };
    let taken = if seen.iter().any(|seen| seen.is_active) { USED } else { NOT_USED };
    let finding = Finding::new(topic, found, taken);
    if remedies.is_empty() { finding } else { finding.remedy(remedies.join("; ")) }
}

/// What is to be said of one device.
struct Seen {
    description: String,
    remedy: Option<String>,
    /// Whether a port of it carries traffic.
    is_active: bool,
}

impl Seen {
    fn look(device: &Device) -> Self {
        let is_iwarp = device.transport() == Transport::Iwarp;
        let mut place = Vec::from_iter(is_iwarp.then(|| "iWARP".to_owned()));
        place.extend(device.pci_address());
        place.extend(device.numa_node().map(|node| format!("NUMA node {node}")));
        let name = match place.is_empty() {
            true => device.name().to_owned(),
            false => format!("{} ({})", device.name(), place.join(", ")),
        };
        match ports(device) {
            Ok(ports) if is_iwarp => Self::of_ports(&name, &ports).by_address(verbs::addresses(device)),
            Ok(ports) => Self::of_ports(&name, &ports),
            Err(error) => Self { description: name, remedy: Some(error.to_string()), is_active: false },
        }
    }

    /// Adds the address by which lanes are connected, without which there are none.
    fn by_address(self, addresses: Result<Vec<IpAddr>, verbs::Error>) -> Self {
        let lacking = match addresses.as_deref() {
            Ok([address, ..]) => {
                return Self { description: format!("{}, {address}", self.description), ..self };
            }
            Ok([]) => format!("{}: give its network interface an IP address", self.description),
            Err(error) => error.to_string(),
        };
        Self { remedy: self.remedy.or(Some(lacking)), is_active: false, ..self }
    }

    fn of_ports(name: &str, ports: &[(Port, usize)]) -> Self {
        let described: Vec<String> = ports.iter().map(|(port, gids)| describe(port, *gids)).collect();
        let inactive = ports.iter().find(|(port, _)| port.state != PortState::Active);
        let remedy = inactive.map(|(port, _)| {
            let advice = match port.state {
                PortState::Initialising | PortState::Armed => "start a subnet manager",
                _ => "connect its cable, or bring its network interface up",
            };
            format!("port {} of {name} is {}: {advice}", port.number, port.state)
        });
        let is_active = ports.iter().any(|(port, _)| port.state == PortState::Active);
        Self { description: format!("{name}: {}", described.join("; ")), remedy, is_active }
    }
}

/// The ports of a device, with the number of addresses of each.
fn ports(device: &Device) -> Result<Vec<(Port, usize)>, verbs::Error> {
    let context = Context::open(device)?;
    let counted = |port: Port| {
        let gids = context.gids(&port)?.len();
        Ok((port, gids))
    };
    context.ports()?.into_iter().map(counted).collect()
}

fn describe(port: &Port, gids: usize) -> String {
    let rate = port.rate_mbps.map_or_else(String::new, |mbps| format!(" {} Gbit/s", f64::from(mbps) / 1e3));
    let addresses = if gids == 1 { "GID" } else { "GIDs" };
    format!("port {} {},{rate} {}, {gids} {addresses}", port.number, port.state, port.link_layer)
}

#[cfg(test)]
mod tests {
    use verbs::{LinkLayer, Mtu};

    use super::*;

    fn port(number: u8, state: PortState) -> Port {
        Port {
            number,
            state,
            mtu: Mtu::Bytes4096,
            lid: 1,
            link_layer: LinkLayer::InfiniBand,
            message_bytes_max: 1 << 30,
            rate_mbps: Some(400_000),
            gid_table_length: 16,
        }
    }

    #[test]
    fn ports_are_described_and_those_that_are_down_have_a_remedy() {
        let ports = [(port(1, PortState::Active), 1), (port(2, PortState::Down), 0)];
        let seen = Seen::of_ports("mlx5_0", &ports);
        let expected =
            "mlx5_0: port 1 active, 400 Gbit/s InfiniBand, 1 GID; port 2 down, 400 Gbit/s InfiniBand, 0 GIDs";
        assert_eq!(seen.description, expected);
        assert!(seen.remedy.unwrap().starts_with("port 2 of mlx5_0 is down: connect"));
        assert_eq!(Seen::of_ports("mlx5_0", &ports[..1]).remedy, None);
    }

    #[test]
    fn an_iwarp_device_is_used_by_its_address() {
        let seen = || Seen::of_ports("siw0 (iWARP)", &[(port(1, PortState::Active), 1)]);
        let used = seen().by_address(Ok(vec!["10.98.0.1".parse().unwrap()]));
        assert!(used.is_active && used.description.ends_with(", 10.98.0.1"), "{}", used.description);
        let unused = seen().by_address(Ok(Vec::new()));
        assert!(!unused.is_active && unused.remedy.unwrap().contains("IP address"));
    }

    #[test]
    fn a_library_that_nobody_needs_has_no_remedy() {
        assert_eq!(library(false).remedy, None);
        assert_eq!(library(false).taken == LOADED, Library::get().is_ok());
    }
}
