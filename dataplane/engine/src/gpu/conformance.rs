//! What the memory of any GPU does: the stand-in's always, that of a real one where there is one.

use std::sync::Arc;

use memory::{Arena, Lease};

use super::cuda::{CudaMemory, found};
use super::emulated::EmulatedMemory;
use super::work::{GpuMemory, Slot};
use super::{GpuError, GpuLimit, GpuSettings, GpuSource, Gpus};
use crate::EngineError;
use flow::wire::session::Device;
use futures_lite::future::block_on;

const LENGTH: u32 = 1 << 20;

#[test]
fn a_stand_in_does_what_a_gpu_does() {
    let arena = Arena::new(32 << 20, 1).unwrap();
    conforms(&mut EmulatedMemory::new(32 << 20), &arena);
}

#[test]
fn a_real_gpu_does_what_a_gpu_does() {
    let (gpus, finding) = found();
    if gpus.is_empty() {
        return eprintln!("skipped: {}", finding.found);
    }
    for register in [false, true] {
        let arena = Arena::new(32 << 20, 1).unwrap();
        conforms(&mut CudaMemory::new(0, arena.clone(), register), &arena);
    }
}

fn slot(arena: &Arena, length: u32, fill: impl Fn(usize) -> u8) -> Lease {
    let mut lease = arena.lease(0, length).unwrap();
    lease.as_mut_slice().iter_mut().enumerate().for_each(|(at, byte)| *byte = fill(at));
    lease
}

fn write(memory: &mut impl GpuMemory, arena: &Arena, region: u64, offset: u64, seed: usize) {
    let lease = slot(arena, LENGTH, |at| (at * 31 + seed) as u8);
    memory.post(region, offset, Slot::In(Arc::new(lease))).unwrap();
}

fn check_read(slot: &Slot, seed: usize) {
    let Slot::Out(lease) = slot else { panic!("another slot came back") };
    assert!(lease.as_slice().iter().enumerate().all(|(at, byte)| *byte == (at * 31 + seed) as u8));
}

fn conforms(memory: &mut impl GpuMemory, arena: &Arena) {
    let free = arena.free_bytes();
    assert!(matches!(memory.post(7, 0, Slot::Out(slot(arena, LENGTH, |_| 0))), Err(GpuError::Failed(_))));
    memory.allocate(7, 3 * u64::from(LENGTH)).unwrap();
    memory.allocate(8, u64::from(LENGTH) + 5).unwrap();
    for piece in 0..3 {
        write(memory, arena, 7, piece * u64::from(LENGTH), piece as usize);
    }
    write(memory, arena, 8, 5, 9);
    assert_eq!(arena.free_bytes(), free - 4 * u64::from(LENGTH), "what is under way keeps its slots");
    assert_eq!(memory.settle().unwrap().len(), 4);
    assert_eq!(arena.free_bytes(), free);
    for (region, offset) in [(7, 2 * u64::from(LENGTH)), (8, 5), (7, 0)] {
        memory.post(region, offset, Slot::Out(slot(arena, LENGTH, |_| 0xee))).unwrap();
    }
    let slots = memory.settle().unwrap();
    [2, 9, 0].iter().zip(&slots).for_each(|(seed, slot)| check_read(slot, *seed));
    drop(slots);
    for offset in [2 * u64::from(LENGTH) + 1, u64::MAX] {
        let slot = Slot::Out(slot(arena, LENGTH, |_| 0));
        assert!(matches!(memory.post(7, offset, slot), Err(GpuError::Failed(_))), "{offset} is outside");
    }
    memory.free(7);
    memory.free(7);
    assert!(memory.post(7, 0, Slot::Out(slot(arena, LENGTH, |_| 0))).is_err(), "it was given back");
    assert!(memory.settle().unwrap().is_empty());
    memory.free(8);
    assert_eq!(memory.allocate(9, 1 << 60), Err(GpuError::Full));
    assert_eq!(arena.free_bytes(), free);
}

#[test]
fn no_more_is_taken_than_may_be() {
    let arena = Arena::new(32 << 20, 1).unwrap();
    let settings = |count| GpuSettings {
        source: GpuSource::Emulated { count, bytes: 3 << 20 },
        limit: GpuLimit::Percent(100),
    };
    let (gpus, finding) = Gpus::open(&settings(2), &arena, false);
    assert!(finding.found.contains("2 emulated"), "{}", finding.found);
    block_on(async {
        let first = gpus.choose(Device::Gpu(0)).unwrap().allocate(2 << 20).await.unwrap();
        assert_eq!(gpus.choose(Device::AnyGpu).unwrap().index(), 1, "it has more room");
        let full = EngineError::GpuFull { gpu: 0, wanted: 2 << 20, free: 1 << 20, limit: 3 << 20 };
        let refused = gpus.choose(Device::Gpu(0)).unwrap().allocate(2 << 20).await.err();
        assert_eq!(refused, Some(full));
        assert_eq!(gpus.states().iter().map(|gpu| gpu.used_bytes).collect::<Vec<_>>(), [2 << 20, 0]);
        let lease = Arc::new(slot(&arena, LENGTH, |at| at as u8));
        let lease = first.write(LENGTH.into(), lease).await.unwrap();
        let read = first.read(LENGTH.into(), slot(&arena, LENGTH, |_| 0)).await.unwrap();
        assert!(read.as_slice() == lease.as_slice());
        drop(first);
        assert_eq!(gpus.states()[0].used_bytes, 0);
        assert!(gpus.choose(Device::Gpu(0)).unwrap().allocate(3 << 20).await.is_ok());
        let none = gpus.choose(Device::Gpu(2)).err();
        assert_eq!(none, Some(EngineError::NoGpu { wanted: Device::Gpu(2), count: 2 }));
    });
    let (none, _) = Gpus::open(&settings(0), &arena, false);
    assert!(none.choose(Device::AnyGpu).is_err());
}
