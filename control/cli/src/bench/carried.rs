//! By which transport bytes came to receivers.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::broadcast::Receiver;
use crate::failure::Failure;

/// Bytes that nodes have received, by transport.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// Over TCP.
    pub tcp: u64,
    /// Copied out of the memory of nodes on the same host.
    pub shm: u64,
    /// Written by RDMA devices.
    pub rdma: u64,
    /// Through UCX.
    pub ucx: u64,
}

impl Carried {
    /// What these nodes have received since they started.
    pub fn by(nodes: &[Receiver]) -> Result<Self, Failure> {
        let mut sum = Self::default();
        for node in nodes {
            sum = sum.and(Self::of(&node.client.status()?.counters));
        }
        Ok(sum)
    }

    /// Both together.
    pub fn and(self, other: Self) -> Self {
        Self {
            tcp: self.tcp + other.tcp,
            shm: self.shm + other.shm,
            rdma: self.rdma + other.rdma,
            ucx: self.ucx + other.ucx,
        }
    }

    /// As a node counts them.
    pub fn of(counters: &[(String, u64)]) -> Self {
        let counter =
            |name: &str| counters.iter().find(|(known, _)| known == name).map_or(0, |(_, value)| *value);
        let [shm, rdma, ucx] = ["shm", "rdma", "ucx"].map(|way| counter(&format!("bytes_received_{way}")));
        Self { tcp: counter("bytes_received").saturating_sub(shm + rdma + ucx), shm, rdma, ucx }
    }

    /// What was received since `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            tcp: self.tcp.saturating_sub(before.tcp),
            shm: self.shm.saturating_sub(before.shm),
            rdma: self.rdma.saturating_sub(before.rdma),
            ucx: self.ucx.saturating_sub(before.ucx),
        }
    }

    fn sum(self) -> u64 {
        self.tcp + self.shm + self.rdma + self.ucx
    }
}

impl fmt::Display for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [("rdma", self.rdma), ("ucx", self.ucx), ("shm", self.shm), ("tcp", self.tcp)];
        let share = |bytes: u64| 100.0 * bytes as f64 / self.sum().max(1) as f64;
        let parts = parts.iter().filter(|(_, bytes)| *bytes > 0);
        let parts: Vec<String> =
            parts.map(|(name, bytes)| format!("{name} {:.1} %", share(*bytes))).collect();
        f.write_str(&parts.join("   "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_none_of_the_others_came_over_tcp() {
        let counters = [
            ("bytes_received", 110),
            ("bytes_received_shm", 20),
            ("bytes_received_rdma", 60),
            ("bytes_received_ucx", 10),
        ];
        let after = Carried::of(&counters.map(|(name, value)| (name.to_owned(), value)));
        assert_eq!(after, Carried { tcp: 20, shm: 20, rdma: 60, ucx: 10 });
        let since = after.since(Carried { tcp: 10, shm: 20, rdma: 30, ucx: 10 });
        assert_eq!(since.to_string(), "rdma 75.0 %   tcp 25.0 %");
        assert_eq!(Carried::of(&[]), Carried::default());
    }
}
