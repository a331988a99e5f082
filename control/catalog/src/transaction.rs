//! Transactions over any engine: reads at once, writes when it commits.
//!
//! A transaction keeps what it wants to write and, where its isolation asks for it, what it has read; nothing of the
//! catalog is copied or locked. When it commits, all goes as one [`Write`] with the conditions that its isolation takes:
//!
//! | isolation | reads see | commit is refused when somebody else has changed since |
//! |---|---|---|
//! | read committed | what was committed last | nothing |
//! | snapshot | the revision at which it began | a key that it writes |
//! | serializable | the revision at which it began | a key that it writes, has read, or that a scan would see |

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::catalog::{Catalog, Snapshot};
use crate::check::{self, at_most, invalid};
use crate::embedded::{Clock, SystemClock};
use crate::entry::Entry;
use crate::error::CatalogError;
use crate::read::{Consistency, Page, SCAN_LIMIT_MAX, Scan};
use crate::write::{Condition, Expiry, OPERATIONS_MAX, Operation, Put, WRITE_SIZE_MAX, Write, Written};

/// Longest time that a transaction may take, in milliseconds.
pub const TRANSACTION_TIMEOUT_MAX_MS: u64 = 600_000;

/// What a transaction may see of others, and what it bears when they write meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// Each read sees what was committed last, and only that. All writes appear at once. Between its reads, and between
    /// those and its commit, others may write anything.
    ReadCommitted,
    /// All reads see the revision at which it began. Who commits first wins: a key that it writes must not have been changed
    /// since. Two may still each read what the other writes (write skew).
    #[default]
    Snapshot,
    /// As if transactions ran one after the other: nothing that it has read may have been changed when it writes, nor may
    /// there be anything new, or gone, under a prefix that it has scanned.
    Serializable,
}

/// A transaction that has begun. When it is dropped without a commit, nothing has happened.
pub struct Transaction {
    catalog: Arc<dyn Catalog>,
    isolation: Isolation,
    /// What reads see; `None` when each sees what was committed last.
    snapshot: Option<Box<dyn Snapshot>>,
    began: Instant,
    timeout_ms: u64,
    writes: Writes,
    /// What a commit depends on.
    keys: BTreeSet<String>,
    prefixes: BTreeSet<String>,
}

/// What is to be written: one operation for each key.
#[derive(Default)]
struct Writes {
    operations: BTreeMap<String, Operation>,
    size: usize,
}

impl Transaction {
    /// Begins a transaction, which must have committed within `timeout_ms`.
    pub async fn begin(
        catalog: Arc<dyn Catalog>,
        isolation: Isolation,
        timeout_ms: u64,
    ) -> Result<Self, CatalogError> {
        if timeout_ms == 0 || timeout_ms > TRANSACTION_TIMEOUT_MAX_MS {
            let reason = "a transaction may take from 1 ms to 10 minutes";
            return Err(invalid(
                "the timeout of a transaction, in milliseconds,",
                &timeout_ms.to_string(),
                reason,
            ));
        }
        let began = Instant::now();
        let snapshot = match isolation {
            Isolation::ReadCommitted => None,
            Isolation::Snapshot | Isolation::Serializable => Some(catalog.snapshot().await?),
        };
        let (keys, prefixes) = (BTreeSet::new(), BTreeSet::new());
        Ok(Self {
            catalog,
            isolation,
            snapshot,
            began,
            timeout_ms,
            writes: Writes::default(),
            keys,
            prefixes,
        })
    }

    /// What keys have, its own writes included. Of those, versions, revisions and times are 0 until the commit, and expiries
    /// about what they will be.
    pub async fn get(&mut self, keys: &[String]) -> Result<Vec<Option<Entry>>, CatalogError> {
        self.check_time()?;
        check::keys(keys)?;
        // What it has put or deleted itself does not depend on what is there.
        let read = keys.iter().filter(|key| !self.writes.hides(key));
        let read: Vec<String> = read.cloned().collect();
        self.depend_on_keys(&read)?;
        let found = match &self.snapshot {
            Some(snapshot) => snapshot.get(&read).await?,
            None => self.catalog.get(&read, Consistency::Quorum).await?.entries,
        };
        let mut found = read.iter().zip(found).collect::<BTreeMap<_, _>>();
        // A key that is asked for twice has been found once.
        let entries = keys.iter().map(|key| {
            let found = found.get_mut(key).and_then(|found| found.clone());
            self.writes.over(key, found, true)
        });
        Ok(entries.collect())
    }

