//! What one thread does with one GPU.

use std::any::Any;
use std::cell::RefCell;
use std::rc::Rc;

use cudarc::driver::sys::{self, CUresult};

use crate::device::handle;
use crate::error::check;
use crate::{Error, HostMapping};

/// The primary context of a GPU, for the thread that has opened it. It takes some hundred megabytes of the GPU's memory for as
/// long as it is there.
///
/// Copies are posted to the stream of this thread, which carries them out in their order. A context that is dropped before they
/// are settled stays, with all that they touch.
pub struct Context {
    device: sys::CUdevice,
    context: sys::CUcontext,
    /// What keeps the memory of copies that are under way, and buffers that they touch.
    posted: RefCell<Vec<Posted>>,
}

struct Posted {
    keep: Box<dyn Any>,
    _buffer: Rc<Buffer>,
    _mapping: Rc<HostMapping>,
}

/// The stream that each thread has without making one ("Stream synchronization behavior", CUDA Driver API).
const STREAM: sys::CUstream = 2 as sys::CUstream;

/// Refuses a range that is not within what it is of.
pub(crate) fn check_range(what: &'static str, offset: u64, length: u64, bytes: u64) -> Result<(), Error> {
    match offset.checked_add(length) {
        Some(end) if end <= bytes => Ok(()),
        _ => Err(Error::Range { what, offset, length, bytes }),
    }
}

impl Context {
    /// Takes a GPU into use.
    pub fn open(ordinal: u16) -> Result<Rc<Self>, Error> {
        let device = handle(ordinal)?;
        let mut context = std::ptr::null_mut();
        // SAFETY: the device is one that the driver gave; the function writes one pointer.
        check("cuDevicePrimaryCtxRetain", unsafe { sys::cuDevicePrimaryCtxRetain(&mut context, device) })?;
        let opened = Self { device, context, posted: RefCell::default() };
        opened.enter()?;
        Ok(Rc::new(opened))
    }

    /// Bytes of memory that are free, and that there are, whoever has the others.
    pub fn memory(&self) -> Result<(u64, u64), Error> {
        self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: the context is this thread's current one; the function writes two numbers.
        check("cuMemGetInfo_v2", unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) })?;
        Ok((free as u64, total as u64))
    }

    /// Begins to copy `length` bytes of the host's memory to the GPU. `keep` is what keeps the host's bytes as they are.
    pub fn copy_in(
        &self,
        to: (&Rc<Buffer>, u64),
        from: (&Rc<HostMapping>, u64),
        length: u64,
        keep: Box<dyn Any>,
    ) -> Result<(), Error> {
        let (target, source) = self.ends(to, from, length)?;
        // SAFETY: both ranges are within memory that is there, and stays so until the copy has ended, since both owners are kept.
        let posted = unsafe { sys::cuMemcpyHtoDAsync_v2(target, source, length as usize, STREAM) };
        check("cuMemcpyHtoDAsync_v2", posted)?;
        self.keep(to.0, from.0, keep);
        Ok(())
    }

    /// Begins to copy `length` bytes of the GPU's memory to the host. `keep` is what keeps everybody else off the host's bytes.
    pub fn copy_out(
        &self,
        from: (&Rc<Buffer>, u64),
        to: (&Rc<HostMapping>, u64),
        length: u64,
        keep: Box<dyn Any>,
    ) -> Result<(), Error> {
        let (source, target) = self.ends(from, to, length)?;
        // SAFETY: as for `copy_in`.
        let posted = unsafe { sys::cuMemcpyDtoHAsync_v2(target, source, length as usize, STREAM) };
        check("cuMemcpyDtoHAsync_v2", posted)?;
        self.keep(from.0, to.0, keep);
        Ok(())
    }

    /// Waits for all copies that were posted; gives what they kept, in their order. When this fails, nobody knows what the GPU
    /// still touches, and everything stays kept.
    pub fn settle(&self) -> Result<Vec<Box<dyn Any>>, Error> {
        self.enter()?;
        // SAFETY: the context is this thread's current one, and the stream is this thread's.
        check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(STREAM) })?;
        Ok(self.posted.take().into_iter().map(|posted| posted.keep).collect())
    }

    /// Makes this the context of the thread.
    pub(crate) fn enter(&self) -> Result<(), Error> {
        // SAFETY: the context is one that the driver gave, and was not given back.
        check("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(self.context) })
    }

    fn ends(
        &self,
        (buffer, at): (&Rc<Buffer>, u64),
        (mapping, offset): (&Rc<HostMapping>, u64),
        length: u64,
    ) -> Result<(sys::CUdeviceptr, *mut std::ffi::c_void), Error> {
        check_range("the GPU's buffer", at, length, buffer.bytes)?;
        let host = mapping.address(offset, length)?;
        self.enter()?;
        Ok((buffer.address + at, host))
    }

    fn keep(&self, buffer: &Rc<Buffer>, mapping: &Rc<HostMapping>, keep: Box<dyn Any>) {
        self.posted.borrow_mut().push(Posted { keep, _buffer: buffer.clone(), _mapping: mapping.clone() });
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // Buffers and mappings hold this, and copies that were posted hold them, so that nothing is under way.
        // SAFETY: the context was retained once, and nobody has it any more.
        let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

/// Memory of a GPU.
pub struct Buffer {
    context: Rc<Context>,
    address: sys::CUdeviceptr,
    bytes: u64,
}

impl Buffer {
    /// Takes memory of the GPU, of at least one byte.
    pub fn allocate(context: &Rc<Context>, bytes: u64) -> Result<Rc<Self>, Error> {
        let full = Error::Full { bytes };
        let size = usize::try_from(bytes).map_err(|_| full.clone())?;
        context.enter()?;
        let mut address = 0;
        // SAFETY: the context is this thread's current one; the function writes one address.
        match unsafe { sys::cuMemAlloc_v2(&mut address, size) } {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => Err(full),
            result => {
                check("cuMemAlloc_v2", result)?;
                Ok(Rc::new(Self { context: context.clone(), address, bytes }))
            }
        }
    }

    /// Bytes that it has.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: the address was given by the driver and not given back; copies that are under way hold the buffer.
            let _ = unsafe { sys::cuMemFree_v2(self.address) };
        }
    }
}
