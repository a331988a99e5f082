//! What fails outside of work requests, and what to do about it.

use std::io;

use crate::load::LoadError;

/// Why something could not be done. What fails of a posted work request is a [`crate::WorkError`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// libibverbs or librdmacm cannot be used.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A call of libibverbs or librdmacm failed.
    #[error("{call} on {device}: {source}{}", advice(call, source))]
    Call {
        /// The function, which is the name of its man page.
        call: &'static str,
        /// The device, or an address when no device is known yet.
        device: String,
        /// What the kernel or the provider said.
        source: io::Error,
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
    /// More bytes than the range at the other end has.
    #[error("{length} bytes do not fit into a remote range of {remote_length} bytes")]
    BeyondRemote {
        /// What was to be moved, in bytes.
        length: u64,
        /// Length of the remote range, in bytes.
        remote_length: u64,
    },
    /// A work request has too many segments.
    #[error("a work request takes at most {segments_max} segments; join some, or send several requests")]
    TooManySegments {
        /// The most that fit.
        segments_max: usize,
    },
    /// As many work requests are under way as the completion queue has room for.
    #[error(
        "{outstanding} work requests are under way, as many as the completion queue has room for; poll it first"
    )]
    Full {
        /// How many are under way.
        outstanding: usize,
    },
    /// The region is used by a segment, or held elsewhere, and cannot be revoked.
    #[error(
        "the memory region is held {holders} more times; it can be revoked when its work requests are completed"
    )]
    Held {
        /// How many hold it besides the caller.
        holders: usize,
    },
    /// Two things that must belong together do not.
    #[error("{0} belong to different owners; make both from the same one")]
    Mismatch(&'static str),
    /// The queue pair takes its receives from a shared queue.
    #[error("the queue pair receives from a shared queue; post the receive there")]
    SharedReceives,
    /// More private data than every kind of connection carries.
    #[error("{length} bytes of private data do not fit into the {length_max} that a connection carries")]
    PrivateData {
        /// What was to be sent, in bytes.
        length: usize,
        /// The most, in bytes.
        length_max: usize,
    },
    /// Library, kernel or device cannot do it.
    #[error("{what} is not supported: {why}")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
        /// What is missing.
        why: &'static str,
    },
}

impl Error {
    /// What the kernel or a provider said, when it is one of its errors.
    pub fn os_error(&self) -> Option<i32> {
        match self {
            Error::Call { source, .. } | Error::Map { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// A call that returned null or -1 and left its reason in `errno`.
    pub(crate) fn last(call: &'static str, device: &str) -> Self {
        Error::Call { call, device: device.to_owned(), source: io::Error::last_os_error() }
    }

    /// A call that returned its reason.
    pub(crate) fn returned(call: &'static str, device: &str, code: i32) -> Self {
        // A few providers return -1 or a negated number.
        let source =
            if code == -1 { io::Error::last_os_error() } else { io::Error::from_raw_os_error(code.abs()) };
        Error::Call { call, device: device.to_owned(), source }
    }
}

/// What to do about an error of a call, to be appended to it.
fn advice(call: &str, source: &io::Error) -> &'static str {
    match (call, source.raw_os_error()) {
        ("ibv_reg_mr", Some(libc::ENOMEM | libc::EAGAIN)) => {
            "; memory must be locked for it: raise the limit (ulimit -l, LimitMEMLOCK=)"
        }
        ("ibv_reg_mr", Some(libc::EFAULT)) => {
            "; some kernels refuse mappings of files: use anonymous memory or a memfd"
        }
        // The library says of a device that it may not open that there is none.
        ("ibv_open_device", Some(libc::EACCES | libc::EPERM | libc::ENOENT | libc::ENODEV)) => {
            "; the module ib_uverbs must be loaded, and the user allowed to open /dev/infiniband/uverbs*"
        }
        ("rdma_create_event_channel", _) => {
            "; there must be an RDMA device, the module rdma_ucm loaded, and the user allowed to open \
             /dev/infiniband/rdma_cm"
        }
        ("rdma_bind_addr" | "rdma_resolve_addr", Some(libc::ENODEV | libc::EADDRNOTAVAIL)) => {
            "; no RDMA device has that address (see: rdma link, ip addr)"
        }
        (_, Some(libc::ENOMEM)) => {
            "; the device or the queue is full, or too little memory may be locked (ulimit -l)"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_to_do() {
        let error = Error::returned("ibv_reg_mr", "mlx5_0", libc::ENOMEM);
        let text = error.to_string();
        assert!(text.contains("ibv_reg_mr on mlx5_0") && text.contains("ulimit -l"), "{text}");
        assert_eq!(error.os_error(), Some(libc::ENOMEM));
        assert_eq!(Error::returned("ibv_post_send", "rxe0", -libc::EINVAL).os_error(), Some(libc::EINVAL));
    }
}
