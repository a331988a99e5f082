//! Memory of Rust as a Python object.

use std::os::raw::c_int;

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use crate::dlpack;

/// Bytes that Python may look at for as long as their owner lives.
pub trait Stable: Send + Sync {
    /// The bytes. What borrows the owner for them keeps them where they are.
    fn bytes(&self) -> &[u8];

    /// Whether Python may write to them: nobody in Rust looks at them then, or depends on what they are.
    fn is_writable(&self) -> bool {
        false
    }

    /// Whether they are sure to stay what they are.
    fn is_held(&self) -> bool {
        true
    }

    /// Whether they were copied for this object alone.
    fn is_copy(&self) -> bool;
}

/// A run of bytes with Python's buffer protocol and DLPack. The memory goes when the last object has gone that looks at it.
#[pyclass(frozen, module = "shoal._shoal")]
pub struct Bytes {
    owner: Box<dyn Stable>,
}

impl Bytes {
    /// Gives the bytes of `owner` to Python.
    pub fn new(owner: Box<dyn Stable>) -> Self {
        Self { owner }
    }

    pub(crate) fn owner(&self) -> &dyn Stable {
        &*self.owner
    }
}

#[pymethods]
impl Bytes {
    fn __len__(&self) -> usize {
        self.owner.bytes().len()
    }

    fn __bool__(&self) -> bool {
        !self.owner.bytes().is_empty()
    }

    /// Whether the bytes were copied, as opposed to lying in the memory of the node.
    #[getter]
    fn is_copy(&self) -> bool {
        self.owner.is_copy()
    }

    /// Whether the bytes are sure to stay what they are.
    #[getter]
    fn is_held(&self) -> bool {
        self.owner.is_held()
    }

    /// The address of the first byte.
    #[getter]
    fn address(&self) -> usize {
        self.owner.bytes().as_ptr().addr()
    }

    /// Fills a view for who asks for the buffer.
    ///
    /// # Safety
    ///
    /// `view` points to a view that may be written, as the interpreter vouches for.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("there is no view to fill"));
        }
        let owner = slf.get().owner();
        let bytes = owner.bytes();
        let read_only = c_int::from(!owner.is_writable());
        // SAFETY: the view is valid. It takes a reference to this object, which keeps the owner, which nobody can change
        // or move, and so its bytes; a length of Rust fits into Py_ssize_t.
        let filled = unsafe {
            let start = bytes.as_ptr().cast_mut().cast();
            ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, bytes.len() as isize, read_only, flags)
        };
        if filled == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }

    /// As DLPack wants it: an array of bytes in the memory of the host.
    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None))]
    fn __dlpack__<'py>(
        slf: &Bound<'py, Self>,
        stream: Option<&Bound<'py, PyAny>>,
        max_version: Option<(u32, u32)>,
        dl_device: Option<(i32, i32)>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        let elsewhere = dl_device.is_some_and(|device| device != dlpack::HOST);
        if stream.is_some() || elsewhere || copy == Some(true) {
            return Err(PyBufferError::new_err("the bytes are shown where they lie, in the host's memory"));
        }
        dlpack::capsule(slf, max_version.is_some_and(|(major, _)| major >= 1))
    }

    fn __dlpack_device__(&self) -> (i32, i32) {
        dlpack::HOST
    }
}
