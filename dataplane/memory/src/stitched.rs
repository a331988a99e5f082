//! Pieces of an arena, mapped one behind the other.
//!
//! The slots of a chunk lie scattered in the arena. Its file can be mapped any number of times, so a range of addresses
//! is reserved and the pages of each piece are mapped into it in turn: one slice, and no byte is copied. What lies
//! side by side in the arena is one mapping.

use std::io;
use std::ops::{Deref, Range};
use std::os::fd::AsFd;

use rustix::mm::{MapFlags, ProtFlags};

use crate::mapping::check_arena;
use crate::pages::LARGE_PAGE;

/// Ranges of an arena that are one slice in this process.
pub struct Stitched {
    /// What was reserved, which is unmapped at the end.
    reserved: *mut u8,
    room: usize,
    base: *mut u8,
    length: usize,
    maps: usize,
}

/// What may be done to the pages of a [`Stitched`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// They are read. A write ends the process.
    ReadOnly,
    /// They are read, and who writes to a page gets a copy of it that nobody else sees.
    CopyOnWrite,
}

// SAFETY: the mapping lives as long as the value and is reached only through shared slices of it.
unsafe impl Send for Stitched {}
// SAFETY: as above.
unsafe impl Sync for Stitched {}

impl Stitched {
    /// Maps `parts` of the arena behind `fd`, which has `arena_size` bytes, in their order; at most `maps_max` mappings are
    /// made. All parts but the last must be of whole pages, and each must begin with a page: anything else is refused, as
    /// is an arena that could shrink.
    pub fn map(
        fd: impl AsFd,
        arena_size: u64,
        parts: &[Range<u64>],
        access: Access,
        maps_max: usize,
    ) -> io::Result<Self> {
        check_arena(&fd, arena_size)?;
        let runs = runs(parts, arena_size)?;
        let length: u64 = parts.iter().map(|part| part.end - part.start).sum();
        if runs.is_empty() || runs.len() > maps_max {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "too many mappings would be needed"));
        }
        let mut stitched = Self::reserve(length as usize, runs[0].start)?;
        for run in runs {
            stitched.add(&fd, run, access)?;
        }
        stitched.length = length as usize;
        Ok(stitched)
    }

    /// How many mappings it took.
    pub fn maps(&self) -> usize {
        self.maps
    }

    /// Reserves addresses for `length` bytes, which begin within a large page where those in the arena do, so that large
    /// pages of the arena can be large here too.
    fn reserve(length: usize, arena_offset: u64) -> io::Result<Self> {
        let room = length.next_multiple_of(rustix::param::page_size()) + 2 * LARGE_PAGE as usize;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: the kernel chooses an address that nothing else uses. Nothing can be read or written there.
        let start =
            unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), room, ProtFlags::empty(), flags)? };
        let reserved = start.cast::<u8>();
        let to_large = reserved.align_offset(LARGE_PAGE as usize);
        let base = reserved.wrapping_add(to_large + (arena_offset % LARGE_PAGE) as usize);
        Ok(Self { reserved, room, base, length: 0, maps: 0 })
    }

    /// Maps a run behind those that are there.
    fn add(&mut self, fd: impl AsFd, run: Range<u64>, access: Access) -> io::Result<()> {
        let (protect, share) = match access {
            Access::ReadOnly => (ProtFlags::READ, MapFlags::SHARED),
            Access::CopyOnWrite => (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE),
        };
        let length = (run.end - run.start) as usize;
        let at = self.base.wrapping_add(self.length);
        // SAFETY: the range lies within the one reserved, which has room for all runs and for two large pages more than
        // that; `base` is less than two large pages behind its start. The file cannot shrink.
        unsafe {
            let flags = share | MapFlags::FIXED | MapFlags::NORESERVE;
            rustix::mm::mmap(at.cast(), length, protect, flags, fd, run.start)?;
        }
        self.length += length;
        self.maps += 1;
        Ok(())
    }
}

