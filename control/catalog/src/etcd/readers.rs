//! Who reads which version, for all nodes to see: one name in etcd for each version and node, under the node's lease. It is
//! written when a version is opened first, and stays a while after the last reader has gone.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::client::CallError;
use super::core::{Core, OPS_MAX, get, header_revision, put, ranges, written_by};
use super::proto::{DeleteRangeRequest, Request, RequestOp, TxnRequest};
use super::record::Seen;
use crate::embedded::lease::Leases;
use crate::entry::Entry;
use crate::error::CatalogError;
use crate::{LEASE_MS, LEASES_MAX};

/// What the node's lease in etcd lasts, in seconds: twice what readers are promised, so that a node that cannot reach etcd
/// for a while loses nothing.
const NODE_LEASE_S: u64 = 2 * LEASE_MS / 1000;
/// How often it is renewed.
const RENEWAL: Duration = Duration::from_secs(NODE_LEASE_S / 6);
/// A current version stays marked as read for so long after its last reader.
const LINGER_MS: u64 = 10_000;
/// How often names are looked through that nobody reads any more.
const TIDY: Duration = Duration::from_secs(1);
/// How often a key is opened anew that others write meanwhile.
const OPENINGS_MAX: usize = 32;

/// The readers of this node.
pub(super) struct Readers {
    table: Mutex<Table>,
    /// Held while the node's lease is granted or renewed.
    node_lease: tokio::sync::Mutex<Option<NodeLease>>,
    /// Held while names are removed, so that a sweep finds gone what another has begun to remove.
    unmarking: tokio::sync::Mutex<()>,
}

struct Table {
    leases: Leases,
    /// Versions whose name is in etcd.
    marked: BTreeMap<u64, Mark>,
}

/// That a name for a version is in etcd.
struct Mark {
    key: String,
    version: u64,
    /// The revision that wrote the name. A name is removed only as what it was written, so that an old removal that arrives
    /// late does not remove a later one.
    written: u64,
    /// Since when nobody reads the version.
    unread_since_ms: Option<u64>,
}

#[derive(Clone, Copy)]
struct NodeLease {
    id: i64,
    renewed: Instant,
}

