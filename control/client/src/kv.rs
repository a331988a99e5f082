//! Small values in the catalog: versions, batches, lives, changes, transactions, services.
//!
//! ```no_run
//! use client::kv::{PutValue, Selector, Start};
//! use client::{Address, Client};
//!
//! let client = Client::connect(&Address::parse("127.0.0.1:9015")?, None)?;
//! let kv = client.kv();
//! let written = kv.put("jobs/7/state", b"running", &PutValue::default())?;
//! kv.put("jobs/7/state", b"done", &PutValue { if_version: Some(written.versions[0]), ..PutValue::default() })?;
//! for change in kv.watch(Selector::Prefix("jobs/".into()), Start::Now)? {
//!     println!("{}", change?.key);
//! }
//! # Ok::<(), client::ClientError>(())
//! ```
//!
//! Values have up to 64 KiB; [`Client::put`](crate::Client::put) stores what is larger. All times are the catalog's.

mod entries; // all entries below a prefix, page by page
mod transaction; // reads and writes that are committed together
mod watch; // changes as they come

pub use entries::Entries;
pub use flow::wire::catalog::{
    CatalogChange as Change, CatalogChangeKind as ChangeKind, CatalogCondition as Condition,
    CatalogContent as Content, CatalogEntry as Entry, CatalogExpire as Expire, CatalogExpiry as Expiry,
    CatalogFound as Found, CatalogOperation as Operation, CatalogPage as Page, CatalogPut as Put,
    CatalogReason as Reason, CatalogSelector as Selector, CatalogStart as Start, CatalogWrite as Write,
    CatalogWritten as Written, KeyVersion, ReadConsistency as Consistency, ServiceRecord as Service,
    TransactionIsolation as Isolation, UnchangedSince,
};
pub use flow::wire::cursor::{Cursor, CursorError};
pub use transaction::Transaction;
pub use watch::Watch;

use std::time::Duration;

use flow::wire::catalog::{
    CatalogCount, CatalogCounted, CatalogGet, CatalogScan, CatalogServiceListing, CatalogServices,
    ServiceEnd, ServiceKeep, SnapshotClose, SnapshotOpen, SnapshotOpened,
};
use flow::wire::session::{Done, KeyRemove, KeyRemoved};

use crate::{Client, ClientError};

/// Largest value that is kept in the catalog, in bytes.
pub const VALUE_SIZE_MAX: usize = 64 << 10;

/// The catalog as a client sees it. Methods may be called from several threads at once.
#[derive(Clone, Copy)]
pub struct Kv<'c> {
    client: &'c Client,
}

/// How a value is put.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PutValue {
    /// How long it lives, in whole milliseconds; for ever when absent.
    pub ttl: Option<Duration>,
    /// The service that owns it and takes it along when it ends. It must be registered.
    pub owner: Option<String>,
    /// What is said about it: up to 32 names and texts of up to 256 bytes.
    pub labels: Vec<(String, String)>,
    /// Put it only if the key has this version; 0 when it must be absent.
    pub if_version: Option<u64>,
}

/// Which entries a page has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// Only keys that begin with it; empty for all.
    pub prefix: String,
    /// Only keys after this one; what [`Page::next`] says.
    pub after: Option<String>,
    /// Most entries, up to 10,000.
    pub limit: u32,
    /// Whether contents are wanted. At most about 4 MiB of them come with one page.
    pub contents: bool,
}

impl Client {
    /// Small values in the catalog.
    pub fn kv(&self) -> Kv<'_> {
        Kv { client: self }
    }
}

impl<'c> Kv<'c> {
    /// What a key has; absent when there is no such key.
    pub fn get(&self, key: &str) -> Result<Option<Entry>, ClientError> {
        Ok(self.get_many(&[key], Consistency::Quorum)?.entries.pop().flatten())
    }

    /// What up to 1024 keys have, all at one revision. The values of all of them must fit into 8 MiB.
    pub fn get_many(&self, keys: &[impl AsRef<str>], consistency: Consistency) -> Result<Found, ClientError> {
        let keys: Vec<String> = keys.iter().map(|key| key.as_ref().into()).collect();
        let count = keys.len();
        let found: Found = self.client.connection().call(CatalogGet { keys, consistency, snapshot: 0 })?;
        self.counted(found.entries.len() == count)?;
        Ok(found)
    }

    /// Whether there is such a key.
    pub fn exists(&self, key: &str) -> Result<bool, ClientError> {
        // Of all keys that begin with a key, it is the first.
        let scan = Scan { prefix: key.into(), after: None, limit: 1, contents: false };
        let page = self.scan(scan, Consistency::Quorum)?;
        Ok(page.entries.first().is_some_and(|entry| entry.key == key))
    }

    /// Puts a value; what is not said in `options` is cleared.
    pub fn put(&self, key: &str, value: &[u8], options: &PutValue) -> Result<Written, ClientError> {
        let PutValue { ttl, owner, labels, if_version } = options.clone();
        let put = Put {
            key: key.into(),
            content: Content::Value(value.into()),
            ttl_ms: ttl.map(milliseconds),
            owner,
            labels,
        };
        self.write(Write { conditions: when(key, if_version), operations: vec![Operation::Put(put)] })
    }