    /// A page of entries, its own writes included as with [`Transaction::get`].
    pub async fn scan(&mut self, scan: &Scan) -> Result<Page, CatalogError> {
        self.check_time()?;
        check::scan(scan)?;
        self.depend_on_prefix(&scan.prefix)?;
        let mut scan = scan.clone();
        loop {
            let page = match &self.snapshot {
                Some(snapshot) => snapshot.scan(&scan).await?,
                None => self.catalog.scan(&scan, Consistency::Quorum).await?,
            };
            let page = self.writes.over_page(&scan, page);
            match page.next {
                // All that was on this page is deleted.
                Some(next) if page.entries.is_empty() => scan.after = Some(next),
                next => return Ok(Page { next, ..page }),
            }
        }
    }

    /// Puts a key. Nobody else sees it before the commit.
    pub fn put(&mut self, put: Put) -> Result<(), CatalogError> {
        self.write(Operation::Put(put))
    }

    /// Deletes a key.
    pub fn delete(&mut self, key: impl Into<String>) -> Result<(), CatalogError> {
        self.write(Operation::Delete { key: key.into() })
    }

    /// Changes when a key expires, reckoned from the commit. That it is there shows at the commit.
    pub fn expire(&mut self, key: impl Into<String>, when: Expiry) -> Result<(), CatalogError> {
        self.write(Operation::Expire { key: key.into(), when })
    }

    /// Adds any operation. A later one on the same key replaces or continues an earlier one.
    pub fn write(&mut self, operation: Operation) -> Result<(), CatalogError> {
        self.check_time()?;
        check::operation(&operation)?;
        self.writes.add(operation)
    }

    /// Carries out its writes, all or none; the versions are in the order of the keys. When it is refused, nothing has
    /// happened, and it may be tried again from the beginning.
    pub async fn commit(self) -> Result<Written, CatalogError> {
        self.check_time()?;
        let Some(snapshot) = &self.snapshot else {
            let operations = self.writes.operations.into_values().collect();
            return self.catalog.write(Write { conditions: Vec::new(), operations }).await;
        };
        let revision = snapshot.revision();
        // Whoever has read one revision and writes nothing may be thought to have run at that revision.
        if self.writes.operations.is_empty() {
            return Ok(Written { revision, versions: Vec::new() });
        }
        let unchanged =
            |prefix: &String, exact| Condition::Unchanged { prefix: prefix.clone(), exact, revision };
        let keys = self.writes.operations.keys().chain(&self.keys).collect::<BTreeSet<_>>();
        let keys = keys.into_iter().filter(|key| !self.is_scanned(key));
        let conditions = keys.map(|key| unchanged(key, true));
        let conditions =
            conditions.chain(self.prefixes.iter().map(|prefix| unchanged(prefix, false))).collect();
        let operations = self.writes.operations.into_values().collect();
        self.catalog.write(Write { conditions, operations }).await
    }

    /// Ends it without a trace, as dropping it does.
    pub fn rollback(self) {}

    fn check_time(&self) -> Result<(), CatalogError> {
        let timeout_ms = self.timeout_ms;
        if self.began.elapsed() > Duration::from_millis(timeout_ms) {
            return Err(CatalogError::TransactionTimeout { timeout_ms });
        }
        Ok(())
    }

    fn depend_on_keys(&mut self, keys: &[String]) -> Result<(), CatalogError> {
        if self.isolation == Isolation::Serializable {
            let known = |key: &&String| self.keys.contains(*key) || self.is_scanned(key);
            let added: BTreeSet<String> = keys.iter().filter(|key| !known(key)).cloned().collect();
            self.check_room(added.len())?;
            self.keys.extend(added);
        }
        Ok(())
    }

    fn depend_on_prefix(&mut self, prefix: &str) -> Result<(), CatalogError> {
        if self.isolation == Isolation::Serializable && !self.is_scanned(prefix) {
            self.prefixes.retain(|known| !known.starts_with(prefix));
            self.keys.retain(|known| !known.starts_with(prefix));
            self.check_room(1)?;
            self.prefixes.insert(prefix.into());
        }
        Ok(())
    }