/// The parts as runs of whole pages, neighbours joined.
fn runs(parts: &[Range<u64>], arena_size: u64) -> io::Result<Vec<Range<u64>>> {
    let page = rustix::param::page_size() as u64;
    let mut runs: Vec<Range<u64>> = Vec::with_capacity(parts.len());
    for (number, part) in parts.iter().enumerate() {
        let end = part.end.checked_next_multiple_of(page);
        let is_last = number + 1 == parts.len();
        let fits = part.start < part.end && part.start.is_multiple_of(page) && part.end <= arena_size;
        let Some(end) = end.filter(|&end| fits && (is_last || end == part.end)) else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the pieces are not of whole pages"));
        };
        match runs.last_mut() {
            Some(run) if run.end == part.start => run.end = end,
            _ => runs.push(part.start..end),
        }
    }
    Ok(runs)
}

impl Deref for Stitched {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the range is mapped as long as the value lives. As with `Mapping::read`, the node keeps its bytes
        // unchanged while they are given out.
        unsafe { std::slice::from_raw_parts(self.base, self.length) }
    }
}

impl Drop for Stitched {
    fn drop(&mut self) {
        // SAFETY: the range was reserved by this value, and slices of it borrow the value.
        let _ = unsafe { rustix::mm::munmap(self.reserved.cast(), self.room) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Arena, Lease};

    fn arena_with(pieces: &[(u32, u8)]) -> (Arena, Vec<Lease>) {
        let arena = Arena::new(64 << 20, 1).unwrap();
        let lease = |&(length, byte): &(u32, u8)| {
            let mut lease = arena.lease(0, length).unwrap();
            lease.as_mut_slice().fill(byte);
            lease
        };
        let leases = pieces.iter().map(lease).collect();
        (arena, leases)
    }

    fn part(lease: &Lease) -> Range<u64> {
        lease.offset()..lease.offset() + u64::from(lease.length())
    }

    #[test]
    fn scattered_pieces_are_one_slice_in_their_order() {
        let (arena, leases) = arena_with(&[(1 << 20, 1), (1 << 20, 2), (1 << 20, 3), (5000, 4)]);
        let parts: Vec<_> = [2, 0, 1, 3].map(|at| part(&leases[at])).into();
        for access in [Access::ReadOnly, Access::CopyOnWrite] {
            let stitched = Stitched::map(arena.read_only_fd(), arena.size(), &parts, access, 9).unwrap();
            assert_eq!(stitched.len(), (3 << 20) + 5000);
            for (byte, range) in [(3, 0..1 << 20), (1, 1 << 20..2 << 20), (2, 2 << 20..3 << 20)] {
                assert!(stitched[range].iter().all(|&seen| seen == byte));
            }
            assert!(stitched[3 << 20..].iter().all(|&seen| seen == 4));
            assert_eq!(stitched.maps(), 3, "neighbours were not joined");
        }
    }

    #[test]
    fn it_outlives_the_arena_that_it_shows() {
        let (arena, leases) = arena_with(&[(1 << 20, 9)]);
        let stitched =
            Stitched::map(arena.read_only_fd(), arena.size(), &[part(&leases[0])], Access::ReadOnly, 1)
                .unwrap();
        drop((arena, leases));
        assert!(stitched.iter().all(|&byte| byte == 9));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let arena = Arena::new(16 << 20, 1).unwrap();
        let map = |parts: &[Range<u64>], maps_max| {
            Stitched::map(arena.read_only_fd(), arena.size(), parts, Access::ReadOnly, maps_max).map(drop)
        };
        assert!(map(&[], 9).is_err());
        assert!(map(&[0..100, 4096..8192], 9).is_err(), "a part in the middle ends within a page");
        for outside in [100..4096, 0..(16 << 20) + 1, u64::MAX - 4095..u64::MAX] {
            assert!(map(&[outside], 9).is_err());
        }
        assert!(map(&[0..4096, 8192..12288], 1).is_err(), "more mappings than allowed");
        assert!(map(&[0..4096, 4096..8192], 1).is_ok());
        let (whole, announced) = (0..4096, 1);
        assert!(Stitched::map(arena.read_only_fd(), announced, &[whole], Access::ReadOnly, 1).is_err());
    }
}
