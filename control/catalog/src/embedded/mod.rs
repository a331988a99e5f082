//! The engine in one process: on disk, one writer, group commit.

mod fence; // notices writes that were lost
mod group; // what a group of writes does, as one batch
mod lease; // who still reads which version
mod record; // how a value lies on disk
mod rows; // which values there are
mod writer; // the thread that writes

#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::{self, File};
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{SystemTime, UNIX_EPOCH};

use plan::key::check_key;

use self::fence::Fence;
use self::group::{Proposal, Step};
use self::lease::Leases;
use self::rows::{CLUSTER, Current, REVISION, Rows, Table, Version, View, version_row};
use self::writer::{QUEUE_LENGTH, Reply, Request, Shared, Writer};
use crate::LIST_ENTRIES_MAX;
use crate::error::CatalogError;

/// An open catalog. Clones share it; when the last one is dropped, everything that was asked for is written and
/// the directory is free again.
#[derive(Clone)]
pub struct Embedded {
    inner: Arc<Inner>,
}

/// One version of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The key.
    pub key: String,
    /// The version, counted from 1.
    pub version: u64,
    /// The revision of the catalog that wrote it.
    pub revision: u64,
    /// When it was committed, milliseconds since 1970.
    pub created_ms: u64,
    /// The manifest root, as it was given.
    pub manifest: Vec<u8>,
}

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The key.
    pub key: String,
    /// Its current version.
    pub version: u64,
    /// When that was committed, milliseconds since 1970.
    pub created_ms: u64,
    /// Bytes of all its files.
    pub size: u64,
    /// How many files.
    pub files: u64,
}

/// A commit that is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The version of the key, counted from 1.
    pub version: u64,
    /// The revision of the catalog, which orders all writes.
    pub revision: u64,
}

struct Inner {
    cluster_id: u64,
    shared: Arc<Shared>,
    /// Both are taken when the catalog is dropped.
    queue: Option<flume::Sender<Request>>,
    writer: Option<JoinHandle<()>>,
}

impl Embedded {
    /// Opens the catalog in a directory of its own, which is created where there is none.
    pub fn open(directory: &Path) -> Result<Self, CatalogError> {
        Self::open_at(directory, now_ms())
    }

    /// As [`Embedded::open`], at a time the caller states.
    pub fn open_at(directory: &Path, now_ms: u64) -> Result<Self, CatalogError> {
        create_durably(directory).map_err(CatalogError::file("creating", directory))?;
        let rows = Rows::open(&directory.join("rows"))?;
        let sync = File::open(directory).and_then(|directory| directory.sync_all());
        sync.map_err(CatalogError::file("synchronising", directory))?;
        let revision = rows.view().get(Table::Meta, REVISION)?.unwrap_or_default();
        let fence = Fence::check(directory, revision)?;
        let cluster_id = cluster_id(&rows)?;
        let leases = Leases::new(random()?);
        let shared = Arc::new(Shared::new(rows, leases));
        let (queue, requests) = flume::bounded(QUEUE_LENGTH);
        let writer = Writer {
            shared: shared.clone(),
            queue: requests,
            fence,
            revision,
            opened_ms: now_ms,
            opened_revision: revision,
        };
        let writer = thread::Builder::new().name("catalog".into()).spawn(|| writer.run());
        let writer = writer.map_err(CatalogError::file("starting the writer of", directory))?;
        Ok(Self { inner: Arc::new(Inner { cluster_id, shared, queue: Some(queue), writer: Some(writer) }) })
    }

    /// The cluster, random at the first start and the same ever after; never zero.
    pub fn cluster_id(&self) -> u64 {
        self.inner.cluster_id
    }

    /// Makes `manifest` the next version of `key`; it is on disk when this returns. With `expected_version` only if
    /// that is the current one, where 0 means that the key must be absent. When the future is dropped the commit
    /// may still happen.
    pub async fn commit(
        &self,
        key: String,
        manifest: Vec<u8>,
        expected_version: Option<u64>,
    ) -> Result<Committed, CatalogError> {
        self.commit_at(key, manifest, expected_version, now_ms()).await
    }

