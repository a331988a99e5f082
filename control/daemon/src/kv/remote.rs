//! The catalog at the head, as a member has it: every question goes there.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use catalog::{
    Catalog, CatalogError, Change, ChangeStream, Consistency, Entry, Found, Page, Scan, Selector, Service,
    Snapshot, Start, Swept, Write, Written, check,
};
use flow::chunk::ChunkId;
use flow::wire::Message;
use flow::wire::catalog::*;
use flow::wire::session::{
    ChunkReferenced, ChunkReferences, Done, Failure, FailureCode, KeyRemove, KeyRemoved, LeaseRelease,
};
use tokio::sync::Semaphore;

use super::remembered::Remembered;
use super::translate;
use crate::keys::REFERENCES_MAX;
use crate::link::LinkError;
use crate::members::Members;
use crate::node::Clock;
use crate::peers::{CallError, Peers};

/// How long the head may take to answer. A write waits for a disk.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it may take after it has failed to answer, until it answers again.
const PATIENCE_WITH_THE_SILENT: Duration = Duration::from_millis(500);
/// When it makes sense to ask a head again that does not answer.
const RETRY_MS: u64 = 500;
/// Questions for changes that wait at the head at once. When there are more streams they take turns.
const POLLS_AT_ONCE: usize = 256;
/// How long the head holds a question for changes, and how long when streams take turns.
const POLL: Duration = Duration::from_secs(10);
const POLL_IN_TURN: Duration = Duration::from_millis(250);
/// Bytes of changes that are fetched at once.
const POLL_BYTES: u32 = 1 << 20;

/// The catalog at the head.
pub(crate) struct RemoteCatalog(Arc<Remote>);

struct Remote {
    peers: Arc<Peers>,
    head: String,
    members: Arc<Members>,
    /// Questions in a row that the head has not answered.
    unanswered: AtomicUsize,
    remembered: Mutex<Remembered>,
    polls: Semaphore,
    streams: AtomicUsize,
}

impl RemoteCatalog {
    /// The catalog at the head with this address, `HOST:PORT`.
    pub(crate) fn new(peers: Arc<Peers>, members: Arc<Members>, head: String) -> Self {
        Self(Arc::new(Remote {
            peers,
            head,
            members,
            unanswered: AtomicUsize::new(0),
            remembered: Mutex::default(),
            polls: Semaphore::new(POLLS_AT_ONCE),
            streams: AtomicUsize::new(0),
        }))
    }
}

impl Remote {
    /// Asks for something that changes nothing.
    async fn read<T: TryFrom<Message, Error = Message>>(
        &self,
        question: impl Into<Message>,
    ) -> Result<T, CatalogError> {
        let question = question.into();
        let answer = self.ask(&question, Duration::ZERO, false).await?;
        expect(&question, answer)
    }

    /// Asks for something that may have been done when no answer comes.
    async fn change<T: TryFrom<Message, Error = Message>>(
        &self,
        question: impl Into<Message>,
    ) -> Result<T, CatalogError> {
        let question = question.into();
        let answer = self.ask(&question, Duration::ZERO, true).await?;
        expect(&question, answer)
    }

    /// Asks for changes; the head may hold the question for a while.
    async fn poll(
        &self,
        start: CatalogStart,
        selector: &Selector,
        wait: Duration,
    ) -> Result<CatalogChanged, CatalogError> {
        let selector = translate::selector_to_wire(selector);
        let question =
            CatalogChanges { start, selector, wait_ms: wait.as_millis() as u32, size_limit: POLL_BYTES };
        let question = question.into();
        let answer = self.ask(&question, wait, false).await?;
        expect(&question, answer)
    }

    /// The head's answer, whatever it is; no answer is an error. `held` is how long the head may hold the question.
    async fn ask(&self, question: &Message, held: Duration, changes: bool) -> Result<Message, CatalogError> {
        let silent = self.unanswered.load(Ordering::Relaxed) > 0;
        let patience = held + if silent { PATIENCE_WITH_THE_SILENT } else { PATIENCE };
        let answer = self.peers.call(&self.head, 0, question, Some(patience)).await;
        match &answer {
            Ok(_) => self.unanswered.store(0, Ordering::Relaxed),
            Err(_) => drop(self.unanswered.fetch_add(1, Ordering::Relaxed)),
        }
        answer.map_err(|error| unreachable(&error, changes))
    }

