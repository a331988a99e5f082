//! The engine in one process: on disk, one writer, group commit.

mod clock; // what time it is
mod fence; // notices writes that were lost
mod group; // what a group of writes does, as one batch
pub(crate) mod lease; // who still reads which version
mod reading; // what is there at one moment
mod recent; // the latest changes, in memory
mod record; // how a value lies on disk
mod rows; // which values there are
mod service; // who is alive of those that own keys
mod shared; // what readers, streams and the writer share
mod steps; // what takes long, in steps
mod stream; // follows what is written
mod writer; // the thread that writes
mod writing; // a write within a group

#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::{self, File};
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use async_trait::async_trait;
use plan::key::check_key;
use tokio::sync::watch;

pub use self::clock::{Clock, SystemClock};
use self::fence::Fence;
use self::lease::Leases;
use self::rows::{CLUSTER, Registered, Rows, STATE, State, Table, View};
use self::service::Services;
use self::shared::Shared;
use self::steps::Step;
use self::stream::Stream;
use self::writer::{QUEUE_LENGTH, Reply, Request, Task, Writer};
use crate::catalog::{Catalog, Service, Snapshot, Swept};
use crate::change::{ChangeStream, Selector, Start};
use crate::check;
use crate::entry::Entry;
use crate::error::CatalogError;
use crate::read::{Consistency, Found, Page, Scan};
use crate::selection::Selection;
use crate::write::{Operation, Write, Written};

/// An open catalog. Clones share it; when the last one and all snapshots and streams are dropped, everything that was asked
/// for is written and the directory is free again.
#[derive(Clone)]
pub struct Embedded {
    inner: Arc<Inner>,
}

/// How an embedded catalog is to be.
#[derive(Clone)]
pub struct Settings {
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// How long changes are kept, in milliseconds.
    pub retention_ms: u64,
    /// How many bytes of changes are kept at most, about; the oldest go, also before their time.
    pub changes_size_max: u64,
}

struct Inner {
    cluster_id: u64,
    shared: Arc<Shared>,
    news: watch::Receiver<u64>,
    /// Both are taken when the catalog is dropped.
    queue: Option<flume::Sender<Request>>,
    writer: Option<JoinHandle<()>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { clock: Arc::new(SystemClock), retention_ms: 3_600_000, changes_size_max: 256 << 20 }
    }
}

impl Embedded {
    /// Opens the catalog in a directory of its own, which is created where there is none.
    pub fn open(directory: &Path) -> Result<Self, CatalogError> {
        Self::open_with(directory, Settings::default())
    }

