//! What is here of one chunk.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;

use flow::bitmap::Bitmap;
use flow::chunk::{ChunkId, Descriptor, Geometry};
use flow::wire::control::{GpuPieces, NodeId, ReplicaRecord};
use flow::wire::session::{ChunkReference, Device};
use memory::SharedLease;

use crate::gpu::Region;
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
    /// Pieces that are verified and in DRAM, on NVMe, or on a GPU.
    pub(super) have: Bitmap,
    pub(super) dram: Vec<Option<SharedLease>>,
    pub(super) dram_count: u32,
    pub(super) on_nvme: Bitmap,
    pub(super) file: Option<ReplicaFile>,
    /// At most one copy on each GPU.
    pub(super) on_gpu: Vec<OnGpu>,
    /// Pieces on their way from NVMe or a GPU.
    pub(super) loading: Bitmap,
    /// Writes to the file and to GPUs that are under way.
    pub(super) writing: u32,
    pub(super) write_error: Option<crate::EngineError>,
    pub(super) pinned: bool,
    /// Shards that hear of pieces that arrive, and how many pieces each still lacks.
    pub(super) interested: HashMap<PeerShard, u32>,
}

/// A copy on a GPU, whole or growing.
pub(super) struct OnGpu {
    pub(super) region: Arc<Region>,
    pub(super) pieces: Bitmap,
}

impl OnGpu {
    pub(super) fn empty(region: Arc<Region>, pieces: u32) -> Self {
        Self { region, pieces: Bitmap::new(pieces) }
    }

    /// Whether it is on the GPU that is meant, which may be any.
    pub(super) fn is(&self, device: Device) -> bool {
        device == Device::AnyGpu || device == Device::Gpu(self.region.gpu())
    }
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
            on_gpu: Vec::new(),
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

    /// A whole chunk: pieces in DRAM, a file, all of it on a GPU, or several of these.
    pub(super) fn complete(
        descriptor: Descriptor,
        dram: Vec<Option<SharedLease>>,
        file: Option<ChunkFile>,
        region: Option<Arc<Region>>,
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
            state.on_gpu =
                region.map(|region| OnGpu { region, pieces: Bitmap::full(pieces) }).into_iter().collect();
        }
        let _ = replica.descriptor.set(descriptor);
        replica
    }

    pub(super) fn is_complete(&self) -> bool {
        self.state.borrow().have.is_full()
    }

    /// Whether all of it is on the GPU that is meant.
    pub(super) fn is_on(&self, device: Device) -> bool {
        let state = self.state.borrow();
        state.on_gpu.iter().any(|there| there.is(device) && there.pieces.is_full())
    }

    /// Whether all of it is on NVMe under its name.
    pub(super) fn is_durable(&self) -> bool {
        let state = self.state.borrow();
        state.on_nvme.is_full() && matches!(state.file, Some(ReplicaFile::Published(_)))
    }

    /// Whether pieces that come have nowhere to go from memory.
    pub(super) fn leads_nowhere(&self) -> bool {
        let state = self.state.borrow();
        state.file.is_none() && state.on_gpu.is_empty()
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
            gpus: state.gpu_pieces(),
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

    /// Takes a piece out of DRAM. It is lost when it is nowhere else.
    pub(super) fn take_dram(&mut self, piece: u32) -> Option<SharedLease> {
        let lease = self.dram[piece as usize].take()?;
        self.dram_count -= 1;
        self.note_loss(piece);
        Some(lease)
    }

    /// Notes that the copy on NVMe is of no use.
    pub(super) fn lose_nvme(&mut self, piece: u32) {
        self.on_nvme.remove(piece);
        self.note_loss(piece);
    }

    /// Whether a piece is where it stays when it leaves memory: on NVMe, or on a GPU.
    pub(super) fn is_stored(&self, piece: u32) -> bool {
        self.on_nvme.contains(piece) || self.on_gpu.iter().any(|there| there.pieces.contains(piece))
    }

    /// A GPU's memory that has a piece.
    pub(super) fn region_with(&self, piece: u32) -> Option<Arc<Region>> {
        self.on_gpu.iter().find(|there| there.pieces.contains(piece)).map(|there| there.region.clone())
    }

    /// Whether a piece is in this memory of a GPU.
    pub(super) fn is_on_gpu(&self, region: &Region, piece: u32) -> bool {
        self.on_gpu.iter().any(|there| std::ptr::eq(&*there.region, region) && there.pieces.contains(piece))
    }

    /// Notes that a verified piece is in memory of a GPU, if that is still this replica's.
    pub(super) fn put_on_gpu(&mut self, region: &Region, piece: u32) {
        if let Some(there) = self.on_gpu.iter_mut().find(|there| std::ptr::eq(&*there.region, region)) {
            there.pieces.insert(piece);
            self.have.insert(piece);
        }
    }

    /// Notes that the copy in memory of a GPU is of no use.
    pub(super) fn lose_on_gpu(&mut self, region: &Region, piece: u32) {
        if let Some(there) = self.on_gpu.iter_mut().find(|there| std::ptr::eq(&*there.region, region)) {
            there.pieces.remove(piece);
        }
        self.note_loss(piece);
    }

    /// Gives up what is on the GPU that is meant, or on all of them.
    pub(super) fn leave_gpu(&mut self, device: Device) {
        self.on_gpu.retain(|there| !there.is(device));
        (0..self.dram.len() as u32).for_each(|piece| self.note_loss(piece));
    }

    /// Notes a piece that has left some place, and may be nowhere any more.
    fn note_loss(&mut self, piece: u32) {
        if self.dram[piece as usize].is_none() && !self.is_stored(piece) {
            self.have.remove(piece);
        }
    }

    fn gpu_pieces(&self) -> Vec<GpuPieces> {
        let there = |there: &OnGpu| GpuPieces { gpu: there.region.gpu(), pieces: there.pieces.count() };
        self.on_gpu.iter().map(there).collect()
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