    fn remembered(&self) -> MutexGuard<'_, Remembered> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, keys: &[String], entries: &[Option<Entry>]) {
        let mut remembered = self.remembered();
        keys.iter().zip(entries).for_each(|(key, entry)| remembered.note(key, entry.as_ref()));
    }

    /// What was read before of all of these keys; `None` when one of them is not remembered.
    fn recall(&self, keys: &[String]) -> Option<Found> {
        let (remembered, now_ms) = (self.remembered(), Clock::calendar_ms());
        let entries: Option<Vec<_>> = keys.iter().map(|key| remembered.get(key, now_ms).map(Some)).collect();
        let entries = entries?;
        let revision = entries.iter().flatten().map(|entry| entry.revision).max().unwrap_or_default();
        Some(Found { revision, entries, stale: true })
    }
}

/// Why there is no answer, as the catalog says it.
fn unreachable(error: &CallError, changes: bool) -> CatalogError {
    let sent = matches!(error, CallError::Link { error: LinkError::Lost | LinkError::Timeout(_), .. });
    CatalogError::Unreachable {
        reason: format!("the head does not answer: {error}"),
        retry_ms: RETRY_MS,
        maybe_done: changes && sent,
    }
}

/// The answer as what it must be, or the refusal that it is.
fn expect<T: TryFrom<Message, Error = Message>>(
    question: &Message,
    answer: Message,
) -> Result<T, CatalogError> {
    match answer {
        Message::CatalogRefused(refused) => Err(translate::error(refused)),
        Message::Failure(failure) => Err(error_of(failure)),
        answer => T::try_from(answer).map_err(|other| CatalogError::Elsewhere {
            message: format!("it answers {} with {}", question.name(), other.name()),
        }),
    }
}

fn error_of(failure: Failure) -> CatalogError {
    let Failure { code, message, .. } = failure;
    match code {
        FailureCode::Unavailable | FailureCode::Draining => {
            CatalogError::Unreachable { reason: message, retry_ms: RETRY_MS, maybe_done: false }
        }
        _ => CatalogError::Elsewhere { message },
    }
}

#[async_trait]
impl Catalog for RemoteCatalog {
    /// As above, once the head has taken this node in; zero before.
    fn cluster_id(&self) -> u64 {
        self.0.members.view().cluster
    }

