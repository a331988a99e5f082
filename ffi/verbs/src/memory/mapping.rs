//! Memory to register.

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::mm::{MapFlags, ProtFlags};

use crate::Error;

/// Memory that devices may read and write while its owner lives.
///
/// # Safety
///
/// The range is mapped for reading and writing, at the same place, as long as the value lives. Devices write to it at
/// any time while it is registered, so no reference to its bytes may exist meanwhile; atomics and raw pointers may.
pub unsafe trait HostMemory: Send + Sync + 'static {
    /// First byte and length, in bytes.
    fn range(&self) -> (NonNull<u8>, usize);
}

/// A shared mapping of its own, anonymous or of a file such as a memfd.
///
/// A memfd that is mapped elsewhere too can be registered through a mapping like this: both show the same bytes.
pub struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping belongs to the value, and its bytes are touched only as atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Fresh memory, all zero. `length` is in bytes, and at least 1.
    pub fn anonymous(length: usize) -> Result<Self, Error> {
        // Shared, so that a fork does not move what devices see away from the process.
        // SAFETY: the kernel chooses a free place.
        let start = unsafe {
            let access = ProtFlags::READ | ProtFlags::WRITE;
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), length, access, MapFlags::SHARED)
        };
        Self::new(start, length)
    }

    /// `length` bytes of a file from `offset`, a multiple of the page size. A file that is cut shorter later makes
    /// accesses of the process fail with SIGBUS: seal it against that, or keep it to yourself.
    pub fn of_file(file: BorrowedFd<'_>, offset: u64, length: usize) -> Result<Self, Error> {
        let map = |source: std::io::Error| Error::Map { length, source };
        let size = rustix::fs::fstat(file).map_err(|error| map(error.into()))?.st_size;
        let end = u64::try_from(length).ok().and_then(|length| offset.checked_add(length));
        if end.is_none_or(|end| end > u64::try_from(size).unwrap_or(0)) {
            return Err(map(std::io::Error::from_raw_os_error(libc::ENXIO)));
        }
        // SAFETY: the kernel chooses a free place.
        let start = unsafe {
            let access = ProtFlags::READ | ProtFlags::WRITE;
            rustix::mm::mmap(std::ptr::null_mut(), length, access, MapFlags::SHARED, file, offset)
        };
        Self::new(start, length)
    }

    fn new(start: rustix::io::Result<*mut std::ffi::c_void>, length: usize) -> Result<Self, Error> {
        let start = start.map_err(|error| Error::Map { length, source: error.into() })?;
        let start = NonNull::new(start.cast())
            .ok_or_else(|| Error::Map { length, source: std::io::Error::from_raw_os_error(libc::ENOMEM) })?;
        Ok(Self { start, length })
    }

    /// Length, in bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it has no bytes; none is made so.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Copies bytes in, one by one: for small messages and tests. What does not fit is left out; the count is returned.
    pub fn write(&self, offset: usize, bytes: &[u8]) -> usize {
        let place = self.bytes().get(offset..).unwrap_or_default();
        let pairs = place.iter().zip(bytes);
        pairs.map(|(place, byte)| place.store(*byte, Ordering::Relaxed)).count()
    }

    /// Copies bytes out, one by one. Fewer than asked for come when the mapping ends before.
    pub fn read(&self, offset: usize, length: usize) -> Vec<u8> {
        let place = self.bytes().get(offset..).unwrap_or_default();
        place.iter().take(length).map(|byte| byte.load(Ordering::Relaxed)).collect()
    }

    fn bytes(&self) -> &[AtomicU8] {
        // SAFETY: the mapping has that many bytes and lives as long as the value; atomics allow writes by others.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.length) }
    }
}

// SAFETY: the mapping stays where it is until the value is dropped, and its bytes are handed out only as atomics.
unsafe impl HostMemory for Mapping {
    fn range(&self) -> (NonNull<u8>, usize) {
        (self.start, self.length)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by this value, and nothing borrows from it any more.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

impl std::fmt::Debug for Mapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mapping").field("length", &self.length).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn bytes_come_back_and_nothing_is_touched_beyond_the_end() {
        let mapping = Mapping::anonymous(4096).unwrap();
        assert_eq!(mapping.write(4090, b"0123456789"), 6);
        assert_eq!(mapping.read(4089, 100), *b"\x00012345");
        assert_eq!(mapping.write(5000, b"x"), 0);
        assert!(mapping.read(5000, 1).is_empty());
        assert!(Mapping::anonymous(0).is_err());
    }

    #[test]
    fn a_file_is_seen_through_both_of_its_mappings() {
        let file = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 8192).unwrap();
        let first = Mapping::of_file(file.as_fd(), 0, 8192).unwrap();
        let second = Mapping::of_file(file.as_fd(), 4096, 4096).unwrap();
        first.write(4096, b"shared");
        assert_eq!(second.read(0, 6), b"shared");
        assert!(Mapping::of_file(file.as_fd(), 4096, 4097).is_err());
        assert!(Mapping::of_file(file.as_fd(), u64::MAX, 2).is_err());
    }
}
