//! What takes long, in steps: each is a group of its own at its beginning, so that it may read whole ranges.

use std::ops::Bound;

use super::group::Group;
use super::rows::{
    Logged, Registered, Retired, Stored, Table, change_row, content_row, key_of_expiry, number, owned_row,
};
use super::writing::chunks_of;
use crate::change::ChangeKind;
use crate::error::CatalogError;

/// Rows that one step looks at.
const STEP_LENGTH: usize = 2048;
/// Bytes of changes after which one step drops no more.
const STEP_SIZE: u64 = 16 << 20;

/// How far one step of a long operation got.
#[derive(Debug, Clone, Default)]
pub(crate) struct Step {
    /// How many keys or versions were dealt with.
    pub(crate) count: u64,
    /// Where the next step goes on; `None` when it was the last.
    pub(crate) next: Option<Cursor>,
    /// The first record that had to be left as it is, because it is damaged.
    pub(crate) damaged: Option<CatalogError>,
    /// The first row that was left.
    pub(crate) left: Option<Vec<u8>>,
}

/// Where a long operation goes on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cursor {
    /// The last row that was looked at.
    after: Vec<u8>,
    /// The first row that was left by an earlier step.
    left: Option<Vec<u8>>,
}

impl Group<'_> {
    /// One step of removing `key` and all `key/…`.
    pub(crate) fn remove_tree(&mut self, key: &str, cursor: Option<Cursor>) -> Result<Step, CatalogError> {
        let below = format!("{key}/");
        let rows = self.keys(Table::Current, below.as_bytes(), cursor.as_ref(), |row| {
            row.starts_with(below.as_bytes())
        })?;
        let own = cursor.is_none().then(|| key.to_string());
        let keys = own.into_iter().chain(rows.iter().map(|row| String::from_utf8_lossy(row).into_owned()));
        let mut there = Vec::new();
        // All are read before any is removed, so that a damaged row leaves everything as it is.
        for key in keys {
            if self.live(&key)?.current.is_some() {
                there.push(key);
            }
        }
        self.end_all(&there, |version| ChangeKind::Delete { version });
        Ok(Step { count: there.len() as u64, next: next(rows, None), ..Step::default() })
    }

    /// One step of forgetting what was retired up to `until_ms` and has no lease.
    pub(crate) fn forget(
        &mut self,
        until_ms: u64,
        from: &[u8],
        is_leased: impl Fn(&Retired) -> bool,
        cursor: Option<Cursor>,
    ) -> Result<Step, CatalogError> {
        let rows = self.keys(Table::Retired, from, cursor.as_ref(), |row| number(row) <= until_ms)?;
        self.sweep(rows, cursor, |group, row| group.forget_one(row, &is_leased))
    }

    /// One step of ending the keys that have expired.
    pub(crate) fn expire(&mut self, from: &[u8], cursor: Option<Cursor>) -> Result<Step, CatalogError> {
        let now_ms = self.now_ms;
        let rows = self.keys(Table::Expiries, from, cursor.as_ref(), |row| number(row) <= now_ms)?;
        let mut due = Vec::new();
        let step = self.sweep(rows, cursor, |group, row| {
            let key = key_of_expiry(row);
            let is_due = group.is_due(&key)?;
            due.extend(is_due.then_some(key));
            Ok(is_due)
        });
        self.end_all(&due, |version| ChangeKind::Expire { version });
        step
    }

    /// One step of removing what a service owned that has ended; the last one forgets it.
    pub(crate) fn abandon(&mut self, name: &str, cursor: Option<Cursor>) -> Result<Step, CatalogError> {
        // Somebody else has brought the end of it about, and it has begun again.
        if self.shared.services().lives(name, self.now_ms) {
            return Ok(Step::default());
        }
        let own = owned_row(name, "");
        let rows = self.keys(Table::Owned, &own, cursor.as_ref(), |row| row.starts_with(&own))?;
        let mut owned = Vec::new();
        for row in &rows {
            let key = String::from_utf8_lossy(&row[own.len()..]).into_owned();
            let current = self.live(&key)?.current.as_ref();
            if current.is_some_and(|current| current.owner.as_deref() == Some(name)) {
                owned.push(key);
            }
        }
        self.end_all(&owned, |version| ChangeKind::OwnerEnded { version });
        let next = next(rows, None);
        if next.is_none() {
            self.set_service(name, None);
        }
        Ok(Step { count: owned.len() as u64, next, ..Step::default() })
    }

    /// Says that a service has ended, also one that is alive only if `even_alive`; whether it was said.
    pub(crate) fn begin_end(&mut self, name: &str, even_alive: bool) -> bool {
        let services = self.shared.services();
        let registered = services.get(name).filter(|_| even_alive || !services.lives(name, self.now_ms));
        drop(services);
        if let Some(Registered { ttl_ms, ending: false }) = registered {
            self.set_service(name, Some(Registered { ttl_ms, ending: true }));
        }
        registered.is_some()
    }

    /// Registers a service, or keeps it alive; `false` when one of this name has ended and must be abandoned before.
    pub(crate) fn keep(&mut self, name: &str, ttl_ms: u64) -> bool {
        if self.begin_end(name, false) {
            return false;
        }
        self.set_service(name, Some(Registered { ttl_ms, ending: false }));
        true
    }

    /// One step of dropping changes from before `until_ms`, or that are too many bytes.
    pub(crate) fn trim(&mut self, until_ms: u64, size_max: u64) -> Result<Step, CatalogError> {
        let from = change_row(self.state.kept_after.saturating_add(1), 0);
        let view = self.view.clone();
        let rows = view.range::<Logged>(Table::Changes, Bound::Included(&from));
        let (mut count, mut read) = (0, 0);
        for row in rows {
            let (row, logged, content) = row?;
            let revision = number(&row);
            // A revision goes with all its changes.
            let begins = revision > self.state.kept_after;
            if begins && logged.at_ms >= until_ms && self.state.changes_size <= size_max {
                return Ok(Step { count, ..Step::default() });
            }
            if begins && (count >= STEP_LENGTH as u64 || read >= STEP_SIZE) {
                return Ok(Step { count, next: Some(Cursor::default()), ..Step::default() });
            }
            let size = logged.size_with(&content);
            self.state.changes_size = self.state.changes_size.saturating_sub(size);
            read += size;
            (self.state.kept_after, self.state.kept_after_ms) = (revision, logged.at_ms);
            self.batch.remove(Table::Changes, &row);
            count += 1;
        }
        Ok(Step { count, ..Step::default() })
    }

    /// The next rows of a table for a step, from one key on and while they belong to it.
    fn keys(
        &self,
        table: Table,
        from: &[u8],
        cursor: Option<&Cursor>,
        belongs: impl Fn(&[u8]) -> bool,
    ) -> Result<Vec<Vec<u8>>, CatalogError> {
        let from = cursor.map_or(Bound::Included(from), |cursor| Bound::Excluded(&cursor.after));
        let rows = self.view.range_of_keys(table, from);
        let rows = rows.take_while(|row| row.as_ref().map_or(true, |row| belongs(row)));
        rows.take(STEP_LENGTH).collect()
    }

    /// Deals with each row; those that are damaged, or for which it says `false`, are left.
    fn sweep(
        &mut self,
        rows: Vec<Vec<u8>>,
        cursor: Option<Cursor>,
        mut deal: impl FnMut(&mut Self, &[u8]) -> Result<bool, CatalogError>,
    ) -> Result<Step, CatalogError> {
        let mut step = Step { left: cursor.and_then(|cursor| cursor.left), ..Step::default() };
        let more = rows.len() == STEP_LENGTH;
        let (mut last, mut cut) = (Vec::new(), false);
        for row in rows {
            let dealt = deal(self, &row);
            if !matches!(dealt, Ok(true)) && step.left.is_none() {
                step.left = Some(row.clone());
            }
            match dealt {
                Ok(dealt) => step.count += u64::from(dealt),
                Err(error) => step.damaged = step.damaged.or(Some(error)),
            }
            last = row;
            cut = self.is_full();
            if cut {
                break;
            }
        }
        step.next = (more || cut).then(|| Cursor { after: last, left: step.left.clone() });
        Ok(step)
    }

    /// Drops a retired manifest and its references, unless it is leased; returns whether it did.
    fn forget_one(&mut self, row: &[u8], is_leased: impl Fn(&Retired) -> bool) -> Result<bool, CatalogError> {
        let damaged = |table: Table, row: &[u8]| CatalogError::Damaged { subject: table.subject(row) };
        let retired: Option<Retired> = self.view.get(Table::Retired, row)?;
        let retired = retired.ok_or_else(|| damaged(Table::Retired, row))?;
        if is_leased(&retired) {
            return Ok(false);
        }
        let content = content_row(&retired.key, retired.version);
        let found = self.view.get_with_tail::<Stored>(Table::Contents, &content)?;
        let (_, manifest) = found.ok_or_else(|| damaged(Table::Contents, &content))?;
        let chunks = chunks_of(&retired.key, &manifest)?;
        for chunk in &chunks {
            if self.count(chunk)? == 0 {
                return Err(damaged(Table::Chunks, chunk));
            }
        }
        for chunk in chunks {
            self.counts.entry(chunk).and_modify(|count| *count -= 1);
        }
        self.batch.remove(Table::Contents, &content);
        self.batch.remove(Table::Retired, row);
        Ok(true)
    }
}

/// Where to go on after rows that were as many as a step takes.
fn next(rows: Vec<Vec<u8>>, left: Option<Vec<u8>>) -> Option<Cursor> {
    rows.into_iter().nth(STEP_LENGTH - 1).map(|after| Cursor { after, left })
}