    /// Deletes a key, with `if_version` only that version of it; gives the version that was there, 0 when there was none.
    pub fn delete(&self, key: &str, if_version: Option<u64>) -> Result<u64, ClientError> {
        let operations = vec![Operation::Delete(key.into())];
        let written = self.write(Write { conditions: when(key, if_version), operations })?;
        Ok(written.versions[0])
    }

    /// Removes a key and every key below it; gives how many. Of a large subtree parts may be gone earlier than others.
    pub fn delete_below(&self, key: &str) -> Result<u64, ClientError> {
        let request = KeyRemove { key: key.into(), recursive: true };
        let KeyRemoved { count } = self.client.connection().call(request)?;
        Ok(count)
    }

    /// Carries out up to 128 operations together, if all of up to 128 conditions hold; otherwise nothing is changed. It is
    /// durable when this returns.
    pub fn write(&self, write: Write) -> Result<Written, ClientError> {
        let count = write.operations.len();
        let written: Written = self.client.connection().call(write)?;
        self.counted(written.versions.len() == count)?;
        Ok(written)
    }

    /// A page of entries in the order of their keys.
    pub fn scan(&self, scan: Scan, consistency: Consistency) -> Result<Page, ClientError> {
        let Scan { prefix, after, limit, contents } = scan;
        self.client.connection().call(CatalogScan {
            prefix,
            after,
            limit,
            contents,
            consistency,
            snapshot: 0,
        })
    }

    /// All entries below a prefix at one revision, read page by page as they are wanted.
    pub fn entries(&self, prefix: &str, contents: bool) -> Result<Entries<'c>, ClientError> {
        let SnapshotOpened { snapshot, revision } = self.client.connection().call(SnapshotOpen {})?;
        Ok(Entries::new(self.client, snapshot, revision, prefix, contents))
    }

    /// How many keys begin with a prefix.
    pub fn count(&self, prefix: &str) -> Result<u64, ClientError> {
        let request = CatalogCount { prefix: prefix.into(), consistency: Consistency::Quorum };
        let CatalogCounted { count } = self.client.connection().call(request)?;
        Ok(count)
    }

    /// Lets a key expire so long from now; gives its version, which grows by that.
    pub fn expire(&self, key: &str, ttl: Duration) -> Result<u64, ClientError> {
        self.set_expiry(key, Expiry::In(milliseconds(ttl)))
    }

    /// Lets a key that expires do so later by this; gives its version, which grows by that.
    pub fn extend(&self, key: &str, by: Duration) -> Result<u64, ClientError> {
        self.set_expiry(key, Expiry::Later(milliseconds(by)))
    }

    /// Lets a key live for ever; gives its version, which grows by that.
    pub fn persist(&self, key: &str) -> Result<u64, ClientError> {
        self.set_expiry(key, Expiry::Never)
    }

    fn set_expiry(&self, key: &str, when: Expiry) -> Result<u64, ClientError> {
        let operations = vec![Operation::Expire(Expire { key: key.into(), when })];
        Ok(self.write(Write { conditions: Vec::new(), operations })?.versions[0])
    }

    /// Follows the changes of keys.
    pub fn watch(&self, selector: Selector, start: Start) -> Result<Watch<'c>, ClientError> {
        Watch::begin(self.client, selector, start)
    }

    /// Begins a transaction, which is rolled back when it has not been committed after `timeout`.
    pub fn begin(
        &self,
        isolation: Isolation,
        timeout: Duration,
    ) -> Result<Transaction<&'c Client>, ClientError> {
        Transaction::begin(self.client, isolation, timeout)
    }

    /// The services that are alive.
    pub fn services(&self) -> Result<Vec<Service>, ClientError> {
        let CatalogServiceListing { services } = self.client.connection().call(CatalogServices {})?;
        Ok(services)
    }

    /// Registers a service, or keeps it alive, for another `ttl`. When it is not kept alive, what it owns is removed.
    pub fn keep_service(&self, name: &str, ttl: Duration) -> Result<(), ClientError> {
        let request = ServiceKeep { name: name.into(), ttl_ms: milliseconds(ttl) };
        self.client.connection().call::<Done>(request).map(drop)
    }

    /// Ends a service; gives how many keys it owned, all of which are removed.
    pub fn end_service(&self, name: &str) -> Result<u64, ClientError> {
        let KeyRemoved { count } = self.client.connection().call(ServiceEnd { name: name.into() })?;
        Ok(count)
    }

    fn counted(&self, counted: bool) -> Result<(), ClientError> {
        let wrong = || self.client.connection().protocol("it does not answer for everything that was asked");
        if counted { Ok(()) } else { Err(wrong()) }
    }
}

/// The condition that a key has a version, if one is wanted.
pub(crate) fn when(key: &str, version: Option<u64>) -> Vec<Condition> {
    version.map(|version| Condition::Version(KeyVersion { key: key.into(), version })).into_iter().collect()
}

/// Whole milliseconds; what is too long for a number is refused by the catalog.
pub(crate) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Ends a snapshot without waiting for the answer; when the connection has ended the node ends it by itself.
fn close_snapshot(client: &Client, snapshot: u64) {
    drop(client.connection().send(SnapshotClose { snapshot }));
}
