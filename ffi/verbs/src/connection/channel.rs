//! The descriptor that says when something happened (`rdma_create_event_channel(3)`).

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{EventfdFlags, epoll, eventfd};

use super::event::{ConnectError, ConnectionEvent};
use super::identifier::IdentifierNumber;
use crate::Error;
use crate::device::unblock;
use crate::load::{ConnectionFunctions, connection_functions};
use crate::sys::rdma_event_channel;

/// A descriptor that can be read when something happened to one of the identifiers made from it.
pub struct ConnectionChannel {
    functions: &'static ConnectionFunctions,
    pointer: *mut rdma_event_channel,
    /// Calls that failed in threads of their own, of which the kernel has no event.
    failed: Mutex<VecDeque<(IdentifierNumber, ConnectError)>>,
    /// Can be read while there are such.
    has_failed: OwnedFd,
    /// Can be read when the kernel has events or a call has failed.
    either: OwnedFd,
}

// SAFETY: librdmacm may be called with one channel from several threads. Events are taken on the thread of the identifiers
// alone, since what they become is of one thread; a thread that calls holds the channel and tells of its failure.
unsafe impl Send for ConnectionChannel {}
// SAFETY: as above.
unsafe impl Sync for ConnectionChannel {}

impl ConnectionChannel {
    /// A channel. It never blocks.
    pub fn create() -> Result<Arc<Self>, Error> {
        let functions = connection_functions()?;
        let (has_failed, either) = wakers().map_err(|source| failed("eventfd and epoll", source))?;
        // SAFETY: the function takes nothing.
        let pointer = unsafe { (functions.rdma_create_event_channel)() };
        if pointer.is_null() {
            return Err(Error::last("rdma_create_event_channel", "this machine"));
        }
        let channel = Self { functions, pointer, failed: Mutex::default(), has_failed, either };
        let watched = unblock(channel.events()).and_then(|()| {
            let data = epoll::EventData::new_u64(0);
            Ok(epoll::add(&channel.either, channel.events(), data, epoll::EventFlags::IN)?)
        });
        watched.map_err(|source| failed("fcntl and epoll of the event channel", source))?;
        Ok(Arc::new(channel))
    }

    /// What happened since the last call, if anything did, and to which identifier (`rdma_get_cm_event(3)`). Of
    /// identifiers that are gone may be told that a call of theirs failed, and nothing else.
    pub fn next_event(self: &Arc<Self>) -> Result<Option<(IdentifierNumber, ConnectionEvent)>, Error> {
        if let Some((number, error)) = self.take_failed() {
            return Ok(Some((number, ConnectionEvent::Failed(error))));
        }
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

    /// A call has failed, and nobody else tells of it.
    pub(super) fn tell_failure(&self, number: IdentifierNumber, error: ConnectError) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.push_back((number, error));
        // It fails only when the count is at its end, and then it can be read as well.
        let _ = rustix::io::write(&self.has_failed, &1_u64.to_ne_bytes());
    }

    fn take_failed(&self) -> Option<(IdentifierNumber, ConnectError)> {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let first = failed.pop_front()?;
        if failed.is_empty() {
            // It fails only when there is nothing to take back.
            let _ = rustix::io::read(&self.has_failed, &mut [0; 8]);
        }
        Some(first)
    }

    pub(super) fn functions(&self) -> &'static ConnectionFunctions {
        self.functions
    }

    pub(super) fn as_ptr(&self) -> *mut rdma_event_channel {
        self.pointer
    }

    fn events(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the channel is there.
        unsafe { BorrowedFd::borrow_raw((*self.pointer).fd) }
    }
}

/// What can be read when a call failed, and what watches it.
fn wakers() -> std::io::Result<(OwnedFd, OwnedFd)> {
    let has_failed = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let either = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&either, &has_failed, epoll::EventData::new_u64(1), epoll::EventFlags::IN)?;
    Ok((has_failed, either))
}

fn failed(call: &'static str, source: std::io::Error) -> Error {
    Error::Call { call, device: "this machine".to_owned(), source }
}

impl AsFd for ConnectionChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.either.as_fd()
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
