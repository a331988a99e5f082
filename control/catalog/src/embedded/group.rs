//! What a group of writes does, as one batch.
//!
//! Requests of one group see each other: what they have changed is kept beside the view that the group began
//! with, until it is written.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use plan::manifest::Manifest;

use super::Committed;
use super::rows::{
    Batch, Current, REVISION, Retired, Rows, Table, Version, View, number, retired_row, version_row,
};
use crate::MANIFEST_SIZE_MAX;
use crate::error::CatalogError;

/// Keys that one step of a recursive remove takes, and versions that one step of a sweep looks at.
const STEP_LENGTH: usize = 4096;
/// Bytes of records after which a group takes no further request.
const GROUP_SIZE: usize = 16 << 20;

/// What a reference count adds to a batch, in bytes.
const COUNT_SIZE: usize = 64;

/// A manifest that was checked, and what the catalog needs to know of it.
pub(crate) struct Proposal {
    bytes: Vec<u8>,
    size: u64,
    files: u64,
    chunks: BTreeSet<[u8; 32]>,
}

impl Proposal {
    pub(crate) fn check(key: &str, bytes: Vec<u8>) -> Result<Self, CatalogError> {
        if bytes.len() > MANIFEST_SIZE_MAX {
            return Err(CatalogError::ManifestSize { key: key.into(), size: bytes.len() });
        }
        let manifest =
            Manifest::decode(&bytes).map_err(|source| CatalogError::Manifest { key: key.into(), source })?;
        Ok(Self { size: manifest.size, files: manifest.file_count, chunks: chunks_of(&manifest), bytes })
    }
}

/// How far one step of a long operation got.
#[derive(Debug, Clone, Default)]
pub(crate) struct Step {
    /// How many keys or versions were dealt with.
    pub(crate) count: u64,
    /// The row after which the next step begins; `None` when it was the last.
    pub(crate) next: Option<Vec<u8>>,
    /// The first record that had to be left as it is.
    pub(crate) left: Option<CatalogError>,
}

/// Writes that become durable together.
pub(crate) struct Group<'a> {
    view: View<'a>,
    batch: Batch<'a>,
    slots: BTreeMap<String, Slot>,
    /// References of the chunks that the group has touched.
    counts: BTreeMap<[u8; 32], u64>,
    began_at: u64,
    revision: u64,
}

/// A key as the group has left it so far.
#[derive(Clone, Copy)]
struct Slot {
    current: Option<Current>,
    last_version: u64,
    /// Whether the table of buried keys has it.
    buried: bool,
    changed: bool,
}

impl<'a> Group<'a> {
    /// A group on top of `revision`.
    pub(crate) fn new(rows: &'a Rows, revision: u64) -> Self {
        let (slots, counts) = (BTreeMap::new(), BTreeMap::new());
        Self { view: rows.view(), batch: rows.batch(), slots, counts, began_at: revision, revision }
    }

    /// Whether no further request should be added.
    pub(crate) fn is_full(&self) -> bool {
        self.batch.size + self.counts.len() * COUNT_SIZE >= GROUP_SIZE
    }

    /// Makes the proposal the next version of the key.
    pub(crate) fn commit(
        &mut self,
        key: &str,
        proposal: &Proposal,
        expected_version: Option<u64>,
        now_ms: u64,
    ) -> Result<Committed, CatalogError> {
        let slot = self.slot(key)?;
        let found = slot.current.map_or(0, |current| current.version);
        if let Some(expected) = expected_version.filter(|&expected| expected != found) {
            return Err(CatalogError::Conflict { key: key.into(), expected, found });
        }
        proposal.chunks.iter().try_for_each(|chunk| self.count(chunk).map(drop))?;

        self.revision += 1;
        let (version, revision) = (slot.last_version.saturating_add(1), self.revision);
        self.retire(key, slot, now_ms);
        let row = Version { revision, created_ms: now_ms };
        self.batch.put_with_tail(Table::Versions, &version_row(key, version), &row, &proposal.bytes);
        for chunk in &proposal.chunks {
            *self.counts.entry(*chunk).or_default() += 1;
        }
        let Proposal { size, files, .. } = *proposal;
        let current = Some(Current { version, revision, created_ms: now_ms, size, files });
        self.slots.insert(key.into(), Slot { current, last_version: version, changed: true, ..slot });
        Ok(Committed { version, revision })
    }

    /// Removes the key; returns how many keys that were, 0 or 1.
    pub(crate) fn remove(&mut self, key: &str, now_ms: u64) -> Result<u64, CatalogError> {
        let slot = self.slot(key)?;
        if slot.current.is_none() {
            return Ok(0);
        }
        self.revision += 1;
        self.retire(key, slot, now_ms);
        self.slots.insert(key.into(), Slot { current: None, changed: true, ..slot });
        Ok(1)
    }

    /// One step of removing `key` and all `key/…`, going on after the row `after`. The group must have done
    /// nothing before.
    pub(crate) fn remove_tree(
        &mut self,
        key: &str,
        after: Option<Vec<u8>>,
        now_ms: u64,
    ) -> Result<Step, CatalogError> {
        let below = format!("{key}/").into_bytes();
        let from = after.as_deref().map_or(Bound::Included(&*below), Bound::Excluded);
        let rows = self.view.range::<Current>(Table::Current, from);
        let rows = rows.take_while(|row| row.as_ref().map_or(true, |(row, _)| row.starts_with(&below)));
        // Read before anything is removed, so that a damaged row leaves everything as it is.
        let rows = rows.take(STEP_LENGTH).collect::<Result<Vec<_>, _>>()?;
        let mut step = Step::default();
        if after.is_none() {
            step.count += self.remove(key, now_ms)?;
        }
        for (row, _) in &rows {
            step.count += self.remove(&String::from_utf8_lossy(row), now_ms)?;
        }
        step.next = rows.into_iter().nth(STEP_LENGTH - 1).map(|(row, _)| row);
        Ok(step)
    }

