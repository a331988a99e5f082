//! Memory of Python to be copied from.

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyBufferError;
use pyo3::prelude::*;

/// The contiguous bytes of a Python object with the buffer protocol, whatever the type of their elements. The object
/// neither goes nor moves them meanwhile. No interpreter lock is needed to copy them.
pub struct Source {
    buffer: PyUntypedBuffer,
}

impl Source {
    /// The bytes of `object`; fails when it has none, or has them in several places.
    pub fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let buffer = PyUntypedBuffer::get(object)?;
        if buffer.is_c_contiguous() {
            return Ok(Self { buffer });
        }
        Err(PyBufferError::new_err("the buffer is not contiguous: copy it into one that is"))
    }

    /// How many bytes there are.
    pub fn size(&self) -> usize {
        self.buffer.len_bytes()
    }

    /// Copies the bytes from `offset` on, as many as `output` has room for; false when there are fewer. Bytes that other
    /// threads write meanwhile may be copied or not.
    #[must_use]
    pub fn copy_to(&self, offset: usize, output: &mut [u8]) -> bool {
        let end = offset.checked_add(output.len());
        if end.is_none_or(|end| end > self.size()) {
            return false;
        }
        if !output.is_empty() {
            let start = self.buffer.buf_ptr().cast::<u8>();
            // SAFETY: the range lies within the buffer, which is contiguous and stays while this value lives. The slice is
            // Rust's own memory, so they do not overlap, and any bytes are valid ones.
            unsafe { std::ptr::copy_nonoverlapping(start.add(offset), output.as_mut_ptr(), output.len()) };
        }
        true
    }
}
