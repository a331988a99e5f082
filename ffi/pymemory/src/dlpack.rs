//! The structures of DLPack (`dlpack.h`, version 1.0) and how they are passed to Python: in a capsule whose name says
//! which structure it has, and which its consumer renames when it takes the structure over.

use std::ffi::{CStr, c_void};
use std::ptr::null_mut;

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use crate::Bytes;

/// `kDLCPU` and its only device.
pub(crate) const HOST: (i32, i32) = (1, 0);
/// `kDLUInt`.
const UNSIGNED: u8 = 1;
/// `DLPACK_FLAG_BITMASK_READ_ONLY`.
const READ_ONLY: u64 = 1;

const NAME: &CStr = c"dltensor";
const NAME_VERSIONED: &CStr = c"dltensor_versioned";

/// `DLTensor`.
#[repr(C)]
struct Tensor {
    data: *mut c_void,
    device: [i32; 2],
    dimensions: i32,
    code: u8,
    bits: u8,
    lanes: u16,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

/// `DLManagedTensor`, and behind it what it points to.
#[repr(C)]
struct Managed {
    tensor: Tensor,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Managed)>,
    shape: [i64; 1],
    owner: Py<Bytes>,
}

/// `DLManagedTensorVersioned`, and behind it what it points to.
#[repr(C)]
struct Versioned {
    version: [u32; 2],
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Versioned)>,
    flags: u64,
    tensor: Tensor,
    shape: [i64; 1],
    owner: Py<Bytes>,
}

/// A capsule with the bytes; `versioned` when the consumer understands version 1, without which it cannot be told that
/// they must not be written.
pub(crate) fn capsule<'py>(bytes: &Bound<'py, Bytes>, versioned: bool) -> PyResult<Bound<'py, PyCapsule>> {
    let (py, read_only) = (bytes.py(), !bytes.get().owner().is_writable());
    if read_only && !versioned {
        return Err(PyBufferError::new_err("the bytes are read-only, which only DLPack 1.0 can say"));
    }
    let slice = bytes.get().owner().bytes();
    let owner = bytes.clone().unbind();
    let (context, shape) = (null_mut(), [slice.len() as i64]);
    // An empty array has no address (`data` in dlpack.h).
    let data = if slice.is_empty() { null_mut() } else { slice.as_ptr().cast_mut().cast() };
    let tensor = Tensor {
        data,
        device: HOST.into(),
        dimensions: 1,
        code: UNSIGNED,
        bits: 8,
        lanes: 1,
        shape: null_mut(),
        strides: null_mut(),
        byte_offset: 0,
    };
    if versioned {
        let (flags, version) = (if read_only { READ_ONLY } else { 0 }, [1, 0]);
        let deleter = Some(delete_versioned as unsafe extern "C" fn(*mut Versioned));
        let pointer =
            Box::into_raw(Box::new(Versioned { version, context, deleter, flags, tensor, shape, owner }));
        // SAFETY: the box was just made and nobody else has it; the shape stays where it is as long as it does.
        unsafe { (*pointer).tensor.shape = (&raw mut (*pointer).shape).cast() };
        in_capsule(py, pointer.cast(), NAME_VERSIONED, destroy_versioned)
    } else {
        let deleter = Some(delete as unsafe extern "C" fn(*mut Managed));
        let pointer = Box::into_raw(Box::new(Managed { tensor, context, deleter, shape, owner }));
        // SAFETY: as above.
        unsafe { (*pointer).tensor.shape = (&raw mut (*pointer).shape).cast() };
        in_capsule(py, pointer.cast(), NAME, destroy)
    }
}

fn in_capsule<'py>(
    py: Python<'py>,
    pointer: *mut c_void,
    name: &'static CStr,
    destructor: unsafe extern "C" fn(*mut ffi::PyObject),
) -> PyResult<Bound<'py, PyCapsule>> {
    // SAFETY: the pointer is not null, the name is static, and the destructor suits what is pointed to. A new reference
    // or null with an exception is returned.
    let capsule = unsafe {
        Bound::from_owned_ptr_or_err(py, ffi::PyCapsule_New(pointer, name.as_ptr(), Some(destructor)))?
    };
    Ok(capsule.cast_into::<PyCapsule>()?)
}

/// Called by the consumer when it needs the tensor no more, from any thread.
unsafe extern "C" fn delete(pointer: *mut Managed) {
    // SAFETY: the consumer calls this once, with the pointer that the box gave.
    let managed = unsafe { Box::from_raw(pointer) };
    // Without an interpreter there is nothing left that the reference could matter to.
    let _ = Python::try_attach(move |_| drop(managed));
}

/// As [`delete`].
unsafe extern "C" fn delete_versioned(pointer: *mut Versioned) {
    // SAFETY: as for `delete`.
    let versioned = unsafe { Box::from_raw(pointer) };
    let _ = Python::try_attach(move |_| drop(versioned));
}

/// Called when a capsule is collected. One that nobody took still has its name, and what it has is deleted here.
unsafe extern "C" fn destroy(capsule: *mut ffi::PyObject) {
    // SAFETY: the interpreter passes the capsule. Its pointer is only asked for under the name that it was made with.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, NAME.as_ptr()) != 0 {
            delete(ffi::PyCapsule_GetPointer(capsule, NAME.as_ptr()).cast());
        }
    }
}

/// As [`destroy`].
unsafe extern "C" fn destroy_versioned(capsule: *mut ffi::PyObject) {
    // SAFETY: as for `destroy`.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, NAME_VERSIONED.as_ptr()) != 0 {
            delete_versioned(ffi::PyCapsule_GetPointer(capsule, NAME_VERSIONED.as_ptr()).cast());
        }
    }
}
