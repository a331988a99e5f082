//! What is asked to be written: conditions and operations, all or nothing.

use std::collections::BTreeMap;

use crate::entry::Content;

/// Most operations, and most conditions, of one write. It is what etcd takes, and every engine refuses more, so that what
/// works on one works on all.
pub const OPERATIONS_MAX: usize = 128;
/// Most bytes of keys, contents, labels and owners in one write. Below etcd's limit for a request, 1.5 MiB.
pub const WRITE_SIZE_MAX: usize = 1400 << 10;
/// Longest time to live, in milliseconds: a century.
pub const TTL_MAX_MS: u64 = 36_525 * 24 * 3600 * 1000;

/// Operations that are carried out together, at one revision, if all conditions hold; otherwise nothing is changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Write {
    /// What must hold.
    pub conditions: Vec<Condition>,
    /// What is done. No two name the same key.
    pub operations: Vec<Operation>,
}

/// What must hold at the moment of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The key has this version; 0 means that it is absent.
    Version {
        /// The key.
        key: String,
        /// Its version.
        version: u64,
    },
    /// No key that begins with `prefix` was written, deleted or has expired after `revision`. With an exact key as the
    /// prefix and `exact` it is about that key alone.
    Unchanged {
        /// The prefix; empty for all keys.
        prefix: String,
        /// Whether it is one key rather than a prefix.
        exact: bool,
        /// The revision.
        revision: u64,
    },
}

/// What is done to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Gives the key a new content, and everything else anew: what is not named here is cleared.
    Put(Put),
    /// Removes the key. One that is absent is left absent, and counts as nothing written.
    Delete {
        /// The key.
        key: String,
    },
    /// Changes when a key expires, and nothing else; it is a write, and the version grows. The key must be there.
    Expire {
        /// The key.
        key: String,
        /// When.
        when: Expiry,
    },
}

/// A key's new content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// The key.
    pub key: String,
    /// What it holds.
    pub content: Content,
    /// How long it lives, in milliseconds from the moment of the write; `None` for ever.
    pub ttl_ms: Option<u64>,
    /// The service that owns it. It must be registered.
    pub owner: Option<String>,
    /// What is said about it.
    pub labels: BTreeMap<String, String>,
}

impl Put {
    /// A put of `content` that lives for ever, belongs to nobody and has no labels.
    pub fn new(key: impl Into<String>, content: Content) -> Self {
        Self { key: key.into(), content, ttl_ms: None, owner: None, labels: BTreeMap::new() }
    }
}

/// When a key expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// So many milliseconds from now.
    In(u64),
    /// So many milliseconds later than it would. A key that lives for ever is refused.
    Later(u64),
    /// Never.
    Never,
}

/// A write that was carried out, and is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Its revision. A write that changed nothing has the last one before it.
    pub revision: u64,
    /// The version that each operation made, in their order. Of a delete it is the version that was there, or 0.
    pub versions: Vec<u64>,
}

impl Operation {
    /// The key that it is about.
    pub fn key(&self) -> &str {
        match self {
            Operation::Put(put) => &put.key,
            Operation::Delete { key } | Operation::Expire { key, .. } => key,
        }
    }
}