    /// Whether a prefix that was scanned stands for the key or prefix.
    fn is_scanned(&self, text: &str) -> bool {
        self.prefixes.iter().any(|prefix| text.starts_with(prefix.as_str()))
    }

    /// Each thing that was read is a condition of the commit.
    fn check_room(&self, added: usize) -> Result<(), CatalogError> {
        let count = self.keys.len() + self.prefixes.len() + added;
        at_most("keys and prefixes read in a serializable transaction", count, OPERATIONS_MAX)
    }
}

impl Writes {
    fn add(&mut self, operation: Operation) -> Result<(), CatalogError> {
        let before = self.operations.get(operation.key());
        let merged = match before {
            Some(before) => merge(before, operation)?,
            None => operation,
        };
        let replaced = before.map_or(0, check::size_of);
        at_most("operations", self.operations.len() + usize::from(before.is_none()), OPERATIONS_MAX)?;
        let size = self.size - replaced + check::size_of(&merged);
        at_most("bytes", size, WRITE_SIZE_MAX)?;
        self.size = size;
        self.operations.insert(merged.key().into(), merged);
        Ok(())
    }

    /// Whether what is there of a key does not matter.
    fn hides(&self, key: &str) -> bool {
        matches!(self.operations.get(key), Some(Operation::Put(_) | Operation::Delete { .. }))
    }

    /// A key with what is to be written over what is there.
    fn over(&self, key: &str, there: Option<Entry>, contents: bool) -> Option<Entry> {
        match self.operations.get(key) {
            None => there,
            Some(Operation::Delete { .. }) => None,
            Some(Operation::Put(put)) => Some(entry_of(put, contents)),
            Some(Operation::Expire { when, .. }) => there.map(|entry| {
                let expires_ms = match when {
                    Expiry::Never => None,
                    Expiry::In(ttl_ms) => Some(SystemClock.now_ms().saturating_add(*ttl_ms)),
                    Expiry::Later(more_ms) => entry.expires_ms.map(|at_ms| at_ms.saturating_add(*more_ms)),
                };
                Entry { version: 0, revision: 0, updated_ms: 0, expires_ms, ..entry }
            }),
        }
    }

    /// A page with what is to be written over what is there.
    fn over_page(&self, scan: &Scan, page: Page) -> Page {
        let Page { revision, entries, next } = page;
        let from = match scan.after.as_deref() {
            Some(after) if after >= scan.prefix.as_str() => Bound::Excluded(after),
            _ => Bound::Included(scan.prefix.as_str()),
        };
        let own = self.operations.range::<str, _>((from, Bound::Unbounded));
        let own = own.take_while(|(key, _)| {
            key.starts_with(&scan.prefix) && next.as_ref().is_none_or(|next| *key <= next)
        });
        let mut merged: BTreeMap<String, Option<Entry>> = own.map(|(key, _)| (key.clone(), None)).collect();
        merged.extend(entries.into_iter().map(|entry| (entry.key.clone(), Some(entry))));
        let merged = merged.into_iter().filter_map(|(key, there)| self.over(&key, there, scan.contents));
        let mut entries: Vec<Entry> = merged.collect();
        let limit = scan.limit.min(SCAN_LIMIT_MAX);
        if entries.len() <= limit {
            return Page { revision, entries, next };
        }
        entries.truncate(limit);
        let next = entries.last().map(|entry| entry.key.clone());
        Page { revision, entries, next }
    }
}

impl FromStr for Isolation {
    type Err = CatalogError;

    /// Reads a level by its name in SQL or here, whatever its case. A level that is not there is the next stronger one.
    fn from_str(text: &str) -> Result<Self, CatalogError> {
        let name = text.to_ascii_uppercase().replace(['-', ' '], "_");
        match name.as_str() {
            "READ_UNCOMMITTED" | "READ_COMMITTED" => Ok(Isolation::ReadCommitted),
            "REPEATABLE_READ" | "SNAPSHOT" => Ok(Isolation::Snapshot),
            "SERIALIZABLE" => Ok(Isolation::Serializable),
            _ => {
                let reason = "it is none of read_committed, snapshot and serializable";
                Err(invalid("an isolation level", &format!("'{text}'"), reason))
            }
        }
    }
}

