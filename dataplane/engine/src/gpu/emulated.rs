//! A stand-in for a GPU, so that what is done with one runs where there is none.
//!
//! Its memory is in files that nobody maps: like that of a GPU, it has no address on the host, and is reached by copies
//! alone.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use flow::wire::session::GpuRecord;
use rustix::fs::MemfdFlags;

use super::GpuError;
use super::work::{GpuMemory, Slot};
use crate::Finding;

/// Stand-ins of equal size.
pub(super) fn stand_ins(count: u16, bytes: u64) -> (Vec<GpuRecord>, Finding) {
    let state = |index| GpuRecord {
        index,
        name: "emulated".into(),
        uuid: String::new(),
        bus: String::new(),
        memory_bytes: bytes,
        limit_bytes: bytes,
        used_bytes: 0,
        is_emulated: true,
    };
    let finding = Finding {
        topic: "GPUs",
        found: format!("{count} emulated in the host's memory, with {bytes} bytes each"),
        taken: "in place of GPUs: for tests, and slower than any".into(),
        remedy: None,
    };
    ((0..count).map(state).collect(), finding)
}

/// The memory of one stand-in.
#[derive(Debug)]
pub(super) struct EmulatedMemory {
    free: u64,
    regions: HashMap<u64, (File, u64)>,
    posted: Vec<Slot>,
}

impl EmulatedMemory {
    pub(super) fn new(bytes: u64) -> Self {
        Self { free: bytes, regions: HashMap::new(), posted: Vec::new() }
    }
}

impl GpuMemory for EmulatedMemory {
    fn allocate(&mut self, region: u64, bytes: u64) -> Result<(), GpuError> {
        let left = self.free.checked_sub(bytes).ok_or(GpuError::Full)?;
        let file = rustix::fs::memfd_create("shoal-emulated-gpu", MemfdFlags::CLOEXEC).map(File::from);
        let file =
            file.map_err(|error| GpuError::Failed(format!("memory for a stand-in failed: {error}")))?;
        let sized = file.set_len(bytes);
        sized.map_err(|error| GpuError::Failed(format!("memory for a stand-in failed: {error}")))?;
        self.free = left;
        self.regions.insert(region, (file, bytes));
        Ok(())
    }

    fn free(&mut self, region: u64) {
        self.free += self.regions.remove(&region).map_or(0, |(_, bytes)| bytes);
    }

    fn post(&mut self, region: u64, offset: u64, mut slot: Slot) -> Result<(), GpuError> {
        let failed = |reason: String| GpuError::Failed(reason);
        let (file, bytes) =
            self.regions.get(&region).ok_or_else(|| failed(format!("there is no region {region}")))?;
        if offset.checked_add(slot.length()).is_none_or(|end| end > *bytes) {
            return Err(failed(format!("{} bytes at {offset} are outside of a region", slot.length())));
        }
        let copied = match &mut slot {
            Slot::In(lease) => file.write_all_at(lease.as_slice(), offset),
            Slot::Out(lease) => file.read_exact_at(lease.as_mut_slice(), offset),
        };
        copied.map_err(|error| failed(format!("a copy of a stand-in failed: {error}")))?;
        self.posted.push(slot);
        Ok(())
    }

    fn settle(&mut self) -> Result<Vec<Slot>, GpuError> {
        Ok(std::mem::take(&mut self.posted))
    }
}
