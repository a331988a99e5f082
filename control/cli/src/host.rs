//! This machine as a report describes it: what decides how fast bytes move here.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::doctor::Line;

/// Network interfaces, and RDMA ports, that are described at the most.
const DEVICES_MAX: usize = 64;

/// A machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Host {
    /// Its name.
    pub host: String,
    /// System and release.
    pub kernel: String,
    /// What its processors understand, such as `x86_64`.
    pub architecture: String,
    /// The model of its processors.
    pub processor: String,
    /// Processors that this program may run on.
    pub processors: usize,
    /// For each NUMA node the processors in it, as the kernel lists them.
    pub numa: Vec<String>,
    /// Memory, in KiB.
    pub memory_kib: u64,
    /// Version of this program.
    pub shoal: String,
    /// Its network interfaces but the loopback.
    pub network: Vec<Interface>,
    /// The ports of its RDMA devices.
    pub rdma: Vec<RdmaPort>,
    /// What `shoal doctor` finds.
    pub doctor: Vec<Line>,
}

/// A network interface.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// As the kernel calls it: `up`, `down`.
    pub state: String,
    /// The rate of its link, where the driver tells.
    pub megabit_per_s: Option<u64>,
    /// Bytes of its largest packet.
    pub mtu: u64,
    /// The driver; `none` for one without hardware.
    pub driver: String,
    /// The NUMA node that it is attached to, where the machine tells.
    pub numa: Option<u32>,
}

/// A port of an RDMA device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RdmaPort {
    /// The device.
    pub name: String,
    /// The number of the port.
    pub port: u32,
    /// As the kernel calls it, such as `4: ACTIVE`.
    pub state: String,
    /// As the kernel calls it, such as `400 Gb/sec (4X NDR)`.
    pub rate: String,
    /// `InfiniBand` or `Ethernet`.
    pub link: String,
}

impl Host {
    /// Looks at this machine.
    pub fn describe(data_dir: &Path) -> Self {
        let system = rustix::system::uname();
        let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
        let processor = line_of("/proc/cpuinfo", "model name").unwrap_or_default();
        Self {
            host: text(system.nodename()),
            kernel: format!("{} {}", text(system.sysname()), text(system.release())),
            architecture: text(system.machine()),
            processor,
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            numa: numa(),
            memory_kib: line_of("/proc/meminfo", "MemTotal").and_then(|line| number(&line)).unwrap_or(0),
            shoal: env!("CARGO_PKG_VERSION").to_owned(),
            network: interfaces(),
            rdma: rdma_ports(),
            doctor: daemon::doctor::report(data_dir).into_iter().map(Line::from).collect(),
        }
    }
}

/// The text of a small file without the white space around it; empty when there is none.
pub fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// The entries of a folder, sorted.
pub fn entries(folder: impl AsRef<Path>) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .map_or_else(|_| Vec::new(), |found| found.flatten().map(|entry| entry.path()).collect());
    entries.sort();
    entries
}

/// The last part of a path.
pub fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn interfaces() -> Vec<Interface> {
    let has_packets = |path: &PathBuf| path.join("mtu").exists() && name_of(path) != "lo";
    let interface = |path: PathBuf| Interface {
        name: name_of(&path),
        state: read(path.join("operstate")),
        megabit_per_s: read(path.join("speed")).parse().ok(),
        mtu: read(path.join("mtu")).parse().unwrap_or(0),
        driver: fs::read_link(path.join("device/driver")).map_or("none".into(), |driver| name_of(&driver)),
        numa: read(path.join("device/numa_node")).parse().ok(),
    };
    entries("/sys/class/net").into_iter().filter(has_packets).take(DEVICES_MAX).map(interface).collect()
}

/// The folders of all ports of RDMA devices.
pub fn rdma_port_folders() -> Vec<PathBuf> {
    let ports = |device: PathBuf| entries(device.join("ports"));
    entries("/sys/class/infiniband").into_iter().flat_map(ports).take(DEVICES_MAX).collect()
}

