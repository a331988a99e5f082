use std::collections::{BTreeMap, BTreeSet, HashMap};

use plan::manifest::{ChunkEntry, FileEntry, FileKind, Files, Manifest, Shape};
use proptest::prelude::*;

use super::super::record::{Kind, Owner, Record, Seen};
use super::Mirror;
use crate::GRACE_MS;

fn manifest(chunk: u8) -> Vec<u8> {
    let chunk = ChunkEntry { id: [chunk; 32], size: 10, piece_size: 1 << 20, descriptor_digest: [0; 32] };
    let kind = FileKind::Regular { size: 7, digest: [0; 32], extents: Vec::new() };
    let file = FileEntry { path: Vec::new(), kind, mode: 0o644, mtime_ns: 0 };
    let files = Files::Inline(vec![file]);
    Manifest { shape: Shape::Stream, size: 7, file_count: 1, chunks: vec![chunk], files }.encode()
}

fn seen(revision: u64, kind: Kind) -> Seen {
    Seen { revision, record: Record::tombstone(kind, 0, revision, 0), content: Vec::new() }
}

fn with_chunk(revision: u64, chunk: u8) -> Seen {
    Seen { content: manifest(chunk), ..seen(revision, Kind::Manifest) }
}

#[test]
fn nothing_is_unreferenced_while_it_is_not_known_what_was_retired() {
    let mut mirror = Mirror::new(100);
    assert!(mirror.references(&[1; 32], 99) && !mirror.references(&[1; 32], 100));
    mirror.lease(7, 3, true);
    mirror.lease(8, 3, true);
    assert_eq!(mirror.leases_unknown(), [3]);
    mirror.retired_earlier(3, None, 100);
    mirror.lease(7, 3, false);
    assert!(mirror.references(&[1; 32], 100));
    mirror.lease(8, 3, false);
    assert!(!mirror.references(&[1; 32], 100));
    mirror.put("k", &Seen { content: vec![7], ..seen(4, Kind::Manifest) }, 100);
    assert!(mirror.references(&[1; 32], 100), "a manifest that cannot be read may name any chunk");
    mirror.put("k", &seen(5, Kind::Value), 100);
    assert!(!mirror.references(&[1; 32], 100));
    mirror.put_damaged("k", 6, 100);
    assert!(mirror.references(&[1; 32], 100));
}

#[test]
fn a_retired_version_stays_for_its_grace_and_while_it_is_read() {
    let mut mirror = Mirror::new(0);
    mirror.put("k", &with_chunk(1, 1), 0);
    mirror.lease(7, 1, true);
    mirror.put("k", &with_chunk(2, 2), 1000);
    mirror.forget(1000 + GRACE_MS);
    assert!(mirror.references(&[1; 32], 0) && mirror.take_forgotten() == 0);
    mirror.lease(7, 1, false);
    mirror.forget(999 + GRACE_MS);
    assert!(mirror.references(&[1; 32], 0));
    mirror.forget(1000 + GRACE_MS);
    assert!(!mirror.references(&[1; 32], 0) && mirror.references(&[2; 32], 0));
    assert_eq!((mirror.take_forgotten(), mirror.take_forgotten()), (1, 0));
    // A version that was retired before the mirror began, and is read.
    mirror.lease(8, 40, true);
    mirror.retired_earlier(40, Some(vec![[9; 32]]), 0);
    mirror.forget(u64::MAX);
    assert!(mirror.references(&[9; 32], 0) && mirror.leases_unknown().is_empty());
}

#[test]
fn what_an_ended_service_owned_is_found() {
    let mut mirror = Mirror::new(0);
    let owned = |revision, since| {
        let mut seen = seen(revision, Kind::Value);
        seen.record.owner = Some(Owner { name: "s".into(), since });
        seen
    };
    mirror.service("s", Some(1));
    mirror.put("old", &owned(2, 1), 0);
    assert!(
        mirror.abandoned(9).is_empty()
            && mirror.owned_count("s") == 1
            && mirror.service_since("s") == Some(1)
    );
    mirror.service("s", None);
    mirror.service("s", Some(3));
    mirror.put("new", &owned(4, 3), 0);
    let victims = mirror.abandoned(9);
    assert_eq!((victims.len(), &*victims[0].key, victims[0].revision), (1, "old", 2), "of the one before");
    mirror.put("old", &seen(5, Kind::OwnerEnded), 0);
    assert!(mirror.abandoned(9).is_empty());
    mirror.service("s", None);
    assert_eq!(mirror.abandoned_by("s").count(), 1);
}

