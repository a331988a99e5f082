//! One node and its part of the engine.

use std::collections::VecDeque;
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
    pub(crate) ties: Ties,
    /// Slots in use, by grant.
    pub(crate) slots: Slots,
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

/// Whom a node knows in a swarm. The names lie close together, as they are searched with every piece of every acquaintance.
#[derive(Debug, Default)]
pub(crate) struct Ties {
    peers: Vec<u32>,
    ties: Vec<Tie>,
}

/// What two nodes are to each other in a swarm, as one of them sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tie {
    /// How much of this node's log the other has heard.
    pub(crate) heard: u32,
    /// How many pieces it lacks, as far as this node has heard.
    pub(crate) lacks: u32,
}

impl Ties {
    pub(crate) fn len(&self) -> usize {
        self.peers.len()
    }

    pub(crate) fn find(&mut self, peer: usize) -> Option<&mut Tie> {
        let at = self.peers.iter().position(|&known| known as usize == peer)?;
        self.ties.get_mut(at)
    }

    /// Adds a tie to a peer that there is none to.
    pub(crate) fn push(&mut self, peer: usize, tie: Tie) {
        self.peers.push(peer as u32);
        self.ties.push(tie);
    }

    pub(crate) fn remove(&mut self, peer: usize) {
        if let Some(at) = self.peers.iter().position(|&known| known as usize == peer) {
            self.peers.remove(at);
            self.ties.remove(at);
        }
    }

    pub(crate) fn peers(&self) -> impl Iterator<Item = usize> + '_ {
        self.peers.iter().map(|&peer| peer as usize)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut Tie)> {
        self.peers.iter().map(|&peer| peer as usize).zip(&mut self.ties)
    }
}

/// Slots in use, by rising number of their grants.
#[derive(Debug, Default)]
pub(crate) struct Slots(Vec<(u64, Slot)>);

impl Slots {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes a slot for a grant whose number is higher than those before.
    pub(crate) fn push(&mut self, grant: u64, slot: Slot) {
        self.0.push((grant, slot));
    }

    pub(crate) fn find(&mut self, grant: u64) -> Option<&mut Slot> {
        let at = self.at(grant)?;
        self.0.get_mut(at).map(|(_, slot)| slot)
    }

    pub(crate) fn remove(&mut self, grant: u64) -> Option<Slot> {
        self.at(grant).map(|at| self.0.remove(at).1)
    }

    /// Drops all slots that were granted to a peer.
    pub(crate) fn forget(&mut self, peer: usize) {
        self.0.retain(|(_, slot)| slot.peer != peer);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.0.iter().map(|(_, slot)| slot)
    }

    fn at(&self, grant: u64) -> Option<usize> {
        self.0.binary_search_by_key(&grant, |(number, _)| *number).ok()
    }
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
            ties: Ties::default(),
            slots: Slots::default(),
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
