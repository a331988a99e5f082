//! What one connection holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use catalog::CatalogError;
use flow::chunk::ChunkId;
use flow::limits::TRANSACTIONS_PER_CONNECTION;
use flow::wire::session::Failure;
use tokio::sync::RwLock;

use crate::failure;
use crate::node::Busy;

/// Chunks that one connection has open at once, for reading and writing together.
const HANDLES_MAX: usize = 4096;
/// Chunks that one connection has sealed and no key refers to yet.
const SEALED_MAX: usize = 65_536;
/// Leases that one connection holds at once.
const LEASES_MAX: usize = 65_536;
/// Snapshots of the catalog that one connection holds at once.
const SNAPSHOTS_MAX: usize = 64;

/// Handles and leases of one connection.
#[derive(Debug, Default)]
pub(super) struct Holdings(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    ended: bool,
    writing: BTreeMap<u64, Writing>,
    reading: BTreeMap<u64, Reading>,
    leases: BTreeSet<u64>,
    snapshots: BTreeSet<u64>,
    transactions: BTreeSet<u64>,
    /// Sealed chunks that no key refers to yet, and the handles that keep them.
    sealed: BTreeMap<ChunkId, Vec<u64>>,
}

#[derive(Debug)]
struct Writing {
    durable: bool,
    _busy: Option<Busy>,
}

#[derive(Debug)]
struct Reading {
    sending: Sending,
    /// Pieces that were not given out yet.
    left: u32,
    _busy: Busy,
}

/// Held for reading while pieces of a chunk are sent over the wire, and for writing to let go of them.
pub(super) type Sending = Arc<RwLock<()>>;

/// All that a connection held when it ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Remains {
    pub(super) writing: Vec<u64>,
    pub(super) reading: Vec<u64>,
    pub(super) leases: Vec<u64>,
    pub(super) snapshots: Vec<u64>,
    pub(super) transactions: Vec<u64>,
    pub(super) sealed: BTreeMap<ChunkId, Vec<u64>>,
}

impl Holdings {
    /// Refuses when the connection has as much open as it may.
    pub(super) fn check_room(&self) -> Result<(), Failure> {
        let held = self.lock();
        if held.sealed.len() >= SEALED_MAX {
            let text = format!("this connection has sealed {SEALED_MAX} chunks that no key refers to");
            return Err(failure::invalid(text, "commit a key first"));
        }
        if held.writing.len() + held.reading.len() < HANDLES_MAX && held.leases.len() < LEASES_MAX {
            return Ok(());
        }
        let text =
            format!("this connection has {HANDLES_MAX} chunks or {LEASES_MAX} keys open, which is the most");
        Err(failure::invalid(text, "close some first"))
    }

    /// Takes a chunk that is being written, or that may be; false when the connection has ended, and whoever asks must give it
    /// up.
    pub(super) fn add_writing(&self, handle: u64, durable: bool, busy: Option<Busy>) -> bool {
        let mut held = self.lock();
        if !held.ended {
            held.writing.insert(handle, Writing { durable, _busy: busy });
        }
        !held.ended
    }

    /// As [`Holdings::add_writing`], for a chunk that is open for reading.
    pub(super) fn add_reading(&self, handle: u64, pieces: u32, busy: Busy) -> bool {
        let mut held = self.lock();
        if !held.ended {
            held.reading.insert(handle, Reading { sending: Sending::default(), left: pieces, _busy: busy });
        }
        !held.ended
    }

    /// Pieces of an open chunk were shown to a client that has mapped them. Once it sees all, `seeing` says so.
    pub(super) fn show(&self, handle: u64, pieces: u32, seeing: impl FnOnce() -> Busy) {
        if let Some(reading) = self.lock().reading.get_mut(&handle)
            && reading.left > 0
        {
            reading.left = reading.left.saturating_sub(pieces);
            if reading.left == 0 {
                reading._busy = seeing();
            }
        }
    }

    /// As [`Holdings::add_writing`], for a lease.
    pub(super) fn add_lease(&self, lease: u64) -> bool {
        let mut held = self.lock();
        !held.ended && held.leases.insert(lease)
    }

    /// Takes a chunk that is sealed and kept by an open handle; false when the connection has ended, and whoever asks
    /// must give it up.
    pub(super) fn add_sealed(&self, chunk: ChunkId, handle: u64) -> bool {
        let mut held = self.lock();
        if !held.ended {
            held.sealed.entry(chunk).or_default().push(handle);
        }
        !held.ended
    }

    /// Gives the handles up that keep a sealed chunk.
    pub(super) fn remove_sealed(&self, chunk: &ChunkId) -> Vec<u64> {
        self.lock().sealed.remove(chunk).unwrap_or_default()
    }

    /// As [`Holdings::remove_sealed`], of one of them.
    pub(super) fn remove_one_sealed(&self, chunk: &ChunkId) -> Option<u64> {
        let mut held = self.lock();
        let handles = held.sealed.get_mut(chunk)?;
        let handle = handles.pop();
        if handles.is_empty() {
            held.sealed.remove(chunk);
        }
        handle
    }

