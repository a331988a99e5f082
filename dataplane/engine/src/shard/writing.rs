//! Chunks that clients write.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use flow::chunk::{ChunkId, Descriptor, Geometry};
use flow::limits::PREPARED_SHARE;
use flow::swarm::Priority;
use flow::wire::control::Holding;
use flow::wire::session::{ChunkReference, Device, FilledPiece, SlotRef};
use memory::{Lease, SharedLease};

use super::Shard;
use super::counters::add;
use super::pieces::write_error;
use super::replica::{OnGpu, Replica, ReplicaFile};
use crate::command::{Begun, Command, Sealed};
use crate::gpu::Region;
use crate::notify::Notify;
use crate::store::{ChunkFile, Footer, TemporaryFile};
use crate::{EngineError, Event};

/// A chunk that has no id yet.
pub(super) struct Writing {
    geometry: Geometry,
    file: Option<Arc<File>>,
    region: Option<Arc<Region>>,
    state: RefCell<WritingState>,
    changed: Notify,
    /// Counts it, when it was prepared.
    _prepared: Option<Prepared>,
}

/// Bytes of a chunk that was prepared count until this is dropped.
struct Prepared {
    all: Rc<Cell<u64>>,
    size: u64,
}

#[derive(Default)]
struct WritingState {
    temporary: Option<TemporaryFile>,
    /// Slots that the client writes into.
    leased: HashMap<u32, Lease>,
    filled: BTreeMap<u32, Filled>,
    writes: u32,
    failed: Option<EngineError>,
}

struct Filled {
    length: u32,
    checksum: u64,
    /// Gone when the piece is on a GPU, or on NVMe and its memory was wanted.
    lease: Option<SharedLease>,
    written: bool,
}

/// A chunk on its way from the shard where it was written to the shard that owns its id.
pub(crate) struct Adopted {
    descriptor: Descriptor,
    dram: Vec<Option<SharedLease>>,
    file: Option<ChunkFile>,
    region: Option<Arc<Region>>,
}

impl Shard {
    pub(super) async fn begin(
        self: Rc<Self>,
        size: u64,
        piece_size: u32,
        device: Device,
        count: u32,
    ) -> Result<Begun, EngineError> {
        let geometry = Geometry::new(size, piece_size)?;
        let mut state = WritingState::default();
        if device == Device::Nvme {
            let (store, footer) = (self.store.clone(), Footer::length(geometry.pieces()));
            let made = glommio::executor().spawn_blocking(move || store.create(size, footer)).await;
            state.temporary = Some(made.map_err(|error| write_error(&error))?);
        }
        let file = state.temporary.as_ref().map(|temporary| temporary.file.clone());
        let region = match device {
            Device::Gpu(_) | Device::AnyGpu => {
                Some(Arc::new(self.gpus.choose(device)?.allocate(size).await?))
            }
            Device::Dram | Device::Nvme => None,
        };
        let state = RefCell::new(state);
        let changed = Notify::default();
        let writing = Writing { geometry, file, region, state, changed, _prepared: None };
        let handle = self.handle();
        let slots = self.lease_now(&writing, 0..count.min(geometry.pieces()))?;
        self.writings.borrow_mut().insert(handle, Rc::new(writing));
        Ok(Begun { handle, slots })
    }

    /// Begins a chunk that may never be written, in memory that is free and that such chunks may take.
    pub(super) fn prepare(self: &Rc<Self>, size: u64, piece_size: u32) -> Result<Begun, EngineError> {
        let geometry = Geometry::new(size, piece_size)?;
        let limit = self.arena.size() / self.shards.len() as u64 / PREPARED_SHARE;
        let refused = || EngineError::MemoryFull { wanted: size, limit };
        let _prepared = Some(Prepared::count(&self.prepared, size, limit).ok_or_else(refused)?);
        let (state, changed) = Default::default();
        let writing = Writing { geometry, file: None, region: None, state, changed, _prepared };
        let slot = |piece| {
            let lease = self.arena.lease(self.index, geometry.length(piece)).ok_or_else(refused)?;
            writing.take(piece, lease)
        };
        let slots = (0..geometry.pieces()).map(slot).collect::<Result<_, _>>()?;
        let handle = self.handle();
        self.writings.borrow_mut().insert(handle, Rc::new(writing));
        Ok(Begun { handle, slots })
    }

