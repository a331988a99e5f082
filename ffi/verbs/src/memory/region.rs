//! Registered memory (`ibv_reg_mr(3)`).

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use super::{HostMemory, ProtectionDomain};
use crate::Error;
use crate::sys::{self, ibv_mr, ibv_sge};

/// What may be done with a region. Its own device may always read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Access {
    /// Its own device may write: receives, and what reads bring.
    pub local_write: bool,
    /// Others may write to it, with its remote key. Implies `local_write`.
    pub remote_write: bool,
    /// Others may read it, with its remote key.
    pub remote_read: bool,
    /// Writes may become visible in any order, which some hosts need for full speed. Left out where library or device
    /// cannot do it.
    pub relaxed_ordering: bool,
}

impl Access {
    /// Everything but relaxed ordering.
    pub const FULL: Access =
        Access { local_write: true, remote_write: true, remote_read: true, relaxed_ordering: false };

    fn raw(self) -> u32 {
        let flag = |on: bool, flag: u32| if on { flag } else { 0 };
        flag(self.local_write || self.remote_write, sys::IBV_ACCESS_LOCAL_WRITE)
            | flag(self.remote_write, sys::IBV_ACCESS_REMOTE_WRITE)
            | flag(self.remote_read, sys::IBV_ACCESS_REMOTE_READ)
            | flag(self.relaxed_ordering, sys::IBV_ACCESS_RELAXED_ORDERING)
    }
}

/// Memory that the device may reach. It holds the memory, and gives it up only when the device has let go of it.
pub struct MemoryRegion {
    domain: Arc<ProtectionDomain>,
    pointer: *mut ibv_mr,
    /// What work requests call its first byte.
    base: u64,
    length: u64,
    memory: Option<Backing>,
}

enum Backing {
    Host(Arc<dyn HostMemory>),
    /// The descriptor of a dmabuf is not needed after registration; it is held so that its owner cannot be gone.
    Dmabuf(OwnedFd),
}

// SAFETY: libibverbs may be called with one region from several threads, and its memory may be shared by them.
unsafe impl Send for MemoryRegion {}
// SAFETY: as above.
unsafe impl Sync for MemoryRegion {}

impl MemoryRegion {
    /// Registers memory of the host. Its pages are locked until the region is gone.
    pub fn register(
        domain: &Arc<ProtectionDomain>,
        memory: Arc<dyn HostMemory>,
        access: Access,
    ) -> Result<Arc<Self>, Error> {
        let (start, length) = memory.range();
        let (address, base) = (start.as_ptr().cast(), start.as_ptr() as u64);
        let functions = domain.context().functions();
        let pointer = match functions.ibv_reg_mr_iova2 {
            // The function drops flags that are optional and that the kernel does not know.
            Some(register) if access.relaxed_ordering => {
                // SAFETY: the domain is there, and the memory is mapped as long as it is held, by the trait's contract.
                unsafe { register(domain.as_ptr(), address, length, base, access.raw()) }
            }
            _ => {
                let access = Access { relaxed_ordering: false, ..access };
                // SAFETY: as above.
                unsafe { (functions.ibv_reg_mr)(domain.as_ptr(), address, length, access.raw() as i32) }
            }
        };
        Self::new(domain, pointer, "ibv_reg_mr", (base, length), Backing::Host(memory))
    }

    /// Registers `length` bytes from `offset` of memory of another device (`ibv_reg_dmabuf_mr(3)`).
    pub fn register_dmabuf(
        domain: &Arc<ProtectionDomain>,
        dmabuf: OwnedFd,
        offset: u64,
        length: usize,
        access: Access,
    ) -> Result<Arc<Self>, Error> {
        let Some(register) = domain.context().functions().ibv_reg_dmabuf_mr else {
            let why = "libibverbs is older than 34; install a later one";
            return Err(Error::Unsupported { what: "memory of other devices", why });
        };
        let access = Access { relaxed_ordering: false, ..access };
        let descriptor = dmabuf.as_raw_fd();
        // The kernel wants the place in the page to be the same in both kinds of addresses.
        let base = offset % page_size();
        // SAFETY: the domain is there and the descriptor is open; the kernel checks what it is and how long.
        let pointer =
            unsafe { register(domain.as_ptr(), offset, length, base, descriptor, access.raw() as i32) };
        Self::new(domain, pointer, "ibv_reg_dmabuf_mr", (base, length), Backing::Dmabuf(dmabuf))
    }

