//! What the control plane asks of a shard.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flow::chunk::ChunkId;
use flow::swarm::Priority;
use flow::wire::control::{NodeId, ReplicaRecord, TrackerPeer};
use flow::wire::session::{ChunkFetched, ChunkOpened, ChunkReference, Device, FilledPiece, SlotRef};
use memory::Mapping;

use crate::{EngineError, Peer, values};

/// Where an answer goes.
pub(crate) type Reply<T> = flume::Sender<Result<T, EngineError>>;

/// An answer with a handle in it. Whoever asked may be gone by the time that it comes; dropped without
/// [`HandleGiven::take`], wherever it has got to, it takes the handle back.
pub(crate) struct HandleGiven<T> {
    answer: Option<T>,
    handle: u64,
    shard: flume::Sender<Command>,
    take_back: fn(u64, Reply<()>) -> Command,
}

impl<T> HandleGiven<T> {
    /// A handle to write through.
    pub(crate) fn to_write(answer: T, handle: u64, shard: &flume::Sender<Command>) -> Self {
        let take_back = |handle, reply| Command::Abort { handle, reply };
        Self { answer: Some(answer), handle, shard: shard.clone(), take_back }
    }

    /// A handle to read through.
    pub(crate) fn to_read(answer: T, handle: u64, shard: &flume::Sender<Command>) -> Self {
        let take_back = |handle, reply| Command::Close { handle, reply };
        Self { answer: Some(answer), handle, shard: shard.clone(), take_back }
    }

    /// The answer, whose handle is the caller's to give back.
    pub(crate) fn take(mut self) -> T {
        self.answer.take().expect("an answer is taken once, since taking it consumes this")
    }
}

impl<T> Drop for HandleGiven<T> {
    fn drop(&mut self) {
        if self.answer.is_some() {
            let (reply, _) = flume::bounded(1);
            // A shard that has stopped has no handles.
            let _ = self.shard.send((self.take_back)(self.handle, reply));
        }
    }
}

/// A chunk that is begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    /// The way to it.
    pub handle: u64,
    /// Slots for its first pieces.
    pub slots: Vec<SlotRef>,
}

/// A chunk that was written and is visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    /// What others must know to read it.
    pub chunk: ChunkReference,
    /// An open handle that keeps it from being evicted or dropped until it is closed.
    pub handle: u64,
}

/// The requests to one shard, on its side. When that is gone, those that it has not taken are dropped, so that nobody
/// waits for their answers.
pub(crate) struct Inbox {
    pub(crate) commands: flume::Receiver<Command>,
    /// Nothing that is sent after this was set is answered.
    pub(crate) is_closed: Arc<AtomicBool>,
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.is_closed.store(true, Ordering::SeqCst);
        drop(self.commands.drain());
    }
}

/// One request to one shard.
pub(crate) enum Command {
    Begin {
        size: u64,
        piece_size: u32,
        device: Device,
        /// For how many pieces slots are wanted.
        count: u32,
        reply: Reply<HandleGiven<Begun>>,
    },
    Prepare {
        size: u64,
        piece_size: u32,
        reply: Reply<HandleGiven<Begun>>,
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
        /// What is filled before.
        pieces: Vec<FilledPiece>,
        id: ChunkId,
        size: u64,
        reply: Reply<HandleGiven<Sealed>>,
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
        priority: Priority,
        /// Who has the chunk, as far as that is known already.
        known: Vec<TrackerPeer>,
        reply: Reply<HandleGiven<ChunkOpened>>,
    },
    Next {
        handle: u64,
        first: u32,
        count: u32,
        limit: u32,
        reply: Reply<Vec<SlotRef>>,
    },
    Whole {
        handle: u64,
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
        priority: Priority,
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
    /// Whether a connection is taken that a peer asks for.
    Room {
        reply: Reply<bool>,
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

    /// Small values.
    Values(values::Command),

    Stop {
        reply: Reply<()>,
    },
}
