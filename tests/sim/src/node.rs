//! One node and its part of the engine.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Deref;

use flow::bitmap::Bitmap;
use flow::chunk::ChunkId;
use flow::swarm::{Fetch, Holdings, Serve};

/// The name of a chunk of the world.
pub(crate) fn chunk_id(chunk: usize) -> ChunkId {
    ChunkId([7 + chunk as u8; 32])
}

/// One node.
#[derive(Debug)]
pub(crate) struct Node {
    /// The source side.
    pub(crate) serve: Serve,
    /// Its part in the swarm of each chunk.
    pub(crate) seats: Vec<Seat>,
    /// The core that handles its messages and checks its pieces.
    pub(crate) cpu: Worker,
    /// The way to its GPUs.
    pub(crate) landing: Worker,
    /// Its NVMe device, reading and writing.
    pub(crate) reading: Worker,
    pub(crate) writing: Worker,
    /// Whether it runs.
    pub(crate) alive: bool,
    /// Whether what it sends arrives.
    pub(crate) heard: bool,
    /// Whether it sends wrong bytes.
    pub(crate) lies: bool,
}

/// The part of one node in the swarm of one chunk.
#[derive(Debug)]
pub(crate) struct Seat {
    /// The fetch, on a receiver that has joined.
    pub(crate) fetch: Option<Fetch>,
    /// Every piece that the world saw verified here.
    pub(crate) verified: Bitmap,
    /// The same in their order, of those that came here.
    pub(crate) log: Vec<u32>,
    /// Whom it knows.
    pub(crate) ties: Vec<Tie>,
    /// Slots in use, by grant.
    pub(crate) slots: BTreeMap<u64, Slot>,
    /// Slots whose pieces are being written to the disk.
    pub(crate) unwritten: usize,
    /// Pieces in memory, the oldest first, where not all fit.
    pub(crate) resident: VecDeque<u32>,
    /// Highest number of a grant so far.
    pub(crate) last_grant: Option<u64>,
    /// When it asked to be woken, in nanoseconds.
    pub(crate) wake_ns: Option<u64>,
    /// Since when the last news are told, in nanoseconds, and whether more are about to be.
    pub(crate) told_ns: Option<u64>,
    pub(crate) is_telling: bool,
    /// Whether it takes part.
    pub(crate) joined: bool,
    /// When it had all, in nanoseconds.
    pub(crate) finished_ns: Option<u64>,
    /// Whether nobody waits for it any more, though it has not finished.
    pub(crate) given_up: bool,
}

/// What two nodes are to each other in a swarm, as one of them sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tie {
    /// The other.
    pub(crate) peer: usize,
    /// How much of this node's log it has heard.
    pub(crate) heard: usize,
    /// How many pieces it lacks, as far as this node has heard.
    pub(crate) lacks: u32,
}

/// One slot in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    /// The source that may write into it.
    pub(crate) peer: usize,
    /// Whether bytes are arriving.
    pub(crate) arriving: bool,
    /// Whether its grant has ended, while bytes still arrive.
    pub(crate) draining: bool,
}

impl Seat {
    pub(crate) fn new(pieces: u32, is_origin: bool) -> Self {
        Self {
            fetch: None,
            verified: if is_origin { Bitmap::full(pieces) } else { Bitmap::new(pieces) },
            log: Vec::new(),
            ties: Vec::new(),
            slots: BTreeMap::new(),
            unwritten: 0,
            resident: VecDeque::new(),
            last_grant: None,
            wake_ns: None,
            told_ns: None,
            is_telling: false,
            joined: is_origin,
            finished_ns: None,
            given_up: false,
        }
    }

    pub(crate) fn tie(&mut self, peer: usize) -> Option<&mut Tie> {
        self.ties.iter_mut().find(|tie| tie.peer == peer)
    }
}

/// Does one thing after the other.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Worker {
    free_ns: u64,
}

impl Worker {
    /// When it has done something that takes so long and came at this moment, in nanoseconds.
    pub(crate) fn done_ns(&mut self, now_ns: u64, takes_ns: u64) -> u64 {
        self.free_ns = self.free_ns.max(now_ns) + takes_ns;
        self.free_ns
    }
}

/// What a node can serve.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Verified<'a>(pub(crate) &'a [Seat]);

impl Holdings for Verified<'_> {
    fn pieces(&self, chunk: &ChunkId) -> Option<impl Deref<Target = Bitmap>> {
        let seat = self.0.get(usize::from(chunk.0[0].wrapping_sub(7)))?;
        Some(&seat.verified)
    }
}
