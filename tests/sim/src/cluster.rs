//! What the simulated machines and the network between them can do.

use flow::swarm::Uplinks;

/// The machines and their network. All nodes are alike but for what [`crate::Faults`] makes of them.
///
/// Rates are in Gbit/s (10⁹ bits per second) and hold per direction; an infinite rate is no ceiling.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// Network cards of a node, each a rail of its own.
    pub nics: usize,
    /// Rate of one card, full duplex.
    pub nic_gbps: f64,
    /// GPUs of a node that each get all bytes; without any, a copy ends in the node's memory.
    pub gpus: usize,
    /// Rate from a node's memory to one of its GPUs.
    pub pcie_gbps: f64,
    /// Rate at which one GPU sends to the others of its node; zero where every GPU is served over PCIe.
    pub nvlink_gbps: f64,
    /// Rate of a node's memory, reads and writes together.
    pub memory_gbps: f64,
    /// Bytes of a node's memory for pieces. What does not fit goes through its NVMe device.
    pub memory_bytes: u64,
    /// Rate of writing to a node's NVMe device.
    pub nvme_write_gbps: f64,
    /// Rate of reading from it.
    pub nvme_read_gbps: f64,
    /// Rate of one core computing checksums.
    pub checksum_gbps: f64,
    /// Processor time of one message, at each end, in nanoseconds.
    pub message_ns: u64,
    /// Processor time of sending or receiving one piece, besides its checksum, in nanoseconds.
    pub operation_ns: u64,
    /// Time until a byte or message is at a node of the same rack, in nanoseconds.
    pub latency_ns: u64,
    /// How much longer it takes between racks, in nanoseconds.
    pub spine_latency_ns: u64,
    /// Time that two nodes need before they can talk, besides three latencies, in nanoseconds.
    pub connect_ns: u64,
    /// Time that a node needs before it begins to fetch, in nanoseconds: it takes and registers memory.
    pub start_ns: u64,
    /// Nodes below one leaf switch.
    pub nodes_per_rack: usize,
    /// How many times more a rack's nodes can send than its uplinks carry.
    pub oversubscription: f64,
    /// Spine switches over which a rack's uplink is divided. Each connection takes one of them by a hash, so that some
    /// collide. Without any, the uplink of a rack is one link.
    pub spines: usize,
    /// Whether each rail has a leaf switch of its own in each rack.
    pub rail_optimized: bool,
}

impl Default for Cluster {
    /// One 10 Gbit/s card a node, racks of 32, a network that carries all that nodes can send, and the processor and
    /// memory of an ordinary server.
    fn default() -> Self {
        Self {
            nics: 1,
            nic_gbps: 10.0,
            gpus: 0,
            pcie_gbps: 200.0,
            nvlink_gbps: 0.0,
            memory_gbps: 1600.0,
            memory_bytes: u64::MAX,
            nvme_write_gbps: 24.0,
            nvme_read_gbps: 48.0,
            checksum_gbps: 320.0,
            message_ns: 2_000,
            operation_ns: 5_000,
            latency_ns: 50_000,
            spine_latency_ns: 0,
            connect_ns: 0,
            start_ns: 0,
            nodes_per_rack: 32,
            oversubscription: 1.0,
            spines: 0,
            rail_optimized: false,
        }
    }
}

impl Cluster {
    /// Eight GPUs and eight 400 Gbit/s cards a node, as clusters for training have them: rails, four spines, NVLink.
    pub fn of_gpus() -> Self {
        Self {
            nics: 8,
            nic_gbps: 400.0,
            gpus: 8,
            pcie_gbps: 400.0,
            nvlink_gbps: 3600.0,
            memory_gbps: 4000.0,
            checksum_gbps: 8.0 * 320.0,
            message_ns: 1_000,
            operation_ns: 2_000,
            latency_ns: 5_000,
            spine_latency_ns: 2_000,
            spines: 4,
            rail_optimized: true,
            ..Self::default()
        }
    }

    /// What an operator of the cluster would say of its uplinks.
    pub fn uplinks(&self) -> Uplinks {
        match self.oversubscription > 1.0 {
            true => Uplinks::Scarce,
            false => Uplinks::Full,
        }
    }

