//! What the control plane asks of a shard.

use std::net::TcpStream;
use std::sync::Arc;

use flow::chunk::ChunkId;
use flow::wire::control::{NodeId, ReplicaRecord, TrackerPeer};
use flow::wire::session::{ChunkFetched, ChunkOpened, ChunkReference, Device, FilledPiece, SlotRef};
use memory::Mapping;

use crate::{EngineError, Peer};

/// Where an answer goes.
pub(crate) type Reply<T> = flume::Sender<Result<T, EngineError>>;

/// A chunk that was written and is visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    /// What others must know to read it.
    pub chunk: ChunkReference,
    /// An open handle that keeps it from being evicted or dropped until it is closed.
    pub handle: u64,
}

/// One request to one shard.
pub(crate) enum Command {
    Create {
        size: u64,
        piece_size: u32,
        durable: bool,
        reply: Reply<u64>,
    },
    Lease {
        handle: u64,
        first: u32,
        count: u32,
        reply: Reply<Vec<SlotRef>>,
    },
    Fill {
        handle: u64,
        pieces: Vec<FilledPiece>,
        reply: Reply<()>,
    },
    Seal {
        handle: u64,
        id: ChunkId,
        size: u64,
        reply: Reply<Sealed>,
    },
    Abort {
        handle: u64,
        reply: Reply<()>,
    },
    /// A chunk that was written on another shard and belongs to this one.
    Adopt {
        chunk: Box<crate::shard::Adopted>,
        /// Tells the handle that keeps the chunk.
        reply: Reply<u64>,
    },

    Open {
        chunk: ChunkReference,
        reply: Reply<ChunkOpened>,
    },
    Next {
        handle: u64,
        first: u32,
        count: u32,
        limit: u32,
        reply: Reply<Vec<SlotRef>>,
    },
    Release {
        handle: u64,
        pieces: Vec<u32>,
        reply: Reply<()>,
    },
    Close {
        handle: u64,
        reply: Reply<()>,
    },

    Fetch {
        chunk: ChunkReference,
        device: Device,
        reply: Reply<ChunkFetched>,
    },
    Verify {
        id: ChunkId,
        reply: Reply<ChunkId>,
    },
    Pin {
        id: ChunkId,
        pinned: bool,
        reply: Reply<bool>,
    },
    Drop {
        id: ChunkId,
        device: Option<Device>,
        force: bool,
        reply: Reply<bool>,
    },
    Replicas {
        chunk: Option<ChunkId>,
        reply: Reply<Vec<ReplicaRecord>>,
    },
    Counters {
        reply: Reply<Vec<(String, u64)>>,
    },
    /// Another shard has no memory left.
    Evict {
        bytes: u64,
    },

    Members {
        peers: Vec<Peer>,
    },
    Peers {
        chunk: ChunkId,
        peers: Vec<TrackerPeer>,
    },
    Holders {
        chunk: ChunkId,
        holders: Vec<(NodeId, u32)>,
        are_all: bool,
    },
    Attach {
        peer: NodeId,
        peer_shard: u16,
        stream: TcpStream,
    },
    DialFailed {
        peer: NodeId,
        peer_shard: u16,
    },
    /// The memory of a peer on this host, or `None` where it could not be had.
    Mapped {
        connection: u64,
        memory: Option<Arc<Mapping>>,
    },
    Stop {
        reply: Reply<()>,
    },
}
