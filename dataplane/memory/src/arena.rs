//! The memfd and its backing.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::mm::{Advice, ProtFlags};

use crate::SLOT_SIZE_MAX;
use crate::buddy::Buddy;
use crate::lease::Lease;
use crate::pages::{self, LargePages};

/// The memory of one node.
#[derive(Clone)]
pub struct Arena {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    base: *mut u8,
    size: u64,
    memfd: OwnedFd,
    read_only: OwnedFd,
    backing: Backing,
    large_pages: Option<LargePages>,
    partition_size: u64,
    partitions: Vec<Mutex<Buddy>>,
}

// SAFETY: `base` points to a mapping that lives as long as `Shared` and is only reached through leases, each of
// which has its range to itself (the buddy allocator behind the mutexes never gives a range out twice).
unsafe impl Send for Shared {}
// SAFETY: as above; everything else in it is Sync.
unsafe impl Sync for Shared {}

/// What pages the arena is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backing {
    /// Reserved hugepages of 2 MiB.
    Huge,
    /// Ordinary pages, of which the kernel makes transparent hugepages as slots are first leased.
    Transparent,
    /// Ordinary 4 KiB pages, and why.
    Small(String),
}

/// The arena could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make an arena of {size} bytes: {step} failed: {source}; try a smaller --max-memory")]
pub struct ArenaError {
    size: u64,
    step: &'static str,
    source: io::Error,
}

impl Arena {
    /// Makes an arena of `size` bytes (rounded up to a whole largest slot for each partition), divided among
    /// `partitions` shards. Memory is taken from the machine as slots are first written.
    pub fn new(size: u64, partitions: u16) -> Result<Self, ArenaError> {
        let count = u64::from(partitions.max(1));
        let partition_size = (size / count).next_multiple_of(SLOT_SIZE_MAX);
        let size = partition_size * count;
        let fail = |step| move |error: rustix::io::Errno| ArenaError { size, step, source: error.into() };
        let (memfd, huge) = make_memfd(size).map_err(fail("memfd_create"))?;
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&memfd));
        let read_only = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let read_only = read_only.map_err(fail("opening the memfd again"))?;
        let protect = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the memfd is sealed against shrinking; the mapping is unmapped when `Shared` drops.
        let base = unsafe { pages::map(&memfd, size, protect) }.map_err(fail("mmap"))?;
        let backing = if huge { Backing::Huge } else { ask_for_large_pages(base, size) };
        let large_pages = (backing == Backing::Transparent).then(|| LargePages::new(size));
        let partition = |at| Mutex::new(Buddy::new(at * partition_size, partition_size));
        let partitions = (0..count).map(partition).collect();
        let shared =
            Shared { base, size, memfd, read_only, backing, large_pages, partition_size, partitions };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Bytes in all.
    pub fn size(&self) -> u64 {
        self.shared.size
    }

    /// Bytes that are not leased, over all partitions.
    pub fn free_bytes(&self) -> u64 {
        self.shared.partitions.iter().map(|partition| lock(partition).free_bytes()).sum()
    }

    /// What pages it is made of.
    pub fn backing(&self) -> &Backing {
        &self.shared.backing
    }

    /// Takes all of the memory from the machine at once, so that no later write pays for it: the first write to a page
    /// costs several times the copy into it. Needs Linux 5.14.
    pub fn prefault(&self) -> io::Result<()> {
        let populate = |partition: u64| {
            let (offset, length) = (partition * self.shared.partition_size, self.shared.partition_size);
            self.shared.bring_large_pages(offset, length);
            let (start, length) = (self.shared.pointer(offset), length as usize);
            // SAFETY: the range is a partition of the mapping; populating it changes no byte.
            unsafe { rustix::mm::madvise(start.cast(), length, Advice::LinuxPopulateWrite) }
        };
        let populate = &populate;
        std::thread::scope(|scope| {
            let partitions = 0..self.shared.partitions.len() as u64;
            let threads: Vec<_> =
                partitions.map(|partition| scope.spawn(move || populate(partition))).collect();
            let panicked = |_| Err(rustix::io::Errno::INVAL);
            threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(panicked))
        })?;
        Ok(())
    }

    /// The descriptor that a client may read through.
    pub fn read_only_fd(&self) -> BorrowedFd<'_> {
        self.shared.read_only.as_fd()
    }

    /// The descriptor that a client may write through.
    pub fn read_write_fd(&self) -> BorrowedFd<'_> {
        self.shared.memfd.as_fd()
    }

    /// Leases a slot for `length` bytes (1 to [`SLOT_SIZE_MAX`]), from partition `home` where it has room and from
    /// another where it has not. `None` when there is no room anywhere.
    pub fn lease(&self, home: u16, length: u32) -> Option<Lease> {
        let count = self.shared.partitions.len();
        let first = usize::from(home) % count;
        let mut order = (first..count).chain(0..first);
        let offset = order.find_map(|at| lock(&self.shared.partitions[at]).take(length.into()))?;
        self.shared.bring_large_pages(offset, length.into());
        Some(Lease::new(self.shared.clone(), offset, length))
    }
}

