//! Shard to shard: who has what, grants, pieces.
//!
//! A receiver grants a source a slot for one piece; the source answers every grant with exactly one
//! [`PieceData`], [`PieceAt`] or [`Decline`], unless it was revoked before it was sent. Request ids are not used here: the
//! grant's number serves.

use rkyv::{Archive, Deserialize, Serialize};

use crate::chunk::{ChunkId, Descriptor};
use crate::swarm::Priority;
use crate::wire::control::NodeId;

/// "I take part in this chunk's swarm, I have these pieces, tell me what you have." Answered by an `Interest`
/// of the other side when `reply` is set; from then on both send [`Have`] until one sends [`Leave`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Interest {
    /// The chunk.
    pub chunk: ChunkId,
    /// Pieces of the chunk as the sender knows them.
    pub pieces: u32,
    /// Words of the bitmap of the pieces that the sender has verified; see [`crate::bitmap::Bitmap::words`].
    pub have: Vec<u64>,
    /// Whether an `Interest` is wanted back.
    pub reply: bool,
}

/// A piece that nobody nearby has is on its way from another rack to the importer: the sender, or another node of its rack
/// that has told the sender so. Nodes of the rack wait for it instead of getting it from afar themselves; see
/// [`crate::swarm::Fetch::on_coming`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Coming {
    /// The chunk.
    pub chunk: ChunkId,
    /// Index of the piece.
    pub piece: u32,
    /// Who gets it.
    pub importer: NodeId,
}

/// The sender has sent what it was asked for, and is asked for nothing: who lacks a piece of the chunk may ask it for one more than
/// usual; see [`crate::swarm::Fetch::on_room`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Room {
    /// The chunk.
    pub chunk: ChunkId,
}

/// Pieces that the sender has verified since it last said so.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Have {
    /// The chunk.
    pub chunk: ChunkId,
    /// Indices of the pieces.
    pub pieces: Vec<u32>,
}

/// The sender does not take part in the chunk's swarm any more, or never did.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Leave {
    /// The chunk.
    pub chunk: ChunkId,
}

/// A slot is ready for one piece.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Grant {
    /// The chunk.
    pub chunk: ChunkId,
    /// The receiver's number of this grant, unique on the connection.
    pub grant: u64,
    /// Which piece.
    pub want: Want,
}

/// Which piece a grant asks for.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Want {
    /// This one.
    Piece(u32),
    /// Whichever of these the source has sent least often: words of a bitmap.
    LeastSent(Vec<u64>),
}

/// The grant is withdrawn. Bytes of it that still arrive are dropped.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Revoke {
    /// The receiver's number of the grant.
    pub grant: u64,
}

/// The source will not serve the grant.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Decline {
    /// The chunk.
    pub chunk: ChunkId,
    /// The receiver's number of the grant.
    pub grant: u64,
}

/// The piece itself, or its beginning; `part` bytes of payload follow the frame. While less than `length` bytes have
/// been sent, [`PiecePart`] continues it. Other messages may stand between parts, but no other piece.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct PieceData {
    /// The chunk.
    pub chunk: ChunkId,
    /// The receiver's number of the grant that this fills.
    pub grant: u64,
    /// Index of the piece.
    pub piece: u32,
    /// Bytes of the whole piece.
    pub length: u32,
    /// CRC-64/NVME of the whole piece.
    pub checksum: u64,
    /// Bytes of payload that follow.
    pub part: u32,
}

/// More of the piece that a [`PieceData`] began; `part` bytes of payload follow the frame. On a slow link a piece takes
/// tens of milliseconds, for which grants and news shall not have to wait.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct PiecePart {
    /// The grant of the piece.
    pub grant: u64,
    /// Bytes of payload that follow.
    pub part: u32,
}

/// Asks for a chunk's descriptor; answered by [`Description`] or [`Leave`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Describe {
    /// The chunk.
    pub chunk: ChunkId,
}

/// A chunk's descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Description {
    /// The descriptor.
    pub descriptor: Descriptor,
}

/// "Processes of this host can map my memory: if you are one, ask for it at my local socket." Whoever cannot says
/// nothing, and is sent pieces as before.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct MemoryOffer {
    /// What tells this host from others and this boot of it from earlier ones; see `random(4)`, `boot_id`.
    pub boot_id: String,
    /// Path of the local socket.
    pub socket: String,
}

/// "I have mapped the memory that you offered: tell me where pieces lie, and send no bytes."
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct MemoryMapped {}

/// In place of a [`PieceData`], to a peer that has said [`MemoryMapped`]: where the piece lies. It stays as it is until
/// [`PieceTaken`] or the end of the connection.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct PieceAt {
    /// The chunk.
    pub chunk: ChunkId,
    /// The receiver's number of the grant that this fills.
    pub grant: u64,
    /// Index of the piece.
    pub piece: u32,
    /// Bytes of the piece.
    pub length: u32,
    /// CRC-64/NVME of the piece.
    pub checksum: u64,
    /// Where it begins in the sender's arena, in bytes.
    pub offset: u64,
}

/// The receiver does not look at the piece of a [`PieceAt`] any more, whether it took it or not.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct PieceTaken {
    /// The grant of the piece.
    pub grant: u64,
}

/// How much a chunk matters to the sender beside others that it or anybody else asks the receiver of this message for. It
/// holds for all its grants for the chunk, on lanes too, until it says otherwise or leaves the swarm; without it they
/// are [`Priority::Normal`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Preference {
    /// The chunk.
    pub chunk: ChunkId,
    /// How much it matters.
    pub priority: Priority,
}
