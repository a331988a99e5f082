//! What a shard asks of the control plane.

use std::path::PathBuf;

use flow::chunk::ChunkId;
use flow::wire::control::{Holding, NodeId};

/// What a shard asks of the control plane. The channel is bounded; a control plane that does not read stalls its
/// shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A data connection is wanted; answered by `Handle::attach` or `Handle::dial_failed`.
    Dial {
        /// The shard that wants it.
        from_shard: u16,
        /// The node to reach.
        peer: NodeId,
        /// The shard to reach there.
        to_shard: u16,
    },
    /// A peer on this host offers its memory; answered by `Handle::mapped`.
    Map {
        /// The shard that wants it.
        shard: u16,
        /// Its number of the connection that the offer came on.
        connection: u64,
        /// The node whose memory it is.
        peer: NodeId,
        /// The peer's local socket.
        socket: PathBuf,
    },
    /// Peers for a chunk are wanted; answered by `Handle::peers`, perhaps with none.
    FindPeers {
        /// The chunk.
        chunk: ChunkId,
    },
    /// Nobody helps a fetch: who has any of the chunk at all? Answered by `Handle::holders`, or not.
    FindHolders {
        /// The chunk.
        chunk: ChunkId,
        /// How many nodes are to be asked at most.
        nodes: usize,
    },
    /// What this node holds of a chunk has changed; its trackers must hear of it.
    Holding {
        /// The chunk.
        chunk: ChunkId,
        /// How much.
        holding: Holding,
    },
    /// A value is gone that was a chunk; whoever put it there closes the handle that kept the chunk.
    ValueDropped {
        /// The chunk.
        chunk: ChunkId,
        /// The handle.
        handle: u64,
    },
    /// Something was found damaged and is being mended or given up.
    Fault(Fault),
}

/// A damage that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The chunk.
    pub chunk: ChunkId,
    /// The piece.
    pub piece: u32,
    /// The peer that sent it, or `None` when it was read from NVMe.
    pub peer: Option<NodeId>,
    /// What was wrong, for the log.
    pub message: String,
}
