//! Wakes tasks of one shard.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Wakes every task that waits for it. A notification that comes while nobody waits is kept for the next.
#[derive(Default)]
pub(crate) struct Notify {
    round: Cell<u64>,
    seen: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
}

impl Notify {
    /// Wakes all who wait.
    pub(crate) fn notify(&self) {
        self.round.set(self.round.get() + 1);
        self.waiting.take().into_iter().for_each(Waker::wake);
    }

    /// Waits for a notification that has not been waited for. For a single waiter.
    pub(crate) async fn wait(&self) {
        let seen = self.seen.get();
        self.after(seen).await;
        self.seen.set(self.round.get());
    }

    /// The number of notifications so far, for [`Notify::after`].
    pub(crate) fn round(&self) -> u64 {
        self.round.get()
    }

    /// Waits until there were more notifications than `round`. For any number of waiters.
    pub(crate) async fn after(&self, round: u64) {
        poll_fn(|context| {
            if self.round.get() > round {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}
