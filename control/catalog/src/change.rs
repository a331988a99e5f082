//! What has been written, in the order of revisions.

use async_trait::async_trait;

use crate::entry::Entry;
use crate::error::CatalogError;

/// One key that a write has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The revision of the write. All changes of one write have the same.
    pub revision: u64,
    /// When it was written, milliseconds since 1970.
    pub at_ms: u64,
    /// The key.
    pub key: String,
    /// What became of it.
    pub kind: ChangeKind,
}

/// What became of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeKind {
    /// It was put, or its expiry changed: the entry with its content.
    Put(Entry),
    /// It was deleted; the version that it had.
    Delete {
        /// The version.
        version: u64,
    },
    /// It has expired; the version that it had.
    Expire {
        /// The version.
        version: u64,
    },
    /// The service that owned it has ended; the version that it had.
    OwnerEnded {
        /// The version.
        version: u64,
    },
}

/// Where a change stream begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the first write after the call.
    Now,
    /// With the first write after this revision; 0 for the beginning.
    After(u64),
    /// With the first write at or after this time, milliseconds since 1970.
    At(u64),
}

/// Which keys' changes are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// One key.
    Key(String),
    /// All that begin with it; empty for all.
    Prefix(String),
    /// All that a pattern matches: `*` any run of characters, also of `/`; `?` one character; `[a-z]` one of them,
    /// `[!a-z]` one of all others.
    Glob(String),
}

/// Changes as they come, each once, in the order of revisions. It pulls from what is kept, so that a slow reader holds
/// nobody up; one that falls behind what is kept gets [`CatalogError::ChangesGone`], and never misses a change in silence.
#[async_trait]
pub trait ChangeStream: Send {
    /// The changes of the next write that has any of those selected; waits for one. Dropping the future loses nothing.
    async fn next(&mut self) -> Result<Vec<Change>, CatalogError>;

    /// The revision up to which everything selected has come, or nothing was: a stream that begins [`Start::After`] it misses
    /// nothing. It grows also while nothing selected is written, so that who waits for long does not fall behind what is
    /// kept.
    fn position(&self) -> u64;
}
