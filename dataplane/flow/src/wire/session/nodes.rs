//! Nodes: listed, drained, asked how they are.

use rkyv::{Archive, Deserialize, Serialize};
use serde::Serialize as Json;

use crate::wire::control::NodeRecord;

/// Asks for the members; answered by [`NodeListing`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct NodeList {}

/// The members.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct NodeListing {
    /// Grows with every change.
    pub epoch: u64,
    /// The members.
    pub nodes: Vec<NodeRecord>,
}

/// Moves every chunk that only this node has to others and takes it out of placement; answered by [`Done`](super::Done) when
/// it is done.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct NodeDrain {
    /// Name of the node.
    pub node: String,
}

/// Asks a node for its own counters; answered by [`Status`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct StatusQuery {}

/// A node's own counters since its start.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize, Json)]
pub struct Status {
    /// The node.
    pub node: NodeRecord,
    /// What was found on the machine and which fast path was taken: (topic, finding).
    pub findings: Vec<(String, String)>,
    /// Counters: (name, value).
    pub counters: Vec<(String, u64)>,
    /// Its GPUs, by their numbers.
    pub gpus: Vec<GpuRecord>,
}

/// A GPU of a node, and how much of it the node has taken.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize, Json)]
pub struct GpuRecord {
    /// Its number on the node.
    pub index: u16,
    /// What its maker calls it.
    pub name: String,
    /// What no other GPU is called; empty for a stand-in.
    pub uuid: String,
    /// Where it is on the machine's PCI bus; empty for a stand-in.
    pub bus: String,
    /// Bytes of memory that it has.
    pub memory_bytes: u64,
    /// Bytes of them that the node may take.
    pub limit_bytes: u64,
    /// Bytes that the node has taken.
    pub used_bytes: u64,
    /// Whether it is a stand-in in the host's memory.
    pub is_emulated: bool,
}

impl GpuRecord {
    /// Bytes that the node may still take.
    pub fn free_bytes(&self) -> u64 {
        self.limit_bytes.saturating_sub(self.used_bytes)
    }
}
