//! What readers, streams and the writer share.
//!
//! Time is the catalog's own: it never goes back, and it stands still while a group of writes becomes durable, so that
//! what the group found alive has not expired for readers before the group is seen.
//!
//! Somebody may be told of a group before it is on disk, and would not see it yet: whoever reads meanwhile waits, so that what
//! is seen is on disk and each sees what it was told.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::watch;

use super::clock::Clock;
use super::lease::Leases;
use super::recent::{Recent, Recorded};
use super::rows::{Rows, State, View};
use super::service::Services;

/// What is shared.
pub(crate) struct Shared {
    pub(crate) rows: Arc<Rows>,
    clock: Arc<dyn Clock>,
    now: Mutex<Now>,
    recent: RwLock<Recent>,
    leases: Mutex<Leases>,
    services: Mutex<Services>,
    /// Whether somebody was told of a group that is not seen yet.
    told_early: watch::Sender<bool>,
}

/// For as long as this lives, those who read wait.
pub(crate) struct ToldEarly<'a>(&'a watch::Sender<bool>);

struct Now {
    view: Arc<View>,
    state: State,
    /// The latest time that anybody was told.
    last_ms: u64,
    /// The time of the group that is being written.
    group_ms: Option<u64>,
}

/// The catalog at one moment.
#[derive(Clone)]
pub(crate) struct Moment {
    pub(crate) view: Arc<View>,
    pub(crate) state: State,
    /// Milliseconds since 1970.
    pub(crate) at_ms: u64,
}

impl Shared {
    pub(crate) fn new(
        rows: Arc<Rows>,
        clock: Arc<dyn Clock>,
        state: State,
        leases: Leases,
        services: Services,
    ) -> Self {
        let now = Now { view: Arc::new(rows.view()), state, last_ms: state.written_ms, group_ms: None };
        Self {
            rows,
            clock,
            now: Mutex::new(now),
            recent: RwLock::new(Recent::new(state.revision)),
            leases: Mutex::new(leases),
            services: Mutex::new(services),
            told_early: watch::Sender::new(false),
        }
    }

    /// As [`Shared::moment`], with all that anybody was told.
    pub(crate) async fn settled(&self) -> Moment {
        if *self.told_early.borrow() {
            // The sender lives as long as this does.
            let _ = self.told_early.subscribe().wait_for(|told_early| !told_early).await;
        }
        self.moment()
    }

    /// Says that somebody is told of a group which is not seen yet.
    pub(crate) fn tell_early(&self) -> ToldEarly<'_> {
        self.told_early.send_replace(true);
        ToldEarly(&self.told_early)
    }

    /// What is on disk.
    pub(crate) fn moment(&self) -> Moment {
        let mut now = lock(&self.now);
        let at_ms = match now.group_ms {
            Some(group_ms) => group_ms,
            None => now.advance(&*self.clock),
        };
        Moment { view: now.view.clone(), state: now.state, at_ms }
    }

    /// Stops time for a group of writes.
    pub(crate) fn begin_group(&self) -> Moment {
        let mut now = lock(&self.now);
        let at_ms = now.advance(&*self.clock);
        now.group_ms = Some(at_ms);
        Moment { view: now.view.clone(), state: now.state, at_ms }
    }

    /// Lets a group that is on disk be seen, and time go on.
    pub(crate) fn end_group(&self, state: State, recorded: Vec<Recorded>) {
        let view = Arc::new(self.rows.view());
        self.recent.write().unwrap_or_else(PoisonError::into_inner).extend(recorded);
        let mut now = lock(&self.now);
        (now.view, now.state, now.group_ms) = (view, state, None);
    }

    /// Lets time go on after a group that could not be written.
    pub(crate) fn drop_group(&self) {
        lock(&self.now).group_ms = None;
    }

    pub(crate) fn recent(&self) -> RwLockReadGuard<'_, Recent> {
        self.recent.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn leases(&self) -> MutexGuard<'_, Leases> {
        lock(&self.leases)
    }

    pub(crate) fn services(&self) -> MutexGuard<'_, Services> {
        lock(&self.services)
    }
}

impl Drop for ToldEarly<'_> {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}

impl Now {
    fn advance(&mut self, clock: &dyn Clock) -> u64 {
        self.last_ms = self.last_ms.max(clock.now_ms());
        self.last_ms
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
