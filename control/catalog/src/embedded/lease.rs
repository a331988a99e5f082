//! Who still reads which version. Leases live in memory only: a restart ends them all.

use std::collections::HashMap;
use std::sync::Arc;

use crate::{LEASE_MS, LEASES_MAX};

/// The leases.
pub(crate) struct Leases {
    /// The number of the next lease. It begins at random, so that a lease of an earlier run of the catalog is
    /// not taken for one of this.
    next: u64,
    leases: HashMap<u64, Lease>,
    /// How many leases each version of a key has.
    held: HashMap<(Arc<str>, u64), u32>,
}

struct Lease {
    key: Arc<str>,
    version: u64,
    expires_ms: u64,
}

impl Leases {
    pub(crate) fn new(first: u64) -> Self {
        Self { next: first, leases: HashMap::new(), held: HashMap::new() }
    }

    /// A lease on a version of a key, never 0; `None` when there are too many.
    pub(crate) fn grant(&mut self, key: &str, version: u64, now_ms: u64) -> Option<u64> {
        if self.leases.len() >= LEASES_MAX {
            self.expire(now_ms);
        }
        if self.leases.len() >= LEASES_MAX {
            return None;
        }
        while self.next == 0 || self.leases.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let lease = self.next;
        self.next = self.next.wrapping_add(1);
        let (key, expires_ms) = (Arc::<str>::from(key), now_ms.saturating_add(LEASE_MS));
        self.leases.insert(lease, Lease { key: key.clone(), version, expires_ms });
        *self.held.entry((key, version)).or_default() += 1;
        Some(lease)
    }

    /// Returns whether the lease was still there.
    pub(crate) fn renew(&mut self, lease: u64, now_ms: u64) -> bool {
        let known = self.leases.get_mut(&lease);
        known.map(|lease| lease.expires_ms = lease.expires_ms.max(now_ms.saturating_add(LEASE_MS))).is_some()
    }

    pub(crate) fn release(&mut self, lease: u64) {
        let Some(Lease { key, version, .. }) = self.leases.remove(&lease) else { return };
        let held = (key, version);
        if let Some(count) = self.held.get_mut(&held) {
            *count -= 1;
            if *count == 0 {
                self.held.remove(&held);
            }
        }
    }

    /// Drops all leases.
    pub(crate) fn end_all(&mut self) {
        self.leases.clear();
        self.held.clear();
    }

    /// Drops the leases whose time is over.
    pub(crate) fn expire(&mut self, now_ms: u64) {
        let over = self.leases.iter().filter(|(_, lease)| lease.expires_ms <= now_ms);
        let over: Vec<u64> = over.map(|(number, _)| *number).collect();
        over.into_iter().for_each(|lease| self.release(lease));
    }

    /// Whether somebody holds the version.
    pub(crate) fn holds(&self, key: &str, version: u64) -> bool {
        self.held.contains_key(&(key.into(), version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_held_until_its_last_lease_ends() {
        let mut leases = Leases::new(u64::MAX);
        let (first, second) = (leases.grant("k", 7, 0).unwrap(), leases.grant("k", 7, 10).unwrap());
        assert_eq!((first, second), (u64::MAX, 1));
        leases.release(first);
        leases.release(first);
        assert!(leases.holds("k", 7) && !leases.renew(first, 20));
        leases.expire(LEASE_MS + 9);
        assert!(leases.renew(second, 20));
        leases.expire(LEASE_MS + 19);
        assert!(leases.holds("k", 7));
        leases.expire(LEASE_MS + 20);
        assert!(!leases.holds("k", 7) && !leases.renew(second, 0));
    }
}