    /// Whether the handle is one of this connection's chunks being written.
    pub(super) fn check_writing(&self, handle: u64) -> Result<(), Failure> {
        if self.lock().writing.contains_key(&handle) { Ok(()) } else { Err(not_open(handle)) }
    }

    /// Whether the handle is one of this connection's open chunks.
    pub(super) fn check_reading(&self, handle: u64) -> Result<Sending, Failure> {
        let held = self.lock();
        let reading = held.reading.get(&handle).ok_or_else(|| not_open(handle))?;
        Ok(reading.sending.clone())
    }

    /// Whether a chunk that is written is to be in memory alone.
    pub(super) fn writes_volatile(&self, handle: u64) -> bool {
        self.lock().writing.get(&handle).is_some_and(|writing| !writing.durable)
    }

    pub(super) fn remove_writing(&self, handle: u64) {
        self.lock().writing.remove(&handle);
    }

    pub(super) fn remove_reading(&self, handle: u64) {
        self.lock().reading.remove(&handle);
    }

    pub(super) fn remove_lease(&self, lease: u64) -> Result<(), Failure> {
        let removed = self.lock().leases.remove(&lease);
        let unknown = || failure::not_found(format!("lease {lease} is not held on this connection"), "");
        removed.then_some(()).ok_or_else(unknown)
    }

    /// Takes a snapshot; false when the connection has as many as it may, or has ended, and whoever asks must give it up.
    pub(super) fn add_snapshot(&self, snapshot: u64) -> bool {
        let mut held = self.lock();
        !held.ended && held.snapshots.len() < SNAPSHOTS_MAX && held.snapshots.insert(snapshot)
    }

    pub(super) fn remove_snapshot(&self, snapshot: u64) -> bool {
        self.lock().snapshots.remove(&snapshot)
    }

    /// Refuses when the connection has as many transactions open as it may.
    pub(super) fn check_room_for_transaction(&self) -> Result<(), CatalogError> {
        let (found, most) = (self.lock().transactions.len() + 1, TRANSACTIONS_PER_CONNECTION);
        let what = "transactions that are open on one connection";
        if found > most { Err(CatalogError::TooLarge { what, found, most }) } else { Ok(()) }
    }

    /// Takes a transaction; false when the connection has ended, and whoever asks must give it up.
    pub(super) fn add_transaction(&self, number: u64) -> bool {
        let mut held = self.lock();
        !held.ended && held.transactions.insert(number)
    }

    pub(super) fn has_transaction(&self, number: u64) -> bool {
        self.lock().transactions.contains(&number)
    }

    pub(super) fn remove_transaction(&self, number: u64) -> bool {
        self.lock().transactions.remove(&number)
    }

    /// Ends the connection: nothing can be added any more, and everything is the caller's to give up.
    pub(super) fn end(&self) -> Remains {
        let held = std::mem::replace(&mut *self.lock(), Held { ended: true, ..Held::default() });
        Remains {
            writing: held.writing.into_keys().collect(),
            reading: held.reading.into_keys().collect(),
            leases: held.leases.into_iter().collect(),
            snapshots: held.snapshots.into_iter().collect(),
            transactions: held.transactions.into_iter().collect(),
            sealed: held.sealed,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn not_open(handle: u64) -> Failure {
    failure::not_found(format!("handle {handle} is not open on this connection"), "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Activity;

    #[test]
    fn a_handle_is_good_for_its_own_use_alone() {
        let (activity, holdings) = (Activity::default(), Holdings::default());
        assert!(
            holdings.add_writing(1, false, Some(activity.begin()))
                && holdings.add_reading(2, 3, activity.begin())
        );
        assert!(holdings.check_writing(1).is_ok() && holdings.check_reading(1).is_err());
        assert!(holdings.writes_volatile(1) && !holdings.writes_volatile(2));
        assert!(holdings.check_reading(2).is_ok() && holdings.check_writing(2).is_err());
        holdings.remove_writing(1);
        assert!(holdings.check_writing(1).is_err());
    }

    #[test]
    fn an_ended_connection_takes_nothing_and_leaves_everything() {
        let (activity, holdings) = (Activity::default(), Holdings::default());
        holdings.add_writing(1, false, Some(activity.begin()));
        holdings.add_reading(2, 3, activity.begin());
        assert!(holdings.add_lease(3) && holdings.add_snapshot(10) && holdings.add_transaction(11));
        let chunks = [4, 5].map(|byte| ChunkId([byte; 32]));
        assert!(
            [(0, 6), (1, 7), (0, 8)].into_iter().all(|(at, handle)| holdings.add_sealed(chunks[at], handle))
        );
        assert_eq!(holdings.remove_sealed(&chunks[0]), [6, 8]);
        let remains = holdings.end();
        let sealed = BTreeMap::from([(chunks[1], vec![7])]);
        assert_eq!(
            remains,
            Remains {
                writing: vec![1],
                reading: vec![2],
                leases: vec![3],
                snapshots: vec![10],
                transactions: vec![11],
                sealed
            }
        );
        assert!(!holdings.add_sealed(chunks[0], 9));
        assert!(!holdings.add_writing(4, false, None) && !holdings.add_reading(5, 3, activity.begin()));
        assert!(!holdings.add_lease(6));
        assert_eq!(holdings.end(), Remains::default());
    }
}
