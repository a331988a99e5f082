//! The host's memory, as a GPU reaches it.

use std::ffi::c_void;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::rc::Rc;

use cudarc::driver::sys;
use rustix::mm::{MapFlags, ProtFlags};

use crate::error::check;
use crate::{Context, Error};

/// A shared mapping of a file such as a memfd, which may be mapped elsewhere too: all mappings show the same bytes.
///
/// Nobody looks at the bytes through it but the driver, which copies them or makes the GPU do so.
pub struct HostMapping {
    context: Rc<Context>,
    start: NonNull<c_void>,
    length: usize,
    is_registered: bool,
}

impl HostMapping {
    /// Maps the first `length` bytes of a file. With `register` all of its memory is taken from the machine and locked, so that
    /// the GPU reaches it by itself; without, or where the driver refuses, the driver copies by way of memory of its own.
    pub fn of_file(
        context: &Rc<Context>,
        file: BorrowedFd<'_>,
        length: u64,
        register: bool,
    ) -> Result<Self, Error> {
        let failed = |reason: String| Error::Map { length, reason };
        let size = rustix::fs::fstat(file).map_err(|error| failed(error.to_string()))?.st_size;
        if u64::try_from(size).unwrap_or(0) < length {
            return Err(failed("the file is shorter".into()));
        }
        let length_here = usize::try_from(length).map_err(|error| failed(error.to_string()))?;
        // SAFETY: the kernel chooses a free place.
        let start = unsafe {
            let access = ProtFlags::READ | ProtFlags::WRITE;
            rustix::mm::mmap(std::ptr::null_mut(), length_here, access, MapFlags::SHARED, file, 0)
        };
        let start = start.map_err(|error| failed(error.to_string()))?;
        let start = NonNull::new(start).ok_or_else(|| failed("the kernel gave no address".into()))?;
        let mut mapping = Self { context: context.clone(), start, length: length_here, is_registered: false };
        mapping.is_registered = register && mapping.register().is_ok();
        Ok(mapping)
    }

    /// Whether the GPU reaches the memory by itself.
    pub fn is_registered(&self) -> bool {
        self.is_registered
    }

    /// Bytes that are mapped.
    pub fn length(&self) -> u64 {
        self.length as u64
    }

    fn register(&self) -> Result<(), Error> {
        self.context.enter()?;
        // SAFETY: the range is mapped for as long as this value is, which takes the registration back first.
        check("cuMemHostRegister_v2", unsafe {
            sys::cuMemHostRegister_v2(self.start.as_ptr(), self.length, sys::CU_MEMHOSTREGISTER_PORTABLE)
        })
    }

    /// The address of a range that is within the mapping.
    pub(crate) fn address(&self, offset: u64, length: u64) -> Result<*mut c_void, Error> {
        crate::context::check_range("the mapped memory", offset, length, self.length())?;
        // SAFETY: the offset is within the mapping, as was just seen.
        Ok(unsafe { self.start.as_ptr().byte_add(offset as usize) })
    }
}

impl Drop for HostMapping {
    fn drop(&mut self) {
        // Copies that are under way hold this value, so that there are none.
        if self.is_registered && self.context.enter().is_ok() {
            // SAFETY: the range was registered, and the GPU has nothing to do with it.
            let _ = unsafe { sys::cuMemHostUnregister(self.start.as_ptr()) };
        }
        // SAFETY: the range is this value's own, and nobody has its address any more.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr(), self.length) };
    }
}
