//! Our own io_uring, for chunk bytes: one [`DataRing`] per shard.
//!
//! glommio runs the tasks; no release of it registers network buffers or reads a file into memory that the caller
//! owns, so bytes of pieces go through this ring. Its eventfd wakes the executor. Futures know only a waker, so that
//! another executor could carry them.
//!
//! *Posting an operation consumes what it works on; the completion returns it.* Buffers and descriptors of an
//! operation live in the ring until the kernel has said that it is done with them, also when the future that waits
//! for it is dropped.
#![allow(unsafe_code)]

mod operation;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::Waker;

use glommio::io::PollableFd;
use io_uring::{IoUring, opcode, squeue};
use rustix::event::EventfdFlags;

pub(crate) use operation::{ALIGNMENT, Operation, Part};

/// Operations that fit into the submission queue at once; more are submitted in several goes.
const ENTRIES: u32 = 256;
/// Completions that fit before the kernel has to keep them aside.
const COMPLETIONS: u32 = 4096;
/// Marks completions of cancellations, which nobody waits for.
const NOBODY: u64 = u64::MAX;

/// A ring for the operations of one shard. Clones share it.
#[derive(Clone)]
pub(crate) struct DataRing {
    inner: Rc<RefCell<Inner>>,
}

struct Inner {
    ring: IoUring,
    slots: Vec<Slot>,
    vacant: Vec<u32>,
    in_flight: usize,
}

enum Slot {
    Vacant,
    Posted {
        held: Box<dyn Any>,
        waker: Option<Waker>,
    },
    /// Nobody waits any more; what it holds is freed by its completion.
    Abandoned {
        _held: Box<dyn Any>,
    },
    Done {
        held: Box<dyn Any>,
        result: i32,
    },
}

/// The descriptor that the kernel signals when operations complete.
struct Signal(Rc<OwnedFd>);

impl AsRawFd for Signal {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl DataRing {
    /// A ring, with its completions delivered by a task of the current glommio executor.
    pub(crate) fn new() -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_coop_taskrun().setup_cqsize(COMPLETIONS);
        // Kernels before 6.0 know no single issuer and those before 5.19 no cooperative task running; both only save time.
        let ring = builder
            .build(ENTRIES)
            .or_else(|_| IoUring::builder().setup_cqsize(COMPLETIONS).build(ENTRIES))?;
        let event = rustix::event::eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        ring.submitter().register_eventfd(event.as_raw_fd())?;
        let event = Rc::new(event);
        let inner =
            Rc::new(RefCell::new(Inner { ring, slots: Vec::new(), vacant: Vec::new(), in_flight: 0 }));
        let signal =
            PollableFd::new(Signal(event.clone())).map_err(|error| io::Error::other(error.to_string()))?;
        glommio::spawn_local(deliver(Rc::downgrade(&inner), event, signal)).detach();
        Ok(Self { inner })
    }

    /// Posts one operation. `entry` builds it from what it works on, which does not move until it completes.
    ///
    /// # Safety
    ///
    /// Every address and descriptor in the entry must belong to `held` and stay valid as long as `held` is not dropped.
    unsafe fn post<H: 'static>(&self, held: H, entry: impl FnOnce(&mut H) -> squeue::Entry) -> Operation<H> {
        let mut held = Box::new(held);
        let entry = entry(&mut held);
        let mut inner = self.inner.borrow_mut();
        let slot = inner.put(Slot::Posted { held, waker: None });
        // SAFETY: the caller vouches for the entry, and `held` stays in its slot until the completion is seen.
        unsafe { inner.push(&entry.user_data(slot.into())) };
        inner.reap();
        Operation::new(self.clone(), slot)
    }
}

/// Wakes whoever waits for operations, until the ring is gone.
async fn deliver(inner: std::rc::Weak<RefCell<Inner>>, event: Rc<OwnedFd>, signal: PollableFd<Signal>) {
    loop {
        if signal.readable().await.is_err() {
            tracing::error!("the executor cannot wait for the data ring's eventfd any more");
            return;
        }
        let mut count = [0; 8];
        let _ = rustix::io::read(event.as_fd(), &mut count);
        let Some(inner) = inner.upgrade() else { return };
        inner.borrow_mut().reap();
    }
}

impl Inner {
    fn put(&mut self, slot: Slot) -> u32 {
        self.in_flight += 1;
        match self.vacant.pop() {
            Some(index) => {
                self.slots[index as usize] = slot;
                index
            }
            None => {
                self.slots.push(slot);
                self.slots.len() as u32 - 1
            }
        }
    }

    fn vacate(&mut self, index: u32) -> Slot {
        self.vacant.push(index);
        std::mem::replace(&mut self.slots[index as usize], Slot::Vacant)
    }

    /// # Safety
    ///
    /// As for [`DataRing::post`].
    unsafe fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: the caller vouches for the entry.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            self.submit();
        }
        self.submit();
    }

    /// Hands what was pushed to the kernel. It refuses only for want of memory or when completions must be taken
    /// first; both pass.
    fn submit(&mut self) {
        while let Err(error) = self.ring.submit() {
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::EBUSY | libc::EAGAIN) => {
                    self.reap();
                    std::thread::yield_now();
                }
                _ => {
                    tracing::error!(%error, "the kernel refuses the data ring's operations");
                    return;
                }
            }
        }
    }

    /// Takes all completions that are there.
    fn reap(&mut self) {
        // A task may have to enter the kernel for its completions to be posted when it runs cooperatively.
        if self.ring.submission().taskrun() || self.ring.submission().cq_overflow() {
            // SAFETY: no argument is passed; the call only lets the kernel post what is ready.
            let _ = unsafe { self.ring.submitter().enter::<libc::sigset_t>(0, 0, 1, None) };
        }
        loop {
            let Some((token, result)) =
                self.ring.completion().next().map(|entry| (entry.user_data(), entry.result()))
            else {
                return;
            };
            if token != NOBODY {
                self.complete(token as u32, result);
            }
        }
    }

    fn complete(&mut self, index: u32, result: i32) {
        self.in_flight -= 1;
        match std::mem::replace(&mut self.slots[index as usize], Slot::Vacant) {
            Slot::Posted { held, waker } => {
                self.slots[index as usize] = Slot::Done { held, result };
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            Slot::Abandoned { .. } | Slot::Vacant | Slot::Done { .. } => self.vacant.push(index),
        }
    }

    /// The future of an operation is dropped.
    fn abandon(&mut self, index: u32) {
        match std::mem::replace(&mut self.slots[index as usize], Slot::Vacant) {
            Slot::Posted { held, .. } => {
                self.slots[index as usize] = Slot::Abandoned { _held: held };
                let cancel = opcode::AsyncCancel::new(index.into()).build().user_data(NOBODY);
                // SAFETY: a cancellation refers to no memory.
                unsafe { self.push(&cancel) };
            }
            Slot::Done { .. } => self.vacant.push(index),
            other => self.slots[index as usize] = other,
        }
    }
}

impl Drop for Inner {
    /// The kernel may write into what the slots hold until their operations have completed.
    fn drop(&mut self) {
        for index in 0..self.slots.len() as u32 {
            self.abandon(index);
        }
        while self.in_flight > 0 {
            if let Err(error) = self.ring.submit_and_wait(1)
                && error.raw_os_error() != Some(libc::EINTR)
            {
                // What the kernel may still touch is better leaked than freed.
                tracing::error!(%error, "the data ring cannot be drained; its buffers are leaked");
                self.slots.drain(..).for_each(std::mem::forget);
                return;
            }
            self.reap();
        }
    }
}