    pub(super) async fn lease(
        self: Rc<Self>,
        handle: u64,
        first: u32,
        count: u32,
    ) -> Result<Vec<SlotRef>, EngineError> {
        let writing = self.writing(handle)?;
        let end = first.saturating_add(count).min(writing.geometry.pieces());
        if first >= end {
            return Err(EngineError::Invalid(format!("piece {first} is past the end of the chunk")));
        }
        let slots = self.lease_now(&writing, first..end)?;
        if !slots.is_empty() {
            return Ok(slots);
        }
        let lease = self.acquire(writing.geometry.length(first)).await?;
        let slot = writing.take(first, lease)?;
        let mut slots = vec![slot];
        slots.extend(self.lease_now(&writing, first + 1..end)?);
        Ok(slots)
    }

    /// As many slots for pieces one after another as there is memory for at once.
    fn lease_now(
        self: &Rc<Self>,
        writing: &Writing,
        pieces: Range<u32>,
    ) -> Result<Vec<SlotRef>, EngineError> {
        let mut slots = Vec::new();
        for piece in pieces {
            let Some(lease) = self.try_acquire(writing.geometry.length(piece)) else { break };
            slots.push(writing.take(piece, lease)?);
        }
        Ok(slots)
    }

    pub(super) fn fill(self: Rc<Self>, handle: u64, pieces: &[FilledPiece]) -> Result<(), EngineError> {
        let writing = self.writing(handle)?;
        writing.check()?;
        for &FilledPiece { piece, length, checksum } in pieces {
            let mut state = writing.state.borrow_mut();
            let lease = state.leased.remove(&piece);
            let mut lease =
                lease.ok_or_else(|| EngineError::Invalid(format!("piece {piece} is not leased")))?;
            if length == 0 || length > lease.length() {
                return Err(EngineError::Invalid(format!("{length} bytes do not fit piece {piece}")));
            }
            lease.zero_after(length);
            lease.truncate(length);
            let lease = Arc::new(lease);
            let filled = Filled { length, checksum, lease: Some(lease.clone()), written: false };
            state.filled.insert(piece, filled);
            state.writes += u32::from(writing.file.is_some() || writing.region.is_some());
            drop(state);
            if let Some(region) = writing.region.clone() {
                let (shard, writing, lease) = (self.clone(), writing.clone(), lease.clone());
                glommio::spawn_local(async move {
                    let written = region.write(writing.geometry.offset(piece), lease).await;
                    add(&shard.counters.gpu_bytes_written, length.into());
                    writing.note_written(piece, written.map(drop), true);
                })
                .detach();
            }
            if let Some(file) = writing.file.clone() {
                let (shard, writing) = (self.clone(), writing.clone());
                glommio::spawn_local(async move {
                    shard.write_filled(&writing, &file, piece, lease, length).await
                })
                .detach();
            }
        }
        Ok(())
    }

    async fn write_filled(
        &self,
        writing: &Writing,
        file: &Arc<File>,
        piece: u32,
        lease: SharedLease,
        length: u32,
    ) {
        let written = self.write_all(file, lease, length, writing.geometry.offset(piece)).await;
        writing.note_written(piece, written, false);
    }

