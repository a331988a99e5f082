//! A write within a group: conditions, then operations, all or nothing.

use std::collections::BTreeSet;
use std::ops::Bound;

use plan::manifest::Manifest;

use super::group::{Group, Proposal};
use super::rows::{Logged, Place, Table, change_row, key_of_expiry, number};
use crate::change::ChangeKind;
use crate::check::{Checked, Described};
use crate::entry::Content;
use crate::error::CatalogError;
use crate::write::{Condition, Expiry, Operation, Put, Written};

/// Most records that a condition on a prefix reads from disk; one that would take more is taken for broken.
const CONDITION_READS_MAX: usize = 10_000;

/// An operation that can be carried out.
enum Planned {
    Put(String, Proposal),
    /// With the version that goes.
    Delete(String, u64),
    Nothing,
}

impl Group<'_> {
    /// Carries out a write, or changes nothing but the end of keys that had expired.
    pub(crate) fn carry_out(&mut self, checked: Checked) -> Result<Written, CatalogError> {
        let Checked { write, described } = checked;
        write.conditions.iter().try_for_each(|condition| self.check(condition))?;
        let operations = write.operations.into_iter().zip(described);
        let planned = operations.map(|(operation, described)| self.plan(operation, described));
        let planned = planned.collect::<Result<Vec<_>, _>>()?;
        if planned.iter().any(|planned| !matches!(planned, Planned::Nothing)) {
            self.begin();
        }
        let versions = planned.into_iter().map(|planned| match planned {
            Planned::Put(key, proposal) => self.put(&key, proposal),
            Planned::Delete(key, version) => {
                self.end(&key, |version| ChangeKind::Delete { version });
                version
            }
            Planned::Nothing => 0,
        });
        let versions = versions.collect();
        Ok(Written { revision: self.state.revision, versions })
    }

    fn check(&mut self, condition: &Condition) -> Result<(), CatalogError> {
        match condition {
            Condition::Version { key, version: expected } => match self.version(key)? {
                found if found == *expected => Ok(()),
                found => Err(CatalogError::Conflict { key: key.clone(), expected: *expected, found }),
            },
            Condition::Unchanged { prefix, exact, revision } => {
                let changed = match exact {
                    true => self.live(prefix)?.touched > *revision,
                    false => self.is_changed(prefix, *revision)?,
                };
                let error = || CatalogError::Changed { prefix: prefix.clone(), revision: *revision };
                if changed { Err(error()) } else { Ok(()) }
            }
        }
    }

    fn version(&mut self, key: &str) -> Result<u64, CatalogError> {
        Ok(self.live(key)?.current.as_ref().map_or(0, |current| current.version))
    }

    /// Whether any key that begins with `prefix` was changed after `revision`.
    fn is_changed(&mut self, prefix: &str, revision: u64) -> Result<bool, CatalogError> {
        if !self.end_due(prefix)? || self.has_changed(prefix, revision) {
            return Ok(true);
        }
        let shared = self.shared;
        let (after, kept_after) = {
            let recent = shared.recent();
            let mut since =
                recent.since(revision.max(recent.after())).flat_map(|recorded| &*recorded.changes);
            if since.any(|change| change.key.starts_with(prefix)) {
                return Ok(true);
            }
            (recent.after(), self.state.kept_after)
        };
        if revision >= after {
            return Ok(false);
        }
        if revision < kept_after {
            return Ok(true);
        }
        let from = change_row(revision + 1, 0);
        let logged = self.view.range::<Logged>(Table::Changes, Bound::Included(&from));
        let logged = logged.take_while(|row| row.as_ref().map_or(true, |(row, ..)| number(row) <= after));
        for (count, row) in logged.enumerate() {
            if count == CONDITION_READS_MAX || row?.1.key.starts_with(prefix) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Writes down the end of keys that begin with `prefix` and have expired; whether those were all.
    fn end_due(&mut self, prefix: &str) -> Result<bool, CatalogError> {
        let now_ms = self.now_ms;
        let rows = self.view.range_of_keys(Table::Expiries, Bound::Unbounded);
        let due = rows.take_while(|row| row.as_ref().map_or(true, |row| number(row) <= now_ms));
        let due = due.take(CONDITION_READS_MAX).collect::<Result<Vec<_>, _>>()?;
        let all = due.len() < CONDITION_READS_MAX;
        for key in due.iter().map(|row| key_of_expiry(row)).filter(|key| key.starts_with(prefix)) {
            self.live(&key)?;
        }
        Ok(all)
    }

    fn plan(&mut self, operation: Operation, described: Described) -> Result<Planned, CatalogError> {
        match operation {
            Operation::Put(put) => self.plan_put(put, described),
            Operation::Delete { key } => match self.version(&key)? {
                0 => Ok(Planned::Nothing),
                version => Ok(Planned::Delete(key, version)),
            },
            Operation::Expire { key, when } => self.plan_expiry(key, when),
        }
    }

    fn plan_put(&mut self, put: Put, described: Described) -> Result<Planned, CatalogError> {
        let Put { key, content, ttl_ms, owner, labels } = put;
        let now_ms = self.now_ms;
        if let Some(name) = owner.as_ref().filter(|name| !self.shared.services().lives(name, now_ms)) {
            return Err(CatalogError::NoService { name: name.clone() });
        }
        self.live(&key)?;
        let Described { size, files, chunks } = described;
        chunks.iter().try_for_each(|chunk| self.count(chunk).map(drop))?;
        let (content, is_manifest) = match content {
            Content::Value(content) => (content, false),
            Content::Manifest(content) => (content, true),
        };
        let expires_ms = ttl_ms.map(|ttl_ms| now_ms.saturating_add(ttl_ms));
        Ok(Planned::Put(
            key,
            Proposal { content, is_manifest, size, files, chunks, expires_ms, owner, labels },
        ))
    }

    /// The same again, but for when it expires.
    fn plan_expiry(&mut self, key: String, when: Expiry) -> Result<Planned, CatalogError> {
        let now_ms = self.now_ms;
        let Some(current) = self.live(&key)?.current.clone() else {
            return Err(CatalogError::NoKey { key });
        };
        let expires_ms = match (when, current.expires_ms) {
            (Expiry::Never, _) => None,
            (Expiry::In(ttl_ms), _) => Some(now_ms.saturating_add(ttl_ms)),
            (Expiry::Later(more_ms), Some(expires_ms)) => Some(expires_ms.saturating_add(more_ms)),
            (Expiry::Later(_), None) => return Err(CatalogError::NoExpiry { key }),
        };
        let content = self.content(&key)?;
        let is_manifest = current.place == Place::Manifest;
        let chunks = if is_manifest { chunks_of(&key, &content)? } else { BTreeSet::new() };
        chunks.iter().try_for_each(|chunk| self.count(chunk).map(drop))?;
        let (size, files, owner, labels) = (current.size, current.files, current.owner, current.labels);
        Ok(Planned::Put(
            key,
            Proposal { content, is_manifest, size, files, chunks, expires_ms, owner, labels },
        ))
    }
}

/// The chunks that a manifest refers to.
pub(super) fn chunks_of(key: &str, manifest: &[u8]) -> Result<BTreeSet<[u8; 32]>, CatalogError> {
    let manifest = Manifest::decode(manifest);
    let manifest = manifest.map_err(|source| CatalogError::Manifest { key: key.into(), source })?;
    Ok(manifest.all_chunks().map(|chunk| chunk.id).collect())
}
