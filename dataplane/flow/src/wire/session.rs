//! Client to node: keys, chunks, slots of the arena.
//!
//! A client asks with a request id of its choice; the node answers with the same id and
//! [`super::frame::FLAG_REPLY`]. Requests of one connection run side by side. A refusal is a [`Failure`].
//! Nodes send the key messages on to the head unchanged.

use rkyv::{Archive, Deserialize, Serialize};
use serde::Serialize as Json;

use super::control::{NodeRecord, ReplicaRecord};
use crate::chunk::{ChunkId, Geometry};

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
}

/// A request was carried out and there is nothing to say.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Done {}

// ---- keys ----------------------------------------------------------------------------------------------

/// Makes `manifest` the next version of `key`, durably; answered by [`KeyCommitted`]. Every chunk of it must
/// be sealed before.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct KeyCommit {
    /// The key.
    pub key: String,
    /// The manifest root, as `plan` encodes it.
    pub manifest: Vec<u8>,
    /// Commit only if this is the current version; 0 means the key must be absent.
    pub expected_version: Option<u64>,
}

/// The commit is durable.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct KeyCommitted {
    /// The new version of the key, counted from 1.
    pub version: u64,
    /// The revision of the whole catalog.
    pub revision: u64,
}

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

/// Gives a lease back; answered by [`Done`].
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

// ---- writing a chunk -----------------------------------------------------------------------------------

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

/// Pieces are written and must not be touched by the client any more; answered by [`Done`].
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
    /// BLAKE3 of its bytes.
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

/// Gives a chunk up that is not sealed; answered by [`Done`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ChunkAbort {
    /// The chunk.
    pub handle: u64,
}

// ---- reading a chunk -----------------------------------------------------------------------------------

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

/// The client has read these pieces; answered by [`Done`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct PieceRelease {
    /// The open chunk.
    pub handle: u64,
    /// The pieces.
    pub pieces: Vec<u32>,
}

/// Closes a chunk that was opened; answered by [`Done`].
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

/// Brings a replica of a chunk to this node and keeps it there; answered by [`ChunkFetched`] when it is all
/// there and verified.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ChunkFetch {
    /// The chunk.
    pub chunk: ChunkReference,
    /// Where to keep it: `dram` or `nvme`.
    pub device: Device,
}

/// Where bytes live on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Archive, Serialize, Deserialize, Json)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// The arena.
    Dram,
    /// Files under the data directory.
    Nvme,
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Device::Dram => "dram",
            Device::Nvme => "nvme",
        })
    }
}

/// How a fetch went.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize, Json)]
pub struct ChunkFetched {
    /// From the first request to the last piece verified, in microseconds.
    pub elapsed_us: u64,
    /// Pieces that were here already.
    pub pieces_local: u32,
    /// Pieces from nodes that held the whole chunk when the fetch began.
    pub pieces_from_origin: u32,
    /// Pieces from nodes that were receivers themselves.
    pub pieces_from_peers: u32,
    /// Pieces that failed their checksum and were fetched again.
    pub pieces_corrupt: u32,
    /// Pieces that arrived twice.
    pub pieces_duplicate: u32,
    /// Pieces verified at points in time: (microseconds since the first request, pieces), about 64 points.
    pub progress: Vec<(u64, u32)>,
}

/// Reads a whole local chunk, checks every piece and the BLAKE3 digest; answered by [`ChunkVerified`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ChunkVerify {
    /// The chunk.
    pub id: ChunkId,
}

/// The digest that the bytes have.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ChunkVerified {
    /// BLAKE3 of the bytes as they are.
    pub digest: ChunkId,
}

// ---- operating -----------------------------------------------------------------------------------------

/// Asks for the replicas of the whole cluster; answered by [`ChunkListing`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ChunkList {
    /// Only this chunk, or all.
    pub chunk: Option<ChunkId>,
}

/// The replicas of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ChunkListing {
    /// One entry for each chunk and node.
    // A record can be refused for its geometry, and a plain list that breaks off leaks what it allocated.
    #[rkyv(with = rkyv::with::Map<rkyv::with::Identity>)]
    pub replicas: Vec<ReplicaRecord>,
    /// Names of nodes that did not answer.
    pub silent: Vec<String>,
}

/// Sets or clears the pin of a chunk wherever it is; answered by [`Done`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ChunkPin {
    /// The chunk.
    pub id: ChunkId,
    /// Whether it must not be evicted.
    pub pinned: bool,
    /// Only on this node; everywhere when empty.
    pub node: String,
}

/// Copies or moves a chunk to a node and device; answered by [`ChunkFetched`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ChunkPlace {
    /// The chunk.
    pub id: ChunkId,
    /// Name of the node that shall have it.
    pub node: String,
    /// The device there.
    pub device: Device,
    /// Whether the other replicas are dropped afterwards.
    pub remove_source: bool,
    /// Where to move it from; any other replica when empty.
    pub from: String,
}

/// Drops replicas of a chunk; answered by [`Done`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ChunkRemove {
    /// The chunk.
    pub id: ChunkId,
    /// Only on this node; everywhere when empty.
    pub node: String,
    /// Only from this device; from all when `None`.
    pub device: Option<Device>,
    /// Even if a key still refers to it or it is pinned.
    pub force: bool,
}

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

/// Moves every chunk that only this node has to others and takes it out of placement; answered by [`Done`] when
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