#[test]
fn marks_and_quiet_times_are_known() {
    let mut mirror = Mirror::new(0);
    mirror.begin_recent(10);
    mirror.put("a", &seen(11, Kind::Value), 0);
    mirror.put("b", &seen(12, Kind::Value), 0);
    mirror.reached(12);
    assert!(mirror.is_quiet_since(11, |key| key == "a") && !mirror.is_quiet_since(10, |key| key == "a"));
    assert!(!mirror.is_quiet_since(9, |_| false), "it does not know that far back");
    (1..=3).for_each(|at| mirror.mark(10 * at, Some(at)));
    mirror.mark(10, None);
    assert_eq!(mirror.marks_until(29).collect::<Vec<_>>(), [(20, 2)]);
    assert_eq!(mirror.last_mark(), Some((30, 3)));
}

/// What is done to one of a few keys.
#[derive(Debug, Clone)]
enum Step {
    Put { key: u8, expires_ms: Option<u64>, chunk: Option<u8> },
    End { key: u8 },
    Purge { key: u8 },
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let put = (0_u8..5, proptest::option::of(0_u64..20_000), proptest::option::of(0_u8..4));
    prop_oneof![
        4 => put.prop_map(|(key, expires_ms, chunk)| Step::Put { key, expires_ms, chunk }),
        2 => (0_u8..5).prop_map(|key| Step::End { key }),
        1 => (0_u8..5).prop_map(|key| Step::Purge { key }),
        2 => (0_u64..4000).prop_map(Step::Wait),
    ]
}

/// The same, without any index.
#[derive(Default)]
struct Model {
    keys: BTreeMap<String, Seen>,
    /// Chunk and time.
    retired: Vec<(u8, u64)>,
}

impl Model {
    fn set(&mut self, key: &str, seen: Option<Seen>, now_ms: u64) {
        let before = match seen {
            Some(seen) => self.keys.insert(key.into(), seen),
            None => self.keys.remove(key),
        };
        self.retired.extend(before.and_then(|seen| chunk_of(&seen)).map(|chunk| (chunk, now_ms)));
    }
}

fn chunk_of(seen: &Seen) -> Option<u8> {
    seen.chunks()?.first().map(|chunk| chunk[0])
}

proptest! {
    #[test]
    fn the_indices_say_what_the_keys_say(steps in proptest::collection::vec(step(), 0..60)) {
        let (mut mirror, mut model, mut now_ms) = (Mirror::new(0), Model::default(), 0);
        for (at, step) in steps.into_iter().enumerate() {
            let revision = at as u64 + 1;
            match step {
                Step::Put { key, expires_ms, chunk } => {
                    let mut seen = chunk.map_or_else(|| seen(revision, Kind::Value), |chunk| with_chunk(revision, chunk));
                    seen.record.expires_ms = expires_ms;
                    mirror.put(&format!("{}/k{key}", key % 2), &seen, now_ms);
                    model.set(&format!("{}/k{key}", key % 2), Some(seen), now_ms);
                }
                Step::End { key } => {
                    mirror.put(&format!("{}/k{key}", key % 2), &seen(revision, Kind::Deleted), now_ms);
                    model.set(&format!("{}/k{key}", key % 2), Some(seen(revision, Kind::Deleted)), now_ms);
                }
                Step::Purge { key } => {
                    mirror.purge(&format!("{}/k{key}", key % 2), now_ms);
                    model.set(&format!("{}/k{key}", key % 2), None, now_ms);
                }
                Step::Wait(ms) => now_ms += ms,
            }
            mirror.forget(now_ms);
            model.retired.retain(|(_, at_ms)| now_ms < at_ms + GRACE_MS);

            for prefix in ["", "0/", "1/k1"] {
                let below = || model.keys.iter().filter(|(key, _)| key.starts_with(prefix));
                let overdue: BTreeSet<&str> =
                    below().filter(|(_, seen)| seen.record.is_overdue(now_ms)).map(|(key, _)| &**key).collect();
                let found = mirror.overdue(prefix, now_ms, usize::MAX);
                prop_assert_eq!(found.iter().map(|it| &*it.key).collect::<BTreeSet<_>>(), overdue);
                let dead = below().filter(|(_, seen)| !seen.record.is_live(now_ms)).count();
                prop_assert_eq!(mirror.dead(prefix, now_ms), dead as u64);
            }
            let ended = |most| {
                let dead = model.keys.iter().filter(|(_, seen)| seen.record.is_tombstone() && seen.revision <= most);
                dead.map(|(key, seen)| (seen.revision, key.clone())).collect::<BTreeSet<_>>()
            };
            for most in [revision / 2, revision] {
                let found = mirror.tombstones(most, usize::MAX).into_iter();
                prop_assert_eq!(found.map(|it| (it.revision, it.key.to_string())).collect::<BTreeSet<_>>(), ended(most));
            }
            let mut counts: HashMap<u8, u32> = HashMap::new();
            let current = model.keys.values().filter_map(chunk_of);
            current.chain(model.retired.iter().map(|(chunk, _)| *chunk)).for_each(|chunk| *counts.entry(chunk).or_default() += 1);
            for chunk in 0..4 {
                prop_assert_eq!(mirror.references(&[chunk; 32], now_ms), counts.contains_key(&chunk));
            }
        }
    }
}
