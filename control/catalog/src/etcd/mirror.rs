//! What a node remembers of etcd, as a pure state machine: events go in, in the order of revisions; time is an argument.
//!
//! It is what nobody can ask etcd for: which keys expire when, who owns which, which chunks are named by what is current or
//! was retired lately, and which tombstones there are. A key of which none of that is to be known takes no memory here.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use super::record::{Owner, Seen};
use crate::GRACE_MS;

/// How many of the latest changes are remembered by key.
const RECENT_MAX: usize = 1 << 16;

/// What is remembered.
#[derive(Debug, Default)]
pub(super) struct Mirror {
    /// Up to which revision everything has been seen.
    revision: u64,
    keys: BTreeMap<Arc<str>, Known>,
    /// By time.
    expiring: BTreeSet<(u64, Arc<str>)>,
    /// By the service's name.
    owned: HashMap<String, BTreeSet<Arc<str>>>,
    tombstones: BTreeMap<Arc<str>, u64>,
    /// Tombstones by the revision that wrote them.
    buried: BTreeSet<(u64, Arc<str>)>,
    /// The services that are registered, and since which revision.
    services: HashMap<String, u64>,
    /// The versions that are read, by the revision that wrote them, and by which nodes.
    leases: HashMap<u64, BTreeSet<u64>>,
    /// How many versions name each chunk.
    chunks: HashMap<[u8; 32], u32>,
    /// Versions that are current no more, in the order in which they were retired.
    retired: VecDeque<Retired>,
    /// Times and their revisions.
    marks: BTreeMap<u64, u64>,
    /// Who sweeps.
    sweeper: Option<u64>,
    /// Up to which revision tombstones and history may be gone.
    floor: u64,
    /// Revision and key of the latest changes.
    recent: VecDeque<(u64, Arc<str>)>,
    /// After this revision `recent` has all.
    recent_after: u64,
    /// Until then all chunks count as referenced, since what was retired before is not known.
    blind_until_ms: u64,
    /// Versions that are read somewhere, and whose chunks are not known.
    unknown: HashSet<u64>,
    /// Keys whose manifests cannot be read.
    damaged: BTreeSet<Arc<str>>,
    /// Versions forgotten since somebody asked.
    forgotten: u64,
}

/// What is remembered of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    revision: u64,
    version: u64,
    expires_ms: Option<u64>,
    owner: Option<Owner>,
    dead: bool,
    chunks: Box<[[u8; 32]]>,
}

#[derive(Debug)]
struct Retired {
    /// The revision that had written it.
    revision: u64,
    at_ms: u64,
    chunks: Box<[[u8; 32]]>,
}

/// A version of a key that is to be ended.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Victim {
    pub(super) key: Arc<str>,
    pub(super) revision: u64,
    pub(super) version: u64,
}

impl Mirror {
    /// Knows nothing yet; until `blind_until_ms` nothing counts as unreferenced.
    pub(super) fn new(blind_until_ms: u64) -> Self {
        Self { blind_until_ms, ..Self::default() }
    }

    /// Everything that there is at a revision was put: changes are remembered from here on.
    pub(super) fn begin_recent(&mut self, revision: u64) {
        self.reached(revision);
        self.recent.clear();
        self.recent_after = revision;
    }

    /// Nothing can have been retired before this began, since there was nothing at all, not even what was deleted lately.
    pub(super) fn see_all(&mut self) {
        self.blind_until_ms = 0;
    }

    /// Whether a version is known to be current no more.
    pub(super) fn is_retired(&self, revision: u64) -> bool {
        self.retired.iter().any(|retired| retired.revision == revision)
    }

    /// Up to which revision everything has been seen.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// All of a revision has been seen.
    pub(super) fn reached(&mut self, revision: u64) {
        self.revision = self.revision.max(revision);
    }

    /// A key was written. A manifest that cannot be read has no chunks that could be told: all count as referenced while it
    /// is there.
    pub(super) fn put(&mut self, key: &str, seen: &Seen, now_ms: u64) {
        let key: Arc<str> = key.into();
        let chunks = seen.chunks();
        let (unreadable, record) = (chunks.is_none(), &seen.record);
        let known = Known {
            revision: seen.revision,
            version: record.version,
            expires_ms: record.expires_ms,
            owner: record.owner.clone(),
            dead: record.is_tombstone(),
            chunks: chunks.unwrap_or_default().into_boxed_slice(),
        };
        self.replace(&key, Some(known), now_ms);
        if unreadable {
            self.damaged.insert(key.clone());
        }
        self.note(seen.revision, key);
    }

