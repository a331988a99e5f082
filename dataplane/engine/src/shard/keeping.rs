//! Devices, pins, eviction.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use flow::chunk::ChunkId;
use flow::eviction::{self, Standing, Step};
use flow::swarm::Priority;
use flow::verify::{Digest, checksum_of};
use flow::wire::control::Holding;
use flow::wire::session::{ChunkFetched, ChunkReference, Device};
use futures_lite::future::or;
use memory::SharedLease;

use super::Shard;
use super::counters::add;
use super::pieces::write_error;
use super::replica::{Replica, ReplicaFile};
use crate::command::Reply;
use crate::store::Footer;
use crate::{EngineError, Event};

/// Memory freed at once when some is wanted, so that the search for it is paid rarely.
const EVICT_BYTES: u64 = 32 << 20;
/// How often it is looked whether somebody waits for a fetch still.
const ASKER_LOOK: Duration = Duration::from_millis(100);
/// Pieces on their way to NVMe at once when a replica is copied there.
const COPIES_AT_ONCE: u32 = 8;

/// Who waits for a chunk to be here, and how much it matters to them.
pub(super) struct Asker {
    pub(super) reply: Reply<ChunkFetched>,
    pub(super) priority: Priority,
}

impl Shard {
    /// Brings a replica here, onto `device`.
    pub(super) async fn bring(
        self: Rc<Self>,
        chunk: ChunkReference,
        device: Device,
        asker: Asker,
    ) -> Result<ChunkFetched, EngineError> {
        let replica = self.replica_for(&chunk)?;
        if device.is_gpu() {
            return self.bring_to_gpu(&replica, device, asker).await;
        }
        let fetched = self.bring_here(&replica, device, &asker).await?;
        match device {
            Device::Nvme => self.make_durable(&replica).await?,
            _ => {
                for piece in 0..replica.geometry.pieces() {
                    self.piece(&replica, piece).await?;
                }
            }
        }
        Ok(fetched)
    }

    /// Brings what is missing of a replica, wherever that then is.
    async fn bring_here(
        self: &Rc<Self>,
        replica: &Rc<Replica>,
        device: Device,
        asker: &Asker,
    ) -> Result<ChunkFetched, EngineError> {
        if replica.is_complete() {
            let pieces_local = replica.geometry.pieces();
            return Ok(ChunkFetched { pieces_local, ..nothing_fetched() });
        }
        let outcome = self.start_fetch(replica, device, asker.priority);
        self.outcome_for(asker, replica, outcome).await
    }

    /// Brings a replica onto a GPU. Its pieces pass through memory, and stay there only if they were there before.
    async fn bring_to_gpu(
        self: &Rc<Self>,
        replica: &Rc<Replica>,
        device: Device,
        asker: Asker,
    ) -> Result<ChunkFetched, EngineError> {
        let was_in_memory = replica.state.borrow().dram_count > 0;
        let region = match self.give_region(replica, device).await {
            Ok(region) => region,
            Err(error) => {
                self.forget_if_unused(replica);
                return Err(error);
            }
        };
        let brought = async {
            let fetched = self.bring_here(replica, device, &asker).await?;
            self.fill_region(replica, &region).await?;
            Ok(fetched)
        };
        let brought = brought.await;
        let gpu = Device::Gpu(region.gpu());
        if brought.is_ok() && !was_in_memory {
            drop_copies(replica, u64::MAX);
        } else if brought.is_err() && !replica.is_on(gpu) {
            replica.state.borrow_mut().leave_gpu(gpu);
            self.forget_if_unused(replica);
        }
        brought
    }

    /// Removes a replica with nothing in it, unless others are bringing it here.
    fn forget_if_unused(self: &Rc<Self>, replica: &Rc<Replica>) {
        if !self.fetches.borrow().contains_key(&replica.id) {
            self.forget_if_empty(replica);
        }
    }