    /// As [`Embedded::commit`], at a time the caller states.
    pub async fn commit_at(
        &self,
        key: String,
        manifest: Vec<u8>,
        expected_version: Option<u64>,
        now_ms: u64,
    ) -> Result<Committed, CatalogError> {
        check_key(&key)?;
        let proposal = Proposal::check(&key, manifest)?;
        self.ask(|reply| Request::Commit { key, proposal, expected_version, now_ms, reply }).await
    }

    /// The current version of a key.
    pub fn get(&self, key: &str) -> Result<Option<Opened>, CatalogError> {
        check_key(key)?;
        let view = self.inner.shared.rows.view();
        let current = view.get(Table::Current, key.as_bytes())?;
        current.map(|current| entry(&view, key, current)).transpose()
    }

    /// The current version of a key and a lease on it, never 0: until it is released, or [`crate::LEASE_MS`] pass
    /// without a renewal, the version's chunks stay referenced even when the key is overwritten or removed.
    pub fn open_leased(&self, key: &str, now_ms: u64) -> Result<Option<(Opened, u64)>, CatalogError> {
        check_key(key)?;
        let shared = &self.inner.shared;
        // The version must still be the current one when the lease begins; see `Writer::sweep`.
        let mut leases = shared.leases();
        let view = shared.rows.view();
        let Some(current) = view.get::<Current>(Table::Current, key.as_bytes())? else { return Ok(None) };
        let lease = leases.grant(current.revision, now_ms).ok_or(CatalogError::Leases)?;
        drop(leases);
        match entry(&view, key, current) {
            Ok(entry) => Ok(Some((entry, lease))),
            Err(error) => {
                self.release(lease);
                Err(error)
            }
        }
    }

    /// Keeps leases alive; returns those that are not there any more, because they expired or the catalog was
    /// opened again since. Their holders must open their keys anew.
    pub fn renew(&self, leases: &[u64], now_ms: u64) -> Vec<u64> {
        let mut table = self.inner.shared.leases();
        leases.iter().copied().filter(|&lease| !table.renew(lease, now_ms)).collect()
    }

    /// Ends a lease. One that is over already is no error.
    pub fn release(&self, lease: u64) {
        self.inner.shared.leases().release(lease);
    }