    /// A key was written with what cannot be read.
    pub(super) fn put_damaged(&mut self, key: &str, revision: u64, now_ms: u64) {
        let key: Arc<str> = key.into();
        self.replace(&key, None, now_ms);
        self.damaged.insert(key.clone());
        self.note(revision, key);
    }

    /// A key's tombstone has gone.
    pub(super) fn purge(&mut self, key: &str, now_ms: u64) {
        self.replace(&key.into(), None, now_ms);
    }

    fn note(&mut self, revision: u64, key: Arc<str>) {
        self.recent.push_back((revision, key));
        if self.recent.len() > RECENT_MAX
            && let Some((revision, _)) = self.recent.pop_front()
        {
            self.recent_after = revision;
        }
    }

    fn replace(&mut self, key: &Arc<str>, known: Option<Known>, now_ms: u64) {
        self.damaged.remove(key);
        for chunk in known.iter().flat_map(|known| &known.chunks) {
            *self.chunks.entry(*chunk).or_default() += 1;
        }
        if let Some(old) = self.keys.remove(key) {
            self.unindex(key, &old);
            if !old.chunks.is_empty() {
                let Known { revision, chunks, .. } = old;
                self.retired.push_back(Retired { revision, at_ms: now_ms, chunks });
            }
        }
        let Some(known) = known else { return };
        if let Some(expires_ms) = known.expires_ms {
            self.expiring.insert((expires_ms, key.clone()));
        }
        if let Some(owner) = &known.owner {
            self.owned.entry(owner.name.clone()).or_default().insert(key.clone());
        }
        if known.dead {
            self.tombstones.insert(key.clone(), known.revision);
            self.buried.insert((known.revision, key.clone()));
        }
        if known.dead || known.expires_ms.is_some() || known.owner.is_some() || !known.chunks.is_empty() {
            self.keys.insert(key.clone(), known);
        }
    }

