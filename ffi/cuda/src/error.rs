//! What fails, and what to do.

use std::ffi::CStr;

use cudarc::driver::sys::{self, CUresult};

use crate::LoadError;

/// Why something on a GPU was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no driver.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// There is no such GPU.
    #[error("there is no GPU {ordinal}; there are {count}, which CUDA_VISIBLE_DEVICES may hide")]
    NoDevice {
        /// Its number.
        ordinal: u16,
        /// How many there are.
        count: u16,
    },
    /// The GPU has no memory left.
    #[error("the GPU has no {bytes} bytes of memory left")]
    Full {
        /// Bytes wanted.
        bytes: u64,
    },
    /// A range that is outside of what it is of.
    #[error("{length} bytes at {offset} are not within the {bytes} bytes of {what}")]
    Range {
        /// What it is of.
        what: &'static str,
        /// Where the range begins, in bytes.
        offset: u64,
        /// Bytes of the range.
        length: u64,
        /// Bytes that there are.
        bytes: u64,
    },
    /// The host's memory cannot be mapped.
    #[error("mapping {length} bytes of memory failed: {reason}")]
    Map {
        /// Bytes.
        length: u64,
        /// What the kernel says.
        reason: String,
    },
    /// The driver refuses.
    #[error("{call} failed: {reason} (CUDA error {code})")]
    Call {
        /// The function.
        call: &'static str,
        /// What the driver calls it.
        reason: String,
        /// Its number.
        code: u32,
    },
}

/// The outcome of a call.
pub(crate) fn check(call: &'static str, result: CUresult) -> Result<(), Error> {
    if result == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let mut text = std::ptr::null();
    // SAFETY: the function writes one pointer, to a text that lasts as long as the process, or null.
    let known = unsafe { sys::cuGetErrorString(result, &mut text) } == CUresult::CUDA_SUCCESS;
    let reason = if known && !text.is_null() {
        // SAFETY: as above; the text ends with a zero byte.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    } else {
        format!("{result:?}")
    };
    Err(Error::Call { call, reason, code: result as u32 })
}
