//! Reading: keys, pages, counts, snapshots, leases.

use rkyv::{Archive, Deserialize, Serialize};
use serde::Serialize as Json;

use super::CatalogEntry;

/// Reads keys, all at one revision; answered by [`CatalogFound`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct CatalogGet {
    /// The keys.
    pub keys: Vec<String>,
    /// How fresh the answer must be. Without meaning in a snapshot.
    pub consistency: ReadConsistency,
    /// The snapshot to read from, or 0.
    pub snapshot: u64,
}

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Archive, Serialize, Deserialize, Json)]
#[serde(rename_all = "lowercase")]
pub enum ReadConsistency {
    /// What one place knows, be it stale; also while the catalog is out of reach.
    One,
    /// Every write that was acknowledged before the read began is seen.
    #[default]
    Quorum,
    /// As quorum.
    Serial,
    /// As quorum; and every live node that has a replica of what the key refers to has said that it has it.
    All,
}

/// What there is under keys.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct CatalogFound {
    /// The revision that it shows.
    pub revision: u64,
    /// For each key in the order asked, what there is.
    pub entries: Vec<Option<CatalogEntry>>,
    /// Whether it is what was read earlier, because the catalog is out of reach.
    pub stale: bool,
}

/// Reads a page of entries in the order of their keys; answered by [`CatalogPage`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct CatalogScan {
    /// Only keys that begin with it; empty for all.
    pub prefix: String,
    /// Only keys after this one, by what [`CatalogPage::next`] said.
    pub after: Option<String>,
    /// Most entries of the page.
    pub limit: u32,
    /// Whether contents are wanted.
    pub contents: bool,
    /// How fresh the answer must be. Without meaning in a snapshot.
    pub consistency: ReadConsistency,
    /// The snapshot to read from, or 0.
    pub snapshot: u64,
}

/// A page of entries.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct CatalogPage {
    /// The revision that it shows.
    pub revision: u64,
    /// The entries, ascending by key.
    pub entries: Vec<CatalogEntry>,
    /// The key after which the next page begins; absent when this is the last.
    pub next: Option<String>,
}

/// Asks how many keys begin with a prefix; answered by [`CatalogCounted`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct CatalogCount {
    /// The prefix; empty for all keys.
    pub prefix: String,
    /// How fresh the answer must be.
    pub consistency: ReadConsistency,
}

/// How many keys there are.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct CatalogCounted {
    /// How many.
    pub count: u64,
}

/// Keeps the catalog as it is, to be read from by [`CatalogGet`] and [`CatalogScan`]; answered by [`SnapshotOpened`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct SnapshotOpen {}

/// The snapshot is kept until it is closed, or nobody has read from it for [`crate::limits::SNAPSHOT_IDLE_MS`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct SnapshotOpened {
    /// Its number, never 0. Only who was told it knows it.
    pub snapshot: u64,
    /// Its revision.
    pub revision: u64,
}

/// Ends a snapshot; answered by `Done`, also when it has ended before.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct SnapshotClose {
    /// Its number.
    pub snapshot: u64,
}

/// Reads a key and keeps its version's chunks for the asking node's client; answered by [`CatalogLeased`]. A node renews
/// its leases with its heartbeats.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct CatalogLease {
    /// The key.
    pub key: String,
}

/// The entry and the lease on its version.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct CatalogLeased {
    /// What there is.
    pub entry: Option<CatalogEntry>,
    /// The lease; 0 when there is nothing.
    pub lease: u64,
}

/// Keeps leases alive; answered by [`CatalogRenewed`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct CatalogRenew {
    /// The leases.
    pub leases: Vec<u64>,
}

/// Which leases have ended.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct CatalogRenewed {
    /// Those that are not there any more.
    pub gone: Vec<u64>,
}
