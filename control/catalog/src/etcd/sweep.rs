//! What one node does for all, about four times a second: it ends what is over, marks the time, and forgets what is old.
//!
//! The node that sweeps holds a name in etcd under a lease. All that it does is conditional on what it saw, so that two that
//! sweep at once do no harm.

use std::time::{Duration, Instant};

use super::core::{Core, OPS_MAX, created_by, holds_less, put, written_by};
use super::mirror::Victim;
use super::proto::{DeleteRangeRequest, Request, RequestOp, TxnRequest};
use super::record::Kind;
use crate::catalog::Swept;
use crate::error::CatalogError;

/// What the sweeper's lease lasts, in seconds.
const LEASE_S: u64 = 3;
/// How often it is renewed.
const RENEWAL: Duration = Duration::from_millis(LEASE_S * 1000 / 3);
/// Keys that are ended before the mirror is waited for.
const STEP: usize = 32 * OPS_MAX;
/// How often that is done in one sweep.
const STEPS_MAX: usize = 8;
/// Most marks of time that are kept, about: so many within the retention.
const MARKS: u64 = 60;
/// Least time between two marks, in milliseconds.
const MARK_MS_MIN: u64 = 200;

/// This node as the one that sweeps.
#[derive(Debug, Default)]
pub(super) struct Sweeper {
    lease: Option<(i64, Instant)>,
    /// When old history was dropped last.
    trimmed: Option<Instant>,
}

impl Core {
    pub(super) async fn sweep(&self) -> Result<Swept, CatalogError> {
        self.unmark().await;
        let forgotten = self.reflected(|mirror| {
            mirror.forget(self.now_ms());
            mirror.take_forgotten()
        })?;
        let mut swept = Swept { forgotten, ..Swept::default() };
        if !self.is_sweeper().await? {
            return Ok(swept);
        }
        // What was written before this sweep is part of it, however far the mirror lags behind.
        self.seen_all().await?;
        for _ in 0..STEPS_MAX {
            let (overdue, abandoned) =
                self.reflected(|mirror| (mirror.overdue("", self.now_ms(), STEP), mirror.abandoned(STEP)))?;
            if overdue.is_empty() && abandoned.is_empty() {
                break;
            }
            let expired = self.end(&overdue, Kind::Expired).await?;
            let ended = self.end(&abandoned, Kind::OwnerEnded).await?;
            swept.expired += expired;
            swept.abandoned += ended;
            self.seen_all().await?;
        }
        self.mark_time().await?;
        self.trim().await?;
        Ok(swept)
    }

    /// Whether this node is the one that sweeps, which it becomes when no other is.
    async fn is_sweeper(&self) -> Result<bool, CatalogError> {
        let mut sweeper = self.sweeper.lock().await;
        if let Some((lease, renewed)) = sweeper.lease {
            let begin = Instant::now();
            if renewed.elapsed() < RENEWAL {
                return Ok(true);
            }
            if self.client.keep_alive(lease).await? {
                sweeper.lease = Some((lease, begin));
                return Ok(true);
            }
            sweeper.lease = None;
        }
        if self.reflected(|mirror| mirror.sweeper())?.is_some() {
            return Ok(false);
        }
        let begin = Instant::now();
        let lease = self.client.grant(LEASE_S).await?;
        let name = self.layout.sweeper();
        let request = TxnRequest {
            compare: vec![created_by(name.clone(), 0)],
            success: vec![put(name, self.node.to_be_bytes().into(), lease)],
            failure: Vec::new(),
        };
        if self.client.txn(request).await?.response.succeeded {
            sweeper.lease = Some((lease, begin));
            return Ok(true);
        }
        self.client.revoke(lease).await?;
        Ok(false)
    }

    /// Lets another node sweep.
    pub(super) async fn give_up_sweeping(&self) {
        if let Some((lease, _)) = self.sweeper.lock().await.lease.take() {
            // It ends by itself otherwise.
            let _ = self.client.revoke(lease).await;
        }
    }

    /// Milliseconds between two marks of time.
    fn mark_ms(&self) -> u64 {
        (self.settings.retention_ms / MARKS).max(MARK_MS_MIN)
    }

    /// Writes which revision there is at this time.
    async fn mark_time(&self) -> Result<(), CatalogError> {
        let now_ms = self.now_ms();
        let last = self.reflected(|mirror| mirror.last_mark())?;
        if last.is_some_and(|(at_ms, _)| now_ms < at_ms.saturating_add(self.mark_ms())) {
            return Ok(());
        }
        let revision = self.revision().await?;
        let mark = self.put_unconditionally(self.layout.mark(now_ms), revision.to_be_bytes().into()).await?;
        self.seen(mark).await
    }

    /// Drops what is older than the retention: history, tombstones, marks.
    async fn trim(&self) -> Result<(), CatalogError> {
        let pause = Duration::from_millis(self.mark_ms());
        let mut sweeper = self.sweeper.lock().await;
        if sweeper.trimmed.is_some_and(|trimmed| trimmed.elapsed() < pause) {
            return Ok(());
        }
        let until_ms = self.now_ms().saturating_sub(self.settings.retention_ms);
        let old = self.reflected(|mirror| mirror.marks_until(until_ms).collect::<Vec<_>>())?;
        // The last of them stays: it says what there was at times after it.
        let Some(((_, floor), older)) = old.split_last() else { return Ok(()) };
        let request = TxnRequest {
            compare: vec![holds_less(self.layout.floor(), *floor)],
            success: vec![put(self.layout.floor(), floor.to_be_bytes().into(), 0)],
            failure: Vec::new(),
        };
        self.client.txn(request).await?;
        loop {
            let tombstones = self.reflected(|mirror| mirror.tombstones(*floor, STEP))?;
            if tombstones.is_empty() {
                break;
            }
            for step in tombstones.chunks(OPS_MAX) {
                self.purge(step).await?;
            }
            self.seen_all().await?;
        }
        let marks: Vec<Vec<u8>> = older.iter().map(|(at_ms, _)| self.layout.mark(*at_ms)).collect();
        for step in marks.chunks(OPS_MAX) {
            let success = step.iter().cloned().map(delete).collect();
            self.client.txn(TxnRequest { success, ..TxnRequest::default() }).await?;
        }
        self.client.compact(*floor).await?;
        sweeper.trimmed = Some(Instant::now());
        Ok(())
    }

    /// Removes tombstones. One whose key was written again makes all of them wait for the next time.
    async fn purge(&self, tombstones: &[Victim]) -> Result<(), CatalogError> {
        let names = || tombstones.iter().map(|it| self.layout.key(&it.key));
        let compare = names().zip(tombstones).map(|(name, it)| written_by(name, it.revision)).collect();
        let request = TxnRequest { compare, success: names().map(delete).collect(), failure: Vec::new() };
        self.client.txn(request).await?;
        Ok(())
    }
}

fn delete(key: Vec<u8>) -> RequestOp {
    RequestOp { request: Some(Request::Delete(DeleteRangeRequest { key, range_end: Vec::new() })) }
}
