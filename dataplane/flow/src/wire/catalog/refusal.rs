//! Why the catalog did not do what was asked.

use rkyv::{Archive, Deserialize, Serialize};

use super::UnchangedSince;
use crate::wire::session::Failure;

/// Why the catalog did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct CatalogRefused {
    /// As people are told.
    pub failure: Failure,
    /// What a program can act on.
    pub reason: CatalogReason,
}

/// Reasons that a program can act on.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum CatalogReason {
    /// A key has another version than was expected.
    Conflict(VersionConflict),
    /// Something was changed that the write depends on.
    Changed(UnchangedSince),
    /// There is no such key.
    NoKey(String),
    /// The key does not expire.
    NoExpiry(String),
    /// There is no such service.
    NoService(String),
    /// Changes that were wanted are not kept any more.
    ChangesGone(ChangesKept),
    /// The snapshot of this revision has ended, by its age or with the node that kept it; 0 when that is not known.
    SnapshotGone(u64),
    /// The transaction of this number has ended, by its timeout or otherwise.
    TransactionGone(u64),
    /// The catalog cannot be reached.
    Unreachable(TryAgain),
    /// What the failure says, and no more.
    Other,
}

/// What was expected of a key, and what there is.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct VersionConflict {
    /// The key.
    pub key: String,
    /// The version that was expected; 0 means absent.
    pub expected: u64,
    /// The version that there is.
    pub found: u64,
}

/// Which changes are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ChangesKept {
    /// The revision after which changes were wanted.
    pub asked: u64,
    /// The revision after which they are kept.
    pub kept: u64,
}

/// When it makes sense to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct TryAgain {
    /// In so many milliseconds.
    pub retry_ms: u64,
    /// Whether a write may have been carried out all the same.
    pub maybe_done: bool,
}
