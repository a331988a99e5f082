//! A catalog under test, and the time that it lives in.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use catalog::{
    Catalog, CatalogError, Change, ChangeStream, Clock, Condition, Consistency, Content, Entry, Expiry,
    Operation, Page, Put, Scan, Write, Written,
};

/// How much later than its time an engine may notice what takes seconds, where time is real: etcd looks at its leases twice a
/// second, and a node sweeps as often.
const LATE_MS: u64 = 1_000;

/// A clock that stands still until it is moved.
#[derive(Debug)]
pub struct Hands(AtomicU64);

/// An empty catalog of one engine.
pub struct Bed {
    /// The catalog.
    pub catalog: Arc<dyn Catalog>,
    /// The clock of an engine that is given one; with others the tests wait.
    pub hands: Option<Arc<Hands>>,
    /// Whether services live in real time whatever the clock says, as they do on etcd, whose leases they are.
    pub real_services: bool,
    /// What must live as long as the test: directories, processes.
    pub keep: Box<dyn Any + Send>,
}

impl Default for Hands {
    fn default() -> Self {
        Self(AtomicU64::new(1_700_000_000_000))
    }
}

impl Hands {
    /// Moves the clock.
    pub fn pass(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Clock for Hands {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Bed {
    /// Lets time pass for keys and versions.
    pub async fn pass(&self, ms: u64) {
        match &self.hands {
            Some(hands) => hands.pass(ms),
            None => wait(ms).await,
        }
    }

    /// Lets time pass for services.
    pub async fn pass_for_services(&self, ms: u64) {
        if self.real_services {
            wait(ms).await;
        } else {
            self.pass(ms).await;
        }
    }

    /// Writes when conditions hold.
    pub async fn write_if(
        &self,
        conditions: Vec<Condition>,
        operations: Vec<Operation>,
    ) -> Result<Written, CatalogError> {
        self.catalog.write(Write { conditions, operations }).await
    }

    /// Writes.
    pub async fn write(&self, operations: Vec<Operation>) -> Written {
        self.write_if(Vec::new(), operations).await.unwrap_or_else(|error| panic!("a write failed: {error}"))
    }

    /// Puts a value.
    pub async fn put(&self, key: &str, text: &str) -> Written {
        self.write(vec![put(key, text)]).await
    }

    /// Puts a value that expires.
    pub async fn put_for(&self, key: &str, text: &str, ttl_ms: u64) -> Written {
        self.write(vec![Operation::Put(Put { ttl_ms: Some(ttl_ms), ..value(key, text) })]).await
    }

    /// What a key has.
    pub async fn get(&self, key: &str) -> Option<Entry> {
        let found = self.catalog.get(&[key.into()], Consistency::Quorum).await;
        found.unwrap_or_else(|error| panic!("a read failed: {error}")).entries.remove(0)
    }

    /// The version that a key has, or 0.
    pub async fn version(&self, key: &str) -> u64 {
        self.get(key).await.map_or(0, |entry| entry.version)
    }

    /// A page of what begins with `prefix`.
    pub async fn page(&self, prefix: &str, after: Option<&str>, limit: usize) -> Page {
        let scan = Scan { prefix: prefix.into(), after: after.map(Into::into), limit, contents: true };
        let page = self.catalog.scan(&scan, Consistency::Quorum).await;
        page.unwrap_or_else(|error| panic!("a scan failed: {error}"))
    }

    /// The keys that begin with `prefix`.
    pub async fn keys(&self, prefix: &str) -> Vec<String> {
        self.page(prefix, None, 1000).await.entries.into_iter().map(|entry| entry.key).collect()
    }
}

async fn wait(ms: u64) {
    let late_ms = if ms >= LATE_MS { LATE_MS } else { 0 };
    tokio::time::sleep(Duration::from_millis(ms + late_ms)).await;
}

/// A put of a text.
pub fn put(key: &str, text: &str) -> Operation {
    Operation::Put(value(key, text))
}

/// A text as the content of a key.
pub fn value(key: &str, text: &str) -> Put {
    Put::new(key, Content::Value(text.as_bytes().to_vec()))
}

/// A delete.
pub fn delete(key: &str) -> Operation {
    Operation::Delete { key: key.into() }
}

/// A change of an expiry.
pub fn expire(key: &str, when: Expiry) -> Operation {
    Operation::Expire { key: key.into(), when }
}

/// A condition on a version.
pub fn version(key: &str, version: u64) -> Condition {
    Condition::Version { key: key.into(), version }
}

/// A condition on nothing having changed under a prefix.
pub fn unchanged(prefix: &str, revision: u64) -> Condition {
    Condition::Unchanged { prefix: prefix.into(), exact: false, revision }
}

/// A condition on one key not having changed.
pub fn unchanged_key(key: &str, revision: u64) -> Condition {
    Condition::Unchanged { prefix: key.into(), exact: true, revision }
}

/// The text that an entry holds.
pub fn text(entry: &Entry) -> String {
    match &entry.content {
        Some(Content::Value(value)) => String::from_utf8_lossy(value).into_owned(),
        other => panic!("key '{}' holds no text but {other:?}", entry.key),
    }
}

/// The next changes of a stream, which must come soon.
pub async fn next(stream: &mut Box<dyn ChangeStream>) -> Vec<Change> {
    let next = tokio::time::timeout(Duration::from_secs(20), stream.next()).await;
    next.expect("no change has come").unwrap_or_else(|error| panic!("a stream failed: {error}"))
}