impl Shared {
    fn bring_large_pages(&self, offset: u64, length: u64) {
        if let Some(pages) = &self.large_pages {
            // SAFETY: the range lies in the arena, whose size is a multiple of the largest slot's.
            unsafe { pages.bring(self.base, offset, length) };
        }
    }

    pub(crate) fn give_back(&self, offset: u64, length: u32) {
        lock(&self.partitions[(offset / self.partition_size) as usize]).give_back(offset, length.into());
    }

    pub(crate) fn pointer(&self, offset: u64) -> *mut u8 {
        debug_assert!(offset < self.size);
        // SAFETY: `offset` comes from a lease, so it lies within the mapping of `size` bytes at `base`.
        unsafe { self.base.add(offset as usize) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: every lease holds an `Arc` of this, so no slice into the mapping is left.
        let _ = unsafe { rustix::mm::munmap(self.base.cast(), self.size as usize) };
    }
}

/// A buddy allocator is consistent between any two of its calls, so a panic elsewhere does not spoil it.
fn lock(partition: &Mutex<Buddy>) -> std::sync::MutexGuard<'_, Buddy> {
    partition.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A memfd of `size` bytes, sealed so that no client can shrink it under the node's feet; on hugepages where the
/// machine has reserved enough of them.
fn make_memfd(size: u64) -> rustix::io::Result<(OwnedFd, bool)> {
    let make = |extra: MemfdFlags| -> rustix::io::Result<OwnedFd> {
        let fd = rustix::fs::memfd_create(
            c"shoal-arena",
            MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | extra,
        )?;
        rustix::fs::ftruncate(&fd, size)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(fd)
    };
    if free_hugepages_bytes() >= size
        && let Ok(fd) = make(MemfdFlags::HUGETLB)
    {
        return Ok((fd, true));
    }
    Ok((make(MemfdFlags::empty())?, false))
}

/// Bytes of reserved 2 MiB hugepages that nobody uses.
fn free_hugepages_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    match (field("HugePages_Free:"), field("Hugepagesize:")) {
        (Some(pages), Some(2048)) => pages * (2 << 20),
        _ => 0,
    }
}

/// Tries whether the kernel makes a large page when it is asked for one, or does so by itself.
fn ask_for_large_pages(base: *mut u8, size: u64) -> Backing {
    let file = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    let setting = std::fs::read_to_string(file).unwrap_or_default();
    let chosen = setting.split(['[', ']']).nth(1).unwrap_or("absent").to_owned();
    // SAFETY: the range is the mapping just made; the advice changes nothing but the kind of pages behind it.
    let advised = unsafe { rustix::mm::madvise(base.cast(), size as usize, Advice::LinuxHugepage) };
    // SAFETY: an arena has at least one slot of the largest size, and is mapped for writing.
    let collapsed = unsafe { pages::collapse(base) };
    match (collapsed, advised, chosen.as_str()) {
        (Ok(()), _, _) | (_, Ok(()), "always" | "within_size" | "advise" | "force") => Backing::Transparent,
        (Err(error), _, _) => Backing::Small(format!(
            "the kernel makes no large page of shared memory ({error}); {file} is '{chosen}'"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_memory_and_returns() {
        let arena = Arena::new(32 << 20, 2).unwrap();
        assert_eq!(arena.free_bytes(), 32 << 20);
        let mut lease = arena.lease(1, 3 << 20).unwrap();
        lease.as_mut_slice().fill(7);
        assert!(lease.as_slice().iter().all(|&byte| byte == 7));
        assert_eq!(arena.free_bytes(), 28 << 20);
        drop(lease);
        assert_eq!(arena.free_bytes(), 32 << 20);
    }

    #[test]
    fn prefaulting_changes_no_byte() {
        let arena = Arena::new(32 << 20, 2).unwrap();
        let mut lease = arena.lease(0, 4096).unwrap();
        lease.as_mut_slice().fill(3);
        arena.prefault().unwrap();
        assert_eq!(lease.as_slice(), [3; 4096]);
    }

    #[test]
    fn a_full_partition_borrows_from_the_next() {
        let arena = Arena::new(32 << 20, 2).unwrap();
        let leases: Vec<_> = std::iter::from_fn(|| arena.lease(0, 16 << 20)).collect();
        assert_eq!(leases.len(), 2);
        assert_eq!(arena.free_bytes(), 0);
    }
}
