//! Which devices to use, and in what order.

use std::net::IpAddr;

use ::verbs::{Context, Device, GidEntry, PortState, Transport, choose_gid};

use super::error::LaneError;

/// How RDMA is used. The defaults suit most fabrics.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RdmaSettings {
    /// Names of the devices to use, such as `mlx5_0`; all that can be used when it is empty.
    pub devices: Vec<String>,
    /// InfiniBand's service level, up to 15; on Ethernet the priority.
    pub service_level: u8,
    /// Traffic class of the global header; its upper six bits are DSCP.
    pub traffic_class: u8,
    /// Place of the partition key in the port's table; 0 is the default partition.
    pub partition_key_index: u16,
    /// Place of the address in the port's table; without it RoCE v2 that can be routed is chosen.
    pub gid_index: Option<u8>,
}

impl RdmaSettings {
    /// The address to use of those that a port has.
    pub(super) fn choose_gid<'a>(&self, entries: &'a [GidEntry]) -> Option<&'a GidEntry> {
        match self.gid_index {
            Some(index) => entries.iter().find(|entry| entry.index == index),
            None => choose_gid(entries),
        }
    }
}

/// How lanes of a device are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// By numbers of queue pairs, which both ends tell each other: InfiniBand and RoCE.
    Numbers,
    /// By this address of the device's, through the connection manager: iWARP.
    Address(IpAddr),
}

/// A port that carries traffic.
pub(super) struct Candidate {
    pub(super) device: Device,
    /// Number of the port, from 1.
    pub(super) port: u8,
    pub(super) way: Way,
    /// Rate of its link, in Mbit/s; 0 when it is not known.
    rate_mbps: u32,
}

/// The ports that can be used: at least one, or why there is none.
pub(super) fn candidates(settings: &RdmaSettings) -> Result<Vec<Candidate>, LaneError> {
    let mut found = Vec::new();
    let mut unusable = Vec::new();
    for device in ::verbs::devices()? {
        if !settings.devices.is_empty() && !settings.devices.iter().any(|name| name == device.name()) {
            continue;
        }
        let ports = match device.transport() {
            Transport::InfiniBand => active_ports(settings, &device),
            Transport::Iwarp => active_iwarp_ports(&device),
            Transport::Other => {
                Err("it has no reliable connections over InfiniBand, Ethernet or TCP".to_owned())
            }
        };
        match ports {
            Ok(ports) => found.extend(ports),
            Err(reason) => unusable.push(format!("{}: {reason}", device.name())),
        }
    }
    if found.is_empty() {
        let none =
            if settings.devices.is_empty() { "this machine has none".to_owned() } else { missing(settings) };
        return Err(LaneError::NoDevice(if unusable.is_empty() { none } else { unusable.join("; ") }));
    }
    Ok(found)
}

/// Puts InfiniBand and RoCE before iWARP, whose peers answer each write with a message of their own; of each kind those
/// first that are nearest to the memory, which is on a NUMA node, and of them the fastest.
pub(super) fn nearest_first(candidates: &mut [Candidate], memory_node: Option<u32>) {
    // The sort is stable: what is equal stays in the order of the library.
    candidates.sort_by_cached_key(|candidate| {
        let distance = Distance::between(memory_node, candidate.device.numa_node());
        (candidate.way != Way::Numbers, distance, std::cmp::Reverse(candidate.rate_mbps))
    });
}

/// The active ports of a device that have an address, or why there is none.
fn active_ports(settings: &RdmaSettings, device: &Device) -> Result<Vec<Candidate>, String> {
    let context = Context::open(device).map_err(in_words)?;
    let mut ports = Vec::new();
    let mut reason = "it has no ports".to_owned();
    for port in context.ports().map_err(in_words)? {
        let gids = context.gids(&port).map_err(in_words)?;
        if port.state != PortState::Active {
            reason = format!("port {} is {}", port.number, port.state);
        } else if settings.choose_gid(&gids).is_none() {
            reason = format!("port {} has no address that could be used", port.number);
        } else {
            let rate_mbps = port.rate_mbps.unwrap_or(0);
            ports.push(Candidate { device: device.clone(), port: port.number, way: Way::Numbers, rate_mbps });
        }
    }
    if ports.is_empty() { Err(reason) } else { Ok(ports) }
}