/// What one operation after another on the same key comes to.
fn merge(before: &Operation, after: Operation) -> Result<Operation, CatalogError> {
    let Operation::Expire { key, when } = after else { return Ok(after) };
    match before {
        Operation::Delete { .. } => Err(CatalogError::NoKey { key }),
        Operation::Put(put) => {
            let ttl_ms = match (when, put.ttl_ms) {
                (Expiry::Never, _) => None,
                (Expiry::In(ttl_ms), _) => Some(ttl_ms),
                (Expiry::Later(more_ms), Some(ttl_ms)) => Some(ttl_ms.saturating_add(more_ms)),
                (Expiry::Later(_), None) => return Err(CatalogError::NoExpiry { key }),
            };
            Ok(Operation::Put(Put { ttl_ms, ..put.clone() }))
        }
        Operation::Expire { when: earlier, .. } => {
            let when = match (when, *earlier) {
                (Expiry::Later(more_ms), Expiry::In(ttl_ms)) => Expiry::In(ttl_ms.saturating_add(more_ms)),
                (Expiry::Later(more_ms), Expiry::Later(ms)) => Expiry::Later(ms.saturating_add(more_ms)),
                (Expiry::Later(_), Expiry::Never) => return Err(CatalogError::NoExpiry { key }),
                (when, _) => when,
            };
            Ok(Operation::Expire { key, when })
        }
    }
}

/// What a put will be, as far as it is known before.
fn entry_of(put: &Put, contents: bool) -> Entry {
    let described = check::describe(put).unwrap_or_default();
    Entry {
        key: put.key.clone(),
        version: 0,
        revision: 0,
        created_ms: 0,
        updated_ms: 0,
        expires_ms: put.ttl_ms.map(|ttl_ms| SystemClock.now_ms().saturating_add(ttl_ms)),
        owner: put.owner.clone(),
        labels: put.labels.clone(),
        size: described.size,
        files: described.files,
        content: contents.then(|| put.content.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Content;

    fn put(ttl_ms: Option<u64>) -> Operation {
        Operation::Put(Put { ttl_ms, ..Put::new("k", Content::Value(vec![1])) })
    }

    fn expire(when: Expiry) -> Operation {
        Operation::Expire { key: "k".into(), when }
    }

    #[test]
    fn operations_on_one_key_become_one() {
        let delete = || Operation::Delete { key: "k".into() };
        assert_eq!(merge(&put(Some(5)), put(None)).unwrap(), put(None));
        assert_eq!(merge(&put(None), delete()).unwrap(), delete());
        assert_eq!(merge(&delete(), put(None)).unwrap(), put(None));
        assert_eq!(merge(&put(None), expire(Expiry::In(7))).unwrap(), put(Some(7)));
        assert_eq!(merge(&put(Some(5)), expire(Expiry::Later(7))).unwrap(), put(Some(12)));
        assert_eq!(merge(&put(Some(5)), expire(Expiry::Never)).unwrap(), put(None));
        assert_eq!(merge(&expire(Expiry::In(5)), expire(Expiry::Later(7))).unwrap(), expire(Expiry::In(12)));
        assert_eq!(
            merge(&expire(Expiry::Later(5)), expire(Expiry::Later(7))).unwrap(),
            expire(Expiry::Later(12))
        );
        assert_eq!(merge(&expire(Expiry::Later(5)), expire(Expiry::In(7))).unwrap(), expire(Expiry::In(7)));
        assert!(matches!(merge(&delete(), expire(Expiry::Never)), Err(CatalogError::NoKey { .. })));
        let refused = [
            merge(&put(None), expire(Expiry::Later(1))),
            merge(&expire(Expiry::Never), expire(Expiry::Later(1))),
        ];
        assert!(refused.iter().all(|merged| matches!(merged, Err(CatalogError::NoExpiry { .. }))));
    }

    #[test]
    fn levels_have_the_names_of_sql_too() {
        let parsed = ["read_committed", "READ UNCOMMITTED", "Repeatable-Read", "snapshot", "SERIALIZABLE"];
        let parsed = parsed.map(|name| name.parse::<Isolation>().unwrap());
        let (committed, snapshot) = (Isolation::ReadCommitted, Isolation::Snapshot);
        assert_eq!(parsed, [committed, committed, snapshot, snapshot, Isolation::Serializable]);
        assert!(matches!("chaos".parse::<Isolation>(), Err(CatalogError::Invalid { .. })));
    }
}
