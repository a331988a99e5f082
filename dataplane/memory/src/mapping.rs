//! A client's view of a node's arena.

use std::collections::BTreeMap;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::mm::{Advice, ProtFlags};

/// Pages are brought into a mapping in steps of so many bytes.
const STEP: u64 = 1 << 20;

/// An arena of another process, mapped into this one.
pub struct Mapping {
    base: *mut u8,
    size: u64,
    writable: bool,
    writers: Mutex<BTreeMap<u64, u64>>,
    /// One bit for each [`STEP`] whose pages are there.
    present: Vec<AtomicU64>,
}

// SAFETY: the mapping lives as long as the value, and it is reached only by bounds-checked shared views and by
// `SlotWriter`s, of which no two overlap.
unsafe impl Send for Mapping {}
// SAFETY: as above; the registry of writers is behind a mutex.
unsafe impl Sync for Mapping {}

/// The exclusive right of this process to write one range of a [`Mapping`].
pub struct SlotWriter<'a> {
    mapping: &'a Mapping,
    offset: u64,
    length: usize,
}

impl Mapping {
    /// Maps the arena behind `fd`, which the node sent, whole. `size` is what the node said its size is.
    pub fn map_shared(fd: impl AsFd, size: u64, writable: bool) -> io::Result<Self> {
        check_arena(&fd, size)?;
        let protect = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        // SAFETY: the file has `size` bytes and cannot shrink; the mapping is unmapped when it is dropped.
        let base = unsafe { crate::pages::map(fd, size, protect)? };
        let present = (0..size.div_ceil(STEP * 64)).map(|_| AtomicU64::new(0)).collect();
        Ok(Self { base, size, writable, writers: Mutex::default(), present })
    }

    /// Bytes in all.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The bytes of a range that the node gave out for reading; `None` when it is not within the arena.
    ///
    /// The node neither reuses nor changes the range until the client releases it, so a view must not be used after
    /// its piece was released.
    pub fn read(&self, offset: u64, length: usize) -> Option<&[u8]> {
        self.contains(offset, length).then(|| {
            self.bring(offset, length);
            // SAFETY: the range is within the mapping; the protocol keeps its bytes unchanged while it is given out.
            unsafe { std::slice::from_raw_parts(self.base.add(offset as usize), length) }
        })
    }

    /// The right to write a range that the node leased to this client; `None` when it is not within the arena, the
    /// mapping is read-only, or this process already writes part of it.
    pub fn writer(&self, offset: u64, length: usize) -> Option<SlotWriter<'_>> {
        if !self.writable || !self.contains(offset, length) {
            return None;
        }
        let end = offset + length as u64;
        let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
        if writers.range(..end).next_back().is_some_and(|(_, &other_end)| other_end > offset) {
            return None;
        }
        writers.insert(offset, end);
        drop(writers);
        self.bring(offset, length);
        Some(SlotWriter { mapping: self, offset, length })
    }

    /// Brings the pages of a range into the mapping, the first time that it is used: one call costs a third of the
    /// faults that it saves. What is shorter than a step is left to faults.
    fn bring(&self, offset: u64, length: usize) {
        let steps = offset.div_ceil(STEP)..(offset + length as u64) / STEP;
        let advice = if self.writable { Advice::LinuxPopulateWrite } else { Advice::LinuxPopulateRead };
        for step in steps {
            let (word, bit) = (&self.present[(step / 64) as usize], 1 << (step % 64));
            if word.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
                let start = (step * STEP) as usize;
                // SAFETY: the step is within the mapping; populating it changes no byte. Kernels before 5.14 refuse it,
                // and the pages come when they are touched.
                let _ = unsafe { rustix::mm::madvise(self.base.add(start).cast(), STEP as usize, advice) };
            }
        }
    }

    fn contains(&self, offset: u64, length: usize) -> bool {
        length > 0 && offset.checked_add(length as u64).is_some_and(|end| end <= self.size)
    }
}