/// The active port of an iWARP device that has an address of this machine, or why there is none. Such a device has one
/// port for each of its network interfaces, and in practice one.
fn active_iwarp_ports(device: &Device) -> Result<Vec<Candidate>, String> {
    let context = Context::open(device).map_err(in_words)?;
    let ports = context.ports().map_err(in_words)?;
    let active = ports.iter().find(|port| port.state == PortState::Active).ok_or("it has no active port")?;
    let address = ::verbs::addresses(device).map_err(in_words)?.into_iter().next();
    let address = address.ok_or("no IP address of this machine belongs to it")?;
    let (device, rate_mbps) = (device.clone(), active.rate_mbps.unwrap_or(0));
    Ok(vec![Candidate { device, port: active.number, way: Way::Address(address), rate_mbps }])
}

fn in_words(error: ::verbs::Error) -> String {
    error.to_string()
}

fn missing(settings: &RdmaSettings) -> String {
    format!("there is no {}; `shoal doctor` lists those that there are", settings.devices.join(", "))
}

/// How far a device is from the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Distance {
    Near,
    Unknown,
    Far,
}

impl Distance {
    fn between(memory: Option<u32>, device: Option<u32>) -> Self {
        match (memory, device) {
            (Some(memory), Some(device)) if memory == device => Distance::Near,
            (Some(_), Some(_)) => Distance::Far,
            _ => Distance::Unknown,
        }
    }
}

/// The NUMA node that has most of the arena's pages, as far as they were touched and the kernel tells.
pub(super) fn arena_numa_node() -> Option<u32> {
    most_pages(&std::fs::read_to_string("/proc/self/numa_maps").ok()?)
}

/// The node with most pages in the lines of arenas, such as `7f… default file=/memfd:shoal-arena\040(deleted) N0=3 N1=9`.
fn most_pages(numa_maps: &str) -> Option<u32> {
    let mut pages = std::collections::BTreeMap::<u32, u64>::new();
    for line in numa_maps.lines().filter(|line| line.contains("/memfd:shoal-arena")) {
        for word in line.split_whitespace() {
            let counted = word.strip_prefix('N').and_then(|rest| rest.split_once('='));
            if let Some((Ok(node), Ok(count))) =
                counted.map(|(node, count)| (node.parse(), count.parse::<u64>()))
            {
                *pages.entry(node).or_default() += count;
            }
        }
    }
    pages.into_iter().max_by_key(|(_, count)| *count).map(|(node, _)| node)
}

#[cfg(test)]
mod tests {
    use ::verbs::{Gid, GidKind};

    use super::*;

    #[test]
    fn the_node_with_most_of_the_arena_is_found() {
        let text = "7f00 default file=/memfd:shoal-arena\\040(deleted) dirty=12 N0=3 N1=9 kernelpagesize_kB=4\n\
                    7f10 default file=/usr/lib/libc.so.6 mapped=100 N0=100 kernelpagesize_kB=4\n\
                    7f20 default file=/memfd:shoal-arena\\040(deleted) N1=x N=3 N2\n";
        assert_eq!(most_pages(text), Some(1));
        assert_eq!(most_pages(""), None);
    }

    #[test]
    fn what_is_known_to_be_near_comes_before_what_is_not_known() {
        let order = [(Some(1), Some(1)), (Some(1), None), (Some(1), Some(0))];
        let distances = order.map(|(memory, device)| Distance::between(memory, device));
        assert!(distances.is_sorted() && distances[0] != distances[2]);
        assert_eq!(Distance::between(None, Some(0)), Distance::Unknown);
    }

    #[test]
    fn an_address_that_was_named_is_used_or_none() {
        let entry = |index| GidEntry { index, gid: Gid([1; 16]), kind: GidKind::RoceV2 };
        let table = [entry(0), entry(3)];
        let named = |gid_index| RdmaSettings { gid_index, ..RdmaSettings::default() };
        assert_eq!(named(Some(3)).choose_gid(&table).map(|entry| entry.index), Some(3));
        assert_eq!(named(Some(2)).choose_gid(&table), None);
        assert_eq!(named(None).choose_gid(&table).map(|entry| entry.index), Some(0));
    }

    #[test]
    fn a_device_that_is_not_there_is_named() {
        let settings = RdmaSettings { devices: vec!["mlx5_77".to_owned()], ..RdmaSettings::default() };
        match candidates(&settings) {
            Err(LaneError::NoDevice(reason)) => assert!(reason.contains("mlx5_77"), "{reason}"),
            Err(LaneError::Verbs(error)) => assert!(matches!(*error, ::verbs::Error::Load(_)), "{error}"),
            other => panic!("{:?}", other.err()),
        }
    }
}
