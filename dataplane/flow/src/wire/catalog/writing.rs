//! Writing: conditions and operations, all or nothing.

use rkyv::{Archive, Deserialize, Serialize};

use super::CatalogContent;

/// Carries operations out together if all conditions hold; answered by [`CatalogWritten`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct CatalogWrite {
    /// What must hold.
    pub conditions: Vec<CatalogCondition>,
    /// What is done.
    pub operations: Vec<CatalogOperation>,
}

/// What must hold at the moment of a write.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum CatalogCondition {
    /// A key has a version.
    Version(KeyVersion),
    /// Nothing below a prefix was written, deleted or has expired since.
    Unchanged(UnchangedSince),
}

/// A key and its version.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct KeyVersion {
    /// The key.
    pub key: String,
    /// Its version; 0 means that it is absent.
    pub version: u64,
}

/// Keys that were not touched after a revision.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct UnchangedSince {
    /// The prefix, or the key when `exact`.
    pub prefix: String,
    /// Whether it is one key rather than a prefix.
    pub exact: bool,
    /// The revision.
    pub revision: u64,
}

/// What is done to one key.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum CatalogOperation {
    /// Gives the key a new content; what is not named is cleared.
    Put(CatalogPut),
    /// Removes the key; one that is absent is left absent.
    Delete(String),
    /// Changes when a key expires, and nothing else.
    Expire(CatalogExpire),
}

/// A key's new content.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct CatalogPut {
    /// The key.
    pub key: String,
    /// What it holds.
    pub content: CatalogContent,
    /// How long it lives, in milliseconds; absent for ever.
    pub ttl_ms: Option<u64>,
    /// The service that owns it.
    pub owner: Option<String>,
    /// What is said about it.
    pub labels: Vec<(String, String)>,
}

/// A key's new time.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct CatalogExpire {
    /// The key.
    pub key: String,
    /// When.
    pub when: CatalogExpiry,
}

/// When a key expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum CatalogExpiry {
    /// So many milliseconds from now.
    In(u64),
    /// So many milliseconds later than it would.
    Later(u64),
    /// Never.
    Never,
}

/// The write is durable.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct CatalogWritten {
    /// Its revision.
    pub revision: u64,
    /// The version that each operation made; of a delete the one that was there, or 0.
    pub versions: Vec<u64>,
}
