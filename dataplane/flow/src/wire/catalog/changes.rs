//! Changes, in the order of their revisions.

use rkyv::{Archive, Deserialize, Serialize};

use super::CatalogEntry;

/// Asks for the next changes of the selected keys and waits for some; answered by [`CatalogChanged`]. Who reads asks again
/// from the position of the answer, at its own pace.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct CatalogChanges {
    /// Where to begin.
    pub start: CatalogStart,
    /// Which keys.
    pub selector: CatalogSelector,
    /// How long to wait for a change, in milliseconds; at most [`crate::limits::CHANGES_WAIT_MAX_MS`].
    pub wait_ms: u32,
    /// Bytes after which an answer ends. A write comes whole, and at least one does.
    pub size_limit: u32,
}

/// Where changes begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum CatalogStart {
    /// With the first write after the question.
    Now,
    /// With the first write after this revision.
    After(u64),
    /// With the first write at or after this time, milliseconds since 1970.
    At(u64),
}

/// Which keys' changes are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum CatalogSelector {
    /// One key.
    Key(String),
    /// All that begin with it; empty for all.
    Prefix(String),
    /// All that a pattern with `*`, `?` and `[a-z]` matches.
    Glob(String),
}

/// What has changed.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct CatalogChanged {
    /// The changes, in the order of their revisions; those of one write together. None when the time has passed.
    pub changes: Vec<CatalogChange>,
    /// The revision after which to ask next.
    pub position: u64,
}

/// One key that a write has changed.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct CatalogChange {
    /// The revision of the write.
    pub revision: u64,
    /// When it was written, milliseconds since 1970.
    pub at_ms: u64,
    /// The key.
    pub key: String,
    /// What became of it.
    pub kind: CatalogChangeKind,
}

/// What became of a key.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum CatalogChangeKind {
    /// It was put, or its expiry changed.
    Put(CatalogEntry),
    /// It was deleted; the version that it had.
    Delete(u64),
    /// It has expired; the version that it had.
    Expire(u64),
    /// The service that owned it has ended; the version that it had.
    OwnerEnded(u64),
}
