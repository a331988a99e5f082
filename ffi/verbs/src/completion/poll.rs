//! The queue that completions come from (`ibv_create_cq(3)`).

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use super::pending::{Owner, Pending};
use super::{Completion, CompletionChannel, WorkRequestId};
use crate::Error;
use crate::device::Context;
use crate::queue::{Refused, Segments};
use crate::sys::{self, ibv_cq, ibv_sge, ibv_wc};

/// Completions that one call of [`CompletionQueue::poll`] takes from the device.
const BATCH: usize = 32;

/// The queue that completions of work requests come from, and the keeper of what the requests work on: their segments,
/// and a value `H` of the caller's with each, such as the lease of the memory.
///
/// It has room for as many work requests as were asked for, and posting fails when they are under way, so that it never
/// overflows.
pub struct CompletionQueue<H> {
    context: Arc<Context>,
    /// Held until the queue is destroyed.
    _channel: Option<Rc<CompletionChannel>>,
    pointer: *mut ibv_cq,
    state: RefCell<State<H>>,
}

struct State<H> {
    pending: Pending<(H, Segments)>,
    /// Completions that were taken from the device when a queue pair was closed.
    taken: VecDeque<Completion<H>>,
}

impl<H> CompletionQueue<H> {
    /// A queue with room for `capacity` work requests under way. Events, when it is armed, go to the channel.
    pub fn create(
        context: &Arc<Context>,
        channel: Option<&Rc<CompletionChannel>>,
        capacity: u32,
    ) -> Result<Rc<Self>, Error> {
        if channel.is_some_and(|channel| !Arc::ptr_eq(channel.context(), context)) {
            return Err(Error::Mismatch("completion channel and completion queue"));
        }
        let entries = i32::try_from(capacity).unwrap_or(i32::MAX);
        let channel_pointer = channel.map_or(std::ptr::null_mut(), |channel| channel.as_ptr());
        let argument = std::ptr::null_mut();
        // SAFETY: the context is open, and the channel is one of its own.
        let pointer = unsafe {
            (context.functions().ibv_create_cq)(context.as_ptr(), entries, argument, channel_pointer, 0)
        };
        if pointer.is_null() {
            return Err(Error::last("ibv_create_cq", context.device().name()));
        }
        let state = RefCell::new(State { pending: Pending::new(capacity), taken: VecDeque::new() });
        Ok(Rc::new(Self { context: context.clone(), _channel: channel.cloned(), pointer, state }))
    }

    /// Asks for an event in the channel when the next completion comes (`ibv_req_notify_cq(3)`).
    pub fn arm(&self) -> Result<(), Error> {
        // SAFETY: the queue and its context are there.
        let notify = unsafe { (*(*self.pointer).context).ops.req_notify_cq };
        let notify = notify.ok_or(NO_OPERATION)?;
        // SAFETY: the queue is there.
        self.context.check("ibv_req_notify_cq", unsafe { notify(self.pointer, 0) })
    }

    /// Appends completions that are there, and says how many; 0 means that there are none for the time being. One call
    /// appends a batch; call it again until it has nothing.
    pub fn poll(&self, into: &mut Vec<Completion<H>>) -> Result<usize, Error> {
        let before = into.len();
        into.extend(self.state.borrow_mut().taken.drain(..));
        // A batch may have nothing but completions of requests that were given up.
        while into.len() == before && self.poll_device(|completion| into.push(completion))? > 0 {}
        Ok(into.len() - before)
    }

    /// How many work requests are under way.
    pub fn outstanding(&self) -> usize {
        self.state.borrow().pending.len()
    }

    /// Takes one batch from the device, and says how many entries it had. Those of requests that were given up count,
    /// and are dropped.
    fn poll_device(&self, mut each: impl FnMut(Completion<H>)) -> Result<usize, Error> {
        // SAFETY: the queue and its context are there.
        let poll = unsafe { (*(*self.pointer).context).ops.poll_cq }.ok_or(NO_OPERATION)?;
        // SAFETY: the structure is one of plain numbers.
        let mut batch: [ibv_wc; BATCH] = unsafe { sys::zeroed() };
        // SAFETY: the queue is there, and the batch has room for as many as is said.
        let count = unsafe { poll(self.pointer, BATCH as i32, batch.as_mut_ptr()) };
        let Ok(count) = usize::try_from(count) else {
            return Err(Error::returned("ibv_poll_cq", self.context.device().name(), count));
        };
        for raw in &batch[..count.min(BATCH)] {
            let entry = self.state.borrow_mut().pending.take(WorkRequestId(raw.wr_id));
            if let Some((held, _segments)) = entry {
                each(Completion::new(raw, held));
            }
        }
        Ok(count)
    }

    /// Keeps what a work request works on while `post` hands it to the device, and gives it back when that fails.
    pub(crate) fn posting(
        &self,
        owner: Owner,
        held: H,
        segments: Segments,
        post: impl FnOnce(WorkRequestId, &mut [ibv_sge]) -> Result<(), Error>,
    ) -> Result<WorkRequestId, Refused<H>> {
        let (mut list, length) = segments.raw();
        let id = {
            let mut state = self.state.borrow_mut();
            match state.pending.put(owner, (held, segments)) {
                Ok(id) => id,
                Err((held, segments)) => {
                    let error = Error::Full { outstanding: state.pending.len() };
                    return Err(Refused { error, held, segments: segments.into() });
                }
            }
        };
        match post(id, &mut list[..length]) {
            Ok(()) => Ok(id),
            Err(error) => {
                let entry = self.state.borrow_mut().pending.take(id);
                let (held, segments) = entry.expect("what was put a moment ago is there");
                Err(Refused { error, held, segments: segments.into() })
            }
        }
    }

    /// Gives up what was posted to a queue that is destroyed. What it had completed is delivered by the next poll; the
    /// rest is returned.
    pub(crate) fn give_up(&self, owner: Owner) -> Vec<H> {
        // Some devices leave completions of a destroyed queue pair where they are, and they must not fill the queue.
        let mut taken = VecDeque::new();
        while let Ok(1..) = self.poll_device(|completion| taken.push_back(completion)) {}
        let mut state = self.state.borrow_mut();
        state.taken.append(&mut taken);
        let given_up = state.pending.take_all(owner);
        drop(state);
        given_up.into_iter().map(|(held, _segments)| held).collect()
    }

    /// Leaves what was posted to a queue where it is, for ever: the device may still touch it.
    pub(crate) fn leak(&self, owner: Owner) {
        self.state.borrow_mut().pending.take_all(owner).into_iter().for_each(std::mem::forget);
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub(crate) fn as_ptr(&self) -> *mut ibv_cq {
        self.pointer
    }
}

/// A provider without one of the operations that every device has.
pub(crate) const NO_OPERATION: Error =
    Error::Unsupported { what: "the operation", why: "the device's provider does not have it" };

impl<H> Drop for CompletionQueue<H> {
    fn drop(&mut self) {
        // SAFETY: the queues that complete here held it, so there are none any more, and nothing waits to be acknowledged.
        unsafe { (self.context.functions().ibv_destroy_cq)(self.pointer) };
    }
}

impl<H> std::fmt::Debug for CompletionQueue<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CompletionQueue").field("outstanding", &self.outstanding()).finish()
    }
}