    pub(super) async fn seal(
        self: Rc<Self>,
        handle: u64,
        id: ChunkId,
        size: u64,
    ) -> Result<Sealed, EngineError> {
        let writing = self.writing(handle)?;
        let geometry = Geometry::new(size, writing.geometry.piece_size())?;
        if geometry != Geometry::of(size)? {
            let text = format!("{size} bytes are not cut into pieces of {} bytes", geometry.piece_size());
            return Err(EngineError::Invalid(text));
        }
        writing.check_filled(&geometry)?;
        loop {
            let round = writing.changed.round();
            writing.check()?;
            if writing.state.borrow().writes == 0 {
                break;
            }
            writing.changed.after(round).await;
        }
        let checksums = writing.state.borrow().filled.values().map(|filled| filled.checksum).collect();
        let descriptor = Descriptor { id, geometry, checksums };
        let chunk = ChunkReference { id, geometry, descriptor_digest: descriptor.digest() };
        let temporary = writing.state.borrow_mut().temporary.take();
        let file = match temporary {
            Some(temporary) => Some(self.publish(temporary, &descriptor).await?),
            None => None,
        };
        self.writings.borrow_mut().remove(&handle);
        let state = writing.state.take();
        let dram = state.filled.into_values().map(|filled| filled.lease).collect();
        let adopted = Adopted { descriptor, dram, file, region: writing.region.clone() };
        let owner = id.shard(self.shards.len() as u16);
        let handle = if owner == self.index {
            self.adopt(adopted)?
        } else {
            let (reply, answer) = flume::bounded(1);
            let sent =
                self.shards[usize::from(owner)].send(Command::Adopt { chunk: Box::new(adopted), reply });
            sent.map_err(|_| EngineError::Stopping)?;
            answer.recv_async().await.map_err(|_| EngineError::Stopping)??
        };
        Ok(Sealed { chunk, handle })
    }

    /// Writes the footer, syncs, and gives the file its name.
    pub(super) async fn publish(
        self: &Rc<Self>,
        temporary: TemporaryFile,
        descriptor: &Descriptor,
    ) -> Result<ChunkFile, EngineError> {
        let footer = Footer::encode(descriptor);
        let end = descriptor.geometry.size().next_multiple_of(crate::ring::ALIGNMENT.into());
        let mut lease = self.acquire(footer.len() as u32).await?;
        lease.as_mut_slice().copy_from_slice(&footer);
        self.write_all(&temporary.file, Arc::new(lease), footer.len() as u32, end).await?;
        let (store, id, length) = (self.store.clone(), descriptor.id, end + footer.len() as u64);
        let (synced, _) = self.ring.sync(&temporary.file).await;
        synced.map_err(|error| write_error(&error))?;
        let published =
            glommio::executor().spawn_blocking(move || store.publish(temporary, &id, length)).await;
        published.map_err(|error| write_error(&error))
    }

    pub(super) fn abort(&self, handle: u64) -> Result<(), EngineError> {
        if let Some(writing) = self.writings.borrow_mut().remove(&handle) {
            let text = "the chunk was given up".to_owned();
            writing.state.borrow_mut().failed = Some(EngineError::Invalid(text));
            writing.changed.notify();
        }
        Ok(())
    }

    /// Makes a sealed chunk visible and opens it at once: what is only in memory could be evicted otherwise before
    /// anybody can refer to it.
    pub(super) fn adopt(self: &Rc<Self>, adopted: Adopted) -> Result<u64, EngineError> {
        let Descriptor { id, geometry, .. } = adopted.descriptor;
        let chunk = ChunkReference { id, geometry, descriptor_digest: adopted.descriptor.digest() };
        match self.replica(&id) {
            Some(replica) if replica.descriptor_digest != chunk.descriptor_digest => {
                return Err(EngineError::Invalid(format!("chunk {id} is here with other checksums")));
            }
            Some(replica) => self.merge(&replica, adopted),
            None => {
                let replica = Rc::new(Replica::complete(
                    adopted.descriptor,
                    adopted.dram,
                    adopted.file,
                    adopted.region,
                ));
                replica.last_used.set(self.number());
                self.replicas.borrow_mut().insert(id, replica);
            }
        }
        self.tell(Event::Holding { chunk: id, holding: Holding::Complete });
        Ok(self.clone().open(&chunk, Priority::Normal, &[])?.handle)
    }

