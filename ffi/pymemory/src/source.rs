//! Memory of Python to be copied from.

use std::sync::atomic::AtomicU8;

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyBufferError;
use pyo3::prelude::*;

use crate::layout::Layout;

/// The bytes of a Python object with the buffer protocol, in C order, whatever the type of their elements and wherever they
/// lie. The object neither goes nor moves them meanwhile. No interpreter lock is needed to copy them.
pub struct Source {
    buffer: PyUntypedBuffer,
    layout: Layout,
}

impl Source {
    /// The bytes of `object`; fails when it has none, or has them behind pointers of its own.
    pub fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let buffer = PyUntypedBuffer::get(object)?;
        if buffer.suboffsets().is_some() {
            return Err(PyBufferError::new_err(
                "the buffer has pointers in it: copy it into one that is plain",
            ));
        }
        let layout = match buffer.is_c_contiguous() {
            true => Layout::contiguous(buffer.len_bytes()),
            false => Layout::strided(buffer.item_size(), buffer.shape(), buffer.strides()),
        };
        Ok(Self { buffer, layout })
    }

    /// How many bytes there are.
    pub fn size(&self) -> usize {
        self.layout.size()
    }

    /// The bytes from `offset` on as they lie, if there are so many and they lie one behind the other. Other threads may write to
    /// them meanwhile.
    pub fn shared(&self, offset: usize, length: usize) -> Option<&[AtomicU8]> {
        let end = offset.checked_add(length).filter(|&end| end <= self.size() && self.layout.is_one_run())?;
        let start = self.buffer.buf_ptr().cast::<AtomicU8>().cast_const();
        // SAFETY: the range lies within the buffer, which stays while this value lives. What an atomic number holds may
        // change at any time, and any byte is a valid one. Nothing is written through it here or by who is given it.
        Some(unsafe { std::slice::from_raw_parts(start.add(offset), end - offset) })
    }

    /// Copies the bytes from `offset` on, as many as `output` has room for; false when there are fewer. Bytes that other
    /// threads write meanwhile may be copied or not.
    #[must_use]
    pub fn copy_to(&self, offset: usize, output: &mut [u8]) -> bool {
        let end = offset.checked_add(output.len());
        if end.is_none_or(|end| end > self.size()) {
            return false;
        }
        let start = self.buffer.buf_ptr().cast::<u8>().cast_const();
        let mut done = 0;
        self.layout.runs(offset, output.len(), |runs| {
            let part = &mut output[done..done + runs.size()];
            done += part.len();
            // SAFETY: the runs lie within the buffer, whose shape and strides they were made of and which stays while this
            // value lives; the part is as long as they are together. The slice is Rust's own memory, so they do not
            // overlap, and any bytes are valid ones.
            unsafe { gather(start.offset(runs.start), runs.stride, runs.length, part) };
        });
        true
    }
}

/// Copies runs of `length` bytes, each `stride` bytes behind the one before, to `output`, which they fill.
///
/// # Safety
///
/// All runs may be read, and none of them is in `output`.
unsafe fn gather(start: *const u8, stride: isize, length: usize, output: &mut [u8]) {
    // Elements of the usual sizes are moved by one instruction each.
    // SAFETY: as for this function.
    unsafe {
        match length {
            1 => gather_elements::<1>(start, stride, output),
            2 => gather_elements::<2>(start, stride, output),
            4 => gather_elements::<4>(start, stride, output),
            8 => gather_elements::<8>(start, stride, output),
            16 => gather_elements::<16>(start, stride, output),
            _ => {
                for (number, part) in output.chunks_exact_mut(length).enumerate() {
                    let run = start.offset(number as isize * stride);
                    std::ptr::copy_nonoverlapping(run, part.as_mut_ptr(), length);
                }
            }
        }
    }
}

/// As [`gather`], for runs of `N` bytes.
unsafe fn gather_elements<const N: usize>(start: *const u8, stride: isize, output: &mut [u8]) {
    for (number, part) in output.as_chunks_mut::<N>().0.iter_mut().enumerate() {
        // SAFETY: as for `gather`; an array of bytes needs no alignment.
        *part = unsafe { start.offset(number as isize * stride).cast::<[u8; N]>().read() };
    }
}