    /// As [`Embedded::open`], with other settings.
    pub fn open_with(directory: &Path, settings: Settings) -> Result<Self, CatalogError> {
        create_durably(directory).map_err(CatalogError::file("creating", directory))?;
        let rows = Arc::new(Rows::open(&directory.join("rows"))?);
        let sync = File::open(directory).and_then(|directory| directory.sync_all());
        sync.map_err(CatalogError::file("synchronising", directory))?;
        let cluster_id = cluster_id(&rows)?;
        let view = rows.view();
        let state: State = view.get(Table::Meta, STATE)?.unwrap_or_default();
        let fence = Fence::check(directory, state.revision)?;
        let opened_ms = settings.clock.now_ms().max(state.written_ms);
        let services = Services::new(registered(&view)?, opened_ms);
        let leases = Leases::new(random()?);
        let shared = Shared::new(rows, settings.clock.clone(), state, leases, services);
        let shared = Arc::new(shared);
        let (queue, requests) = flume::bounded(QUEUE_LENGTH);
        let (news, heard) = watch::channel(state.revision);
        let writer = Writer {
            shared: shared.clone(),
            queue: requests,
            fence,
            settings,
            news,
            opened_ms,
            opened_revision: state.revision,
            retired_from: Vec::new(),
            expiries_from: Vec::new(),
        };
        let writer = thread::Builder::new().name("catalog".into()).spawn(|| writer.run());
        let writer = writer.map_err(CatalogError::file("starting the writer of", directory))?;
        Ok(Self {
            inner: Arc::new(Inner {
                cluster_id,
                shared,
                news: heard,
                queue: Some(queue),
                writer: Some(writer),
            }),
        })
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, CatalogError> {
        let (reply, answer) = flume::bounded(1);
        let queue = self.inner.queue.as_ref().ok_or(CatalogError::Stopped)?;
        queue.send_async(request(reply)).await.map_err(|_| CatalogError::Stopped)?;
        answer.recv_async().await.map_err(|_| CatalogError::Stopped)?
    }

    /// Carries out a task to its end; how many keys or versions were dealt with. What is damaged is left, and the first of
    /// it is the error, after all else has been dealt with.
    async fn ask_in_steps(&self, task: Task) -> Result<u64, CatalogError> {
        let (mut count, mut cursor, mut first_damaged) = (0, None, None);
        loop {
            let Step { count: dealt, next, damaged, .. } =
                self.ask(|reply| Request::Step { task: task.clone(), cursor, reply }).await?;
            count += dealt;
            first_damaged = first_damaged.or(damaged);
            cursor = next;
            if cursor.is_none() {
                return first_damaged.map_or(Ok(count), Err);
            }
        }
    }

    /// Ends a service, also one that is alive only if `even_alive`; how many keys it owned, if it was ended.
    async fn end(&self, name: &str, even_alive: bool) -> Result<Option<u64>, CatalogError> {
        if !self.ask(|reply| Request::BeginEnd { name: name.into(), even_alive, reply }).await? {
            return Ok(None);
        }
        self.ask_in_steps(Task::Abandon(name.into())).await.map(Some)
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }
}

#[async_trait]
impl Catalog for Embedded {
    fn cluster_id(&self) -> u64 {
        self.inner.cluster_id
    }

    async fn get(&self, keys: &[String], _: Consistency) -> Result<Found, CatalogError> {
        let moment = self.shared().settled().await;
        let entries = moment.get(keys).await?;
        Ok(Found { revision: moment.state.revision, entries, stale: false })
    }

    async fn scan(&self, scan: &Scan, _: Consistency) -> Result<Page, CatalogError> {
        self.shared().settled().await.scan(scan).await
    }