    /// Adds what was written to what is here already.
    fn merge(self: &Rc<Self>, replica: &Rc<Replica>, adopted: Adopted) {
        let _ = replica.descriptor.set(adopted.descriptor);
        {
            let mut state = replica.state.borrow_mut();
            if let Some(file) = adopted.file {
                let pieces = replica.geometry.pieces();
                state.on_nvme = flow::bitmap::Bitmap::full(pieces);
                state.have = flow::bitmap::Bitmap::full(pieces);
                state.file = Some(ReplicaFile::Published(file));
            }
            if let Some(region) = adopted.region {
                let pieces = flow::bitmap::Bitmap::full(replica.geometry.pieces());
                state.leave_gpu(Device::Gpu(region.gpu()));
                state.have = pieces.clone();
                state.on_gpu.push(OnGpu { region, pieces });
            }
            for (piece, lease) in (0..).zip(adopted.dram) {
                if let Some(lease) = lease.filter(|_| state.dram[piece as usize].is_none()) {
                    state.put_dram(piece, lease);
                }
            }
        }
        replica.changed.notify();
        self.note_local_pieces(replica);
    }

    /// Frees memory of pieces that are written to NVMe and wait to be sealed; gives the bytes freed.
    pub(super) fn evict_from_writings(&self, wanted: u64) -> u64 {
        let mut freed = 0;
        for writing in self.writings.borrow().values() {
            for filled in writing.state.borrow_mut().filled.values_mut() {
                if freed < wanted && filled.written && filled.lease.take().is_some() {
                    freed += u64::from(filled.length);
                }
            }
        }
        freed
    }

    fn writing(&self, handle: u64) -> Result<Rc<Writing>, EngineError> {
        self.writings.borrow().get(&handle).cloned().ok_or(EngineError::NoHandle(handle))
    }
}

impl Prepared {
    /// Counts bytes among all that are prepared, if there is room for them up to the limit.
    fn count(all: &Rc<Cell<u64>>, size: u64, limit: u64) -> Option<Self> {
        let sum = all.get().checked_add(size).filter(|sum| *sum <= limit)?;
        all.set(sum);
        Some(Self { all: all.clone(), size })
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        self.all.set(self.all.get() - self.size);
    }
}

impl Writing {
    /// Takes the slot of a piece.
    fn take(&self, piece: u32, lease: Lease) -> Result<SlotRef, EngineError> {
        self.check()?;
        let mut state = self.state.borrow_mut();
        if state.filled.contains_key(&piece) || state.leased.contains_key(&piece) {
            return Err(EngineError::Invalid(format!("piece {piece} was leased before")));
        }
        let slot = SlotRef { piece, length: self.geometry.length(piece), offset: lease.offset() };
        state.leased.insert(piece, lease);
        Ok(slot)
    }

    fn check(&self) -> Result<(), EngineError> {
        self.state.borrow().failed.clone().map_or(Ok(()), Err)
    }

    /// Notes the end of a write, after which the piece may leave memory, or does.
    fn note_written(&self, piece: u32, written: Result<(), EngineError>, leaves_memory: bool) {
        {
            let mut state = self.state.borrow_mut();
            state.writes -= 1;
            match (written, state.filled.get_mut(&piece)) {
                (Err(error), _) => state.failed = Some(error),
                (Ok(()), Some(filled)) => {
                    filled.written = true;
                    filled.lease.take_if(|_| leaves_memory);
                }
                (Ok(()), None) => {}
            }
        }
        self.changed.notify();
    }

    fn check_filled(&self, geometry: &Geometry) -> Result<(), EngineError> {
        let state = self.state.borrow();
        let wrong = (0..geometry.pieces()).find(|piece| {
            state.filled.get(piece).is_none_or(|filled| filled.length != geometry.length(*piece))
        });
        match wrong {
            Some(piece) => {
                Err(EngineError::Invalid(format!("piece {piece} is not filled as the size demands")))
            }
            None if state.filled.len() as u32 != geometry.pieces() => {
                Err(EngineError::Invalid("more pieces are filled than the size demands".into()))
            }
            None => Ok(()),
        }
    }
}
