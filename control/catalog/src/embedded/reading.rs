//! What is there at one moment.

use std::ops::Bound;

use async_trait::async_trait;

use super::rows::{Current, Table};
use super::shared::Moment;
use crate::catalog::Snapshot;
use crate::check;
use crate::entry::Entry;
use crate::error::CatalogError;
use crate::read::{Page, SCAN_LIMIT_MAX, SCAN_SIZE_MAX, Scan};

/// Keys of a multi-get that are looked up at once. Reads that may take longer do so on a thread of their own, since
/// whoever asks may have other things to do meanwhile.
const KEYS_AT_ONCE: usize = 16;

impl Moment {
    /// The current version of a key, unless it has expired, and what follows its record.
    pub(crate) fn current(&self, key: &str) -> Result<Option<(Current, Vec<u8>)>, CatalogError> {
        let found = self.view.get_with_tail::<Current>(Table::Current, key.as_bytes())?;
        Ok(found.filter(|(current, _)| current.lives_at(self.at_ms)))
    }

    /// What a key has.
    pub(crate) fn entry(&self, key: &str) -> Result<Option<Entry>, CatalogError> {
        let Some((current, tail)) = self.current(key)? else { return Ok(None) };
        let content = self.view.content(key, &current, tail)?;
        Ok(Some(current.into_entry(key.into(), Some(content))))
    }

    pub(crate) fn entries(&self, keys: &[String]) -> Result<Vec<Option<Entry>>, CatalogError> {
        keys.iter().map(|key| self.entry(key)).collect()
    }

    pub(crate) fn page(&self, scan: &Scan) -> Result<Page, CatalogError> {
        let limit = scan.limit.min(SCAN_LIMIT_MAX);
        let (mut entries, mut size) = (Vec::<Entry>::new(), 0);
        for row in self.live(&scan.prefix, scan.after.as_deref()) {
            let (key, current, tail) = row?;
            if entries.len() == limit || size >= SCAN_SIZE_MAX {
                let next = entries.last().map(|entry| entry.key.clone());
                return Ok(Page { revision: self.state.revision, entries, next });
            }
            let content = scan.contents.then(|| self.view.content(&key, &current, tail)).transpose()?;
            size += key.len() + content.as_ref().map_or(0, Vec::len);
            size += current.labels.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
            entries.push(current.into_entry(key, content));
        }
        Ok(Page { revision: self.state.revision, entries, next: None })
    }

    pub(crate) fn count(&self, prefix: &str) -> Result<u64, CatalogError> {
        self.live(prefix, None).try_fold(0, |count, row| row.map(|_| count + 1))
    }

    /// How many keys a service owns.
    pub(crate) fn count_owned(&self, name: &str) -> Result<u64, CatalogError> {
        let own = super::rows::owned_row(name, "");
        let mut count = 0;
        for row in self.view.range_of_keys(Table::Owned, Bound::Included(&own)) {
            let row = row?;
            let Some(key) = row.strip_prefix(&own[..]) else { break };
            count += u64::from(self.current(&String::from_utf8_lossy(key))?.is_some());
        }
        Ok(count)
    }

    /// The keys that begin with `prefix`, come after `after` and have not expired.
    fn live(
        &self,
        prefix: &str,
        after: Option<&str>,
    ) -> impl Iterator<Item = Result<(String, Current, Vec<u8>), CatalogError>> + use<> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after.as_bytes()),
            _ => Bound::Included(prefix.as_bytes()),
        };
        let rows = self.view.range::<Current>(Table::Current, from);
        let prefix = prefix.as_bytes().to_vec();
        let rows =
            rows.take_while(move |row| row.as_ref().map_or(true, |(key, ..)| key.starts_with(&prefix)));
        let at_ms = self.at_ms;
        let rows =
            rows.filter(move |row| row.as_ref().map_or(true, |(_, current, _)| current.lives_at(at_ms)));
        rows.map(|row| {
            row.map(|(key, current, tail)| (String::from_utf8_lossy(&key).into_owned(), current, tail))
        })
    }

    pub(super) async fn get(&self, keys: &[String]) -> Result<Vec<Option<Entry>>, CatalogError> {
        check::keys(keys)?;
        if keys.len() <= KEYS_AT_ONCE {
            return self.entries(keys);
        }
        let (moment, keys) = (self.clone(), keys.to_vec());
        blocking::unblock(move || moment.entries(&keys)).await
    }

    pub(super) async fn scan(&self, scan: &Scan) -> Result<Page, CatalogError> {
        check::scan(scan)?;
        let (moment, scan) = (self.clone(), scan.clone());
        blocking::unblock(move || moment.page(&scan)).await
    }
}

#[async_trait]
impl Snapshot for Moment {
    fn revision(&self) -> u64 {
        self.state.revision
    }

    async fn get(&self, keys: &[String]) -> Result<Vec<Option<Entry>>, CatalogError> {
        Moment::get(self, keys).await
    }

    async fn scan(&self, scan: &Scan) -> Result<Page, CatalogError> {
        Moment::scan(self, scan).await
    }
}
