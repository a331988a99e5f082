//! What happens to identifiers (`rdma_get_cm_event(3)`).

use std::marker::PhantomData;
use std::sync::Arc;

use super::channel::ConnectionChannel;
use super::identifier::{self, AddressResolved, IdentifierNumber, Request, RouteResolved};
use crate::sys::{self, rdma_cm_event, rdma_conn_param};

/// Reason of InfiniBand's for a rejection: nobody listens there.
const INVALID_SERVICE: i32 = 8;

/// Something that happened to an identifier.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectionEvent {
    /// The address is found, and the device that reaches it.
    AddressResolved(Reached<AddressResolved>),
    /// The way to the address is found.
    RouteResolved(Reached<RouteResolved>),
    /// Somebody wants to be connected. The identifier is that of the listener.
    Requested(Request),
    /// The other end accepted, or, at the end that accepted, the connection is there.
    Established(Established),
    /// There will be no connection.
    Failed(ConnectError),
    /// The other end disconnected or is gone, as far as the network tells. It does not tell of an end that vanishes with
    /// its machine: work requests fail then.
    Disconnected,
    /// The device was removed. What was made from it must be dropped; the kernel waits for that.
    DeviceRemoved,
    /// One that is of no concern here, by its number in the header.
    Other(u32),
}

/// Proof that an identifier got as far as `S`.
#[derive(Debug)]
pub struct Reached<S> {
    pub(super) number: IdentifierNumber,
    state: PhantomData<S>,
}

/// Proof that a connection is there.
#[derive(Debug)]
pub struct Established {
    pub(super) number: IdentifierNumber,
    private_data: Box<[u8]>,
}

impl Established {
    /// What the other end sent as it accepted, with zeros after it where the network carries a fixed length. Empty at the
    /// end that accepted.
    pub fn private_data(&self) -> &[u8] {
        &self.private_data
    }
}

/// Why there will be no connection. `status` is the kernel's: an error number that is negative, or a reason of the
/// network's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No device leads to the address, or nobody there has it.
    #[error("the address cannot be resolved{}", reason(*.status))]
    AddressNotFound {
        /// What the kernel says.
        status: i32,
    },
    /// The network does not know the way.
    #[error("no route leads to the address{}", reason(*.status))]
    RouteNotFound {
        /// What the kernel says.
        status: i32,
    },
    /// Nobody answers.
    #[error("the other end does not answer{}", reason(*.status))]
    Unreachable {
        /// What the kernel says.
        status: i32,
    },
    /// Nobody listens at that port. Over iWARP it may be a rejection.
    #[error("nobody listens at that port")]
    NobodyListens,
    /// The other end rejected the connection.
    #[error("the other end rejected the connection{}", reason(*.status))]
    Rejected {
        /// The reason; 28 is that of InfiniBand for a rejection by the program.
        status: i32,
        /// What the other end sent with it, with zeros after it where the network carries a fixed length.
        private_data: Box<[u8]>,
    },
    /// Setting up the connection failed.
    #[error("the connection failed while it was set up{}", reason(*.status))]
    Failed {
        /// What the kernel says.
        status: i32,
    },
}

/// The kernel's words for an error number, or the number of a reason.
fn reason(status: i32) -> String {
    match status {
        0 => String::new(),
        ..0 => format!(": {}", std::io::Error::from_raw_os_error(status.saturating_neg())),
        reason => format!(" (reason {reason})"),
    }
}

impl ConnectError {
    /// What a call says itself instead of an event.
    pub(super) fn of_call(error: &std::io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ECONNREFUSED) => ConnectError::NobodyListens,
            code => ConnectError::Unreachable { status: code.unwrap_or(0).saturating_neg() },
        }
    }

    fn from_raw(event: u32, status: i32, private_data: &[u8]) -> Option<Self> {
        Some(match event {
            sys::RDMA_CM_EVENT_ADDR_ERROR => ConnectError::AddressNotFound { status },
            sys::RDMA_CM_EVENT_ROUTE_ERROR => ConnectError::RouteNotFound { status },
            sys::RDMA_CM_EVENT_UNREACHABLE => ConnectError::Unreachable { status },
            sys::RDMA_CM_EVENT_REJECTED if status == INVALID_SERVICE => ConnectError::NobodyListens,
            sys::RDMA_CM_EVENT_REJECTED => {
                ConnectError::Rejected { status, private_data: private_data.into() }
            }
            sys::RDMA_CM_EVENT_CONNECT_ERROR => ConnectError::Failed { status },
            _ => return None,
        })
    }
}

