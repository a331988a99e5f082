//! What every engine does.

use async_trait::async_trait;

use crate::change::{ChangeStream, Selector, Start};
use crate::entry::Entry;
use crate::error::CatalogError;
use crate::read::{Consistency, Found, Page, Scan};
use crate::write::{Write, Written};

/// The durable truth: keys and what they have. Every engine passes one conformance suite.
///
/// What is acknowledged is durable, but for [`Catalog::write_early`], and ordered by revisions. A key that has expired is absent for everybody from that
/// moment on, also before the sweep has written its end. Time is the catalog's own.
#[async_trait]
pub trait Catalog: Send + Sync {
    /// The cluster, random at the first start and the same ever after; never zero.
    fn cluster_id(&self) -> u64;

    /// What keys have, all at one revision. At most [`crate::GET_KEYS_MAX`] keys.
    async fn get(&self, keys: &[String], consistency: Consistency) -> Result<Found, CatalogError>;

    /// A page of entries in the order of their keys.
    async fn scan(&self, scan: &Scan, consistency: Consistency) -> Result<Page, CatalogError>;

    /// How many keys begin with `prefix`.
    async fn count(&self, prefix: &str, consistency: Consistency) -> Result<u64, CatalogError>;

    /// The catalog at this moment, to be read from for as long as it is held (on etcd: until it is compacted). Taking it
    /// copies nothing.
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, CatalogError>;

    /// Carries out a write; it is durable when this returns. When the future is dropped it may still happen.
    async fn write(&self, write: Write) -> Result<Written, CatalogError>;

    /// As [`Catalog::write`], for somebody on the machine of the catalog who stores nothing that outlives the machine: it may
    /// return before the write is on disk. It outlives the process. Nobody sees it before it is on disk: so that what is undone
    /// when the machine loses its power was told to those alone who were on it.
    async fn write_early(&self, write: Write) -> Result<Written, CatalogError> {
        self.write(write).await
    }

    /// Removes a key, or with `recursive` also every `key/…`; how many keys that were. A large subtree goes in steps, each
    /// of which is all or nothing.
    async fn remove(&self, key: &str, recursive: bool) -> Result<u64, CatalogError>;

    /// The changes of the selected keys.
    async fn changes(&self, start: Start, selector: Selector) -> Result<Box<dyn ChangeStream>, CatalogError>;

    /// The entry of a key with a lease on its version, never 0: until it is released, or [`crate::LEASE_MS`] pass without a
    /// renewal, the version's chunks stay referenced even when the key is overwritten or removed.
    async fn open_leased(&self, key: &str) -> Result<Option<(Entry, u64)>, CatalogError>;

    /// Keeps leases alive; those that are not there any more, whose holders must open their keys anew.
    async fn renew(&self, leases: &[u64]) -> Result<Vec<u64>, CatalogError>;

    /// Ends a lease. One that is over already is no error.
    async fn release(&self, lease: u64) -> Result<(), CatalogError>;

    /// For each chunk whether it is part of a version that is current, leased, or was retired less than
    /// [`crate::GRACE_MS`] ago.
    async fn references(&self, chunks: &[[u8; 32]]) -> Result<Vec<bool>, CatalogError>;

    /// Forgets retired versions whose grace is over and that nobody leases, ends keys that have expired and services that
    /// were not renewed, and drops changes that are older than the retention. To be called about twice a second, by one
    /// node at a time; more do no harm.
    async fn sweep(&self) -> Result<Swept, CatalogError>;

    /// Registers a service, or keeps it alive, for another `ttl_ms`. What it owns is removed when it is not kept alive.
    async fn keep_service(&self, name: &str, ttl_ms: u64) -> Result<(), CatalogError>;

    /// Ends a service; how many keys it owned, all of which are removed.
    async fn end_service(&self, name: &str) -> Result<u64, CatalogError>;

    /// The services that are alive.
    async fn services(&self) -> Result<Vec<Service>, CatalogError>;
}

/// The catalog at one revision.
#[async_trait]
pub trait Snapshot: Send + Sync {
    /// The revision.
    fn revision(&self) -> u64;

    /// As [`Catalog::get`].
    async fn get(&self, keys: &[String]) -> Result<Vec<Option<Entry>>, CatalogError>;

    /// As [`Catalog::scan`].
    async fn scan(&self, scan: &Scan) -> Result<Page, CatalogError>;
}

/// What a sweep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Versions that were forgotten, whose chunks may have lost their last reference.
    pub forgotten: u64,
    /// Keys that had expired.
    pub expired: u64,
    /// Keys whose service had ended.
    pub abandoned: u64,
}

/// A service that may own keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Milliseconds that it lives unless it is kept alive.
    pub ttl_ms: u64,
    /// Milliseconds of them that are left.
    pub left_ms: u64,
    /// How many keys it owns.
    pub keys: u64,
}
