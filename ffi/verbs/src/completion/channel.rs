//! The descriptor that says when to poll (`ibv_create_comp_channel(3)`).

use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::sync::Arc;

use crate::Error;
use crate::device::{Context, unblock};
use crate::sys::ibv_comp_channel;

/// A descriptor that can be read when a completion queue that was armed has completions.
///
/// Arm the queue, poll it until it is empty, and only then wait for the descriptor: completions that came before the
/// queue was armed give no event.
pub struct CompletionChannel {
    context: Arc<Context>,
    pointer: *mut ibv_comp_channel,
}

impl CompletionChannel {
    /// A channel of a device. It never blocks.
    pub fn create(context: &Arc<Context>) -> Result<Rc<Self>, Error> {
        // SAFETY: the context is open.
        let pointer = unsafe { (context.functions().ibv_create_comp_channel)(context.as_ptr()) };
        if pointer.is_null() {
            return Err(Error::last("ibv_create_comp_channel", context.device().name()));
        }
        let channel = Self { context: context.clone(), pointer };
        unblock(channel.as_fd()).map_err(|source| context.failed("fcntl of the channel", source))?;
        Ok(Rc::new(channel))
    }

    /// Takes one event and acknowledges it (`ibv_get_cq_event(3)`); false when there was none. All completion queues of
    /// the channel are to be armed again and polled after it.
    pub fn take_event(&self) -> Result<bool, Error> {
        let functions = self.context.functions();
        let (mut queue, mut argument) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the channel is there and both places live through the call.
        if unsafe { (functions.ibv_get_cq_event)(self.pointer, &mut queue, &mut argument) } != 0 {
            let error = Error::last("ibv_get_cq_event", self.context.device().name());
            return if error.os_error() == Some(libc::EAGAIN) { Ok(false) } else { Err(error) };
        }
        // SAFETY: the queue has an event that is not acknowledged, for which its destruction would wait.
        unsafe { (functions.ibv_ack_cq_events)(queue, 1) };
        Ok(true)
    }

    pub(super) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub(super) fn as_ptr(&self) -> *mut ibv_comp_channel {
        self.pointer
    }
}

impl AsFd for CompletionChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the channel is there.
        unsafe { BorrowedFd::borrow_raw((*self.pointer).fd) }
    }
}

impl Drop for CompletionChannel {
    fn drop(&mut self) {
        // SAFETY: the completion queues of the channel held it, so there are none any more.
        unsafe { (self.context.functions().ibv_destroy_comp_channel)(self.pointer) };
    }
}