    async fn get(&self, keys: &[String], consistency: Consistency) -> Result<Found, CatalogError> {
        check::keys(keys)?;
        let consistency_asked = translate::read_consistency(consistency);
        let question = CatalogGet { keys: keys.to_vec(), consistency: consistency_asked, snapshot: 0 };
        match self.0.read::<CatalogFound>(question).await {
            Ok(CatalogFound { revision, entries, stale }) => {
                let entries = entries_for(keys, entries)?;
                self.0.remember(keys, &entries);
                Ok(Found { revision, entries, stale })
            }
            Err(error @ CatalogError::Unreachable { .. }) if consistency == Consistency::One => {
                self.0.recall(keys).ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    async fn scan(&self, scan: &Scan, consistency: Consistency) -> Result<Page, CatalogError> {
        self.0.scan(scan, translate::read_consistency(consistency), 0).await
    }

    async fn count(&self, prefix: &str, consistency: Consistency) -> Result<u64, CatalogError> {
        check::prefix(prefix)?;
        let consistency = translate::read_consistency(consistency);
        let CatalogCounted { count } =
            self.0.read(CatalogCount { prefix: prefix.into(), consistency }).await?;
        Ok(count)
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, CatalogError> {
        let SnapshotOpened { snapshot, revision } = self.0.read(SnapshotOpen {}).await?;
        let runtime = tokio::runtime::Handle::current();
        Ok(Box::new(RemoteSnapshot { remote: self.0.clone(), number: snapshot, revision, runtime }))
    }

    async fn write(&self, write: Write) -> Result<Written, CatalogError> {
        let write = check::write(write)?.write;
        let count = write.operations.len();
        let keys: Vec<String> = write.operations.iter().map(|operation| operation.key().to_owned()).collect();
        let written = self.0.change(translate::write_to_wire(write)).await;
        // What was read before is not what there is, also when nobody knows whether the write was carried out.
        if matches!(&written, Ok(_) | Err(CatalogError::Unreachable { maybe_done: true, .. })) {
            let mut remembered = self.0.remembered();
            keys.iter().for_each(|key| remembered.forget(key));
        }
        let CatalogWritten { revision, versions } = written?;
        if versions.len() != count {
            return Err(miscounted());
        }
        Ok(Written { revision, versions })
    }

    async fn remove(&self, key: &str, recursive: bool) -> Result<u64, CatalogError> {
        plan::key::check_key(key)?;
        let question = KeyRemove { key: key.into(), recursive }.into();
        match self.0.ask(&question, Duration::ZERO, true).await? {
            Message::Failure(failure) if failure.code == FailureCode::NotFound => Ok(0),
            answer => expect(&question, answer).map(|KeyRemoved { count }| count),
        }
    }

    async fn changes(&self, start: Start, selector: Selector) -> Result<Box<dyn ChangeStream>, CatalogError> {
        let first = self.0.poll(translate::start_to_wire(start), &selector, Duration::ZERO).await?;
        let mut stream = RemoteChanges::new(self.0.clone(), selector);
        stream.take(first);
        Ok(Box::new(stream))
    }

    async fn open_leased(&self, key: &str) -> Result<Option<(Entry, u64)>, CatalogError> {
        plan::key::check_key(key)?;
        let CatalogLeased { entry, lease } = self.0.read(CatalogLease { key: key.into() }).await?;
        let entry = entry.map(translate::from_wire);
        self.0.remembered().note(key, entry.as_ref());
        Ok(entry.map(|entry| (entry, lease)))
    }

    async fn renew(&self, leases: &[u64]) -> Result<Vec<u64>, CatalogError> {
        let CatalogRenewed { gone } = self.0.read(CatalogRenew { leases: leases.to_vec() }).await?;
        Ok(gone)
    }

    async fn release(&self, lease: u64) -> Result<(), CatalogError> {
        self.0.change::<Done>(LeaseRelease { lease }).await.map(drop)
    }

    async fn references(&self, chunks: &[[u8; 32]]) -> Result<Vec<bool>, CatalogError> {
        let mut all = Vec::with_capacity(chunks.len());
        for batch in chunks.chunks(REFERENCES_MAX) {
            let question = ChunkReferences { chunks: batch.iter().map(|chunk| ChunkId(*chunk)).collect() };
            let ChunkReferenced { referenced } = self.0.read(question).await?;
            if referenced.len() != batch.len() {
                return Err(miscounted());
            }
            all.extend(referenced);
        }
        Ok(all)
    }

    /// The head sweeps; there is nothing to do here.
    async fn sweep(&self) -> Result<Swept, CatalogError> {
        Ok(Swept::default())
    }

    async fn keep_service(&self, name: &str, ttl_ms: u64) -> Result<(), CatalogError> {
        check::service(name)?;
        check::ttl(ttl_ms)?;
        self.0.change::<Done>(ServiceKeep { name: name.into(), ttl_ms }).await.map(drop)
    }

    async fn end_service(&self, name: &str) -> Result<u64, CatalogError> {
        check::service(name)?;
        let KeyRemoved { count } = self.0.change(ServiceEnd { name: name.into() }).await?;
        Ok(count)
    }

    async fn services(&self) -> Result<Vec<Service>, CatalogError> {
        let CatalogServiceListing { services } = self.0.read(CatalogServices {}).await?;
        let service = |record| {
            let ServiceRecord { name, ttl_ms, left_ms, keys } = record;
            Service { name, ttl_ms, left_ms, keys }
        };
        Ok(services.into_iter().map(service).collect())
    }
}

impl Remote {
    async fn scan(
        &self,
        scan: &Scan,
        consistency: ReadConsistency,
        snapshot: u64,
    ) -> Result<Page, CatalogError> {
        check::scan(scan)?;
        let Scan { prefix, after, limit, contents } = scan.clone();
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let question = CatalogScan { prefix, after, limit, contents, consistency, snapshot };
        let CatalogPage { revision, entries, next } = self.read(question).await?;
        Ok(Page { revision, entries: entries.into_iter().map(translate::from_wire).collect(), next })
    }
}

/// What a multi-get found, which must be as much as was asked for.
fn entries_for(
    keys: &[String],
    entries: Vec<Option<CatalogEntry>>,
) -> Result<Vec<Option<Entry>>, CatalogError> {
    if entries.len() != keys.len() {
        return Err(miscounted());
    }
    Ok(entries.into_iter().map(|entry| entry.map(translate::from_wire)).collect())
}

fn miscounted() -> CatalogError {
    CatalogError::Elsewhere {
        message: "it answers with another number of things than it was asked for".into(),
    }
}

/// A snapshot that the head keeps.
struct RemoteSnapshot {
    remote: Arc<Remote>,
    number: u64,
    revision: u64,
    runtime: tokio::runtime::Handle,
}

#[async_trait]
impl Snapshot for RemoteSnapshot {
    fn revision(&self) -> u64 {
        self.revision
    }

    async fn get(&self, keys: &[String]) -> Result<Vec<Option<Entry>>, CatalogError> {
        check::keys(keys)?;
        let consistency = ReadConsistency::Quorum;
        let question = CatalogGet { keys: keys.to_vec(), consistency, snapshot: self.number };
        let CatalogFound { entries, .. } =
            self.remote.read(question).await.map_err(|error| self.named(error))?;
        entries_for(keys, entries)
    }

    async fn scan(&self, scan: &Scan) -> Result<Page, CatalogError> {
        let page = self.remote.scan(scan, ReadConsistency::Quorum, self.number).await;
        page.map_err(|error| self.named(error))
    }
}

impl RemoteSnapshot {
    /// The head knows a snapshot that has ended by its number alone.
    fn named(&self, error: CatalogError) -> CatalogError {
        match error {
            CatalogError::SnapshotGone { .. } => CatalogError::SnapshotGone { revision: self.revision },
            error => error,
        }
    }
}

impl Drop for RemoteSnapshot {
    fn drop(&mut self) {
        let (remote, snapshot) = (self.remote.clone(), self.number);
        // When the head is away it ends by itself.
        self.runtime.spawn(async move {
            let _ = remote.read::<Done>(SnapshotClose { snapshot }).await;
        });
    }
}

/// Changes that the head is asked for again and again.
struct RemoteChanges {
    remote: Arc<Remote>,
    selector: Selector,
    /// Writes that have come and were not read yet.
    ready: VecDeque<Vec<Change>>,
    /// What has come is complete up to here.
    fetched: u64,
    position: u64,
}

impl RemoteChanges {
    fn new(remote: Arc<Remote>, selector: Selector) -> Self {
        remote.streams.fetch_add(1, Ordering::Relaxed);
        Self { remote, selector, ready: VecDeque::new(), fetched: 0, position: 0 }
    }

    fn take(&mut self, changed: CatalogChanged) {
        let changes: Vec<Change> = changed.changes.into_iter().map(translate::change).collect();
        let writes = changes.chunk_by(|left, right| left.revision == right.revision);
        self.ready.extend(writes.map(<[Change]>::to_vec));
        self.fetched = changed.position;
        // While something is ready, only what lies before it has been told.
        self.position = self.ready.front().map_or(self.fetched, |write| write[0].revision.saturating_sub(1));
    }

    async fn fetch(&mut self) -> Result<(), CatalogError> {
        let remote = self.remote.clone();
        let Ok(_turn) = remote.polls.acquire().await else { return Ok(()) };
        let in_turn = remote.streams.load(Ordering::Relaxed) > POLLS_AT_ONCE;
        let wait = if in_turn { POLL_IN_TURN } else { POLL };
        let changed = remote.poll(CatalogStart::After(self.fetched), &self.selector, wait).await?;
        self.take(changed);
        Ok(())
    }
}

#[async_trait]
impl ChangeStream for RemoteChanges {
    async fn next(&mut self) -> Result<Vec<Change>, CatalogError> {
        loop {
            if let Some(write) = self.ready.pop_front() {
                let done = self.ready.front().map(|next| next[0].revision.saturating_sub(1));
                self.position = done.unwrap_or(self.fetched);
                return Ok(write);
            }
            self.fetch().await?;
        }
    }

    fn position(&self) -> u64 {
        self.position
    }
}

impl Drop for RemoteChanges {
    fn drop(&mut self) {
        self.remote.streams.fetch_sub(1, Ordering::Relaxed);
    }
}