fn rdma_ports() -> Vec<RdmaPort> {
    let port = |path: PathBuf| RdmaPort {
        name: path.ancestors().nth(2).map(name_of).unwrap_or_default(),
        port: name_of(&path).parse().unwrap_or(0),
        state: read(path.join("state")),
        rate: read(path.join("rate")),
        link: read(path.join("link_layer")),
    };
    rdma_port_folders().into_iter().map(port).collect()
}

fn numa() -> Vec<String> {
    let nodes = entries("/sys/devices/system/node");
    let is_node = |path: &PathBuf| path.join("cpulist").exists();
    nodes.into_iter().filter(is_node).map(|path| read(path.join("cpulist"))).collect()
}

/// What follows a name and a colon in a file of the kernel's.
pub fn line_of(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

/// The number at the beginning of a text.
pub fn number(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

/// Bytes of memory that programs can still have: what the kernel says, and what the control group leaves.
pub fn available_memory_bytes() -> u64 {
    let machine = line_of("/proc/meminfo", "MemAvailable").and_then(|line| number(&line));
    let machine = machine.map_or(u64::MAX, |kib| kib * 1024);
    let of_group = |name: &str| read(Path::new("/sys/fs/cgroup").join(name)).parse::<u64>();
    let group = match (of_group("memory.max"), of_group("memory.current")) {
        (Ok(most), Ok(used)) => most.saturating_sub(used),
        _ => u64::MAX,
    };
    machine.min(group)
}

/// The name and the IPv4 address of an interface, of the one of the default route when none is named.
pub fn address_of(interface: Option<&str>) -> Option<(String, IpAddr)> {
    if interface == Some("lo") {
        return Some(("lo".into(), Ipv4Addr::LOCALHOST.into()));
    }
    let routes = fs::read_to_string("/proc/net/route").ok()?;
    let (name, beyond) = route(&routes, interface)?;
    // A datagram socket that is connected has chosen its route; nothing is sent.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((beyond, 9)).ok()?;
    Some((name, socket.local_addr().ok()?.ip()))
}

/// An interface in the kernel's table of routes, and an address that is reached through it.
fn route(routes: &str, interface: Option<&str>) -> Option<(String, Ipv4Addr)> {
    routes.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [name, destination, ..] = fields[..] else { return None };
        // Addresses stand there in hexadecimal, the way they lie in the memory of the machine.
        let network = Ipv4Addr::from(u32::from_str_radix(destination, 16).ok()?.to_ne_bytes());
        match interface {
            // 192.0.2.1 is an address that nobody has (RFC 5737).
            None if network.is_unspecified() => Some((name.to_owned(), Ipv4Addr::new(192, 0, 2, 1))),
            Some(wanted) if wanted == name && !network.is_unspecified() => {
                Some((name.to_owned(), Ipv4Addr::from(u32::from(network).saturating_add(1))))
            }
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_describes_itself_in_json() {
        let folder = tempfile::tempdir().unwrap();
        let host = Host::describe(folder.path());
        assert!(!host.host.is_empty() && host.memory_kib > 0 && !host.doctor.is_empty());
        let text = serde_json::to_string(&host).unwrap();
        assert_eq!(serde_json::from_str::<Host>(&text).unwrap().host, host.host);
    }

    #[test]
    fn routes_lead_to_interfaces() {
        let routes = "Iface\tDestination\tGateway\n\
                      eth0\t00000000\t010200C0\t0003\n\
                      ib0\t0000000A\t00000000\t0001\n";
        assert_eq!(route(routes, None), Some(("eth0".into(), Ipv4Addr::new(192, 0, 2, 1))));
        if cfg!(target_endian = "little") {
            assert_eq!(route(routes, Some("ib0")), Some(("ib0".into(), Ipv4Addr::new(10, 0, 0, 1))));
        }
        assert_eq!(route(routes, Some("eth0")), None);
        assert_eq!(address_of(Some("lo")), Some(("lo".into(), Ipv4Addr::LOCALHOST.into())));
    }
}
