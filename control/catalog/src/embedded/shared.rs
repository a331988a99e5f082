//! What readers, streams and the writer share.
//!
//! Time is the catalog's own: it never goes back, and it stands still while a group of writes becomes durable, so that
//! what the group found alive has not expired for readers before the group is seen.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

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
}

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
        }
    }

    /// What is acknowledged, or will be before anything else is.
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

impl Now {
    fn advance(&mut self, clock: &dyn Clock) -> u64 {
        self.last_ms = self.last_ms.max(clock.now_ms());
        self.last_ms
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
