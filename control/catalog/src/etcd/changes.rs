//! The change stream: a watch from a revision, whose events are what was written.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use tokio::task::AbortHandle;

use super::core::Core;
use super::layout::Place;
use super::proto::{Event, RangeRequest};
use super::record::Seen;
use super::runtime::Runtime;
use super::watch::{Told, Watch};
use crate::change::{Change, ChangeStream, Selector, Start};
use crate::check::invalid;
use crate::error::CatalogError;
use crate::selection::Selection;

/// Writes that are held for a reader who is slow. More stay in etcd.
const QUEUE_LENGTH: usize = 4;

/// A stream of changes.
pub(super) struct Changes {
    queue: flume::Receiver<Result<Vec<Change>, CatalogError>>,
    /// The revision of what was given last.
    given: u64,
    quiet: Arc<AtomicU64>,
    ended: Option<CatalogError>,
    watching: AbortHandle,
    /// Where the watch runs.
    _runtime: Arc<Runtime>,
}

/// What feeds a stream.
struct Watching {
    core: Arc<Core>,
    watch: Watch,
    selection: Selection,
    /// The last revision that was looked at.
    position: u64,
    /// Changes before this time are left out, until one after it has come.
    since_ms: u64,
    queue: flume::Sender<Result<Vec<Change>, CatalogError>>,
    /// Up to which revision everything selected is in the queue, or nothing was.
    quiet: Arc<AtomicU64>,
}

impl Changes {
    /// Begins to watch.
    pub(super) async fn begin(
        core: Arc<Core>,
        runtime: Arc<Runtime>,
        start: Start,
        selector: Selector,
    ) -> Result<Self, CatalogError> {
        let selection = Selection::new(selector)?;
        let (after, since_ms) = match start {
            Start::Now => (core.revision().await?, 0),
            Start::After(after) => {
                if after > core.revision().await? {
                    return Err(invalid(
                        "the revision after which changes begin",
                        &after.to_string(),
                        "the catalog has not come so far",
                    ));
                }
                (after, 0)
            }
            Start::At(at_ms) => (core.revision_at(at_ms).await?, at_ms),
        };
        let range = match &selection {
            Selection::Key(key) => RangeRequest { key: core.layout.key(key), ..RangeRequest::default() },
            selection => core.layout.keys(selection.prefix()),
        };
        let watch = Watch::new(core.client.clone(), range, after + 1);
        let (sender, queue) = flume::bounded(QUEUE_LENGTH);
        let quiet = Arc::new(AtomicU64::new(after));
        let watching = Watching {
            core,
            watch,
            selection,
            position: after,
            since_ms,
            queue: sender,
            quiet: quiet.clone(),
        };
        let watching = runtime.keep(watching.run());
        Ok(Self { queue, given: after, quiet, ended: None, watching, _runtime: runtime })
    }
}

impl Core {
    /// A revision after which everything was written that was at a time or later.
    async fn revision_at(&self, at_ms: u64) -> Result<u64, CatalogError> {
        self.seen_all().await?;
        let mark = self.reflected(|mirror| mirror.marks_until(at_ms).next_back())?;
        // Without a mark from before, all that is kept must be looked through.
        let keep_ms = self.settings.retention_ms;
        match mark {
            Some((_, revision)) => Ok(revision),
            None if at_ms < self.now_ms().saturating_sub(keep_ms) => Ok(0),
            None => Ok(self.reflected(|mirror| mirror.floor())?.saturating_sub(1)),
        }
    }
}

impl Watching {
    async fn run(mut self) {
        loop {
            let item = match self.watch.next().await {
                Told::Events(revision, events) => {
                    self.position = self.position.max(revision);
                    self.selected(events)
                }
                Told::Silence => {
                    self.look_around();
                    continue;
                }
                Told::Away => continue,
                Told::Compacted(kept) => {
                    Err(CatalogError::ChangesGone { asked: self.position, kept: kept.saturating_sub(1) })
                }
            };
            let ends = item.is_err();
            let something = item.as_ref().map_or(true, |changes| !changes.is_empty());
            if something && self.queue.send_async(item).await.is_err() || ends {
                return;
            }
            self.quiet.store(self.position, Ordering::Release);
        }
    }

    fn selected(&mut self, events: Vec<Event>) -> Result<Vec<Change>, CatalogError> {
        let mut changes = Vec::new();
        // What etcd deletes are tombstones whose time is over.
        for kv in events.into_iter().filter(|event| event.kind == 0).filter_map(|event| event.kv) {
            let Place::Key(key) = self.core.layout.place(&kv.key) else { continue };
            if self.selection.has(key) {
                changes.push(Seen::read(key, &kv)?.change(key));
            }
        }
        if changes.iter().any(|change| change.at_ms >= self.since_ms) {
            self.since_ms = 0;
        }
        Ok(if self.since_ms == 0 { changes } else { Vec::new() })
    }

    /// Nothing has come for a while: perhaps nothing was written that is selected.
    fn look_around(&mut self) {
        let (position, selection) = (self.position, &self.selection);
        let quiet_until = self.core.mirror().as_ref().and_then(|mirror| {
            mirror.is_quiet_since(position, |key| selection.has(key)).then(|| mirror.revision())
        });
        if let Some(revision) = quiet_until.filter(|revision| *revision > position) {
            self.position = revision;
            self.watch.skip_to(revision + 1);
            self.quiet.store(revision, Ordering::Release);
        }
    }
}

#[async_trait]
impl ChangeStream for Changes {
    async fn next(&mut self) -> Result<Vec<Change>, CatalogError> {
        if let Some(error) = &self.ended {
            return Err(error.clone());
        }
        match self.queue.recv_async().await.unwrap_or(Err(CatalogError::Stopped)) {
            Ok(changes) => {
                self.given = changes.last().map_or(self.given, |change| change.revision);
                Ok(changes)
            }
            Err(error) => Err(self.ended.insert(error).clone()),
        }
    }

    fn position(&self) -> u64 {
        // In this order: what was put into the queue before is seen in it.
        let quiet = self.quiet.load(Ordering::Acquire);
        if self.queue.is_empty() { quiet.max(self.given) } else { self.given }
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.watching.abort();
    }
}