    fn unindex(&mut self, key: &Arc<str>, old: &Known) {
        if let Some(expires_ms) = old.expires_ms {
            self.expiring.remove(&(expires_ms, key.clone()));
        }
        if let Some(owner) = &old.owner
            && let Some(keys) = self.owned.get_mut(&owner.name)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.owned.remove(&owner.name);
            }
        }
        if old.dead {
            self.tombstones.remove(key);
            self.buried.remove(&(old.revision, key.clone()));
        }
    }

    /// A service was registered, by `since`, or has gone.
    pub(super) fn service(&mut self, name: &str, since: Option<u64>) {
        match since {
            Some(since) => self.services.insert(name.into(), since),
            None => self.services.remove(name),
        };
    }

    /// A node reads a version, or does no more.
    pub(super) fn lease(&mut self, node: u64, revision: u64, held: bool) {
        let nodes = self.leases.entry(revision).or_default();
        if held {
            nodes.insert(node);
        } else {
            nodes.remove(&node);
        }
        if nodes.is_empty() {
            self.leases.remove(&revision);
            self.unknown.remove(&revision);
        }
    }

    /// Which versions that are read are neither current nor known to be retired.
    pub(super) fn leases_unknown(&self) -> Vec<u64> {
        let current = self.keys.values().map(|known| known.revision);
        let known: HashSet<u64> =
            current.chain(self.retired.iter().map(|retired| retired.revision)).collect();
        self.leases.keys().copied().filter(|revision| !known.contains(revision)).collect()
    }

    /// A version that is read, and was retired before this began: with its chunks, or without when they cannot be told.
    pub(super) fn retired_earlier(&mut self, revision: u64, chunks: Option<Vec<[u8; 32]>>, now_ms: u64) {
        let Some(chunks) = chunks else {
            self.unknown.insert(revision);
            return;
        };
        for chunk in &chunks {
            *self.chunks.entry(*chunk).or_default() += 1;
        }
        self.retired.push_back(Retired { revision, at_ms: now_ms, chunks: chunks.into() });
    }

    /// There was a revision at a time, or the mark of it has gone.
    pub(super) fn mark(&mut self, at_ms: u64, revision: Option<u64>) {
        match revision {
            Some(revision) => self.marks.insert(at_ms, revision),
            None => self.marks.remove(&at_ms),
        };
    }

    /// Who sweeps.
    pub(super) fn set_sweeper(&mut self, node: Option<u64>) {
        self.sweeper = node;
    }

    /// Up to which revision tombstones and history may be gone.
    pub(super) fn set_floor(&mut self, revision: u64) {
        self.floor = revision;
    }

    /// Up to which revision tombstones and history may be gone.
    pub(super) fn floor(&self) -> u64 {
        self.floor
    }

    /// Who sweeps.
    pub(super) fn sweeper(&self) -> Option<u64> {
        self.sweeper
    }

    /// Forgets the retired versions whose grace is over and that nobody reads.
    pub(super) fn forget(&mut self, now_ms: u64) {
        let (leases, chunks, forgotten) = (&self.leases, &mut self.chunks, &mut self.forgotten);
        self.retired.retain(|retired| {
            let keep =
                now_ms < retired.at_ms.saturating_add(GRACE_MS) || leases.contains_key(&retired.revision);
            if !keep {
                *forgotten += 1;
                for chunk in &retired.chunks {
                    release(chunks, chunk);
                }
            }
            keep
        });
    }

    /// How many versions were forgotten since this was asked last.
    pub(super) fn take_forgotten(&mut self) -> u64 {
        std::mem::take(&mut self.forgotten)
    }

    /// Whether a chunk is part of a version that is current, read, or retired lately.
    pub(super) fn references(&self, chunk: &[u8; 32], now_ms: u64) -> bool {
        let blind = now_ms < self.blind_until_ms || !self.unknown.is_empty() || !self.damaged.is_empty();
        blind || self.chunks.contains_key(chunk)
    }

    /// Up to `most` keys with a prefix whose time is over, and whose end nobody has written.
    pub(super) fn overdue(&self, prefix: &str, now_ms: u64, most: usize) -> Vec<Victim> {
        let until = (now_ms.saturating_add(1), Arc::from(""));
        let keys = self.expiring.range(..until).map(|(_, key)| key);
        keys.filter(|key| key.starts_with(prefix)).take(most).filter_map(|key| self.victim(key)).collect()
    }

    /// How many keys with a prefix are written in etcd and yet not there: tombstones, and what is overdue.
    pub(super) fn dead(&self, prefix: &str, now_ms: u64) -> u64 {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let tombstones =
            self.tombstones.range::<str, _>(from).take_while(|(key, _)| key.starts_with(prefix)).count();
        let until = (now_ms.saturating_add(1), Arc::from(""));
        let overdue = self.expiring.range(..until).filter(|(_, key)| key.starts_with(prefix)).count();
        (tombstones + overdue) as u64
    }

    /// Up to `most` keys whose service has ended.
    pub(super) fn abandoned(&self, most: usize) -> Vec<Victim> {
        self.owned.keys().flat_map(|name| self.abandoned_by(name)).take(most).collect()
    }

    /// The keys of a service that is not the one registered by that name, if any is.
    pub(super) fn abandoned_by(&self, name: &str) -> impl Iterator<Item = Victim> + '_ {
        let since = self.services.get(name).copied();
        let keys = self.owned.get(name).into_iter().flatten();
        keys.filter_map(move |key| {
            let owner = self.keys.get(key)?.owner.as_ref()?;
            if Some(owner.since) == since { None } else { self.victim(key) }
        })
    }

    /// How many keys a service owns.
    pub(super) fn owned_count(&self, name: &str) -> u64 {
        self.owned.get(name).map_or(0, BTreeSet::len) as u64
    }

    /// Since which revision a service is registered.
    pub(super) fn service_since(&self, name: &str) -> Option<u64> {
        self.services.get(name).copied()
    }

    /// Up to `most` tombstones that were written by `revision` or before.
    pub(super) fn tombstones(&self, revision: u64, most: usize) -> Vec<Victim> {
        let until = (revision.saturating_add(1), Arc::from(""));
        self.buried.range(..until).take(most).filter_map(|(_, key)| self.victim(key)).collect()
    }

    /// The marks up to a time, ascending.
    pub(super) fn marks_until(&self, at_ms: u64) -> impl DoubleEndedIterator<Item = (u64, u64)> + '_ {
        self.marks.range(..=at_ms).map(|(at_ms, revision)| (*at_ms, *revision))
    }

    /// The latest mark.
    pub(super) fn last_mark(&self) -> Option<(u64, u64)> {
        self.marks.last_key_value().map(|(at_ms, revision)| (*at_ms, *revision))
    }

    /// Whether it is certain that no key that `selects` was written after a revision.
    pub(super) fn is_quiet_since(&self, revision: u64, selects: impl Fn(&str) -> bool) -> bool {
        let from = self.recent.partition_point(|(written, _)| *written <= revision);
        revision >= self.recent_after && !self.recent.range(from..).any(|(_, key)| selects(key))
    }

    fn victim(&self, key: &Arc<str>) -> Option<Victim> {
        let known = self.keys.get(key)?;
        Some(Victim { key: key.clone(), revision: known.revision, version: known.version })
    }
}

fn release(chunks: &mut HashMap<[u8; 32], u32>, chunk: &[u8; 32]) {
    if let Some(count) = chunks.get_mut(chunk) {
        *count -= 1;
        if *count == 0 {
            chunks.remove(chunk);
        }
    }
}

#[cfg(test)]
mod tests;
