//! Shard to shard, about lanes: ways for pieces besides the connection, over RDMA or through UCX.
//!
//! A lane is a queue pair or an endpoint at each side. One side offers its end and the other answers with its own; then both can grant
//! slots of their memory on it, and write into those that they were granted. Everything but the bytes of pieces passes
//! over the connection, in order.

use rkyv::{Archive, Deserialize, Serialize};

use crate::chunk::ChunkId;
use crate::wire::data::Want;

/// "This is my end of a lane." The other side answers with its own end, or with [`LaneClosed`]. When both offer at the
/// same time, the offer of the node with the smaller number counts.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct LaneOpen {
    /// The sender's number of its end.
    pub lane: u64,
    /// The receiver's number of its end, in an answer.
    pub answers: Option<u64>,
    /// Which of the sender's devices it is, in its own order. An answer comes from a device that reaches it, if possible
    /// one in the same subnet, and of these the one in the same place.
    pub rail: u16,
    /// Where it is.
    pub address: LaneAddress,
}

/// Where one end of a lane is, by the way it is connected. Each end must be of the same kind.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum LaneAddress {
    /// A queue pair that is connected by its number.
    QueuePair(QueuePairAddress),
    /// A queue pair that the connection manager connects (iWARP).
    Listener(ListenerAddress),
    /// A worker of UCX.
    Worker(WorkerAddress),
}

/// What the other end must know to connect to a queue pair and to write through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct QueuePairAddress {
    /// Global address of the port (GID).
    pub gid: [u8; 16],
    /// Address within an InfiniBand subnet; 0 on Ethernet.
    pub lid: u16,
    /// Number of the queue pair: 24 bits.
    pub queue_pair: u32,
    /// Number of the first packet: 24 bits.
    pub packet_sequence_number: u32,
    /// Largest packet that the port takes, in bytes.
    pub mtu_bytes: u32,
    /// Remote key of the arena.
    pub key: u32,
    /// What requests call the first byte of the arena.
    pub base: u64,
    /// Bytes of the arena.
    pub length: u64,
}

/// What the other end must know to call the connection manager, and to write through the queue pair that it makes. The end
/// with the larger token calls the other one, and says both tokens, the other's first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ListenerAddress {
    /// IP address of the port, IPv4 as IPv6.
    pub ip: [u8; 16],
    /// TCP port that the connection manager listens on.
    pub port: u16,
    /// What is said in a call so that it is known to be for this lane: random.
    pub token: u64,
    /// Remote key of the arena.
    pub key: u32,
    /// What requests call the first byte of the arena.
    pub base: u64,
    /// Bytes of the arena.
    pub length: u64,
}

/// What the other end must know to send to a worker of UCX.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct WorkerAddress {
    /// Its address, as the library made it: at most [`crate::limits::WORKER_ADDRESS_MAX`] bytes.
    pub address: Vec<u8>,
    /// What a message must begin with so that it is known to be for this lane: random.
    pub token: u64,
}

/// The sender's end of a lane is gone, or it will not make one; nothing is written through it any more. What was granted
/// or written and not told to have arrived has not.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct LaneClosed {
    /// The receiver's number of its end.
    pub lane: u64,
}

/// As [`crate::wire::data::Grant`], of a slot that is written through a lane. It is answered by [`PieceWritten`], or by a
/// [`crate::wire::data::Decline`]; a [`crate::wire::data::Revoke`] too is answered by a decline, if nothing was
/// written and nothing will be.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct LaneGrant {
    /// The chunk.
    pub chunk: ChunkId,
    /// The sender's number of this grant, unique on the connection.
    pub grant: u64,
    /// Which piece.
    pub want: Want,
    /// The receiver's number of its end of the lane.
    pub lane: u64,
    /// What the write says when its bytes are there (immediate data).
    pub tag: u32,
    /// Where the slot begins in the sender's arena, in bytes.
    pub offset: u64,
    /// Bytes of the slot.
    pub length: u32,
}

/// The piece of a [`LaneGrant`] is being written through the lane. It is there when the lane has told its tag, before or
/// after this message.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct PieceWritten {
    /// The chunk.
    pub chunk: ChunkId,
    /// The receiver's number of the grant.
    pub grant: u64,
    /// Index of the piece.
    pub piece: u32,
    /// Bytes of the piece.
    pub length: u32,
}