    /// What all cards of a node carry, in Gbit/s.
    pub fn node_gbps(&self) -> f64 {
        self.nic_gbps * self.nics as f64
    }

    /// Rate at which a node's GPUs take in what is in its memory, each all of it, in Gbit/s of the chunk.
    ///
    /// Over NVLink each GPU gets its share of the pieces from memory and hands it on to the others.
    pub fn landing_gbps(&self) -> f64 {
        let gpus = self.gpus.max(1) as f64;
        match self.nvlink_gbps > 0.0 && self.gpus > 1 {
            true => (self.pcie_gbps * gpus).min(self.nvlink_gbps * gpus / (gpus - 1.0)).min(self.memory_gbps),
            false => self.pcie_gbps.min(self.memory_gbps / gpus),
        }
    }

    /// How far away two nodes are, in nanoseconds.
    pub(crate) fn latency_between(&self, one: usize, other: usize) -> u64 {
        match self.rack(one) == self.rack(other) {
            true => self.latency_ns,
            false => self.latency_ns + self.spine_latency_ns,
        }
    }

    /// The rack of a node.
    pub fn rack(&self, node: usize) -> usize {
        node / self.nodes_per_rack.max(1)
    }

    /// Why such machines cannot be simulated.
    pub(crate) fn fault(&self) -> Option<String> {
        let rates = [
            ("the rate of a card", self.nic_gbps),
            ("the rate of PCIe", self.pcie_gbps),
            ("the rate of memory", self.memory_gbps),
            ("the rate of writing to NVMe", self.nvme_write_gbps),
            ("the rate of reading from NVMe", self.nvme_read_gbps),
            ("the rate of checksums", self.checksum_gbps),
        ];
        let wrong = rates.iter().find(|(_, rate)| rate.is_nan() || *rate < RATE_MIN_GBPS);
        if let Some((what, rate)) = wrong {
            return Some(format!("{what} is {rate} Gbit/s; it must be at least {RATE_MIN_GBPS}"));
        }
        if self.nvlink_gbps.is_nan() || self.nvlink_gbps < 0.0 {
            return Some(format!("the rate of NVLink is {} Gbit/s", self.nvlink_gbps));
        }
        let counts = [
            ("cards a node", self.nics, 1, 64),
            ("GPUs a node", self.gpus, 0, 64),
            ("nodes a rack", self.nodes_per_rack, 1, usize::MAX),
            ("spine switches", self.spines, 0, 1024),
        ];
        let wrong = counts.iter().find(|(_, count, least, most)| !(least..=most).contains(&count));
        if let Some((what, count, least, most)) = wrong {
            return Some(format!("{count} {what}; it must be from {least} to {most}"));
        }
        match (1.0..=1000.0).contains(&self.oversubscription) {
            true => None,
            false => {
                Some(format!("an oversubscription of {}; it must be from 1 to 1000", self.oversubscription))
            }
        }
    }
}

/// Slower links take longer than anybody waits.
const RATE_MIN_GBPS: f64 = 0.001;

/// How long so many bytes take, in nanoseconds.
pub(crate) fn time_ns(bytes: u64, gbps: f64) -> u64 {
    (bytes as f64 * 8.0 / gbps).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_land_as_fast_as_their_way_allows() {
        let over_pcie = Cluster { gpus: 4, pcie_gbps: 200.0, memory_gbps: 600.0, ..Cluster::default() };
        assert_eq!(over_pcie.landing_gbps(), 150.0);
        let over_nvlink = Cluster { nvlink_gbps: 900.0, memory_gbps: 6000.0, ..over_pcie };
        assert_eq!(over_nvlink.landing_gbps(), 800.0);
    }

    #[test]
    fn what_cannot_be_simulated_says_why() {
        assert_eq!(Cluster::default().fault(), None);
        assert_eq!(Cluster::of_gpus().fault(), None);
        for wrong in [
            Cluster { nic_gbps: 0.0, ..Cluster::default() },
            Cluster { nic_gbps: f64::NAN, ..Cluster::default() },
            Cluster { nics: 0, ..Cluster::default() },
            Cluster { nodes_per_rack: 0, ..Cluster::default() },
            Cluster { oversubscription: 0.5, ..Cluster::default() },
        ] {
            assert!(wrong.fault().is_some(), "{wrong:?}");
        }
    }
}
