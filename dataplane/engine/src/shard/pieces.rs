//! One piece: from memory, from NVMe or a GPU, and there.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use flow::verify::checksum_of;
use memory::{Lease, SharedLease};

use super::Shard;
use super::counters::add;
use super::replica::Replica;
use crate::command::Command;
use crate::{EngineError, Event, Fault};

/// How long a request waits for memory before it is refused.
const MEMORY_PATIENCE: Duration = Duration::from_secs(3);

impl Shard {
    /// A verified piece in memory, read from where it is when it is not there. Waits for a piece that is on its way here.
    pub(super) async fn piece(
        self: &Rc<Self>,
        replica: &Rc<Replica>,
        piece: u32,
    ) -> Result<SharedLease, EngineError> {
        loop {
            let round = replica.changed.round();
            let (in_memory, is_stored, is_mine_to_load) = {
                let mut state = replica.state.borrow_mut();
                let in_memory = state.dram[piece as usize].clone();
                let is_stored = state.is_stored(piece);
                let is_mine_to_load = in_memory.is_none() && is_stored && state.loading.insert(piece);
                (in_memory, is_stored, is_mine_to_load)
            };
            if let Some(lease) = in_memory {
                replica.last_used.set(self.number());
                return Ok(lease);
            }
            if is_mine_to_load {
                match self.load_into(replica, piece).await {
                    Err(EngineError::Corrupt { .. }) => continue,
                    other => return other,
                }
            }
            if !is_stored && !self.fetches.borrow().contains_key(&replica.id) {
                return Err(EngineError::Corrupt { chunk: replica.id, piece });
            }
            replica.changed.after(round).await;
        }
    }

    async fn load_into(
        self: &Rc<Self>,
        replica: &Rc<Replica>,
        piece: u32,
    ) -> Result<SharedLease, EngineError> {
        let loaded = self.load(replica, piece).await;
        {
            let mut state = replica.state.borrow_mut();
            state.loading.remove(piece);
            if let Ok(lease) = &loaded {
                state.put_dram(piece, lease.clone());
            }
        }
        replica.changed.notify();
        loaded
    }

    /// Reads one piece from a GPU, which is faster, or from NVMe.
    pub(super) async fn load(
        self: &Rc<Self>,
        replica: &Rc<Replica>,
        piece: u32,
    ) -> Result<SharedLease, EngineError> {
        let region = replica.state.borrow().region_with(piece);
        match region {
            Some(region) => self.read_from_gpu(replica, &region, piece).await,
            None => self.read_from_nvme(replica, piece).await,
        }
    }

    /// Reads one piece from NVMe and verifies it. A damaged one is fetched again from elsewhere.
    async fn read_from_nvme(
        self: &Rc<Self>,
        replica: &Rc<Replica>,
        piece: u32,
    ) -> Result<SharedLease, EngineError> {
        let length = replica.geometry.length(piece);
        let lease = self.acquire(length).await?;
        let file = replica.state.borrow().file.as_ref().map(|file| file.file().clone());
        let file = file.ok_or(EngineError::NoChunk(replica.id))?;
        let (result, (_, lease)) = self.ring.read(&file, lease, replica.geometry.offset(piece)).await;
        let problem = match result {
            Err(error) => Some(format!("reading it from NVMe failed: {error}")),
            Ok(count) if count < length => Some(format!("its file ends {} bytes early", length - count)),
            Ok(_) => None,
        };
        add(&self.counters.nvme_bytes_read, length.into());
        let expected = replica.descriptor.get().map(|descriptor| descriptor.checksums[piece as usize]);
        let problem = problem.or_else(|| {
            let differs = expected != Some(checksum_of(lease.as_slice()));
            differs.then(|| "the bytes on NVMe fail their checksum".to_owned())
        });
        let Some(message) = problem else { return Ok(Arc::new(lease)) };
        replica.state.borrow_mut().lose_nvme(piece);
        add(&self.counters.pieces_corrupt, 1);
        self.tell(Event::Fault(Fault { chunk: replica.id, piece, peer: None, message }));
        self.mend(replica);
        Err(EngineError::Corrupt { chunk: replica.id, piece })
    }

