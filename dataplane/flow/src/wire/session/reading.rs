//! A chunk on its way out: opened, its pieces viewed and released.

use rkyv::{Archive, Deserialize, Serialize};

use super::SlotRef;
use crate::chunk::{ChunkId, Geometry};
use crate::swarm::Priority;

/// What a manifest says of a chunk: enough to fetch it from anybody and know that it is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ChunkReference {
    /// The chunk.
    pub id: ChunkId,
    /// How it is cut.
    pub geometry: Geometry,
    /// BLAKE3 digest of its descriptor.
    pub descriptor_digest: [u8; 32],
}

/// Opens a chunk for reading; it is fetched from other nodes where it is not here. Answered by
/// [`ChunkOpened`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ChunkOpen {
    /// The chunk.
    pub chunk: ChunkReference,
    /// How much it matters beside others that are fetched, as long as it is on its way.
    pub priority: Priority,
}

/// The chunk is open.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ChunkOpened {
    /// Names the open chunk on this connection until [`ChunkClose`].
    pub handle: u64,
    /// Pieces that are on this node already.
    pub local_pieces: u32,
}

/// Waits for verified pieces in the arena; answered by [`PieceViews`] once there is at least one. Each piece in
/// `first..first + count` is given out once, in the order of arrival. Pieces given out stay where they are
/// until [`PieceRelease`] or [`ChunkClose`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct PieceNext {
    /// The open chunk.
    pub handle: u64,
    /// The first piece wanted.
    pub first: u32,
    /// How many are wanted, from `first` on.
    pub count: u32,
    /// The most to answer at once.
    pub limit: u32,
}

/// Pieces to read. None when all pieces in the range were given out before.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct PieceViews {
    /// Where they lie.
    pub slots: Vec<SlotRef>,
}

/// The client has read these pieces; answered by [`Done`](super::Done).
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct PieceRelease {
    /// The open chunk.
    pub handle: u64,
    /// The pieces.
    pub pieces: Vec<u32>,
}

/// Closes a chunk that was opened; answered by [`Done`](super::Done).
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ChunkClose {
    /// The open chunk.
    pub handle: u64,
}

/// Bytes of a piece for a client that has no arena: `length` bytes of payload follow the frame. Sent to the
/// node in place of writing a slot, and by the node in place of naming one.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct PieceBytes {
    /// The chunk.
    pub handle: u64,
    /// The piece.
    pub piece: u32,
    /// Bytes of payload.
    pub length: u32,
    /// CRC-64/NVME of the payload.
    pub checksum: u64,
}
