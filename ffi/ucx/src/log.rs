//! What UCX has to say, which it would write to the standard output.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

use crate::sys::*;

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Something failed.
    Error,
    /// Something is not as it should be.
    Warning,
    /// Anything else, when the settings ask for it.
    Detail,
}

/// Longest text that is handed over, in bytes.
const TEXT_MAX: usize = 512;

static LISTENER: OnceLock<fn(Severity, &str)> = OnceLock::new();

/// Names who hears what UCX says, from any thread. The first one stays; without one it is dropped.
pub fn on_log(listener: fn(Severity, &str)) {
    let _ = LISTENER.set(listener);
}

pub(crate) unsafe extern "C" fn handler(
    _file: *const c_char,
    _line: c_uint,
    _function: *const c_char,
    level: c_uint,
    _component: *const c_void,
    format: *const c_char,
    arguments: *mut c_void,
) -> c_int {
    if let Some(listener) = LISTENER.get() {
        let mut text = [0_u8; TEXT_MAX];
        // SAFETY: format and arguments belong together, by the contract of the handler, and no more than the length is
        // written, with a zero byte at its end.
        unsafe { vsnprintf(text.as_mut_ptr().cast(), text.len(), format, arguments) };
        let severity = match level {
            ..=UCS_LOG_LEVEL_ERROR => Severity::Error,
            UCS_LOG_LEVEL_WARN => Severity::Warning,
            _ => Severity::Detail,
        };
        if let Ok(text) = CStr::from_bytes_until_nul(&text) {
            // A panic must not pass through the library.
            let _ = std::panic::catch_unwind(|| listener(severity, text.to_string_lossy().trim_end()));
        }
    }
    UCS_LOG_FUNC_RC_STOP
}

unsafe extern "C" {
    /// `vsnprintf(3)`; a `va_list` is passed as a pointer on all of Linux's 64-bit ABIs.
    fn vsnprintf(to: *mut c_char, length: usize, format: *const c_char, arguments: *mut c_void) -> c_int;
}