    /// Takes a verified piece into the replica, onto NVMe when the replica has a file, and to GPUs where it has memory.
    pub(super) fn store_piece(self: &Rc<Self>, replica: &Rc<Replica>, piece: u32, lease: SharedLease) {
        let (to_write, regions) = {
            let mut state = replica.state.borrow_mut();
            state.put_dram(piece, lease.clone());
            let regions = state.on_gpu.iter().filter(|there| !there.pieces.contains(piece));
            let regions: Vec<_> = regions.map(|there| there.region.clone()).collect();
            let file = state.file.as_ref().map(|file| file.file().clone());
            let file = file.filter(|_| !state.on_nvme.contains(piece));
            state.writing += u32::from(file.is_some());
            (file, regions)
        };
        replica.changed.notify();
        regions.iter().for_each(|region| self.send_to_gpu(replica, region, piece, lease.clone()));
        if let Some(file) = to_write {
            let (shard, replica) = (self.clone(), replica.clone());
            glommio::spawn_local(async move {
                let offset = replica.geometry.offset(piece);
                let written = shard.write_all(&file, lease, replica.geometry.length(piece), offset).await;
                {
                    let mut state = replica.state.borrow_mut();
                    state.writing -= 1;
                    match written {
                        Ok(()) => drop(state.on_nvme.insert(piece)),
                        Err(error) => state.write_error = Some(error),
                    }
                }
                replica.changed.notify();
            })
            .detach();
        }
    }

    /// Writes the first `length` bytes of a slot into a file.
    pub(super) async fn write_all(
        &self,
        file: &Arc<std::fs::File>,
        mut lease: SharedLease,
        length: u32,
        offset: u64,
    ) -> Result<(), EngineError> {
        let whole = length.next_multiple_of(crate::ring::ALIGNMENT);
        let mut written = 0;
        while written < whole {
            let (result, (_, returned)) = self.ring.write(file, lease, length, written, offset).await;
            lease = returned;
            match result {
                Ok(0) => return Err(EngineError::DiskFull("a write to it took no bytes".into())),
                Ok(count) => written += count,
                Err(error) => return Err(write_error(&error)),
            }
        }
        add(&self.counters.nvme_bytes_written, length.into());
        Ok(())
    }

    /// Leases memory, evicting what may go, and waiting a little for what is about to.
    pub(super) async fn acquire(self: &Rc<Self>, length: u32) -> Result<Lease, EngineError> {
        let since = std::time::Instant::now();
        let mut pause = Duration::from_micros(200);
        loop {
            if let Some(lease) = self.try_acquire(length) {
                return Ok(lease);
            }
            if since.elapsed() > MEMORY_PATIENCE {
                return Err(EngineError::MemoryFull { wanted: length.into(), limit: self.arena.size() });
            }
            for (_, shard) in (0..).zip(&self.shards).filter(|&(index, _): &(u16, _)| index != self.index) {
                let _ = shard.send(Command::Evict { bytes: length.into() });
            }
            glommio::timer::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// Leases memory if there is any, or can be at once.
    pub(super) fn try_acquire(self: &Rc<Self>, length: u32) -> Option<Lease> {
        loop {
            if let Some(lease) = self.arena.lease(self.index, length) {
                return Some(lease);
            }
            if self.evict(length.into()) == 0 {
                return None;
            }
        }
    }
}

/// What a failed write means to whoever asked for it.
pub(super) fn write_error(error: &std::io::Error) -> EngineError {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            EngineError::DiskFull(error.to_string())
        }
        _ => EngineError::Io(format!("writing a chunk file failed: {error}")),
    }
}
