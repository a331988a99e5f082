//! Large pages under a mapping.
//!
//! A page of 4 KiB is a poor unit for pieces of megabytes: on virtual machines, where a missed translation walks two
//! page tables, copies ran at half their speed where it was measured. Few machines reserve hugepages, and shared memory
//! gets transparent ones only where an administrator said so; but since Linux 6.1 any process may ask for a range to be
//! made of one (`MADV_COLLAPSE`, madvise(2)).

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags};

/// Bytes of a large page.
pub(crate) const LARGE_PAGE: u64 = 2 << 20;
/// So many refusals in a row mean that the machine has no large page left, and that asking costs time for nothing.
const REFUSALS_MAX: u32 = 64;

/// Maps all `size` bytes of a file, from an address that large pages can be mapped at.
///
/// # Safety
///
/// The file must not shrink while it is mapped. The caller unmaps it.
pub(crate) unsafe fn map(fd: impl AsFd, size: u64, protect: ProtFlags) -> rustix::io::Result<*mut u8> {
    let (length, room) = (size as usize, size as usize + LARGE_PAGE as usize);
    // SAFETY: the kernel chooses an address that nothing else uses. Nothing can be read or written there.
    let start = unsafe {
        rustix::mm::mmap_anonymous(std::ptr::null_mut(), room, ProtFlags::empty(), MapFlags::PRIVATE)?
    };
    let before = start.cast::<u8>().align_offset(LARGE_PAGE as usize);
    // SAFETY: the offset is below a large page, by which the range is longer than the file.
    let base = unsafe { start.cast::<u8>().add(before) };
    // SAFETY: the range lies within the one reserved above, so that nothing else is replaced.
    let mapped =
        unsafe { rustix::mm::mmap(base.cast(), length, protect, MapFlags::SHARED | MapFlags::FIXED, fd, 0) };
    let unmap = |at: *mut u8, length: usize| {
        if length > 0 {
            // SAFETY: the range was reserved above and nothing was put there.
            let _ = unsafe { rustix::mm::munmap(at.cast(), length) };
        }
    };
    if let Err(error) = mapped {
        unmap(start.cast(), room);
        return Err(error);
    }
    unmap(start.cast(), before);
    let end = length.next_multiple_of(rustix::param::page_size());
    unmap(base.wrapping_add(end), room - before - end);
    Ok(base)
}

/// Which large pages of a mapping have been asked for.
pub(crate) struct LargePages {
    asked: Vec<AtomicU64>,
    refusals: AtomicU32,
}

impl LargePages {
    /// For a mapping of `size` bytes.
    pub(crate) fn new(size: u64) -> Self {
        let words = size.div_ceil(LARGE_PAGE * 64);
        Self { asked: (0..words).map(|_| AtomicU64::new(0)).collect(), refusals: AtomicU32::new(0) }
    }

    /// Asks for the large pages of a range, each once. Where the kernel has none, small ones come as they are touched.
    ///
    /// # Safety
    ///
    /// The mapping at `base`, made by [`map`], must reach to the end of the last large page of the range.
    pub(crate) unsafe fn bring(&self, base: *mut u8, offset: u64, length: u64) {
        for page in offset / LARGE_PAGE..(offset + length).div_ceil(LARGE_PAGE) {
            let (word, bit) = (&self.asked[(page / 64) as usize], 1 << (page % 64));
            let known = word.load(Ordering::Relaxed) & bit != 0;
            if known || word.fetch_or(bit, Ordering::Relaxed) & bit != 0 {
                continue;
            }
            if self.refusals.load(Ordering::Relaxed) >= REFUSALS_MAX {
                return;
            }
            // SAFETY: the caller vouches for the range.
            match unsafe { collapse(base.wrapping_add((page * LARGE_PAGE) as usize)) } {
                Ok(()) => self.refusals.store(0, Ordering::Relaxed),
                Err(_) => drop(self.refusals.fetch_add(1, Ordering::Relaxed)),
            }
        }
    }
}

/// Makes one large page of the bytes at `start`, which stay what they are.
///
/// # Safety
///
/// The bytes must be mapped, all of them from one file that is mapped for writing.
pub(crate) unsafe fn collapse(start: *mut u8) -> io::Result<()> {
    // The kernel makes nothing of a range that is empty.
    // SAFETY: the caller vouches for the range; populating it changes no byte.
    unsafe { rustix::mm::madvise(start.cast(), rustix::param::page_size(), Advice::LinuxPopulateWrite)? };
    // SAFETY: as above; what lies in the range is copied by the kernel, with all access to it held back.
    match unsafe { libc::madvise(start.cast(), LARGE_PAGE as usize, libc::MADV_COLLAPSE) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_their_move_to_large_pages() {
        let file = rustix::fs::memfd_create("pages", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let size = 5 * LARGE_PAGE / 2;
        rustix::fs::ftruncate(&file, size).unwrap();
        // SAFETY: the file is ours and keeps its length; it is unmapped below.
        let base = unsafe { map(&file, size, ProtFlags::READ | ProtFlags::WRITE).unwrap() };
        assert!(base.cast::<u8>().addr().is_multiple_of(LARGE_PAGE as usize));
        // SAFETY: the range is the mapping.
        let bytes = unsafe { std::slice::from_raw_parts_mut(base, size as usize) };
        bytes.fill(7);
        let pages = LargePages::new(size);
        // SAFETY: the mapping reaches to the end of the second large page.
        unsafe { pages.bring(base, 5, 2 * LARGE_PAGE - 10) };
        assert!(bytes.iter().all(|&byte| byte == 7));
        assert_eq!(pages.asked[0].load(Ordering::Relaxed), 0b11);
        // SAFETY: as for `map`.
        unsafe { rustix::mm::munmap(base.cast(), size as usize).unwrap() };
    }
}
