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
}
