//! Entries that were read before, for readers who would rather have something old than nothing.

use std::collections::{BTreeMap, BTreeSet};

use catalog::{Content, Entry};

/// Most entries that are remembered.
const ENTRIES_MAX: usize = 4096;
/// Most bytes of what they hold.
const BYTES_MAX: usize = 32 << 20;

/// The entries that were read last.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    entries: BTreeMap<String, (u64, Entry)>,
    /// Keys by the time of their last use.
    uses: BTreeSet<(u64, String)>,
    time: u64,
    bytes: usize,
}

impl Remembered {
    /// Takes note of what a read has found under a key.
    pub(super) fn note(&mut self, key: &str, entry: Option<&Entry>) {
        self.forget(key);
        let Some(entry) = entry.filter(|entry| entry.content.is_some()) else { return };
        self.time += 1;
        self.bytes += size(entry);
        self.uses.insert((self.time, key.to_owned()));
        self.entries.insert(key.to_owned(), (self.time, entry.clone()));
        while self.entries.len() > ENTRIES_MAX || self.bytes > BYTES_MAX {
            let Some((_, oldest)) = self.uses.first().cloned() else { return };
            self.forget(&oldest);
        }
    }

    /// What was read under a key, unless it has expired since.
    pub(super) fn get(&self, key: &str, now_ms: u64) -> Option<Entry> {
        let (_, entry) = self.entries.get(key)?;
        entry.expires_ms.is_none_or(|expires_ms| now_ms < expires_ms).then(|| entry.clone())
    }

    pub(super) fn forget(&mut self, key: &str) {
        if let Some((time, entry)) = self.entries.remove(key) {
            self.bytes -= size(&entry);
            self.uses.remove(&(time, key.to_owned()));
        }
    }
}

fn size(entry: &Entry) -> usize {
    match &entry.content {
        Some(Content::Value(bytes) | Content::Manifest(bytes)) => entry.key.len() + bytes.len(),
        None => entry.key.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, size: usize) -> Entry {
        Entry {
            key: key.into(),
            version: 1,
            revision: 1,
            created_ms: 0,
            updated_ms: 0,
            expires_ms: None,
            owner: None,
            labels: BTreeMap::new(),
            size: size as u64,
            files: 0,
            content: Some(Content::Value(vec![0; size])),
        }
    }

    #[test]
    fn the_oldest_go_first() {
        let mut remembered = Remembered::default();
        for at in 0..ENTRIES_MAX + 10 {
            let key = format!("{at:05}");
            remembered.note(&key, Some(&entry(&key, 10)));
        }
        assert_eq!(remembered.entries.len(), ENTRIES_MAX);
        assert!(remembered.get("00009", 0).is_none() && remembered.get("00010", 0).is_some());
        for at in 0..40 {
            let key = format!("large/{at}");
            remembered.note(&key, Some(&entry(&key, 1 << 20)));
        }
        assert!(remembered.bytes <= BYTES_MAX && remembered.uses.len() == remembered.entries.len());
        assert!(remembered.get("large/39", 0).is_some());
    }

    #[test]
    fn what_is_gone_or_expired_is_not_remembered() {
        let mut remembered = Remembered::default();
        remembered.note("a", Some(&Entry { expires_ms: Some(10), ..entry("a", 1) }));
        assert!(remembered.get("a", 9).is_some() && remembered.get("a", 10).is_none());
        remembered.note("a", None);
        assert!(remembered.get("a", 0).is_none());
        assert_eq!((remembered.bytes, remembered.uses.len()), (0, 0));
    }
}
