//! What fails, and what to do about it.

use std::ffi::CStr;
use std::fmt;
use std::io;

use crate::load::{Library, LoadError};
use crate::sys::*;

/// What UCX says of an operation that failed (`ucs_status_t`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Status(pub(crate) ucs_status_t);

impl Status {
    /// Nothing, or why it failed.
    pub(crate) fn check(code: ucs_status_t) -> Result<(), Status> {
        if code < 0 { Err(Status(code)) } else { Ok(()) }
    }

    /// The status that stands in place of a request, if one does.
    pub(crate) fn of_pointer(pointer: ucs_status_ptr_t) -> Option<Status> {
        let code = pointer as isize;
        (code < 0 && code >= UCS_ERR_LAST as isize).then_some(Status(code as ucs_status_t))
    }

    /// Whether the operation was given up because its endpoint was closed.
    pub fn is_cancelled(self) -> bool {
        self.0 == UCS_ERR_CANCELED
    }

    /// Whether the peer refused the data.
    pub fn is_refused(self) -> bool {
        self.0 == UCS_ERR_REJECTED
    }

    /// Whether no transport of this side reaches the peer.
    pub fn is_unreachable(self) -> bool {
        self.0 == UCS_ERR_UNREACHABLE || self.0 == UCS_ERR_NO_DEVICE
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Library::get() {
            Ok(library) => {
                // SAFETY: the function takes any value and returns a text that is never freed, or one of this thread's
                // that lasts until its next call.
                let text = unsafe { CStr::from_ptr((library.functions.ucs_status_string)(self.0)) };
                f.write_str(&text.to_string_lossy())
            }
            Err(_) => write!(f, "status {}", self.0),
        }
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Status({})", self.0)
    }
}

impl std::error::Error for Status {}

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// libucp or libucs cannot be used.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A call failed.
    #[error("{call}: {source}{}", advice(call, *source))]
    Call {
        /// The function, which is its name in `ucp/api/ucp.h`.
        call: &'static str,
        /// What UCX said.
        source: Status,
    },
    /// A setting that UCX does not take.
    #[error("UCX does not take {value} for {name}: {source}; `ucx_info -c -f` lists what it takes")]
    Setting {
        /// The setting, without the prefix `UCX_`.
        name: String,
        /// What it was to be.
        value: String,
        /// What UCX said.
        source: Status,
    },
    /// Memory could not be mapped.
    #[error("cannot map {length} bytes to register them: {source}")]
    Map {
        /// Length, in bytes.
        length: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// A segment reaches beyond its region.
    #[error("{length} bytes from offset {offset} are not all within a region of {region_length} bytes")]
    OutOfRegion {
        /// Offset in the region, in bytes.
        offset: u64,
        /// Length of the segment, in bytes.
        length: u64,
        /// Length of the region, in bytes.
        region_length: u64,
    },
    /// A header is longer than they may be.
    #[error("a header of {length} bytes is longer than the {length_max} that it may have")]
    HeaderTooLong {
        /// What was to be sent, in bytes.
        length: usize,
        /// The most, in bytes.
        length_max: usize,
    },
    /// Two things that must belong together do not.
    #[error("{0} belong to different contexts; make both from the same one")]
    Mismatch(&'static str),
    /// Bytes that are no address.
    #[error(transparent)]
    Address(crate::AddressError),
    /// An endpoint that is closed, or was never there.
    #[error("there is no such endpoint")]
    NoEndpoint,
}

impl Error {
    pub(crate) fn call(call: &'static str, source: Status) -> Self {
        Error::Call { call, source }
    }

    /// What UCX said, when it said something.
    pub fn status(&self) -> Option<Status> {
        match self {
            Error::Call { source, .. } | Error::Setting { source, .. } => Some(*source),
            _ => None,
        }
    }
}

/// What to do about an error of a call, to be appended to it.
fn advice(call: &str, status: Status) -> &'static str {
    match (call, status.0) {
        ("ucp_init_version", UCS_ERR_NO_DEVICE) => {
            "; UCX_TLS or UCX_NET_DEVICES leaves nothing that this machine has (see: ucx_info -d)"
        }
        ("ucp_mem_map", UCS_ERR_NO_MEMORY | UCS_ERR_IO_ERROR) => {
            "; memory must be locked for a device: raise the limit (ulimit -l, LimitMEMLOCK=)"
        }
        ("ucp_ep_create", UCS_ERR_UNREACHABLE) => {
            "; both nodes need a transport in common: compare UCX_TLS and UCX_NET_DEVICES"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_in_place_of_a_request_is_told_from_a_request() {
        assert_eq!(Status::of_pointer(-6_isize as *mut _), Some(Status(-6)));
        assert_eq!(Status::of_pointer(std::ptr::null_mut()), None);
        assert_eq!(Status::of_pointer(0x7f00_0000_1000 as *mut _), None);
        assert_eq!(Status::check(UCS_INPROGRESS), Ok(()));
    }

    #[test]
    fn errors_say_what_to_do() {
        let text = Error::call("ucp_init_version", Status(UCS_ERR_NO_DEVICE)).to_string();
        assert!(text.contains("ucp_init_version") && text.contains("UCX_TLS"), "{text}");
        assert!(Status(UCS_ERR_UNREACHABLE).is_unreachable() && Status(UCS_ERR_CANCELED).is_cancelled());
    }
}
