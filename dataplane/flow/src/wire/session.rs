//! Client to node: keys, chunks, slots of the arena.
//!
//! A client asks with a request id of its choice; the node answers with the same id and
//! [`super::frame::FLAG_REPLY`]. Requests of one connection run side by side. A refusal is a [`Failure`].

mod keys; // commit, open, list, remove
mod nodes; // listed, drained, asked how they are
mod placing; // replicas: brought, checked, pinned, moved, dropped
mod reading; // a chunk on its way out
mod writing; // a chunk on its way in

pub use keys::*;
pub use nodes::*;
pub use placing::*;
pub use reading::*;
pub use writing::*;

use rkyv::{Archive, Deserialize, Serialize};
use serde::Serialize as Json;

/// Why a request was refused. Nothing was changed unless the message says so.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Failure {
    /// What kind of failure, stable over versions.
    pub code: FailureCode,
    /// What failed, on what.
    pub message: String,
    /// What to do about it; may be empty.
    pub hint: String,
}

/// Kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Archive, Serialize, Deserialize, Json)]
#[serde(rename_all = "snake_case")]
pub enum FailureCode {
    /// The request makes no sense: bad key, bad size, wrong order of calls.
    Invalid,
    /// No such key, chunk, node or handle.
    NotFound,
    /// An expected version was not the current one, or the name is taken.
    Conflict,
    /// No memory: everything is pinned, leased or granted.
    MemoryFull,
    /// The NVMe device is full.
    DiskFull,
    /// Bytes failed their checksum and no other source had them right.
    Corrupt,
    /// No live node has the bytes, or the head does not answer.
    Unavailable,
    /// The node is draining or shutting down.
    Draining,
    /// Reading or writing a device failed.
    Io,
    /// A defect of Shoal.
    Internal,
    /// What was there is not kept any more: a snapshot, a transaction, changes.
    Gone,
}

/// A request was carried out and there is nothing to say.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Done {}

/// Where a piece lies in the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct SlotRef {
    /// The piece.
    pub piece: u32,
    /// Bytes of the piece.
    pub length: u32,
    /// Offset in the arena, in bytes.
    pub offset: u64,
}