    async fn count(&self, prefix: &str, _: Consistency) -> Result<u64, CatalogError> {
        check::prefix(prefix)?;
        let (moment, prefix) = (self.shared().settled().await, prefix.to_string());
        blocking::unblock(move || moment.count(&prefix)).await
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, CatalogError> {
        Ok(Box::new(self.shared().settled().await))
    }

    async fn write(&self, write: Write) -> Result<Written, CatalogError> {
        let checked = Box::new(check::write(write)?);
        self.ask(|reply| Request::Write { checked, early: false, reply }).await
    }

    async fn write_early(&self, write: Write) -> Result<Written, CatalogError> {
        let checked = Box::new(check::write(write)?);
        self.ask(|reply| Request::Write { checked, early: true, reply }).await
    }

    async fn remove(&self, key: &str, recursive: bool) -> Result<u64, CatalogError> {
        check_key(key)?;
        if recursive {
            return self.ask_in_steps(Task::RemoveTree(key.into())).await;
        }
        let operations = vec![Operation::Delete { key: key.into() }];
        let written = self.write(Write { conditions: Vec::new(), operations }).await?;
        Ok(written.versions.into_iter().filter(|&version| version > 0).count() as u64)
    }

    async fn changes(&self, start: Start, selector: Selector) -> Result<Box<dyn ChangeStream>, CatalogError> {
        let selection = Selection::new(selector)?;
        let news = self.inner.news.clone();
        self.shared().settled().await;
        Ok(Box::new(Stream::new(self.shared().clone(), news, start, selection)?))
    }

    async fn open_leased(&self, key: &str) -> Result<Option<(Entry, u64)>, CatalogError> {
        check_key(key)?;
        let shared = self.shared();
        shared.settled().await;
        // The version must still be the current one when the lease begins; see `Writer::forget`.
        let mut leases = shared.leases();
        let moment = shared.moment();
        let Some(entry) = moment.entry(key)? else { return Ok(None) };
        let lease = leases.grant(key, entry.version, moment.at_ms).ok_or(CatalogError::Leases)?;
        Ok(Some((entry, lease)))
    }

    async fn renew(&self, leases: &[u64]) -> Result<Vec<u64>, CatalogError> {
        let now_ms = self.shared().moment().at_ms;
        let mut table = self.shared().leases();
        Ok(leases.iter().copied().filter(|&lease| !table.renew(lease, now_ms)).collect())
    }

    async fn release(&self, lease: u64) -> Result<(), CatalogError> {
        self.shared().leases().release(lease);
        Ok(())
    }

    async fn references(&self, chunks: &[[u8; 32]]) -> Result<Vec<bool>, CatalogError> {
        let (moment, chunks) = (self.shared().settled().await, chunks.to_vec());
        blocking::unblock(move || {
            let count = |chunk: &[u8; 32]| moment.view.get::<u64>(Table::Chunks, chunk);
            chunks.iter().map(|chunk| Ok(count(chunk)?.is_some_and(|count| count > 0))).collect()
        })
        .await
    }

    /// For [`crate::REOPENED_GRACE_MS`] after the catalog was opened it forgets no version from before, so that readers
    /// whose leases were lost with the previous process can finish. Records that are damaged are left; the first
    /// is the error, after all others have been dealt with.
    async fn sweep(&self) -> Result<Swept, CatalogError> {
        let forgotten = self.ask_in_steps(Task::Forget).await;
        let expired = self.ask_in_steps(Task::Expire).await;
        let mut abandoned: Result<u64, CatalogError> = Ok(0);
        let shared = self.shared();
        let now_ms = shared.moment().at_ms;
        let over = shared.services().over(now_ms);
        for name in over {
            let removed = self.end(&name, false).await;
            abandoned = abandoned.and_then(|count| Ok(count + removed?.unwrap_or_default()));
        }
        self.ask_in_steps(Task::Trim).await?;
        Ok(Swept { forgotten: forgotten?, expired: expired?, abandoned: abandoned? })
    }

    async fn keep_service(&self, name: &str, ttl_ms: u64) -> Result<(), CatalogError> {
        check::service(name)?;
        check::ttl(ttl_ms)?;
        let shared = self.shared();
        loop {
            let now_ms = shared.moment().at_ms;
            if shared.services().renew(name, ttl_ms, now_ms) {
                return Ok(());
            }
            if self.ask(|reply| Request::Keep { name: name.into(), ttl_ms, reply }).await? {
                return Ok(());
            }
            self.ask_in_steps(Task::Abandon(name.into())).await?;
        }
    }

    async fn end_service(&self, name: &str) -> Result<u64, CatalogError> {
        check::service(name)?;
        self.end(name, true).await?.ok_or_else(|| CatalogError::NoService { name: name.into() })
    }

    async fn services(&self) -> Result<Vec<Service>, CatalogError> {
        let moment = self.shared().settled().await;
        let alive = self.shared().services().alive(moment.at_ms);
        blocking::unblock(move || {
            let services = alive.into_iter().map(|(name, ttl_ms, left_ms)| {
                let keys = moment.count_owned(&name)?;
                Ok(Service { name, ttl_ms, left_ms, keys })
            });
            services.collect()
        })
        .await
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

fn cluster_id(rows: &Arc<Rows>) -> Result<u64, CatalogError> {
    if let Some(known) = rows.view().get(Table::Meta, CLUSTER)? {
        return Ok(known);
    }
    let chosen = random()?.max(1);
    let mut batch = rows.batch();
    batch.put(Table::Meta, CLUSTER, &chosen);
    batch.write()?.sync()?;
    Ok(chosen)
}

fn registered(view: &View) -> Result<Vec<(String, Registered)>, CatalogError> {
    let rows = view.range::<Registered>(Table::Services, Bound::Unbounded);
    let named =
        rows.map(|row| row.map(|(name, registered, _)| (String::from_utf8_lossy(&name).into(), registered)));
    named.collect()
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
