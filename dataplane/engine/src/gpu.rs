//! GPUs as devices of a node: memory that the host reaches by copies alone.
//!
//! Each GPU has a thread, which all calls of its driver go through, since any of them may take long. A chunk has one [`Region`] on a
//! GPU, in one piece, as programs on the GPU want it; its pieces are copied there from slots of the arena, and back into such.
//! *Posting a copy consumes the slot; its end returns it.*

mod cuda; // the real ones
mod emulated; // a stand-in in the host's memory
mod work; // the thread of one GPU

#[cfg(test)]
mod conformance; // what all of them must do

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flow::wire::session::{Device, GpuRecord};
use memory::{Arena, Lease, SharedLease};

use crate::{EngineError, Finding};
use work::{Slot, Work};

pub(crate) use cuda::finding as found_by_cuda;

/// Which GPUs a node uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuSource {
    /// Those that CUDA finds on the machine.
    Found,
    /// Stand-ins in the host's memory, in place of those of the machine.
    Emulated {
        /// How many.
        count: u16,
        /// Bytes of memory that each has.
        bytes: u64,
    },
}

/// How much of the memory of each GPU a node may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuLimit {
    /// So many bytes.
    Bytes(u64),
    /// So many of 100 parts.
    Percent(u8),
}

/// Which GPUs a node uses, and how much of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuSettings {
    /// Which.
    pub source: GpuSource,
    /// How much of each.
    pub limit: GpuLimit,
}

/// Why something on a GPU was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum GpuError {
    /// It has no memory left, whatever the node may take.
    #[error("its memory is full")]
    Full,
    /// It, or what leads to it, fails.
    #[error("{0}")]
    Failed(String),
}

/// The GPUs of a node.
#[derive(Clone, Default)]
pub(crate) struct Gpus(Arc<[Arc<Gpu>]>);

/// One GPU.
pub(crate) struct Gpu {
    about: GpuRecord,
    used: AtomicU64,
    next_region: AtomicU64,
    // What stands in it is bounded by the slots of the arena, and by the chunks that are brought to the GPU.
    work: flume::Sender<Work>,
}

/// Memory of a GPU, for one chunk. It goes with the last owner.
pub(crate) struct Region {
    gpu: Arc<Gpu>,
    number: u64,
    bytes: u64,
}

impl Gpus {
    /// Takes GPUs into use, and says which. With `register` they reach the arena by themselves, which takes all of its memory.
    pub(crate) fn open(settings: &GpuSettings, arena: &Arena, register: bool) -> (Self, Finding) {
        let (states, finding) = match settings.source {
            GpuSource::Found => cuda::found(),
            GpuSource::Emulated { count, bytes } => emulated::stand_ins(count, bytes),
        };
        let limited = |state: GpuRecord| {
            let part = match settings.limit {
                GpuLimit::Bytes(bytes) => bytes,
                GpuLimit::Percent(percent) => {
                    (u128::from(state.memory_bytes) * u128::from(percent) / 100) as u64
                }
            };
            GpuRecord { limit_bytes: part.min(state.memory_bytes), ..state }
        };
        let start = |state| work::start(limited(state), arena.clone(), register);
        (Self(states.into_iter().map(start).collect()), finding)
    }

    /// What there is.
    pub(crate) fn states(&self) -> Vec<GpuRecord> {
        self.0.iter().map(|gpu| gpu.state()).collect()
    }

    /// The GPU that is meant: the one of this number, or the one with most room.
    pub(crate) fn choose(&self, device: Device) -> Result<&Arc<Gpu>, EngineError> {
        let found = match device {
            Device::Gpu(index) => self.0.get(usize::from(index)),
            _ => self.0.iter().rev().max_by_key(|gpu| gpu.state().free_bytes()),
        };
        found.ok_or_else(|| EngineError::NoGpu { wanted: device, count: self.0.len() as u16 })
    }
}

impl Gpu {
    pub(crate) fn index(&self) -> u16 {
        self.about.index
    }

    fn state(&self) -> GpuRecord {
        GpuRecord { used_bytes: self.used.load(Ordering::SeqCst), ..self.about.clone() }
    }

    /// Takes memory for a chunk.
    pub(crate) async fn allocate(self: &Arc<Self>, bytes: u64) -> Result<Region, EngineError> {
        let limit = self.about.limit_bytes;
        let taken = self.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |used| {
            used.checked_add(bytes).filter(|sum| *sum <= limit)
        });
        taken.map_err(|used| EngineError::GpuFull {
            gpu: self.index(),
            wanted: bytes,
            free: limit.saturating_sub(used),
            limit,
        })?;
        let number = self.next_region.fetch_add(1, Ordering::Relaxed);
        // Dropped, it is given back, also when whoever wanted it has gone meanwhile.
        let region = Region { gpu: self.clone(), number, bytes };
        let (reply, answer) = flume::bounded(1);
        self.ask(Work::Allocate { region: number, bytes, reply })?;
        let allocated = answer.recv_async().await.map_err(|_| EngineError::Stopping)?;
        allocated.map_err(|error| self.in_words(error, bytes))?;
        Ok(region)
    }

    async fn copy(&self, region: u64, offset: u64, slot: Slot) -> Result<Slot, EngineError> {
        let (reply, answer) = flume::bounded(1);
        let bytes = slot.length();
        self.ask(Work::Copy { region, offset, slot, reply })?;
        let copied = answer.recv_async().await.map_err(|_| EngineError::Stopping)?;
        copied.map_err(|error| self.in_words(error, bytes))
    }

    fn ask(&self, work: Work) -> Result<(), EngineError> {
        self.work.send(work).map_err(|_| EngineError::Stopping)
    }

    fn in_words(&self, error: GpuError, wanted: u64) -> EngineError {
        let (gpu, limit) = (self.index(), self.about.limit_bytes);
        match error {
            // Other programs have what this node may take.
            GpuError::Full => EngineError::GpuFull { gpu, wanted, free: 0, limit },
            GpuError::Failed(reason) => EngineError::Gpu { gpu, reason },
        }
    }
}

impl Region {
    /// The number of the GPU.
    pub(crate) fn gpu(&self) -> u16 {
        self.gpu.index()
    }

    /// Copies a slot to the GPU, and gives it back.
    pub(crate) async fn write(&self, offset: u64, from: SharedLease) -> Result<SharedLease, EngineError> {
        match self.gpu.copy(self.number, offset, Slot::In(from)).await? {
            Slot::In(lease) => Ok(lease),
            Slot::Out(lease) => Ok(Arc::new(lease)),
        }
    }

    /// Fills a slot with what is on the GPU, and gives it back.
    pub(crate) async fn read(&self, offset: u64, into: Lease) -> Result<Lease, EngineError> {
        match self.gpu.copy(self.number, offset, Slot::Out(into)).await? {
            Slot::Out(lease) => Ok(lease),
            Slot::In(_) => {
                Err(EngineError::Gpu { gpu: self.gpu(), reason: "a copy gave another slot back".into() })
            }
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // A thread that has ended has given everything back.
        let _ = self.gpu.ask(Work::Free { region: self.number });
        self.gpu.used.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}
