//! Version leases that clients of this node hold, for the node to renew.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// The leases of all clients. Each is held by one connection.
#[derive(Debug, Default)]
pub(crate) struct Leases(Mutex<BTreeSet<u64>>);

impl Leases {
    pub(crate) fn add(&self, lease: u64) {
        self.lock().insert(lease);
    }

    pub(crate) fn remove(&self, lease: u64) {
        self.lock().remove(&lease);
    }

    pub(crate) fn all(&self) -> Vec<u64> {
        self.lock().iter().copied().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
