//! How the mirror comes to be and goes on: everything is read once at one revision, then followed by a watch.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::client::CallError;
use super::core::Core;
use super::layout::Place;
use super::mirror::Mirror;
use super::proto::{KeyValue, RangeRequest};
use super::record::{Seen, revision};
use super::watch::{Told, Watch};
use crate::REOPENED_GRACE_MS;
use crate::error::CatalogError;

/// How long somebody waits for the mirror to see a revision.
const PATIENCE: Duration = Duration::from_millis(2400);
/// After so long a name of Shoal's is written, so that there is something to see: revisions may also be those of others who
/// use the same etcd.
const BEAT_AFTER: Duration = Duration::from_millis(30);
/// Pause after the mirror could not be built.
const PAUSE: Duration = Duration::from_millis(200);

impl Core {
    /// Builds the mirror and follows, for ever.
    pub(super) async fn follow(self: Arc<Self>) {
        loop {
            let Ok(at) = self.rebuild().await else {
                sleep(PAUSE).await;
                continue;
            };
            let mut watch = Watch::new(self.client.clone(), self.layout.everything(), at + 1);
            loop {
                match watch.next().await {
                    Told::Events(revision, events) => {
                        let events =
                            events.into_iter().filter_map(|event| Some((event.kind == 1, event.kv?)));
                        self.take(revision, events);
                    }
                    Told::Silence | Told::Away => {}
                    // What was retired meanwhile is not known: begin again.
                    Told::Compacted(_) => break,
                }
            }
        }
    }

    /// Reads everything that there is; at which revision.
    async fn rebuild(&self) -> Result<u64, CallError> {
        let now_ms = self.now_ms();
        let mut mirror = Mirror::new(now_ms.saturating_add(REOPENED_GRACE_MS));
        let (mut held, mut is_empty) = (Vec::new(), true);
        let mut pages = self.pages(self.layout.everything(), 0);
        while let Some(kvs) = pages.next(&self.client).await? {
            for kv in kvs {
                if let Place::Lease { revision, .. } = self.layout.place(&kv.key) {
                    held.push((revision, kv.value.clone()));
                }
                is_empty &= !matches!(self.layout.place(&kv.key), Place::Key(_));
                self.put_into(&mut mirror, &kv, now_ms);
            }
        }
        let at = pages.revision();
        for revision in mirror.leases_unknown() {
            let key = held.iter().find(|(held, _)| *held == revision);
            let key = key.and_then(|(_, key)| String::from_utf8(key.clone()).ok());
            let chunks = match key {
                Some(key) => self.chunks_at(&key, revision).await?,
                None => None,
            };
            mirror.retired_earlier(revision, chunks, now_ms);
        }
        mirror.begin_recent(at);
        if is_empty {
            mirror.see_all();
        }
        *self.mirror() = Some(mirror);
        self.reached.send_replace(at);
        Ok(at)
    }

    /// The chunks of a version that was retired; `None` when that cannot be told any more.
    async fn chunks_at(&self, key: &str, at: u64) -> Result<Option<Vec<[u8; 32]>>, CallError> {
        let request =
            RangeRequest { key: self.layout.key(key), revision: at as i64, ..RangeRequest::default() };
        let response = match self.client.range(request).await {
            Err(CallError::Refused(_)) => return Ok(None),
            response => response?,
        };
        let kv = response.kvs.first().filter(|kv| revision(kv.mod_revision) == at);
        Ok(kv.and_then(|kv| Seen::read(key, kv).ok()).and_then(|seen| seen.chunks()))
    }

    /// Takes the events of one revision: whether each is a deletion, and of what.
    fn take(&self, at: u64, events: impl Iterator<Item = (bool, KeyValue)>) {
        let now_ms = self.now_ms();
        let mut guard = self.mirror();
        let Some(mirror) = guard.as_mut() else { return };
        for (deleted, kv) in events {
            if !deleted {
                self.put_into(mirror, &kv, now_ms);
                continue;
            }
            match self.layout.place(&kv.key) {
                Place::Key(key) => {
                    mirror.purge(key, now_ms);
                    self.cache().remove(key);
                }
                Place::Service(name) => mirror.service(name, None),
                Place::Lease { node, revision } => mirror.lease(node, revision, false),
                Place::Mark(at_ms) => mirror.mark(at_ms, None),
                Place::Sweeper => mirror.set_sweeper(None),
                Place::Floor | Place::Node(_) | Place::Draining(_) | Place::Other => {}
            }
        }
        mirror.reached(at);
        drop(guard);
        self.reached.send_replace(at);
    }

    fn put_into(&self, mirror: &mut Mirror, kv: &KeyValue, now_ms: u64) {
        match self.layout.place(&kv.key) {
            Place::Key(key) => match Seen::read(key, kv) {
                Ok(seen) => {
                    mirror.put(key, &seen, now_ms);
                    self.cache().put(key, Arc::new(seen));
                }
                Err(_) => mirror.put_damaged(key, revision(kv.mod_revision), now_ms),
            },
            Place::Service(name) => mirror.service(name, Some(revision(kv.create_revision))),
            Place::Lease { node, revision } => mirror.lease(node, revision, true),
            Place::Mark(at_ms) => mirror.mark(at_ms, number(&kv.value)),
            Place::Sweeper => mirror.set_sweeper(number(&kv.value)),
            Place::Floor => mirror.set_floor(number(&kv.value).unwrap_or_default()),
            Place::Node(_) | Place::Draining(_) | Place::Other => {}
        }
    }

    /// Waits until the mirror has seen a revision.
    pub(super) async fn seen(&self, revision: u64) -> Result<(), CatalogError> {
        let mut reached = self.reached.subscribe();
        let begin = Instant::now();
        if timeout_at(begin + BEAT_AFTER, reached_revision(&mut reached, revision)).await.is_ok() {
            return Ok(());
        }
        self.put_unconditionally(self.layout.beat(), Vec::new()).await?;
        let late = || CallError::late("the catalog in etcd was not followed as far as needed").into();
        timeout_at(begin + PATIENCE, reached_revision(&mut reached, revision)).await.map_err(|_| late())
    }

    /// Waits until the mirror has seen everything that was written before this was called; which revision it is at least.
    pub(super) async fn seen_all(&self) -> Result<u64, CatalogError> {
        let revision = self.revision().await?;
        self.seen(revision).await?;
        Ok(revision)
    }
}

async fn reached_revision(reached: &mut tokio::sync::watch::Receiver<u64>, revision: u64) {
    // The sender lives as long as the core, which whoever waits holds.
    let _ = reached.wait_for(|reached| *reached >= revision).await;
}

/// A number as it is written in etcd; its bytes order as it does.
pub(super) fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}
