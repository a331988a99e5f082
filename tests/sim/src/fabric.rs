//! The links between nodes: cards, leaf and spine switches, memory.

use crate::cluster::Cluster;
use crate::faults::Fate;

/// Most links that a slice takes after the card that sends it.
pub(crate) const HOPS_MAX: usize = 5;

/// A link that carries slices one after the other, in the order in which they come.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    /// Nanoseconds for each byte.
    pub(crate) ns_per_byte: f64,
    /// When it has carried all that came so far.
    pub(crate) free_ns: u64,
}

impl Link {
    pub(crate) fn new(gbps: f64) -> Self {
        Self { ns_per_byte: 8.0 / gbps, free_ns: 0 }
    }

    /// How long it carries so many bytes, in nanoseconds.
    pub(crate) fn time_ns(&self, bytes: u64) -> u64 {
        (bytes as f64 * self.ns_per_byte).round() as u64
    }
}

/// The links that a stream takes, by their numbers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Path {
    links: [u32; HOPS_MAX],
    length: u8,
}

impl Path {
    fn push(&mut self, link: usize) {
        self.links[usize::from(self.length)] = link as u32;
        self.length += 1;
    }

    /// Its links, in order.
    pub(crate) fn links(&self) -> &[u32] {
        &self.links[..usize::from(self.length)]
    }
}

/// Where the links of one cluster stand in the list of all.
#[derive(Debug)]
pub(crate) struct Fabric {
    cluster: Cluster,
    /// Whether what leaves a rack goes through links of its own.
    has_spine: bool,
    memories: Option<usize>,
    leaves: usize,
}

impl Fabric {
    /// The fabric, the links in it, and the rates of the nodes' cards, in Gbit/s.
    pub(crate) fn new(cluster: &Cluster, fates: &[Fate]) -> (Self, Vec<Link>, Vec<f64>) {
        let cards: Vec<f64> = fates.iter().map(|fate| cluster.nic_gbps / fate.slowness).collect();
        let mut links: Vec<Link> =
            cards.iter().flat_map(|&gbps| vec![Link::new(gbps); cluster.nics]).collect();
        let has_memory = cluster.memory_gbps < 4.0 * cluster.node_gbps();
        let memories = has_memory.then_some(links.len());
        if has_memory {
            links.extend(vec![Link::new(cluster.memory_gbps); fates.len()]);
        }
        let leaves = links.len();
        let has_spine = cluster.spines > 0 || cluster.oversubscription > 1.0;
        if has_spine {
            let below = cluster.nodes_per_rack * if cluster.rail_optimized { 1 } else { cluster.nics };
            let uplink = below as f64 * cluster.nic_gbps / cluster.oversubscription;
            let racks = fates.len().div_ceil(cluster.nodes_per_rack);
            let leaves = racks * if cluster.rail_optimized { cluster.nics } else { 1 };
            let spines = cluster.spines.max(1);
            links.extend(vec![Link::new(uplink / spines as f64); 2 * leaves * spines]);
        }
        (Self { cluster: cluster.clone(), has_spine, memories, leaves }, links, cards)
    }

    /// The links from one node to another on a rail, after the card that sends.
    pub(crate) fn path(&self, from: usize, to: usize, rail: usize) -> Path {
        let mut path = Path::default();
        if let Some(memories) = self.memories {
            path.push(memories + from);
        }
        let racks = [from, to].map(|node| self.cluster.rack(node));
        if self.has_spine && racks[0] != racks[1] {
            let spines = self.cluster.spines.max(1);
            let spine = hash(from, to, rail) as usize % spines;
            let leaf = |rack: usize| match self.cluster.rail_optimized {
                true => rack * self.cluster.nics + rail,
                false => rack,
            };
            path.push(self.leaves + 2 * (leaf(racks[0]) * spines + spine));
            path.push(self.leaves + 2 * (leaf(racks[1]) * spines + spine) + 1);
        }
        path.push(to * self.cluster.nics + rail);
        if let Some(memories) = self.memories {
            path.push(memories + to);
        }
        path
    }
}

/// Which way a connection takes: switches choose by a hash over its addresses and ports, for as long as it lasts.
fn hash(from: usize, to: usize, rail: usize) -> u64 {
    let mut mixed = (from as u64) << 40 ^ (to as u64) << 16 ^ rail as u64;
    for _ in 0..2 {
        mixed = (mixed ^ (mixed >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    mixed >> 33
}
