//! A chunk on its way in: begun, its slots leased and filled, sealed.

use rkyv::{Archive, Deserialize, Serialize};

use super::SlotRef;
use crate::chunk::{ChunkId, Geometry};
use crate::wire::catalog::CatalogWrite;

/// Begins a chunk on this node; answered by [`ChunkCreated`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ChunkCreate {
    /// Bytes it will have, or the most it may have when the length is not known before the end.
    pub size: u64,
    /// Bytes of a piece.
    pub piece_size: u32,
    /// Whether it must reach NVMe before it is sealed.
    pub durable: bool,
}

/// Begins a chunk in memory that may be written soon, or never: with slots for all its pieces, answered by [`ChunkBegun`], or
/// refused when that much memory is not free, as nothing is evicted for it, or when such chunks take their share of it
/// ([`PREPARED_SHARE`](crate::limits::PREPARED_SHARE)).
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ChunkPrepare {
    /// Bytes it will have.
    pub size: u64,
    /// Bytes of a piece.
    pub piece_size: u32,
}

/// A chunk is begun.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ChunkCreated {
    /// Names the chunk on this connection until it is sealed, aborted or closed.
    pub handle: u64,
}

/// Asks for slots for pieces `first..first + count`; answered by [`SlotLeased`] once at least one is free.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct SlotLease {
    /// The chunk.
    pub handle: u64,
    /// The first piece.
    pub first: u32,
    /// How many pieces.
    pub count: u32,
}

/// Slots to write into, for the first pieces of those asked for; perhaps fewer.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct SlotLeased {
    /// One slot for each piece.
    pub slots: Vec<SlotRef>,
}

/// Pieces are written and must not be touched by the client any more; answered by [`Done`](super::Done).
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct PieceFill {
    /// The chunk.
    pub handle: u64,
    /// The pieces.
    pub pieces: Vec<FilledPiece>,
}

/// A piece that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct FilledPiece {
    /// The piece.
    pub piece: u32,
    /// Bytes of it; less than the piece size only at the end of the chunk.
    pub length: u32,
    /// CRC-64/NVME of these bytes.
    pub checksum: u64,
}

/// All pieces are filled: the chunk becomes visible under its id, durable if so asked; answered by
/// [`ChunkSealed`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ChunkSeal {
    /// The chunk.
    pub handle: u64,
    /// BLAKE3 of its bytes, or a name that is no digest ([`ChunkId::unique`]).
    pub id: ChunkId,
    /// Bytes it has.
    pub size: u64,
}

/// The chunk is visible.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ChunkSealed {
    /// How it is cut.
    pub geometry: Geometry,
    /// BLAKE3 digest of its descriptor, for the manifest.
    pub descriptor_digest: [u8; 32],
}

/// Gives a chunk up that is not sealed; answered by [`Done`](super::Done).
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ChunkAbort {
    /// The chunk.
    pub handle: u64,
}

/// Begins a chunk and asks for slots of its first pieces; answered by [`ChunkBegun`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ChunkBegin {
    /// Bytes it will have, or the most it may have when the length is not known before the end.
    pub size: u64,
    /// Bytes of a piece.
    pub piece_size: u32,
    /// Whether it must reach NVMe before it is sealed.
    pub durable: bool,
    /// For how many pieces slots are wanted.
    pub count: u32,
}

/// A chunk is begun.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ChunkBegun {
    /// Names the chunk on this connection until it is sealed, aborted or closed.
    pub handle: u64,
    /// Slots for its first pieces, as far as memory was free: [`SlotLease`] asks for the rest, and waits.
    pub slots: Vec<SlotRef>,
}

/// Fills the last pieces, seals the chunk as [`ChunkSeal`] does and then carries the write out that refers to it; answered as
/// the write is. When anything fails, nothing that comes after it is done.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ChunkCommit {
    /// The chunk.
    pub handle: u64,
    /// Pieces that are written and must not be touched by the client any more; perhaps none.
    pub pieces: Vec<FilledPiece>,
    /// BLAKE3 of its bytes, or a name that is no digest ([`ChunkId::unique`]).
    pub id: ChunkId,
    /// Bytes it has.
    pub size: u64,
    /// What makes it part of a key.
    pub write: CatalogWrite,
}
