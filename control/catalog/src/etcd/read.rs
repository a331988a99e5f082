//! Reads: of keys, of pages, of counts, and of the catalog as it was.

use std::collections::VecDeque;
use std::sync::Arc;

use plan::key::check_key;

use super::client::{CallError, Client};
use super::core::{Core, OPS_MAX, get, header_revision, ranges};
use super::proto::{KeyValue, RangeRequest, Request, TxnRequest};
use super::record::{Seen, revision};
use crate::check;
use crate::entry::Entry;
use crate::error::CatalogError;
use crate::read::{Consistency, Found, Page, SCAN_LIMIT_MAX, SCAN_SIZE_MAX, Scan};
use crate::write::{Operation, Write};

/// Names of the first page of a long read; how long the next ones are follows from its size.
const PAGE_LENGTH_MIN: u64 = 16;
/// Most names of a page.
const PAGE_LENGTH_MAX: u64 = 4096;
/// What a page should have, in bytes.
const PAGE_SIZE: usize = 4 << 20;

/// A long read, page by page, all at one revision.
pub(super) struct Pages {
    request: RangeRequest,
    /// 0 until the first page has come, unless it was given.
    revision: u64,
    done: bool,
}

impl Pages {
    /// Of a range, at a revision or (0) at the last.
    pub(super) fn new(range: RangeRequest, at: u64, serializable: bool) -> Self {
        let limit = PAGE_LENGTH_MIN as i64;
        Self { request: RangeRequest { limit, serializable, ..range }, revision: at, done: false }
    }

    /// The revision, once there was a page.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// The next page; `None` after the last.
    pub(super) async fn next(&mut self, client: &Client) -> Result<Option<Vec<KeyValue>>, CallError> {
        if self.done {
            return Ok(None);
        }
        self.request.revision = self.revision as i64;
        let response = client.page(self.request.clone()).await?;
        if self.revision == 0 {
            self.revision = revision(response.header.unwrap_or_default().revision);
        }
        self.done = !response.more;
        if let Some(last) = response.kvs.last() {
            self.request.key = [&last.key[..], &[0]].concat();
            let size: usize = response.kvs.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
            let fit = (PAGE_SIZE / (size / response.kvs.len()).max(1)) as u64;
            self.request.limit = fit.clamp(PAGE_LENGTH_MIN, PAGE_LENGTH_MAX) as i64;
        }
        Ok(Some(response.kvs))
    }
}

impl Core {
    /// All of a range, at a revision or (0) at the last.
    pub(super) fn pages(&self, range: RangeRequest, at: u64) -> Pages {
        Pages::new(range, at, false)
    }

    pub(super) async fn get(&self, keys: &[String], consistency: Consistency) -> Result<Found, CatalogError> {
        check::keys(keys)?;
        let one = consistency == Consistency::One;
        if one
            && self.client.is_away()
            && let Some(found) = self.remembered(keys)
        {
            return Ok(found);
        }
        match self.fetch(keys, 0, one).await {
            Ok((revision, seen)) => {
                let entries = entries(keys, seen, self.now_ms());
                Ok(Found { revision, entries, stale: false })
            }
            Err(CatalogError::Unreachable { .. }) if one && let Some(found) = self.remembered(keys) => {
                Ok(found)
            }
            Err(error) => Err(error),
        }
    }

    /// What etcd has for keys, at a revision or (0) at the last; which that is.
    pub(super) async fn fetch(
        &self,
        keys: &[String],
        mut at: u64,
        serializable: bool,
    ) -> Result<(u64, Vec<Option<Seen>>), CatalogError> {
        let mut seen = Vec::with_capacity(keys.len());
        for keys in keys.chunks(OPS_MAX) {
            let ops = keys.iter().map(|key| {
                let mut op = get(self.layout.key(key));
                if let Some(Request::Range(range)) = &mut op.request {
                    (range.revision, range.serializable) = (at as i64, serializable);
                }
                op
            });
            let request = TxnRequest { success: ops.collect(), ..TxnRequest::default() };
            let response = match serializable {
                true => self.client.txn_soon(request).await?,
                false => self.client.txn(request).await.map_err(|error| reading(error, at))?.response,
            };
            at = if at == 0 { header_revision(&response) } else { at };
            for (key, kvs) in keys.iter().zip(ranges(response.responses)) {
                let found = kvs.first().map(|kv| Seen::read(key, kv)).transpose()?;
                if let Some(found) = &found {
                    self.cache().put(key, Arc::new(found.clone()));
                }
                seen.push(found);
            }
        }
        if at == 0 {
            at = self.revision().await?;
        }
        Ok((at, seen))
    }