impl Readers {
    /// None yet; `first` is the number of the first lease.
    pub(super) fn new(first: u64) -> Self {
        let table = Table { leases: Leases::new(first), marked: BTreeMap::new() };
        Self {
            table: Mutex::new(table),
            node_lease: tokio::sync::Mutex::default(),
            unmarking: tokio::sync::Mutex::default(),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Core {
    pub(super) async fn open_leased(&self, key: &str) -> Result<Option<(Entry, u64)>, CatalogError> {
        let keys = [key.to_owned()];
        crate::check::keys(&keys)?;
        let (_, found) = self.fetch(&keys, 0, false).await?;
        let mut found = found.into_iter().next().flatten();
        for _ in 0..OPENINGS_MAX {
            let Some(seen) = found.filter(|seen| seen.record.is_live(self.now_ms())) else { return Ok(None) };
            if let Some(opened) = self.grant(key, &seen)? {
                return Ok(Some(opened));
            }
            found = match self.mark(key, &seen).await? {
                Marked::Done => Some(seen),
                Marked::Superseded(next) => next,
            };
        }
        Err(CallError::late(format!("key '{key}' was written again and again while it was opened")).into())
    }

    pub(super) fn renew(&self, leases: &[u64]) -> Vec<u64> {
        let (now_ms, mut table) = (self.now_ms(), self.readers.table());
        leases.iter().copied().filter(|&lease| !table.leases.renew(lease, now_ms)).collect()
    }

    pub(super) fn release(&self, lease: u64) {
        self.readers.table().leases.release(lease);
    }

    /// A lease, if the version is marked for all nodes to see, or has no chunks, so that nothing of it could go.
    fn grant(&self, key: &str, seen: &Seen) -> Result<Option<(Entry, u64)>, CatalogError> {
        let free = seen.chunks().is_some_and(|chunks| chunks.is_empty());
        let mut table = self.readers.table();
        match table.marked.get_mut(&seen.revision) {
            Some(mark) => mark.unread_since_ms = None,
            None if free => {}
            None => return Ok(None),
        }
        let lease =
            table.leases.grant(key, seen.record.version, self.now_ms()).ok_or(CatalogError::Leases)?;
        Ok(Some((seen.clone().entry(key, true), lease)))
    }

    /// Marks a version as read, if it is the current one.
    async fn mark(&self, key: &str, seen: &Seen) -> Result<Marked, CatalogError> {
        if self.readers.table().marked.len() >= LEASES_MAX {
            return Err(CatalogError::Leases);
        }
        let lease = self.node_lease().await?;
        let name = self.layout.key(key);
        let request = TxnRequest {
            compare: vec![written_by(name.clone(), seen.revision)],
            success: vec![put(self.layout.lease(self.node, seen.revision), key.into(), lease)],
            failure: vec![get(name)],
        };
        let response = match self.client.txn(request).await {
            Err(CallError::Refused(status)) if status.code() == tonic::Code::NotFound => {
                self.lost_lease().await;
                return Err(CallError::late("this node's lease in etcd was lost").into());
            }
            answer => answer?.response,
        };
        if response.succeeded {
            let mark = Mark {
                key: key.into(),
                version: seen.record.version,
                written: header_revision(&response),
                unread_since_ms: None,
            };
            self.readers.table().marked.insert(seen.revision, mark);
            return Ok(Marked::Done);
        }
        let kvs = ranges(response.responses).next().unwrap_or_default();
        Ok(Marked::Superseded(kvs.first().map(|kv| Seen::read(key, kv)).transpose()?))
    }

    /// The node's lease in etcd, which is granted when there is none.
    async fn node_lease(&self) -> Result<i64, CatalogError> {
        let mut known = self.readers.node_lease.lock().await;
        if let Some(lease) = *known {
            return Ok(lease.id);
        }
        let renewed = Instant::now();
        let id = self.client.grant(NODE_LEASE_S).await?;
        *known = Some(NodeLease { id, renewed });
        Ok(id)
    }

    /// The node's lease is gone, and all marks with it: readers must open anew.
    async fn lost_lease(&self) {
        *self.readers.node_lease.lock().await = None;
        let mut table = self.readers.table();
        table.marked.clear();
        table.leases.end_all();
    }

    /// Keeps the node's lease, and drops marks of what nobody reads; for ever.
    pub(super) async fn keep_readers(self: std::sync::Arc<Self>) {
        loop {
            tokio::time::sleep(TIDY).await;
            // Where nothing has been read yet there is nothing to forget.
            let _ = self.reflected(|mirror| mirror.forget(self.now_ms()));
            self.unmark().await;
            let known = *self.readers.node_lease.lock().await;
            let Some(lease) = known.filter(|lease| lease.renewed.elapsed() >= RENEWAL) else { continue };
            let begin = Instant::now();
            match self.client.keep_alive(lease.id).await {
                Ok(true) => {
                    *self.readers.node_lease.lock().await = Some(NodeLease { renewed: begin, ..lease })
                }
                Ok(false) => self.lost_lease().await,
                // It will be tried again in a moment.
                Err(_) => {}
            }
        }
    }

    /// Removes the names of versions that nobody reads: at once of those that nobody can open any more, of others after a while.
    pub(super) async fn unmark(&self) {
        let _alone = self.readers.unmarking.lock().await;
        for (revision, written) in self.unread() {
            let name = self.layout.lease(self.node, revision);
            let delete = DeleteRangeRequest { key: name.clone(), range_end: Vec::new() };
            let request = TxnRequest {
                compare: vec![written_by(name, written)],
                success: vec![RequestOp { request: Some(Request::Delete(delete)) }],
                failure: Vec::new(),
            };
            // Names that stay end with the node's lease.
            let Ok(answer) = self.client.txn(request).await else { return };
            if self.seen(header_revision(&answer.response)).await.is_err() {
                return;
            }
        }
    }

    /// Versions that nobody reads, and which revisions wrote their names. Whoever opens one of them from here on writes its name again.
    fn unread(&self) -> Vec<(u64, u64)> {
        let (now_ms, mut table) = (self.now_ms(), self.readers.table());
        table.leases.expire(now_ms);
        let Table { leases, marked } = &mut *table;
        for mark in marked.values_mut() {
            mark.unread_since_ms = match mark.unread_since_ms {
                _ if leases.holds(&mark.key, mark.version) => None,
                None => Some(now_ms),
                since => since,
            };
        }
        let mirror = self.mirror();
        let is_retired = |revision| mirror.as_ref().is_some_and(|mirror| mirror.is_retired(revision));
        let unread = marked.iter().filter(|(revision, mark)| {
            let over = |since_ms: u64| since_ms.saturating_add(LINGER_MS) <= now_ms || is_retired(**revision);
            mark.unread_since_ms.is_some_and(over)
        });
        let unread: Vec<u64> = unread.map(|(revision, _)| *revision).take(OPS_MAX).collect();
        unread
            .into_iter()
            .filter_map(|revision| Some((revision, marked.remove(&revision)?.written)))
            .collect()
    }

    /// Gives up what this node holds in etcd, as it ends.
    pub(super) async fn close(&self) {
        let known = self.readers.node_lease.lock().await.take();
        if let Some(lease) = known {
            // It ends by itself otherwise.
            let _ = self.client.revoke(lease.id).await;
        }
        self.give_up_sweeping().await;
    }
}

/// What became of marking a version.
enum Marked {
    Done,
    /// The key has another version, or none.
    Superseded(Option<Seen>),
}