    /// One step of forgetting what was retired up to `until_ms` and has no lease on its revision, going on after
    /// the row `after`. The group must have done nothing before.
    pub(crate) fn sweep(
        &mut self,
        until_ms: u64,
        is_leased: impl Fn(u64) -> bool,
        after: Option<Vec<u8>>,
    ) -> Result<Step, CatalogError> {
        let mut step = Step::default();
        let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let rows = self.view.range_of_keys(Table::Retired, from);
        let due = rows.take_while(|row| row.as_ref().map_or(true, |row| number(row) <= until_ms));
        let due = due.take(STEP_LENGTH).collect::<Result<Vec<_>, _>>()?;
        let more = due.len() == STEP_LENGTH;
        for row in due {
            match self.forget(&row, &is_leased) {
                Ok(forgotten) => step.count += u64::from(forgotten),
                Err(error) => step.left = step.left.or(Some(error)),
            }
            step.next = Some(row);
            if self.is_full() {
                return Ok(step);
            }
        }
        step.next = step.next.filter(|_| more);
        Ok(step)
    }

    /// Writes all of it; returns the last revision.
    pub(crate) fn write(mut self) -> Result<u64, CatalogError> {
        for (key, slot) in self.slots.iter().filter(|(_, slot)| slot.changed) {
            let key = key.as_bytes();
            match slot.current {
                Some(current) => self.batch.put(Table::Current, key, &current),
                None => self.batch.remove(Table::Current, key),
            }
            match slot.current {
                Some(_) if slot.buried => self.batch.remove(Table::Buried, key),
                Some(_) => {}
                None => self.batch.put(Table::Buried, key, &slot.last_version),
            }
        }
        for (chunk, count) in &self.counts {
            match count {
                0 => self.batch.remove(Table::Chunks, chunk),
                count => self.batch.put(Table::Chunks, chunk, count),
            }
        }
        if self.revision != self.began_at {
            self.batch.put(Table::Meta, REVISION, &self.revision);
        }
        self.batch.write()?;
        Ok(self.revision)
    }

    fn slot(&self, key: &str) -> Result<Slot, CatalogError> {
        if let Some(slot) = self.slots.get(key) {
            return Ok(*slot);
        }
        let current: Option<Current> = self.view.get(Table::Current, key.as_bytes())?;
        let buried: Option<u64> = match current {
            Some(_) => None,
            None => self.view.get(Table::Buried, key.as_bytes())?,
        };
        let last_version = current.map(|current| current.version).or(buried).unwrap_or_default();
        Ok(Slot { current, last_version, buried: buried.is_some(), changed: false })
    }

    /// How many versions refer to the chunk; it is remembered for the end of the group.
    fn count(&mut self, chunk: &[u8; 32]) -> Result<u64, CatalogError> {
        if let Some(count) = self.counts.get(chunk) {
            return Ok(*count);
        }
        let count = self.view.get(Table::Chunks, chunk)?.unwrap_or_default();
        self.counts.insert(*chunk, count);
        Ok(count)
    }

    /// Notes that the key's current version, if any, is current no more, by the present revision.
    fn retire(&mut self, key: &str, slot: Slot, now_ms: u64) {
        let Some(Current { version, revision, .. }) = slot.current else { return };
        let retired = Retired { key: key.into(), version, revision };
        self.batch.put(Table::Retired, &retired_row(now_ms, self.revision), &retired);
    }

    /// Drops a retired version and its references, unless it is leased; returns whether it did.
    fn forget(&mut self, retired: &[u8], is_leased: impl Fn(u64) -> bool) -> Result<bool, CatalogError> {
        let damaged = |table: Table, row: &[u8]| CatalogError::Damaged { subject: table.subject(row) };
        let found: Option<Retired> = self.view.get(Table::Retired, retired)?;
        let Retired { key, version, revision } = found.ok_or_else(|| damaged(Table::Retired, retired))?;
        if is_leased(revision) {
            return Ok(false);
        }
        let row = version_row(&key, version);
        let found = self.view.get_with_tail::<Version>(Table::Versions, &row)?;
        let (_, manifest) = found.ok_or_else(|| damaged(Table::Versions, &row))?;
        let manifest =
            Manifest::decode(&manifest).map_err(|source| CatalogError::Manifest { key, source })?;
        let chunks = chunks_of(&manifest);
        for chunk in &chunks {
            if self.count(chunk)? == 0 {
                return Err(damaged(Table::Chunks, chunk));
            }
        }
        for chunk in chunks {
            self.counts.entry(chunk).and_modify(|count| *count -= 1);
        }
        self.batch.remove(Table::Versions, &row);
        self.batch.remove(Table::Retired, retired);
        Ok(true)
    }
}

fn chunks_of(manifest: &Manifest) -> BTreeSet<[u8; 32]> {
    manifest.all_chunks().map(|chunk| chunk.id).collect()
}
