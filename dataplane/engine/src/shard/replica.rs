//! What is here of one chunk.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;

use flow::bitmap::Bitmap;
use flow::chunk::{ChunkId, Descriptor, Geometry};
use flow::wire::control::{NodeId, ReplicaRecord};
use flow::wire::session::ChunkReference;
use memory::SharedLease;

use crate::notify::Notify;
use crate::store::{ChunkFile, TemporaryFile};
use crate::transport::PeerShard;

/// The copies of one chunk on this node, complete or growing.
pub(super) struct Replica {
    pub(super) id: ChunkId,
    pub(super) geometry: Geometry,
    pub(super) descriptor_digest: [u8; 32],
    /// Unknown until a peer has told it.
    pub(super) descriptor: OnceCell<Descriptor>,
    pub(super) state: RefCell<State>,
    /// Open handles of clients.
    pub(super) readers: Cell<u32>,
    /// When it was last used, in the shard's numbers.
    pub(super) last_used: Cell<u64>,
    /// Something about the pieces has changed.
    pub(super) changed: Notify,
    /// Why the last fetch did not bring what is missing.
    pub(super) failure: RefCell<Option<crate::EngineError>>,
}

pub(super) struct State {
    /// Pieces that are verified and in DRAM, or on NVMe.
    pub(super) have: Bitmap,
    pub(super) dram: Vec<Option<SharedLease>>,
    pub(super) dram_count: u32,
    pub(super) on_nvme: Bitmap,
    pub(super) file: Option<ReplicaFile>,
    /// Pieces on their way from NVMe.
    pub(super) loading: Bitmap,
    /// Writes to the file that are under way.
    pub(super) writing: u32,
    pub(super) write_error: Option<crate::EngineError>,
    pub(super) pinned: bool,
    /// Shards that hear of pieces that arrive, and how many pieces each still lacks.
    pub(super) interested: HashMap<PeerShard, u32>,
}

pub(super) enum ReplicaFile {
    Temporary(TemporaryFile),
    /// On its way to its name; readers go on.
    Publishing(Arc<File>),
    Published(ChunkFile),
}

impl ReplicaFile {
    pub(super) fn file(&self) -> &Arc<File> {
        match self {
            ReplicaFile::Temporary(temporary) => &temporary.file,
            ReplicaFile::Publishing(file) => file,
            ReplicaFile::Published(published) => &published.file,
        }
    }
}

impl Replica {
    /// Nothing yet of a chunk that a manifest names.
    pub(super) fn empty(chunk: &ChunkReference) -> Self {
        let pieces = chunk.geometry.pieces();
        let state = State {
            have: Bitmap::new(pieces),
            dram: vec![None; pieces as usize],
            dram_count: 0,
            on_nvme: Bitmap::new(pieces),
            file: None,
            loading: Bitmap::new(pieces),
            writing: 0,
            write_error: None,
            pinned: false,
            interested: HashMap::new(),
        };
        Self {
            id: chunk.id,
            geometry: chunk.geometry,
            descriptor_digest: chunk.descriptor_digest,
            descriptor: OnceCell::new(),
            state: RefCell::new(state),
            readers: Cell::new(0),
            last_used: Cell::new(0),
            changed: Notify::default(),
            failure: RefCell::default(),
        }
    }

    /// A whole chunk: pieces in DRAM, a file, or both.
    pub(super) fn complete(
        descriptor: Descriptor,
        dram: Vec<Option<SharedLease>>,
        file: Option<ChunkFile>,
    ) -> Self {
        let reference = reference_of(&descriptor);
        let replica = Self::empty(&reference);
        {
            let pieces = descriptor.geometry.pieces();
            let mut state = replica.state.borrow_mut();
            state.have = Bitmap::full(pieces);
            state.dram_count = dram.iter().flatten().count() as u32;
            state.dram = dram;
            if let Some(file) = file {
                state.on_nvme = Bitmap::full(pieces);
                state.file = Some(ReplicaFile::Published(file));
            }
        }
        let _ = replica.descriptor.set(descriptor);
        replica
    }

    pub(super) fn is_complete(&self) -> bool {
        self.state.borrow().have.is_full()
    }

    /// Whether all of it is on NVMe under its name.
    pub(super) fn is_durable(&self) -> bool {
        let state = self.state.borrow();
        state.on_nvme.is_full() && matches!(state.file, Some(ReplicaFile::Published(_)))
    }

    /// Whether there is a file under its name, be it damaged here and there.
    pub(super) fn is_durable_in_part(&self) -> bool {
        matches!(self.state.borrow().file, Some(ReplicaFile::Published(_)))
    }

    pub(super) fn record(&self, node: NodeId, fetching: bool) -> ReplicaRecord {
        let state = self.state.borrow();
        ReplicaRecord {
            chunk: self.id,
            geometry: self.geometry,
            descriptor_digest: self.descriptor_digest,
            node,
            dram_pieces: state.dram_count,
            nvme_pieces: state.on_nvme.count(),
            pinned: state.pinned,
            fetching,
        }
    }
}

impl State {
    /// Puts a verified piece into DRAM.
    pub(super) fn put_dram(&mut self, piece: u32, lease: SharedLease) {
        if self.dram[piece as usize].replace(lease).is_none() {
            self.dram_count += 1;
        }
        self.have.insert(piece);
    }

    /// Takes a piece out of DRAM. It is lost when it is not on NVMe.
    pub(super) fn take_dram(&mut self, piece: u32) -> Option<SharedLease> {
        let lease = self.dram[piece as usize].take()?;
        self.dram_count -= 1;
        if !self.on_nvme.contains(piece) {
            self.have.remove(piece);
        }
        Some(lease)
    }

    /// Notes that the copy on NVMe is of no use.
    pub(super) fn lose_nvme(&mut self, piece: u32) {
        self.on_nvme.remove(piece);
        if self.dram[piece as usize].is_none() {
            self.have.remove(piece);
        }
    }
}

/// What a manifest says of a described chunk.
pub(super) fn reference_of(descriptor: &Descriptor) -> ChunkReference {
    ChunkReference {
        id: descriptor.id,
        geometry: descriptor.geometry,
        descriptor_digest: descriptor.digest(),
    }
}