    /// Keys that begin with `prefix` and come after `after`, ascending, at most `limit` and
    /// [`crate::LIST_ENTRIES_MAX`]; and whether there are more.
    pub fn list(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<(Vec<Summary>, bool), CatalogError> {
        let limit = limit.min(LIST_ENTRIES_MAX);
        let from = match after.as_bytes() {
            after if after >= prefix.as_bytes() && !after.is_empty() => Bound::Excluded(after),
            _ => Bound::Included(prefix.as_bytes()),
        };
        let view = self.inner.shared.rows.view();
        let rows = view.range(Table::Current, from);
        let rows =
            rows.take_while(|row| row.as_ref().map_or(true, |(key, _)| key.starts_with(prefix.as_bytes())));
        let lines = rows.take(limit + 1).map(|row| {
            let (key, Current { version, created_ms, size, files, .. }) = row?;
            Ok(Summary { key: String::from_utf8_lossy(&key).into_owned(), version, created_ms, size, files })
        });
        let mut lines = lines.collect::<Result<Vec<_>, CatalogError>>()?;
        let more = lines.len() > limit;
        lines.truncate(limit);
        Ok((lines, more))
    }

    /// Removes a key, or with `recursive` also every `key/…`; returns how many keys that were. They are gone from
    /// the disk when this returns. A large subtree goes in steps, each of which is all or nothing.
    pub async fn remove(&self, key: String, recursive: bool) -> Result<u64, CatalogError> {
        self.remove_at(key, recursive, now_ms()).await
    }

    /// As [`Embedded::remove`], at a time the caller states.
    pub async fn remove_at(&self, key: String, recursive: bool, now_ms: u64) -> Result<u64, CatalogError> {
        check_key(&key)?;
        if !recursive {
            return self.ask(|reply| Request::Remove { key, now_ms, reply }).await;
        }
        let step = |after, reply| Request::RemoveTree { key: key.clone(), after, now_ms, reply };
        self.ask_in_steps(step).await
    }

    /// For each chunk whether it is part of a version that is current, leased, or was retired less than
    /// [`crate::GRACE_MS`] ago. A version counts until [`Embedded::sweep`] has forgotten it.
    pub fn references(&self, chunks: &[[u8; 32]]) -> Result<Vec<bool>, CatalogError> {
        let view = self.inner.shared.rows.view();
        let count = |chunk: &[u8; 32]| view.get::<u64>(Table::Chunks, chunk);
        chunks.iter().map(|chunk| Ok(count(chunk)?.is_some_and(|count| count > 0))).collect()
    }

    /// Forgets the superseded and removed versions whose grace is over and that nobody leases; returns how many.
    /// For [`crate::REOPENED_GRACE_MS`] after the catalog was opened it forgets none from before, so that readers
    /// whose leases were lost with the previous process can finish. Records that are damaged are left; the first
    /// is the error, after all others have been dealt with.
    pub async fn sweep(&self, now_ms: u64) -> Result<u64, CatalogError> {
        self.ask_in_steps(|after, reply| Request::Sweep { after, now_ms, reply }).await
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, CatalogError> {
        let (reply, answer) = flume::bounded(1);
        let queue = self.inner.queue.as_ref().ok_or(CatalogError::Stopped)?;
        queue.send_async(request(reply)).await.map_err(|_| CatalogError::Stopped)?;
        answer.recv_async().await.map_err(|_| CatalogError::Stopped)?
    }

    async fn ask_in_steps(
        &self,
        request: impl Fn(Option<Vec<u8>>, Reply<Step>) -> Request,
    ) -> Result<u64, CatalogError> {
        let (mut count, mut after, mut first_left) = (0, None, None);
        loop {
            let step = self.ask(|reply| request(after, reply)).await?;
            count += step.count;
            first_left = first_left.or(step.left);
            after = step.next;
            if after.is_none() {
                return first_left.map_or(Ok(count), Err);
            }
        }
    }
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Embedded({:016x})", self.inner.cluster_id)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has said so; there is nobody here to tell.
            let _ = writer.join();
        }
    }
}

fn entry(view: &View<'_>, key: &str, current: Current) -> Result<Opened, CatalogError> {
    let row = version_row(key, current.version);
    let damaged = || CatalogError::Damaged { subject: Table::Versions.subject(&row) };
    let (Version { revision, created_ms }, manifest) =
        view.get_with_tail(Table::Versions, &row)?.ok_or_else(damaged)?;
    if (revision, created_ms) != (current.revision, current.created_ms) {
        return Err(damaged());
    }
    Ok(Opened { key: key.into(), version: current.version, revision, created_ms, manifest })
}

fn cluster_id(rows: &Rows) -> Result<u64, CatalogError> {
    if let Some(known) = rows.view().get(Table::Meta, CLUSTER)? {
        return Ok(known);
    }
    let chosen = random()?.max(1);
    let mut batch = rows.batch();
    batch.put(Table::Meta, CLUSTER, &chosen);
    batch.write()?;
    Ok(chosen)
}

fn random() -> Result<u64, CatalogError> {
    getrandom::u64().map_err(CatalogError::Random)
}

/// Creates a directory and makes its name durable in its parent.
fn create_durably(directory: &Path) -> std::io::Result<()> {
    fs::create_dir_all(directory)?;
    match directory.canonicalize()?.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