    /// What is remembered of all keys, if it is of each.
    fn remembered(&self, keys: &[String]) -> Option<Found> {
        let (now_ms, mut cache) = (self.now_ms(), self.cache());
        let entries = keys.iter().map(|key| match cache.get(key) {
            Some(seen) if seen.record.is_live(now_ms) => Some(Some(Seen::clone(&seen).entry(key, true))),
            Some(_) => Some(None),
            None => None,
        });
        let entries: Option<Vec<Option<Entry>>> = entries.collect();
        drop(cache);
        let revision = self.mirror().as_ref().map_or(0, |mirror| mirror.revision());
        Some(Found { revision, entries: entries?, stale: true })
    }

    pub(super) async fn scan(&self, scan: &Scan, consistency: Consistency) -> Result<Page, CatalogError> {
        self.scan_at(scan, 0, self.now_ms(), consistency == Consistency::One).await
    }

    /// A page at a revision or (0) at the last, without what had expired at a time.
    pub(super) async fn scan_at(
        &self,
        scan: &Scan,
        at: u64,
        now_ms: u64,
        serializable: bool,
    ) -> Result<Page, CatalogError> {
        check::scan(scan)?;
        let mut range = self.layout.keys(&scan.prefix);
        if let Some(after) = &scan.after {
            let mut name = self.layout.key(after);
            name.push(0);
            range.key = range.key.max(name);
        }
        if range.key >= range.range_end {
            let revision = if at == 0 { self.revision().await? } else { at };
            return Ok(Page { revision, entries: Vec::new(), next: None });
        }
        let mut pages = Pages::new(range, at, serializable);
        let (limit, mut size) = (scan.limit.min(SCAN_LIMIT_MAX), 0);
        let mut page = Page { revision: at, entries: Vec::new(), next: None };
        while let Some(kvs) = pages.next(&self.client).await.map_err(|error| reading(error, at))? {
            page.revision = pages.revision();
            for (key, seen) in self.live(kvs, now_ms)? {
                let more = if scan.contents { seen.content.len() } else { 0 };
                let full = page.entries.len() >= limit || size + more > SCAN_SIZE_MAX;
                if full && let Some(last) = page.entries.last() {
                    page.next = Some(last.key.clone());
                    return Ok(page);
                }
                size += more;
                page.entries.push(seen.entry(&key, scan.contents));
            }
        }
        Ok(page)
    }

    /// Those of a page that are there at a time.
    fn live(&self, kvs: Vec<KeyValue>, now_ms: u64) -> Result<VecDeque<(String, Seen)>, CatalogError> {
        let mut live = VecDeque::new();
        for kv in kvs {
            let super::layout::Place::Key(key) = self.layout.place(&kv.key) else { continue };
            let seen = Seen::read(key, &kv)?;
            if seen.record.is_live(now_ms) {
                live.push_back((key.to_owned(), seen));
            }
        }
        Ok(live)
    }

    pub(super) async fn count(&self, prefix: &str) -> Result<u64, CatalogError> {
        check::prefix(prefix)?;
        self.seen_all().await?;
        // What etcd counts has tombstones in it, which the mirror knows at its own revision.
        let (at, dead) = self.reflected(|mirror| (mirror.revision(), mirror.dead(prefix, self.now_ms())))?;
        let range = RangeRequest { count_only: true, revision: at as i64, ..self.layout.keys(prefix) };
        let count = revision(self.client.page(range).await.map_err(|error| reading(error, at))?.count);
        Ok(count.saturating_sub(dead))
    }

    pub(super) async fn remove(&self, key: &str, recursive: bool) -> Result<u64, CatalogError> {
        check_key(key)?;
        let mut removed = self.remove_step(vec![key.to_owned()]).await?;
        if !recursive {
            return Ok(removed);
        }
        let mut pages = self.pages(self.layout.keys(&format!("{key}/")), 0);
        while let Some(kvs) = pages.next(&self.client).await? {
            let keys: Vec<String> = self.live(kvs, self.now_ms())?.into_iter().map(|(key, _)| key).collect();
            for keys in keys.chunks(OPS_MAX) {
                removed += self.remove_step(keys.to_vec()).await?;
            }
        }
        Ok(removed)
    }

    async fn remove_step(&self, keys: Vec<String>) -> Result<u64, CatalogError> {
        let operations = keys.into_iter().map(|key| Operation::Delete { key }).collect();
        let written = self.write(Write { conditions: Vec::new(), operations }).await?;
        Ok(written.versions.iter().filter(|version| **version > 0).count() as u64)
    }
}

/// The entries of keys that are there at a time.
pub(super) fn entries(keys: &[String], seen: Vec<Option<Seen>>, now_ms: u64) -> Vec<Option<Entry>> {
    let live = seen.into_iter().map(|seen| seen.filter(|seen| seen.record.is_live(now_ms)));
    keys.iter().zip(live).map(|(key, seen)| Some(seen?.entry(key, true))).collect()
}

/// Why a read at a revision failed.
pub(super) fn reading(error: CallError, at: u64) -> CatalogError {
    if error.is_compacted() { CatalogError::SnapshotGone { revision: at } } else { error.into() }
}
