//! The thread of one GPU.

use std::sync::Arc;

use flow::wire::session::GpuRecord;
use memory::{Arena, Lease, SharedLease};

use super::cuda::CudaMemory;
use super::emulated::EmulatedMemory;
use super::{Gpu, GpuError};

/// Copies that are under way on a GPU at once.
const COPIES_AT_ONCE: usize = 16;

/// Where an answer goes. Whoever asked may be gone.
pub(super) type Reply<T> = flume::Sender<Result<T, GpuError>>;

/// What a GPU is to do. It is done in order.
pub(super) enum Work {
    Allocate { region: u64, bytes: u64, reply: Reply<()> },
    Free { region: u64 },
    Copy { region: u64, offset: u64, slot: Slot, reply: Reply<Slot> },
}

/// The host's end of a copy.
#[derive(Debug)]
pub(super) enum Slot {
    /// Its bytes go to the GPU.
    In(SharedLease),
    /// The GPU's bytes come to it.
    Out(Lease),
}

impl Slot {
    pub(super) fn length(&self) -> u64 {
        match self {
            Slot::In(lease) => lease.length().into(),
            Slot::Out(lease) => lease.length().into(),
        }
    }
}

/// The memory of a GPU. Regions have the numbers that whoever asks for them chooses.
pub(super) trait GpuMemory {
    /// Takes memory.
    fn allocate(&mut self, region: u64, bytes: u64) -> Result<(), GpuError>;

    /// Gives memory back. Unknown numbers are ignored.
    fn free(&mut self, region: u64);

    /// Begins a copy between a slot and as many bytes at `offset` of a region. From then on the slot is the GPU's.
    fn post(&mut self, region: u64, offset: u64, slot: Slot) -> Result<(), GpuError>;

    /// Waits for all copies that were posted; gives their slots back in order. A GPU that fails keeps them.
    fn settle(&mut self) -> Result<Vec<Slot>, GpuError>;
}

/// Starts the thread of a GPU, which ends when nobody has the GPU any more.
pub(super) fn start(about: GpuRecord, arena: Arena, register: bool) -> Arc<Gpu> {
    let (work, queue) = flume::unbounded();
    let GpuRecord { index, is_emulated, memory_bytes, .. } = about;
    let run = move || match is_emulated {
        true => serve(EmulatedMemory::new(memory_bytes), &queue),
        false => serve(CudaMemory::new(index, arena, register), &queue),
    };
    // Without a thread nobody takes work, and whoever asks is told that the GPU is gone.
    if let Err(error) = std::thread::Builder::new().name(format!("shoal-gpu-{index}")).spawn(run) {
        tracing::error!(%error, gpu = index, "a GPU is not used: its thread does not start");
    }
    Arc::new(Gpu { about, used: 0.into(), next_region: 0.into(), work })
}

fn serve(mut memory: impl GpuMemory, queue: &flume::Receiver<Work>) {
    while let Ok(first) = queue.recv() {
        let mut replies = Vec::new();
        let rest = std::iter::from_fn(|| queue.try_recv().ok());
        for work in std::iter::once(first).chain(rest).take(COPIES_AT_ONCE) {
            match work {
                Work::Allocate { region, bytes, reply } => {
                    let _ = reply.send(memory.allocate(region, bytes));
                }
                Work::Free { region } => memory.free(region),
                Work::Copy { region, offset, slot, reply } => match memory.post(region, offset, slot) {
                    Ok(()) => replies.push(reply),
                    Err(error) => drop(reply.send(Err(error))),
                },
            }
        }
        if replies.is_empty() {
            continue;
        }
        match memory.settle() {
            Ok(slots) => {
                replies.into_iter().zip(slots).for_each(|(reply, slot)| drop(reply.send(Ok(slot))));
            }
            Err(error) => replies.into_iter().for_each(|reply| drop(reply.send(Err(error.clone())))),
        }
    }
}
