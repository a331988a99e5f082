//! Any history against a plain map.

use std::collections::BTreeMap;

use catalog::{
    CatalogError, ChangeKind, Consistency, Expiry, Isolation, Operation, Put, Scan, Selector, Start,
    Transaction,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::{Bed, delete, expire, next, run, text, unchanged, unchanged_key, value, version};

const KEYS: [&str; 6] = ["a", "a/b", "a/b/c", "a-b", "b", "ab"];
const PREFIXES: [&str; 4] = ["", "a", "a/", "b"];
const CASES: u32 = 24;

type Key = &'static str;

#[derive(Debug, Clone)]
enum Act {
    Write(Vec<(Guard, Key)>, BTreeMap<Key, Deed>),
    Remove(Key, bool),
    Transact(Isolation, Vec<Key>, Option<Key>, Vec<(Key, Deed)>, Option<(Key, Deed)>),
    Pass(u64),
    Sweep,
    Freeze,
}

/// A condition: right, wrong by one, or about what has changed since the last freeze.
#[derive(Debug, Clone, Copy)]
enum Guard {
    Right,
    Wrong,
    Unchanged(bool),
}

#[derive(Debug, Clone, Copy)]
enum Deed {
    Put(u8, Option<u64>),
    Delete,
    Expire(Option<u64>),
    Later(u64),
}

#[derive(Debug, Clone, PartialEq)]
struct Known {
    version: u64,
    revision: u64,
    text: String,
    created_ms: u64,
    expires_ms: Option<u64>,
}

/// What a catalog must hold, kept in the plainest way.
#[derive(Debug, Clone, Default)]
struct Model {
    now_ms: u64,
    keys: BTreeMap<String, Known>,
    last_version: BTreeMap<String, u64>,
    /// By what revision each key was last changed, expiries apart.
    touched: BTreeMap<String, u64>,
    /// What the stream must say, expiries apart.
    changes: Vec<(u64, String, u64, bool)>,
}

/// Runs histories of random acts. Without a clock that can be moved nothing expires in them.
pub fn agrees<F: Future<Output: Into<Option<Bed>>>>(open: impl Fn() -> F) {
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let acts = prop::collection::vec(act(), 1..40);
    let outcome = TestRunner::new(config).run(&acts, |acts| {
        run(async {
            if let Some(bed) = open().await.into() {
                follow(bed, acts).await;
            }
        });
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

fn act() -> impl Strategy<Value = Act> {
    let key = || prop::sample::select(&KEYS[..]);
    let ttl = || prop::option::weighted(0.4, 1..50_u64);
    let deed = move || {
        prop_oneof![
            6 => (any::<u8>(), ttl()).prop_map(|(byte, ttl)| Deed::Put(byte, ttl)),
            2 => Just(Deed::Delete),
            2 => ttl().prop_map(Deed::Expire),
            1 => (1..50_u64).prop_map(Deed::Later),
        ]
    };
    let guard = prop_oneof![
        4 => Just(Guard::Right),
        1 => Just(Guard::Wrong),
        1 => any::<bool>().prop_map(Guard::Unchanged),
    ];
    let guards = prop::collection::vec((guard, key()), 0..3);
    let deeds = move || prop::collection::btree_map(key(), deed(), 0..4);
    let level =
        prop::sample::select(&[Isolation::ReadCommitted, Isolation::Snapshot, Isolation::Serializable][..]);
    let reads = prop::collection::vec(key(), 0..3);
    let scanned = prop::option::of(prop::sample::select(&PREFIXES[..]));
    let mine = prop::collection::vec((key(), deed()), 0..4);
    prop_oneof![
        10 => (guards, deeds()).prop_map(|(guards, deeds)| Act::Write(guards, deeds)),
        2 => (key(), any::<bool>()).prop_map(|(key, recursive)| Act::Remove(key, recursive)),
        3 => (level, reads, scanned, mine, prop::option::of((key(), deed())))
            .prop_map(|(level, reads, scanned, mine, theirs)| Act::Transact(level, reads, scanned, mine, theirs)),
        4 => (1..40_u64).prop_map(Act::Pass),
        2 => Just(Act::Sweep),
        2 => Just(Act::Freeze),
    ]
}

async fn follow(bed: Bed, acts: Vec<Act>) {
    let start = bed.put("~", "start").await.revision;
    let mut model = Model { now_ms: bed.get("~").await.unwrap().updated_ms, ..Model::default() };
    bed.catalog.remove("~", false).await.unwrap();
    let start = start + 1;
    let mut frozen = None;
    for act in acts {
        match act {
            Act::Write(guards, deeds) => {
                let since = frozen
                    .as_ref()
                    .map_or(start, |(snapshot, _): &(Box<dyn catalog::Snapshot>, Model)| snapshot.revision());
                write(&bed, &mut model, guards, deeds, since).await;
            }
            Act::Remove(key, recursive) => {
                let below = format!("{key}/");
                let mut doomed = model.live();
                doomed.retain(|name, _| name == key || recursive && name.starts_with(&below));
                assert_eq!(bed.catalog.remove(key, recursive).await.unwrap(), doomed.len() as u64);
                // Its revisions are not told; they are at most what there is afterwards.
                let revision = bed.catalog.snapshot().await.unwrap().revision();
                doomed.keys().for_each(|key| model.end(key, revision));
            }
            Act::Transact(level, reads, scanned, mine, theirs) => {
                transact(&bed, &mut model, level, &reads, scanned, mine, theirs).await;
            }
            Act::Pass(ms) if bed.hands.is_some() => {
                bed.pass(ms).await;
                model.now_ms += ms;
            }
            Act::Pass(_) => {}
            Act::Sweep => _ = bed.catalog.sweep().await.unwrap(),
            Act::Freeze => frozen = Some((bed.catalog.snapshot().await.unwrap(), model.clone())),
        }
        compare(&bed, &model).await;
        if let Some((snapshot, then)) = &frozen {
            let scan = Scan { prefix: String::new(), after: None, limit: 100, contents: true };
            let page = snapshot.scan(&scan).await.unwrap();
            assert_eq!(page.entries.iter().map(known).collect::<Vec<_>>(), then.told());
        }
    }
    bed.catalog.sweep().await.unwrap();
    replay(&bed, &model, start).await;
}

async fn write(
    bed: &Bed,
    model: &mut Model,
    guards: Vec<(Guard, Key)>,
    deeds: BTreeMap<Key, Deed>,
    since: u64,
) {
    let mut conditions = Vec::new();
    let mut holds = true;
    for (guard, key) in guards {
        let found = model.live().get(key).map_or(0, |known| known.version);
        match guard {
            Guard::Right => conditions.push(version(key, found)),
            Guard::Wrong => {
                conditions.push(version(key, found + 1));
                holds = false;
            }
            Guard::Unchanged(exact) => {
                let Some(changed) = model.changed_since(key, exact, since) else { continue };
                conditions.push(if exact { unchanged_key(key, since) } else { unchanged(key, since) });
                holds &= !changed;
            }
        }
    }
    let live = model.live();
    let missing = deeds.iter().find_map(|(key, deed)| match (deed, live.get(*key)) {
        (Deed::Expire(_) | Deed::Later(_), None) => Some(false),
        (Deed::Later(_), Some(known)) if known.expires_ms.is_none() => Some(true),
        _ => None,
    });
    let operations = deeds.iter().map(|(key, deed)| deed.operation(key)).collect();
    let outcome = bed.write_if(conditions, operations).await;
    match (outcome, holds, missing) {
        (Ok(written), true, None) => {
            let versions = deeds.iter().map(|(key, deed)| model.apply(key, *deed, written.revision));
            assert_eq!(versions.collect::<Vec<_>>(), written.versions);
        }
        (Err(CatalogError::Conflict { .. } | CatalogError::Changed { .. }), false, _) => {}
        (Err(CatalogError::NoKey { .. } | CatalogError::NoExpiry { .. }), _, Some(_)) => {}
        (outcome, ..) => panic!("{outcome:?} when conditions hold: {holds}, missing: {missing:?}"),
    }
}

async fn transact(
    bed: &Bed,
    model: &mut Model,
    level: Isolation,
    reads: &[Key],
    scanned: Option<Key>,
    mine: Vec<(Key, Deed)>,
    theirs: Option<(Key, Deed)>,
) {
    let mut transaction = Transaction::begin(bed.catalog.clone(), level, 60_000).await.unwrap();
    let then = model.live();
    for key in reads {
        let found = transaction.get(&[key.to_string()]).await.unwrap();
        assert_eq!(found[0].as_ref().map(|entry| entry.version), then.get(*key).map(|known| known.version));
    }
    if let Some(prefix) = scanned {
        let scan = Scan { prefix: prefix.into(), after: None, limit: 100, contents: false };
        let found = transaction.scan(&scan).await.unwrap().entries;
        let expected = then.keys().filter(|key| key.starts_with(prefix));
        assert!(found.iter().map(|entry| &entry.key).eq(expected));
    }
    let mut written = BTreeMap::new();
    for (key, deed) in mine {
        // Only puts and deletes, so that it does not depend on what is there.
        let deed = if matches!(deed, Deed::Delete) { deed } else { Deed::Put(7, None) };
        transaction.write(deed.operation(key)).unwrap();
        written.insert(key, deed);
    }
    let mut disturbed = Vec::new();
    if let Some((key, deed)) = theirs {
        let deed = if matches!(deed, Deed::Delete) { deed } else { Deed::Put(8, None) };
        let outcome = bed.write(vec![deed.operation(key)]).await;
        let before = model.live().contains_key(key);
        model.apply(key, deed, outcome.revision);
        disturbed.extend((before || matches!(deed, Deed::Put(..))).then_some(key));
    }
    let depends = |key: &Key| match level {
        Isolation::ReadCommitted => false,
        Isolation::Snapshot => written.contains_key(key),
        Isolation::Serializable => {
            written.contains_key(key)
                || reads.contains(key)
                || scanned.is_some_and(|prefix| key.starts_with(prefix))
        }
    };
    let due = model.keys.iter().any(|(key, known)| {
        let key = KEYS.iter().find(|name| *name == key);
        !known.lives_at(model.now_ms) && key.is_some_and(depends)
    });
    let refused = !written.is_empty() && disturbed.iter().any(depends);
    match transaction.commit().await {
        Ok(done) => {
            assert!(!refused, "a commit was not refused");
            let versions = written.iter().map(|(key, deed)| model.apply(key, *deed, done.revision));
            assert_eq!(versions.collect::<Vec<_>>(), done.versions);
        }
        // What has expired and was not swept may be taken for changed when its end is written down.
        Err(CatalogError::Changed { .. }) => assert!(refused || due && !written.is_empty()),
        Err(error) => panic!("{error}"),
    }
}

async fn compare(bed: &Bed, model: &Model) {
    for prefix in PREFIXES {
        let page = bed.page(prefix, None, 100).await;
        let mut expected = model.told();
        expected.retain(|(key, _)| key.starts_with(prefix));
        assert_eq!(bed.catalog.count(prefix, Consistency::Quorum).await.unwrap(), expected.len() as u64);
        assert_eq!(page.entries.iter().map(known).collect::<Vec<_>>(), expected);
    }
    let keys = KEYS.map(String::from);
    let found = bed.catalog.get(&keys, Consistency::Quorum).await.unwrap().entries;
    let told: BTreeMap<_, _> = model.told().into_iter().collect();
    for (key, entry) in keys.iter().zip(found) {
        assert_eq!(entry.as_ref().map(known).map(|(_, known)| known), told.get(key).cloned());
    }
}

/// Carries out the changes from the beginning: they must say what was written, and lead to what is there.
async fn replay(bed: &Bed, model: &Model, start: u64) {
    let end = bed.put("~", "end").await.revision;
    let mut stream = bed.catalog.changes(Start::After(start), Selector::Prefix(String::new())).await.unwrap();
    let (mut replayed, mut said) = (BTreeMap::<String, Known>::new(), Vec::new());
    let (mut revision, mut at_ms) = (start, 0);
    while revision < end {
        let changes = next(&mut stream).await;
        assert!(changes[0].revision > revision && changes[0].at_ms >= at_ms);
        (revision, at_ms) = (changes[0].revision, changes[0].at_ms);
        for change in changes {
            assert_eq!(change.revision, revision);
            let there = replayed.remove(&change.key);
            let there_version = there.as_ref().map(|known| known.version);
            match change.kind {
                ChangeKind::Put(entry) => {
                    assert_eq!((entry.revision, entry.updated_ms), (revision, change.at_ms));
                    assert!(there_version.is_none_or(|version| entry.version == version + 1));
                    said.push((change.key.clone(), entry.version, true));
                    replayed.insert(change.key, known(&entry).1);
                }
                ChangeKind::Delete { version } => {
                    assert_eq!(there_version, Some(version));
                    said.push((change.key, version, false));
                }
                ChangeKind::Expire { version } => {
                    assert_eq!(there_version, Some(version));
                    let expires_ms = there.and_then(|known| known.expires_ms);
                    assert!(expires_ms.is_some_and(|expires_ms| expires_ms <= change.at_ms));
                }
                ChangeKind::OwnerEnded { .. } => panic!("nothing was owned"),
            }
        }
    }
    assert_eq!(replayed.remove("~").map(|known| known.text), Some("end".into()));
    said.retain(|(key, ..)| key != "~");
    let sorted = |mut said: Vec<(String, u64, bool)>| {
        said.sort();
        said
    };
    let written = model.changes.iter().map(|(_, key, version, put)| (key.clone(), *version, *put)).collect();
    assert_eq!(sorted(said), sorted(written));
    assert_eq!(replayed.into_iter().collect::<Vec<_>>(), model.told());
}

impl Model {
    fn live(&self) -> BTreeMap<String, Known> {
        let live = self.keys.iter().filter(|(_, known)| known.lives_at(self.now_ms));
        live.map(|(key, known)| (key.clone(), known.clone())).collect()
    }

    /// What callers must be shown.
    fn told(&self) -> Vec<(String, Known)> {
        self.live().into_iter().collect()
    }

    /// The version that it made, or found when it deletes.
    fn apply(&mut self, key: &str, deed: Deed, revision: u64) -> u64 {
        let before = self.live().remove(key);
        let now_ms = self.now_ms;
        let (text, expires_ms) = match (deed, &before) {
            (Deed::Put(byte, ttl_ms), _) => (byte.to_string(), ttl_ms.map(|ttl_ms| now_ms + ttl_ms)),
            (Deed::Delete, None) => return 0,
            (Deed::Delete, Some(before)) => {
                self.end(key, revision);
                return before.version;
            }
            (Deed::Expire(ttl_ms), before) => {
                (before.as_ref().unwrap().text.clone(), ttl_ms.map(|ttl_ms| now_ms + ttl_ms))
            }
            (Deed::Later(more_ms), before) => {
                let before = before.as_ref().unwrap();
                (before.text.clone(), before.expires_ms.map(|at_ms| at_ms + more_ms))
            }
        };
        let version = self.last_version.entry(key.into()).or_default();
        *version += 1;
        let created_ms = before.map_or(now_ms, |before| before.created_ms);
        let known = Known { version: *version, revision, text, created_ms, expires_ms };
        self.keys.insert(key.into(), known);
        self.touched.insert(key.into(), revision);
        self.changes.push((revision, key.into(), *version, true));
        *version
    }

    fn end(&mut self, key: &str, revision: u64) {
        if let Some(known) = self.keys.remove(key) {
            self.touched.insert(key.into(), revision);
            self.changes.push((revision, key.into(), known.version, false));
        }
    }

    /// Whether a key, or one below a prefix, was changed after a revision; `None` where an expiry is in play, of which only
    /// the engine knows when it was written down.
    fn changed_since(&self, prefix: &str, exact: bool, revision: u64) -> Option<bool> {
        let about = |key: &String| if exact { key == prefix } else { key.starts_with(prefix) };
        if self.changed_by_expiry(&about) {
            return None;
        }
        Some(self.touched.iter().any(|(key, touched)| about(key) && *touched > revision))
    }

    fn changed_by_expiry(&self, about: &impl Fn(&String) -> bool) -> bool {
        self.keys.iter().any(|(key, known)| about(key) && known.expires_ms.is_some())
    }
}

impl Known {
    fn lives_at(&self, now_ms: u64) -> bool {
        self.expires_ms.is_none_or(|expires_ms| expires_ms > now_ms)
    }
}

impl Deed {
    fn operation(self, key: &str) -> Operation {
        match self {
            Deed::Put(byte, ttl_ms) => Operation::Put(Put { ttl_ms, ..value(key, &byte.to_string()) }),
            Deed::Delete => delete(key),
            Deed::Expire(None) => expire(key, Expiry::Never),
            Deed::Expire(Some(ttl_ms)) => expire(key, Expiry::In(ttl_ms)),
            Deed::Later(more_ms) => expire(key, Expiry::Later(more_ms)),
        }
    }
}

fn known(entry: &catalog::Entry) -> (String, Known) {
    let catalog::Entry { version, revision, created_ms, expires_ms, .. } = *entry;
    (entry.key.clone(), Known { version, revision, text: text(entry), created_ms, expires_ms })
}
