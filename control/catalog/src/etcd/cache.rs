//! The latest that is known of keys, with their contents: the least recently used go first.
//!
//! It answers reads that may be stale while etcd is out of reach, and gives writes a first guess of what they replace.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::record::Seen;

/// What an entry takes besides its key and content, about.
const OVERHEAD: usize = 256;

/// Bounded by bytes.
#[derive(Debug)]
pub(super) struct Cache {
    entries: HashMap<Arc<str>, Held>,
    /// Keys by when they were used.
    order: BTreeMap<u64, Arc<str>>,
    clock: u64,
    size: usize,
    size_max: usize,
}

#[derive(Debug)]
struct Held {
    seen: Arc<Seen>,
    used: u64,
}

impl Cache {
    /// Holds up to `size_max` bytes, about.
    pub(super) fn new(size_max: usize) -> Self {
        Self { entries: HashMap::new(), order: BTreeMap::new(), clock: 0, size: 0, size_max }
    }

    /// Keeps what was seen of a key, unless something later is known.
    pub(super) fn put(&mut self, key: &str, seen: Arc<Seen>) {
        if self.entries.get(key).is_some_and(|held| held.seen.revision >= seen.revision) {
            return;
        }
        self.remove(key);
        let key: Arc<str> = key.into();
        self.clock += 1;
        self.size += cost(&key, &seen);
        self.order.insert(self.clock, key.clone());
        self.entries.insert(key, Held { seen, used: self.clock });
        while self.size > self.size_max
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.forget(&oldest);
        }
    }

    /// What is known of a key.
    pub(super) fn get(&mut self, key: &str) -> Option<Arc<Seen>> {
        let held = self.entries.get_mut(key)?;
        self.clock += 1;
        if let Some(key) = self.order.remove(&held.used) {
            self.order.insert(self.clock, key);
        }
        held.used = self.clock;
        Some(held.seen.clone())
    }

    /// Drops what is known of a key.
    pub(super) fn remove(&mut self, key: &str) {
        if let Some(used) = self.entries.get(key).map(|held| held.used) {
            self.order.remove(&used);
            self.forget(key);
        }
    }

    fn forget(&mut self, key: &str) {
        if let Some(held) = self.entries.remove(key) {
            self.size -= cost(key, &held.seen);
        }
    }
}

fn cost(key: &str, seen: &Seen) -> usize {
    let labels: usize = seen.record.labels.iter().map(|(name, value)| name.len() + value.len()).sum();
    OVERHEAD + 2 * key.len() + seen.content.len() + labels
}

#[cfg(test)]
mod tests {
    use super::super::record::{Kind, Record};
    use super::*;

    fn seen(revision: u64, length: usize) -> Arc<Seen> {
        let record = Record::tombstone(Kind::Value, 0, 1, 0);
        Arc::new(Seen { revision, record, content: vec![0; length] })
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut cache = Cache::new(3 * (OVERHEAD + 102));
        for key in ["a", "b", "c"] {
            cache.put(key, seen(1, 100));
        }
        assert!(cache.get("a").is_some());
        cache.put("d", seen(1, 100));
        assert!(cache.get("a").is_some() && cache.get("b").is_none());
        cache.put("e", seen(1, 10_000));
        assert_eq!((cache.entries.len(), cache.order.len(), cache.size), (0, 0, 0), "larger than all");
    }

    #[test]
    fn what_is_older_does_not_replace_what_is_newer() {
        let mut cache = Cache::new(10_000);
        cache.put("a", seen(5, 1));
        cache.put("a", seen(4, 1));
        assert_eq!(cache.get("a").map(|seen| seen.revision), Some(5));
        cache.put("a", seen(6, 1));
        assert_eq!(cache.get("a").map(|seen| seen.revision), Some(6));
        assert_eq!((cache.entries.len(), cache.order.len()), (1, 1));
        cache.remove("a");
        assert_eq!((cache.entries.len(), cache.order.len(), cache.size), (0, 0, 0));
    }
}