    /// Waits for a fetch. It ends when whoever asked has gone and nobody else wants it: a source that stands still would
    /// hold its slots for ever.
    async fn outcome_for(
        self: &Rc<Self>,
        asker: &Asker,
        replica: &Rc<Replica>,
        outcome: flume::Receiver<Result<ChunkFetched, EngineError>>,
    ) -> Result<ChunkFetched, EngineError> {
        loop {
            let pause = async {
                glommio::timer::sleep(ASKER_LOOK).await;
                None
            };
            match or(async { Some(outcome.recv_async().await) }, pause).await {
                Some(outcome) => return outcome.map_err(|_| EngineError::Stopping)?,
                None if asker.reply.is_disconnected() => break,
                None => {}
            }
        }
        drop(outcome);
        self.end_fetch_if_unwanted(replica);
        Err(self.lacking(replica))
    }

    /// Gives a complete replica a file of its own, if it has none.
    pub(super) async fn make_durable(self: &Rc<Self>, replica: &Rc<Replica>) -> Result<(), EngineError> {
        if replica.is_durable() {
            return Ok(());
        }
        self.give_file(replica).await?;
        self.publish_replica(replica).await
    }

    /// Gives a replica a file that pieces are written to as they come.
    pub(super) async fn give_file(self: &Rc<Self>, replica: &Rc<Replica>) -> Result<(), EngineError> {
        if replica.state.borrow().file.is_some() {
            return Ok(());
        }
        let (store, size) = (self.store.clone(), replica.geometry.size());
        let footer = Footer::length(replica.geometry.pieces());
        let made = glommio::executor().spawn_blocking(move || store.create(size, footer)).await;
        let made = made.map_err(|error| write_error(&error))?;
        let mut state = replica.state.borrow_mut();
        state.file.get_or_insert(ReplicaFile::Temporary(made));
        Ok(())
    }