/// Refuses what is not an arena of this size that cannot shrink.
pub(crate) fn check_arena(fd: impl AsFd, size: u64) -> io::Result<()> {
    let actual = rustix::fs::fstat(&fd)?.st_size;
    if u64::try_from(actual) != Ok(size) || size == 0 {
        let text = format!("the node's arena has {actual} bytes where it announced {size}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    // An arena that could still shrink would turn a later access into SIGBUS.
    let seals = rustix::fs::fcntl_get_seals(&fd)?;
    if seals.contains(rustix::fs::SealFlags::SHRINK) {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the node's arena is not sealed against shrinking"))
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: views and writers borrow the mapping, so none is left.
        let _ = unsafe { rustix::mm::munmap(self.base.cast(), self.size as usize) };
    }
}

impl Deref for SlotWriter<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the range was checked when the writer was made and no other writer of this process overlaps it; the
        // node does not touch it while it is leased to this client.
        unsafe { std::slice::from_raw_parts(self.mapping.base.add(self.offset as usize), self.length) }
    }
}

impl DerefMut for SlotWriter<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`, and `&mut self` makes it the only reference of this writer.
        unsafe { std::slice::from_raw_parts_mut(self.mapping.base.add(self.offset as usize), self.length) }
    }
}

impl Drop for SlotWriter<'_> {
    fn drop(&mut self) {
        let mut writers = self.mapping.writers.lock().unwrap_or_else(PoisonError::into_inner);
        writers.remove(&self.offset);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Arena;

    #[test]
    fn a_client_writes_what_the_node_reads() {
        let arena = Arena::new(16 << 20, 1).unwrap();
        let lease = arena.lease(0, 8192).unwrap();
        let mapping = Mapping::map_shared(arena.read_write_fd(), arena.size(), true).unwrap();
        let mut writer = mapping.writer(lease.offset(), 8192).unwrap();
        writer.copy_from_slice(&[5; 8192]);
        assert!(mapping.writer(lease.offset() + 4096, 1).is_none(), "ranges of two writers overlap");
        drop(writer);
        assert_eq!(lease.as_slice(), [5; 8192]);
        let reader = Mapping::map_shared(arena.read_only_fd(), arena.size(), false).unwrap();
        assert_eq!(reader.read(lease.offset(), 8192), Some(&[5; 8192][..]));
        assert!(reader.writer(0, 1).is_none(), "a read-only mapping is written");
    }

    #[test]
    fn the_read_only_descriptor_cannot_be_mapped_for_writing() {
        let arena = Arena::new(16 << 20, 1).unwrap();
        assert!(Mapping::map_shared(arena.read_only_fd(), arena.size(), true).is_err());
    }

    #[test]
    fn ranges_of_any_shape_hold_what_was_written() {
        let arena = Arena::new(16 << 20, 1).unwrap();
        let mut lease = arena.lease(0, 4 << 20).unwrap();
        let mapping = Mapping::map_shared(arena.read_only_fd(), arena.size(), false).unwrap();
        for (byte, (from, length)) in (1..).zip([(5, 3 << 20), (0, 4 << 20), (4095, 2), ((1 << 20) - 1, 2)]) {
            lease.as_mut_slice().fill(byte);
            let view = mapping.read(lease.offset() + from, length).unwrap();
            assert!(view.len() == length && view.iter().all(|&seen| seen == byte));
        }
    }

    #[test]
    fn ranges_outside_are_refused() {
        let arena = Arena::new(16 << 20, 1).unwrap();
        let mapping = Mapping::map_shared(arena.read_write_fd(), arena.size(), true).unwrap();
        assert!(mapping.read(16 << 20, 1).is_none());
        assert!(mapping.read(u64::MAX, 2).is_none());
        assert!(mapping.read(0, (16 << 20) + 1).is_none());
        assert!(Mapping::map_shared(arena.read_write_fd(), arena.size() + 1, true).is_err());
    }
}
