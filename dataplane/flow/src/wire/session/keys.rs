//! Keys of files: open, list, remove. What is put is a write of the catalog.

use rkyv::{Archive, Deserialize, Serialize};
use serde::Serialize as Json;

use super::SlotRef;
use crate::chunk::ChunkId;
use crate::swarm::Priority;
use crate::wire::catalog::CatalogEntry;

/// Reads a key; answered by [`KeyEntry`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct KeyOpen {
    /// The key.
    pub key: String,
    /// Whether the version's chunks must be kept until [`LeaseRelease`] or the end of the connection.
    pub lease: bool,
}

/// One version of a key.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct KeyEntry {
    /// The key.
    pub key: String,
    /// The version, counted from 1.
    pub version: u64,
    /// The revision of the catalog that wrote it.
    pub revision: u64,
    /// When it was committed, milliseconds since 1970.
    pub created_ms: u64,
    /// The manifest root, as `plan` encodes it.
    pub manifest: Vec<u8>,
    /// The lease, or 0 when none was asked for.
    pub lease: u64,
}

/// Opens the current version of a key to see all of its bytes; answered by [`FileOpened`] when they are in memory, brought from
/// other nodes where they are not here. It says at once what [`KeyOpen`], [`ChunkOpen`](super::ChunkOpen) and
/// [`PieceNext`](super::PieceNext) say one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct FileOpen {
    /// The key.
    pub key: String,
    /// How much its chunks matter beside others that are fetched, as long as they are on their way.
    pub priority: Priority,
    /// Most bytes that the client would look at. Of what is larger, or is no file that can be seen as the bytes of its chunks in
    /// their order, no chunk is opened.
    pub view_max: u64,
}

/// The version of a key that was current.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct FileOpened {
    /// What there is.
    pub entry: CatalogEntry,
    /// Keeps the version's chunks until [`LeaseRelease`] or the end of the connection. 0 when all of its bytes are in `chunks`,
    /// which keeps them.
    pub lease: u64,
    /// The chunks that the file consists of, in its order; none when its bytes have to be read.
    pub chunks: Vec<ChunkInMemory>,
}

/// A chunk that is open for reading, of which every piece was given out.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ChunkInMemory {
    /// Names the open chunk on this connection until [`ChunkClose`](super::ChunkClose).
    pub handle: u64,
    /// Where its pieces lie, each once, in any order.
    pub slots: Vec<SlotRef>,
}

/// Gives a lease back; answered by [`Done`](super::Done).
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct LeaseRelease {
    /// The lease.
    pub lease: u64,
}

/// Lists keys in order; answered by [`KeyListing`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct KeyList {
    /// Only keys that begin so.
    pub prefix: String,
    /// Only keys after this one; empty for the first page.
    pub after: String,
    /// The most entries wanted.
    pub limit: u32,
}

/// A page of keys.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct KeyListing {
    /// The keys, ascending.
    pub keys: Vec<KeySummary>,
    /// Whether there are more after the last.
    pub more: bool,
}

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize, Json)]
pub struct KeySummary {
    /// The key.
    pub key: String,
    /// Its current version.
    pub version: u64,
    /// When that was committed, milliseconds since 1970.
    pub created_ms: u64,
    /// Bytes of all its files.
    pub size: u64,
    /// How many files.
    pub files: u64,
}

/// Removes a key, or with `recursive` every key below it too; answered by [`KeyRemoved`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct KeyRemove {
    /// The key.
    pub key: String,
    /// Whether `key/…` goes too.
    pub recursive: bool,
}

/// What was removed.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct KeyRemoved {
    /// How many keys.
    pub count: u64,
}

/// Asks the head which chunks are still part of some key's version; answered by [`ChunkReferenced`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ChunkReferences {
    /// The chunks asked about.
    pub chunks: Vec<ChunkId>,
}

/// One answer for each chunk asked about, in order.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ChunkReferenced {
    /// Whether it is still referenced.
    pub referenced: Vec<bool>,
}