    /// Brings every piece of a complete replica into its file, and gives the file its name. Without a file there is
    /// nothing to do.
    pub(super) async fn publish_replica(self: &Rc<Self>, replica: &Rc<Replica>) -> Result<(), EngineError> {
        if replica.state.borrow().file.is_none() {
            return Ok(());
        }
        self.settle_writes(replica, 0).await?;
        for piece in 0..replica.geometry.pieces() {
            if !replica.state.borrow().on_nvme.contains(piece) {
                let lease = self.piece(replica, piece).await?;
                self.store_piece(replica, piece, lease);
                self.settle_writes(replica, COPIES_AT_ONCE).await?;
            }
        }
        self.settle_writes(replica, 0).await?;
        let file = replica.state.borrow_mut().file.take();
        let temporary = match file {
            Some(ReplicaFile::Temporary(temporary)) => {
                replica.state.borrow_mut().file = Some(ReplicaFile::Publishing(temporary.file.clone()));
                temporary
            }
            Some(other) => {
                let file = other.file().clone();
                replica.state.borrow_mut().file = Some(other);
                return self.ring.sync(&file).await.0.map(drop).map_err(|error| write_error(&error));
            }
            None => return Ok(()),
        };
        let descriptor = replica.descriptor.get().ok_or(EngineError::NoChunk(replica.id))?;
        match self.publish(temporary, descriptor).await {
            Ok(file) => replica.state.borrow_mut().file = Some(ReplicaFile::Published(file)),
            Err(error) => {
                let mut state = replica.state.borrow_mut();
                state.file = None;
                (0..replica.geometry.pieces()).for_each(|piece| state.lose_nvme(piece));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Brings the pieces that are in memory alone into the file of a replica that others may be missing from.
    pub(super) async fn write_what_is_here(
        self: &Rc<Self>,
        replica: &Rc<Replica>,
    ) -> Result<(), EngineError> {
        for piece in 0..replica.geometry.pieces() {
            let in_memory_alone = {
                let state = replica.state.borrow();
                state.dram[piece as usize].clone().filter(|_| !state.on_nvme.contains(piece))
            };
            if let Some(lease) = in_memory_alone {
                self.store_piece(replica, piece, lease);
                self.settle_writes(replica, COPIES_AT_ONCE).await?;
            }
        }
        self.settle_writes(replica, 0).await
    }

    /// Waits until at most `left` writes of a replica are under way.
    pub(super) async fn settle_writes(&self, replica: &Replica, left: u32) -> Result<(), EngineError> {
        loop {
            let round = replica.changed.round();
            {
                let mut state = replica.state.borrow_mut();
                if let Some(error) = state.write_error.take() {
                    return Err(error);
                }
                if state.writing <= left {
                    return Ok(());
                }
            }
            replica.changed.after(round).await;
        }
    }

    /// Reads a whole chunk and computes its digest. A chunk whose name is none has that name as long as its pieces have the
    /// checksums that they were written with.
    pub(super) async fn verify(self: Rc<Self>, id: ChunkId) -> Result<ChunkId, EngineError> {
        let replica =
            self.replica(&id).filter(|replica| replica.is_complete()).ok_or(EngineError::NoChunk(id))?;
        if !id.is_digest() && self.is_as_written(&replica).await? {
            return Ok(id);
        }
        let mut digest = Digest::default();
        for piece in 0..replica.geometry.pieces() {
            digest.update(self.look_at(&replica, piece).await?.as_slice());
            glommio::yield_if_needed().await;
        }
        Ok(digest.finish())
    }

    /// Whether all pieces have the checksums that they were written with.
    async fn is_as_written(self: &Rc<Self>, replica: &Rc<Replica>) -> Result<bool, EngineError> {
        let Some(descriptor) = replica.descriptor.get() else { return Ok(false) };
        for (piece, checksum) in (0..replica.geometry.pieces()).zip(&descriptor.checksums) {
            if checksum_of(self.look_at(replica, piece).await?.as_slice()) != *checksum {
                return Ok(false);
            }
            glommio::yield_if_needed().await;
        }
        Ok(true)
    }

    /// A verified piece, which does not stay in memory when it is on a GPU and was not there.
    async fn look_at(self: &Rc<Self>, replica: &Rc<Replica>, piece: u32) -> Result<SharedLease, EngineError> {
        let region = {
            let state = replica.state.borrow();
            state.region_with(piece).filter(|_| state.dram[piece as usize].is_none())
        };
        if let Some(region) = region
            && let Ok(lease) = self.read_from_gpu(replica, &region, piece).await
        {
            return Ok(lease);
        }
        self.piece(replica, piece).await
    }

    pub(super) fn pin(&self, id: &ChunkId, pinned: bool) -> bool {
        let replica = self.replica(id);
        replica.map(|replica| replica.state.borrow_mut().pinned = pinned).is_some()
    }

    pub(super) async fn drop_replica(
        self: Rc<Self>,
        id: ChunkId,
        device: Option<Device>,
        force: bool,
    ) -> Result<bool, EngineError> {
        let Some(replica) = self.replica(&id) else { return Ok(false) };
        if !force && (replica.state.borrow().pinned || replica.readers.get() > 0) {
            return Err(EngineError::InUse(id));
        }
        if device == Some(Device::Dram) {
            // What is still being written would be lost.
            self.settle_writes(&replica, 0).await?;
        }
        if device.is_none_or(Device::is_gpu) {
            replica.state.borrow_mut().leave_gpu(device.unwrap_or(Device::AnyGpu));
        }
        if device.is_none_or(|device| device == Device::Dram) {
            let mut state = replica.state.borrow_mut();
            (0..replica.geometry.pieces()).for_each(|piece| drop(state.take_dram(piece)));
        }
        if device.is_none_or(|device| device == Device::Nvme) {
            {
                let mut state = replica.state.borrow_mut();
                state.file = None;
                (0..replica.geometry.pieces()).for_each(|piece| state.lose_nvme(piece));
            }
            let store = self.store.clone();
            let removed = glommio::executor().spawn_blocking(move || store.remove(&id)).await;
            removed.map_err(|error| {
                EngineError::Io(format!("removing the file of chunk {id} failed: {error}"))
            })?;
        }
        self.forget_if_empty(&replica);
        Ok(true)
    }

    /// Removes a replica with nothing in it and tells everybody what is left of it.
    fn forget_if_empty(self: &Rc<Self>, replica: &Rc<Replica>) {
        let left = replica.state.borrow().have.count();
        if left == 0 {
            let fetching = self.fetches.borrow().get(&replica.id).cloned();
            if let Some(fetching) = fetching {
                self.end_fetch(&fetching, Err(EngineError::NoChunk(replica.id)));
            }
            self.replicas.borrow_mut().remove(&replica.id);
            self.leave_swarm(replica);
        }
        let holding = match left {
            0 => Holding::None,
            count if count == replica.geometry.pieces() => Holding::Complete,
            _ => Holding::Partial,
        };
        replica.changed.notify();
        self.tell(Event::Holding { chunk: replica.id, holding });
    }

    /// Frees at least `wanted` bytes if that is possible without losing what is pinned, read or not yet whole; gives
    /// the bytes freed. `flow::eviction` says in which order.
    pub(super) fn evict(self: &Rc<Self>, wanted: u64) -> u64 {
        let wanted = wanted.max(EVICT_BYTES);
        let mut freed = self.evict_from_writings(wanted);
        let standings: Vec<_> = self
            .replicas
            .borrow()
            .values()
            .map(|replica| (replica.clone(), self.standing(replica)))
            .collect();
        for step in eviction::steps(standings) {
            if freed >= wanted {
                break;
            }
            freed += match step {
                Step::DropCopies(replica) => drop_copies(&replica, wanted - freed),
                Step::Drop(replica) if is_idle(&replica) => self.drop_from_memory(&replica),
                Step::Drop(_) => 0,
            };
        }
        add(&self.counters.bytes_evicted, freed);
        freed
    }

    fn standing(&self, replica: &Replica) -> Standing {
        let state = replica.state.borrow();
        Standing {
            last_used: replica.last_used.get(),
            pinned: state.pinned,
            in_memory: state.dram_count > 0,
            whole_in_memory: state.dram_count == replica.geometry.pieces(),
            has_file: !replica.leads_nowhere(),
            in_use: replica.readers.get() > 0 || self.fetches.borrow().contains_key(&replica.id),
        }
    }

    /// Drops a replica that is in memory alone; gives the bytes freed.
    fn drop_from_memory(self: &Rc<Self>, replica: &Rc<Replica>) -> u64 {
        let freed = {
            let mut state = replica.state.borrow_mut();
            let leases = (0..replica.geometry.pieces()).filter_map(|piece| state.take_dram(piece));
            leases.map(|lease| u64::from(lease.length())).sum()
        };
        self.forget_if_empty(replica);
        freed
    }
}

/// Whether no piece is just read or sent.
fn is_idle(replica: &Replica) -> bool {
    replica.state.borrow().dram.iter().flatten().all(|lease| Arc::strong_count(lease) == 1)
}

/// Drops copies in memory of pieces that are on NVMe or a GPU too; gives the bytes freed.
fn drop_copies(replica: &Replica, wanted: u64) -> u64 {
    let mut state = replica.state.borrow_mut();
    let mut freed = 0;
    for piece in 0..replica.geometry.pieces() {
        if freed >= wanted || state.dram_count == 0 {
            break;
        }
        let idle = state.dram[piece as usize].as_ref().is_some_and(|lease| Arc::strong_count(lease) == 1);
        if idle && state.is_stored(piece) {
            freed += u64::from(replica.geometry.length(piece));
            state.take_dram(piece);
        }
    }
    freed
}

/// The report of a fetch that had nothing to do.
pub(super) fn nothing_fetched() -> ChunkFetched {
    ChunkFetched {
        elapsed_us: 0,
        pieces_local: 0,
        pieces_from_origin: 0,
        pieces_from_peers: 0,
        pieces_corrupt: 0,
        pieces_duplicate: 0,
        progress: Vec::new(),
    }
}
