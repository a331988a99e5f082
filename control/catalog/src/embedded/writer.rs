//! The thread that writes.
//!
//! It takes what has queued up, carries it out as one group, makes the group durable with one fsync, and only
//! then answers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Committed;
use super::fence::Fence;
use super::group::{Group, Proposal, Step};
use super::lease::Leases;
use super::rows::Rows;
use crate::error::CatalogError;
use crate::{GRACE_MS, REOPENED_GRACE_MS};

/// Requests that wait before callers must.
pub(crate) const QUEUE_LENGTH: usize = 256;
/// Requests that one group carries out.
const GROUP_LENGTH: usize = 256;

/// What callers and the writer share.
pub(crate) struct Shared {
    pub(crate) rows: Rows,
    leases: Mutex<Leases>,
}

impl Shared {
    pub(crate) fn new(rows: Rows, leases: Leases) -> Self {
        Self { rows, leases: Mutex::new(leases) }
    }

    pub(crate) fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something to write.
pub(crate) enum Request {
    /// Make `proposal` the next version of `key`.
    Commit {
        key: String,
        proposal: Proposal,
        expected_version: Option<u64>,
        now_ms: u64,
        reply: Reply<Committed>,
    },
    /// Remove `key`.
    Remove { key: String, now_ms: u64, reply: Reply<u64> },
    /// One step of removing `key` and what is below it.
    RemoveTree { key: String, after: Option<Vec<u8>>, now_ms: u64, reply: Reply<Step> },
    /// One step of a sweep.
    Sweep { after: Option<Vec<u8>>, now_ms: u64, reply: Reply<Step> },
}

pub(crate) type Reply<T> = flume::Sender<Result<T, CatalogError>>;

/// Answers a request when its group is written, or failed to be.
type Answer = Box<dyn FnOnce(Option<CatalogError>)>;

/// The state of the thread.
pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) queue: flume::Receiver<Request>,
    pub(crate) fence: Fence,
    /// The last revision on disk.
    pub(crate) revision: u64,
    /// When the catalog was opened, and the last revision at that time. The leases on versions up to then are lost.
    pub(crate) opened_ms: u64,
    pub(crate) opened_revision: u64,
}

impl Writer {
    /// Writes until all senders of the queue are gone.
    pub(crate) fn run(mut self) {
        let mut waiting = None;
        while let Some(first) = waiting.take().or_else(|| self.queue.recv().ok()) {
            waiting = self.write_group(first);
        }
        // The writes are on disk with or without it; the fence only makes sure that a loss is noticed.
        let _ = self.fence.advance(self.revision);
    }

    /// Writes one group; returns the request that was taken from the queue but must begin the next one.
    fn write_group(&mut self, first: Request) -> Option<Request> {
        let shared = self.shared.clone();
        let mut group = Group::new(&shared.rows, self.revision);
        let mut answers = vec![self.carry_out(&mut group, first)];
        let mut waiting = None;
        while answers.len() < GROUP_LENGTH && !group.is_full() {
            match self.queue.try_recv() {
                Ok(next) if next.scans() => {
                    waiting = Some(next);
                    break;
                }
                Ok(next) => answers.push(self.carry_out(&mut group, next)),
                Err(_) => break,
            }
        }
        let failed = group.write().map(|revision| self.revision = revision).err();
        answers.into_iter().for_each(|answer| answer(failed.clone()));
        waiting
    }

    fn carry_out(&mut self, group: &mut Group<'_>, request: Request) -> Answer {
        match request {
            Request::Commit { key, proposal, expected_version, now_ms, reply } => {
                answer(reply, group.commit(&key, &proposal, expected_version, now_ms))
            }
            Request::Remove { key, now_ms, reply } => answer(reply, group.remove(&key, now_ms)),
            Request::RemoveTree { key, after, now_ms, reply } => {
                answer(reply, group.remove_tree(&key, after, now_ms))
            }
            Request::Sweep { after, now_ms, reply } => answer(reply, self.sweep(group, after, now_ms)),
        }
    }

    fn sweep(
        &mut self,
        group: &mut Group<'_>,
        after: Option<Vec<u8>>,
        now_ms: u64,
    ) -> Result<Step, CatalogError> {
        self.fence.advance(self.revision)?;
        self.shared.leases().expire(now_ms);
        let Some(until_ms) = now_ms.checked_sub(GRACE_MS) else { return Ok(Step::default()) };
        let may_have_lost_leases = now_ms < self.opened_ms.saturating_add(REOPENED_GRACE_MS);
        let opened_revision = self.opened_revision;
        // Asking version by version is enough: a lease is granted only on a version that is current at that
        // moment, and what the group sees as retired never becomes current again.
        let is_leased = |revision| {
            (may_have_lost_leases && revision <= opened_revision) || self.shared.leases().holds(revision)
        };
        group.sweep(until_ms, is_leased, after)
    }
}

impl Request {
    /// Whether it reads rows that earlier requests of its group may have changed.
    fn scans(&self) -> bool {
        matches!(self, Request::RemoveTree { .. } | Request::Sweep { .. })
    }
}

/// A caller that has gone away misses its answer, nothing else.
fn answer<T: 'static>(reply: Reply<T>, outcome: Result<T, CatalogError>) -> Answer {
    Box::new(move |failed| {
        let _ = reply.send(failed.map_or(outcome, Err));
    })
}
