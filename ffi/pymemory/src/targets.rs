//! Memory of Python to be copied into.

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyBufferError;
use pyo3::prelude::*;

/// The contiguous bytes of several Python objects that can be written to, no byte of which is in two of them. The objects
/// neither go nor move them meanwhile. No interpreter lock is needed to write to them.
pub struct Targets {
    buffers: Vec<PyUntypedBuffer>,
}

impl Targets {
    /// The bytes of `objects`; fails when one cannot be written to or has them in several places, and when two overlap.
    pub fn of(objects: &[Bound<'_, PyAny>]) -> PyResult<Self> {
        let mut buffers = Vec::with_capacity(objects.len());
        for object in objects {
            let buffer = PyUntypedBuffer::get(object)?;
            if buffer.readonly() || !buffer.is_c_contiguous() {
                return Err(PyBufferError::new_err("the buffer to read into is read-only or not contiguous"));
            }
            buffers.push(buffer);
        }
        let mut ranges: Vec<_> = buffers
            .iter()
            .filter(|buffer| buffer.len_bytes() > 0)
            .map(|buffer| (buffer.buf_ptr().addr(), buffer.len_bytes()))
            .collect();
        ranges.sort_unstable();
        if ranges.windows(2).any(|pair| pair[0].0 + pair[0].1 > pair[1].0) {
            return Err(PyBufferError::new_err("two of the buffers to read into overlap"));
        }
        Ok(Self { buffers })
    }

    /// The bytes of each, in order. What other threads of Python write there meanwhile may be lost or not: as for every
    /// `readinto`, it is the caller who keeps them away.
    pub fn bytes(&mut self) -> Vec<&mut [u8]> {
        let bytes = |buffer: &mut PyUntypedBuffer| -> &mut [u8] {
            if buffer.len_bytes() == 0 {
                return &mut [];
            }
            // SAFETY: the buffer is contiguous, may be written to, and stays while this value lives. No two overlap, and no
            // other part of Rust knows their memory, so that these are the only references to it until the borrow ends.
            unsafe { std::slice::from_raw_parts_mut(buffer.buf_ptr().cast(), buffer.len_bytes()) }
        };
        self.buffers.iter_mut().map(bytes).collect()
    }
}
