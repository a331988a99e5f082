//! The descriptor that says when something happened (`rdma_create_event_channel(3)`).

use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

use super::event::ConnectionEvent;
use super::identifier::IdentifierNumber;
use crate::Error;
use crate::device::unblock;
use crate::load::{ConnectionFunctions, connection_functions};
use crate::sys::rdma_event_channel;

/// A descriptor that can be read when something happened to one of the identifiers made from it.
pub struct ConnectionChannel {
    functions: &'static ConnectionFunctions,
    pointer: *mut rdma_event_channel,
}

impl ConnectionChannel {
    /// A channel. It never blocks.
    pub fn create() -> Result<Rc<Self>, Error> {
        let functions = connection_functions()?;
        // SAFETY: the function takes nothing.
        let pointer = unsafe { (functions.rdma_create_event_channel)() };
        if pointer.is_null() {
            return Err(Error::last("rdma_create_event_channel", "this machine"));
        }
        let channel = Self { functions, pointer };
        unblock(channel.as_fd()).map_err(|source| Error::Call {
            call: "fcntl of the event channel",
            device: "this machine".to_owned(),
            source,
        })?;
        Ok(Rc::new(channel))
    }

    /// What happened since the last call, if anything did, and to which identifier (`rdma_get_cm_event(3)`). What was
    /// asked of an identifier that is gone is heard of no more.
    pub fn next_event(self: &Rc<Self>) -> Result<Option<(IdentifierNumber, ConnectionEvent)>, Error> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: the channel is there, and the place lives through the call.
        if unsafe { (self.functions.rdma_get_cm_event)(self.pointer, &mut raw) } != 0 {
            let error = Error::last("rdma_get_cm_event", "this machine");
            return if error.os_error() == Some(libc::EAGAIN) { Ok(None) } else { Err(error) };
        }
        // SAFETY: the event came from the library and is not acknowledged before the next line; its identifiers are
        // there, because the destruction of one waits for that.
        let event = unsafe { ConnectionEvent::from_raw(self, &*raw) };
        // SAFETY: the event came from the library, and is acknowledged once.
        unsafe { (self.functions.rdma_ack_cm_event)(raw) };
        Ok(Some(event))
    }

    pub(super) fn functions(&self) -> &'static ConnectionFunctions {
        self.functions
    }

    pub(super) fn as_ptr(&self) -> *mut rdma_event_channel {
        self.pointer
    }
}

impl AsFd for ConnectionChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the channel is there.
        unsafe { BorrowedFd::borrow_raw((*self.pointer).fd) }
    }
}

impl Drop for ConnectionChannel {
    fn drop(&mut self) {
        // SAFETY: the identifiers of the channel held it, so there are none any more, and every event was acknowledged.
        unsafe { (self.functions.rdma_destroy_event_channel)(self.pointer) };
    }
}

impl std::fmt::Debug for ConnectionChannel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectionChannel").finish_non_exhaustive()
    }
}