    fn new(
        domain: &Arc<ProtectionDomain>,
        pointer: *mut ibv_mr,
        call: &'static str,
        (base, length): (u64, usize),
        memory: Backing,
    ) -> Result<Arc<Self>, Error> {
        if pointer.is_null() {
            return Err(Error::last(call, domain.context().device().name()));
        }
        Ok(Arc::new(Self {
            domain: domain.clone(),
            pointer,
            base,
            length: length as u64,
            memory: Some(memory),
        }))
    }

    /// Length, in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Part of the region, for a work request. Holds the region.
    pub fn segment(self: &Arc<Self>, offset: u64, length: u32) -> Result<Segment, Error> {
        self.check(offset, length.into())?;
        Ok(Segment { region: self.clone(), offset, length })
    }

    /// Part of the region, as others name it in their work requests. It does not hold the region: requests fail when it
    /// is gone.
    pub fn remote(&self, offset: u64, length: u64) -> Result<RemoteRange, Error> {
        self.check(offset, length)?;
        Ok(RemoteRange { address: self.base + offset, length, key: self.raw().rkey })
    }

    /// Takes the region away from the device (`ibv_dereg_mr(3)`) and returns when its keys open nothing any more. Fails
    /// when a work request under way, or anything else, holds the region; then nothing changes.
    pub fn revoke(self: Arc<Self>) -> Result<(), (Error, Arc<Self>)> {
        match Arc::try_unwrap(self) {
            Ok(mut region) => match region.deregister() {
                Ok(()) => Ok(()),
                Err(error) => Err((error, Arc::new(region))),
            },
            Err(held) => Err((Error::Held { holders: Arc::strong_count(&held) - 1 }, held)),
        }
    }

    fn check(&self, offset: u64, length: u64) -> Result<(), Error> {
        match offset.checked_add(length) {
            Some(end) if end <= self.length => Ok(()),
            _ => Err(Error::OutOfRegion { offset, length, region_length: self.length }),
        }
    }

    fn deregister(&mut self) -> Result<(), Error> {
        let context = self.domain.context();
        // SAFETY: the region is registered: it is not shared any more, and this is done only once with success.
        let code = unsafe { (context.functions().ibv_dereg_mr)(self.pointer) };
        context.check("ibv_dereg_mr", code)?;
        self.pointer = std::ptr::null_mut();
        Ok(())
    }

    fn raw(&self) -> &ibv_mr {
        // SAFETY: the pointer is of a registered region until the value is consumed, and its fields do not change.
        unsafe { &*self.pointer }
    }
}

impl Drop for MemoryRegion {
    fn drop(&mut self) {
        if self.pointer.is_null() || self.deregister().is_ok() {
            return;
        }
        // What the device may still touch is better leaked than freed.
        match self.memory.take() {
            Some(Backing::Host(memory)) => std::mem::forget(memory),
            Some(Backing::Dmabuf(descriptor)) => std::mem::forget(descriptor),
            None => {}
        }
    }
}

impl std::fmt::Debug for MemoryRegion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryRegion").field("base", &self.base).field("length", &self.length).finish()
    }
}

/// Part of a region of this process, for a work request.
#[derive(Debug, Clone)]
pub struct Segment {
    region: Arc<MemoryRegion>,
    offset: u64,
    length: u32,
}

impl Segment {
    /// Length, in bytes.
    pub fn length(&self) -> u32 {
        self.length
    }

    pub(crate) fn raw(&self) -> ibv_sge {
        ibv_sge { addr: self.region.base + self.offset, length: self.length, lkey: self.region.raw().lkey }
    }
}

/// Part of a region of another process, as its owner told of it. Plain numbers: the device at the other end checks them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RemoteRange {
    /// What the other end calls its first byte.
    pub address: u64,
    /// Length, in bytes.
    pub length: u64,
    /// Remote key of the region.
    pub key: u32,
}

fn page_size() -> u64 {
    rustix::param::page_size() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remote_writes_need_local_ones() {
        let raw = Access { remote_write: true, ..Access::default() }.raw();
        assert_eq!(raw, sys::IBV_ACCESS_LOCAL_WRITE | sys::IBV_ACCESS_REMOTE_WRITE);
        assert_eq!(Access::default().raw(), 0);
    }
}
