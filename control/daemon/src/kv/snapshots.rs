//! Snapshots that are kept for others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use catalog::{CatalogError, Snapshot};
use flow::limits::{SNAPSHOT_IDLE_MS, SNAPSHOTS_MAX};

use crate::node::random_number;

/// How long a snapshot is kept that nobody reads from.
const IDLE: Duration = Duration::from_millis(SNAPSHOT_IDLE_MS);

/// Snapshots by numbers that cannot be guessed: whoever knows one may read from it.
#[derive(Default)]
pub(crate) struct Snapshots(Mutex<BTreeMap<u64, Kept>>);

struct Kept {
    snapshot: Arc<dyn Snapshot>,
    used: Instant,
}

impl Snapshots {
    /// Keeps a snapshot and gives its number.
    pub(super) fn keep(&self, snapshot: Box<dyn Snapshot>) -> Result<u64, CatalogError> {
        let mut kept = self.lock();
        if kept.len() >= SNAPSHOTS_MAX {
            let (what, found) = ("snapshots that are open at once", kept.len() + 1);
            return Err(CatalogError::TooLarge { what, found, most: SNAPSHOTS_MAX });
        }
        let mut number = random_number();
        while number == 0 || kept.contains_key(&number) {
            number = random_number();
        }
        kept.insert(number, Kept { snapshot: snapshot.into(), used: Instant::now() });
        Ok(number)
    }

    /// The snapshot of this number, which is thereby in use.
    pub(super) fn get(&self, number: u64) -> Result<Arc<dyn Snapshot>, CatalogError> {
        let mut kept = self.lock();
        let found = kept.get_mut(&number).ok_or(CatalogError::SnapshotGone { revision: 0 })?;
        found.used = Instant::now();
        Ok(found.snapshot.clone())
    }

    /// Ends a snapshot.
    pub(crate) fn end(&self, number: u64) {
        let ended = self.lock().remove(&number);
        drop(ended);
    }

    /// Ends those that nobody has read from for long.
    pub(super) fn end_idle(&self) {
        let mut kept = self.lock();
        let idle: Vec<Kept> =
            kept.extract_if(.., |_, kept| kept.used.elapsed() >= IDLE).map(|(_, kept)| kept).collect();
        drop(kept);
        drop(idle);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
