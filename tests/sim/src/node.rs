//! One node and its part of the engine.

use std::collections::BTreeMap;
use std::ops::Deref;

use flow::bitmap::Bitmap;
use flow::chunk::ChunkId;
use flow::swarm::{Fetch, Holdings, Serve};

/// The one chunk of the world.
pub const CHUNK: ChunkId = ChunkId([7; 32]);

/// One node.
#[derive(Debug)]
pub struct Node {
    /// The fetch, on a receiver that has joined.
    pub fetch: Option<Fetch>,
    /// The source side.
    pub serve: Serve,
    /// Every piece that the world saw verified here.
    pub verified: Bitmap,
    /// Nodes it is connected to.
    pub links: Vec<usize>,
    /// Slots in use, by grant.
    pub slots: BTreeMap<u64, Slot>,
    /// Highest number of a grant so far.
    pub last_grant: Option<u64>,
    /// When it asked to be woken, in nanoseconds.
    pub wake_ns: Option<u64>,
    /// Whether it runs.
    pub alive: bool,
    /// Whether it takes part.
    pub joined: bool,
    /// When it had all, in nanoseconds.
    pub finished_ns: Option<u64>,
    /// Whether it sends wrong bytes.
    pub lies: bool,
    /// The rack it stands in.
    pub rack: usize,
}

/// One slot in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// The source that may write into it.
    pub peer: usize,
    /// Whether bytes are arriving.
    pub arriving: bool,
    /// Whether its grant has ended, while bytes still arrive.
    pub draining: bool,
}

impl Node {
    /// Whether it can serve or fetch.
    pub fn takes_part(&self) -> bool {
        self.alive && self.joined
    }
}

/// What a node can serve.
#[derive(Debug, Clone, Copy)]
pub struct Verified<'a>(pub &'a Bitmap);

impl Holdings for Verified<'_> {
    fn pieces(&self, chunk: &ChunkId) -> Option<impl Deref<Target = Bitmap>> {
        (*chunk == CHUNK).then_some(self.0)
    }
}