impl ConnectionEvent {
    /// # Safety
    ///
    /// The event came from `rdma_get_cm_event` of that channel and was not acknowledged, so that what it points to is
    /// there; it is taken once.
    pub(super) unsafe fn from_raw(
        channel: &Arc<ConnectionChannel>,
        raw: &rdma_cm_event,
    ) -> (IdentifierNumber, Self) {
        // SAFETY: all identifiers are for reliable connections, whose events set this member or leave it zero.
        let parameters = unsafe { raw.param.conn };
        // SAFETY: the caller vouches for the event, which keeps the data until it is acknowledged.
        let private_data = unsafe { private_data(&parameters) };
        let owner = if raw.event == sys::RDMA_CM_EVENT_CONNECT_REQUEST { raw.listen_id } else { raw.id };
        // SAFETY: the identifier that the event is of is there until the event is acknowledged.
        let number = unsafe { identifier::number_of(owner) };
        let event = match raw.event {
            sys::RDMA_CM_EVENT_ADDR_RESOLVED => {
                ConnectionEvent::AddressResolved(Reached { number, state: PhantomData })
            }
            sys::RDMA_CM_EVENT_ROUTE_RESOLVED => {
                ConnectionEvent::RouteResolved(Reached { number, state: PhantomData })
            }
            // SAFETY: the event hands over the identifier in it, once.
            sys::RDMA_CM_EVENT_CONNECT_REQUEST => unsafe {
                ConnectionEvent::Requested(Request::adopt(channel, raw.id, &parameters, private_data))
            },
            // The first is of the end that called, on networks that leave it to the program to confirm.
            sys::RDMA_CM_EVENT_CONNECT_RESPONSE | sys::RDMA_CM_EVENT_ESTABLISHED if raw.status == 0 => {
                ConnectionEvent::Established(Established { number, private_data: private_data.into() })
            }
            sys::RDMA_CM_EVENT_CONNECT_RESPONSE | sys::RDMA_CM_EVENT_ESTABLISHED => {
                ConnectionEvent::Failed(ConnectError::Failed { status: raw.status })
            }
            sys::RDMA_CM_EVENT_DISCONNECTED => ConnectionEvent::Disconnected,
            sys::RDMA_CM_EVENT_DEVICE_REMOVAL => ConnectionEvent::DeviceRemoved,
            other => match ConnectError::from_raw(other, raw.status, private_data) {
                Some(error) => ConnectionEvent::Failed(error),
                None => ConnectionEvent::Other(other),
            },
        };
        (number, event)
    }
}

/// # Safety
///
/// The parameters are those of an event that is not acknowledged as long as the result is used.
unsafe fn private_data(parameters: &rdma_conn_param) -> &[u8] {
    if parameters.private_data.is_null() {
        return &[];
    }
    // SAFETY: the library says that so many bytes are there, and the caller that they stay.
    unsafe { std::slice::from_raw_parts(parameters.private_data.cast(), parameters.private_data_len.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_apart() {
        let error = |event, status| ConnectError::from_raw(event, status, b"why").unwrap();
        assert_eq!(error(sys::RDMA_CM_EVENT_REJECTED, INVALID_SERVICE), ConnectError::NobodyListens);
        assert_eq!(
            error(sys::RDMA_CM_EVENT_REJECTED, 28),
            ConnectError::Rejected { status: 28, private_data: (*b"why").into() }
        );
        let status = -libc::ETIMEDOUT;
        assert_eq!(error(sys::RDMA_CM_EVENT_ADDR_ERROR, status), ConnectError::AddressNotFound { status });
        assert_eq!(error(sys::RDMA_CM_EVENT_UNREACHABLE, status), ConnectError::Unreachable { status });
        assert_eq!(ConnectError::from_raw(sys::RDMA_CM_EVENT_DISCONNECTED, 0, b""), None);
    }

    #[test]
    fn a_call_that_is_refused_says_so() {
        let error = |code| ConnectError::of_call(&std::io::Error::from_raw_os_error(code));
        assert_eq!(error(libc::ECONNREFUSED), ConnectError::NobodyListens);
        assert_eq!(error(libc::EHOSTUNREACH), ConnectError::Unreachable { status: -libc::EHOSTUNREACH });
    }

    #[test]
    fn errors_say_what_the_kernel_says() {
        let text = |status| ConnectError::Unreachable { status }.to_string();
        assert!(text(-libc::ETIMEDOUT).contains("timed out"), "{}", text(-libc::ETIMEDOUT));
        assert!(text(4).ends_with("(reason 4)"));
        assert!(text(0).ends_with("answer"));
        assert!(!text(i32::MIN).is_empty());
    }
}
