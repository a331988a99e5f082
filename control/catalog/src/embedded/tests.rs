use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::thread;

use futures_lite::future::{block_on, zip};
use plan::manifest::{ChunkEntry, FileEntry, FileKind, Files, Manifest, Shape};
use proptest::prelude::*;

use super::*;
use crate::{GRACE_MS, LEASE_MS, MANIFEST_SIZE_MAX, REOPENED_GRACE_MS};

fn chunk(number: u8) -> [u8; 32] {
    [number; 32]
}

/// A manifest of one empty file that refers to these chunks.
fn manifest(chunks: &[u8]) -> Vec<u8> {
    let entry = |&number: &u8| ChunkEntry {
        id: chunk(number),
        size: 10,
        piece_size: 1 << 20,
        descriptor_digest: [0; 32],
    };
    let kind = FileKind::Regular { size: 7, digest: [0; 32], extents: vec![] };
    let file = FileEntry { path: vec![], kind, mode: 0o644, mtime_ns: 0 };
    let chunks = chunks.iter().map(entry).collect();
    Manifest { shape: Shape::Stream, size: 7, file_count: 1, chunks, files: Files::Inline(vec![file]) }
        .encode()
}

fn put(catalog: &Embedded, key: &str, chunks: &[u8], now_ms: u64) -> Committed {
    block_on(catalog.commit_at(key.into(), manifest(chunks), None, now_ms)).unwrap()
}

fn put_if(catalog: &Embedded, key: &str, expected: u64) -> Result<Committed, CatalogError> {
    block_on(catalog.commit_at(key.into(), manifest(&[1]), Some(expected), 0))
}

fn remove(catalog: &Embedded, key: &str, recursive: bool, now_ms: u64) -> u64 {
    block_on(catalog.remove_at(key.into(), recursive, now_ms)).unwrap()
}

fn sweep(catalog: &Embedded, now_ms: u64) -> u64 {
    block_on(catalog.sweep(now_ms)).unwrap()
}

fn referenced(catalog: &Embedded, number: u8) -> bool {
    catalog.references(&[chunk(number)]).unwrap() == [true]
}

fn keys(catalog: &Embedded, prefix: &str, after: &str, limit: usize) -> (Vec<String>, bool) {
    let (lines, more) = catalog.list(prefix, after, limit).unwrap();
    (lines.into_iter().map(|line| line.key).collect(), more)
}

#[test]
fn a_commit_is_read_back_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let catalog = Embedded::open(directory.path()).unwrap();
    let (first, second) = (put(&catalog, "a/b", &[1], 5), put(&catalog, "a/b", &[2], 6));
    assert_eq!((first.version, second.version), (1, 2));
    assert!(second.revision > first.revision);
    let cluster = catalog.cluster_id();
    drop(catalog);
    let catalog = Embedded::open(directory.path()).unwrap();
    assert_eq!(catalog.cluster_id(), cluster);
    let Committed { version, revision } = second;
    let entry = Opened { key: "a/b".into(), version, revision, created_ms: 6, manifest: manifest(&[2]) };
    assert_eq!(catalog.get("a/b").unwrap(), Some(entry));
    assert_eq!(catalog.get("a").unwrap(), None);
    let third = put(&catalog, "a/b", &[3], 7);
    assert_eq!((third.version, third.revision), (3, revision + 1));
}

#[test]
fn an_expected_version_must_be_the_current_one() {
    let directory = tempfile::tempdir().unwrap();
    let catalog = Embedded::open(directory.path()).unwrap();
    assert!(matches!(put_if(&catalog, "k", 1), Err(CatalogError::Conflict { expected: 1, found: 0, .. })));
    assert_eq!(put_if(&catalog, "k", 0).unwrap().version, 1);
    assert!(matches!(put_if(&catalog, "k", 0), Err(CatalogError::Conflict { expected: 0, found: 1, .. })));
    assert_eq!(put_if(&catalog, "k", 1).unwrap().version, 2);
    assert_eq!(remove(&catalog, "k", false, 0), 1);
    assert!(matches!(put_if(&catalog, "k", 2), Err(CatalogError::Conflict { found: 0, .. })));
    assert_eq!(put_if(&catalog, "k", 0).unwrap().version, 3);
}

#[test]
fn bad_input_is_refused_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let catalog = Embedded::open(directory.path()).unwrap();
    let commit = |key: &str, bytes: Vec<u8>| block_on(catalog.commit(key.into(), bytes, None)).unwrap_err();
    assert!(matches!(commit("a//b", manifest(&[])), CatalogError::Key(_)));
    assert!(matches!(commit("a", vec![1, 2, 3]), CatalogError::Manifest { .. }));
    assert!(matches!(commit("a", vec![1; MANIFEST_SIZE_MAX + 1]), CatalogError::ManifestSize { .. }));
    assert!(matches!(catalog.get("/"), Err(CatalogError::Key(_))));
    assert!(matches!(catalog.open_leased("..", 0), Err(CatalogError::Key(_))));
    assert!(matches!(block_on(catalog.remove("a/".into(), true)), Err(CatalogError::Key(_))));
    assert_eq!(keys(&catalog, "", "", 10), (vec![], false));
    assert_eq!(put(&catalog, "a", &[], 0).revision, 1);
}

#[test]
fn a_listing_is_ordered_and_goes_page_by_page() {
    let directory = tempfile::tempdir().unwrap();
    let catalog = Embedded::open(directory.path()).unwrap();
    for key in ["b", "a/2", "a", "a-x", "a/1/x", "c"] {
        put(&catalog, key, &[], 3);
    }
    put(&catalog, "b", &[], 4);
    remove(&catalog, "c", false, 5);
    assert_eq!(keys(&catalog, "", "", 9).0, ["a", "a-x", "a/1/x", "a/2", "b"]);
    assert_eq!(keys(&catalog, "a/", "", 9).0, ["a/1/x", "a/2"]);
    assert_eq!(keys(&catalog, "a", "", 2), (vec!["a".into(), "a-x".into()], true));
    assert_eq!(keys(&catalog, "a", "a-x", 2), (vec!["a/1/x".into(), "a/2".into()], false));
    assert_eq!(keys(&catalog, "b", "a", 2), (vec!["b".into()], false));
    assert_eq!(keys(&catalog, "a", "b", 2), (vec![], false));
    assert_eq!(keys(&catalog, "", "", 0), (vec![], true));
    let summary = Summary { key: "b".into(), version: 2, created_ms: 4, size: 7, files: 1 };
    assert_eq!(catalog.list("b", "", 1).unwrap().0, [summary]);
}

#[test]
fn removing_a_tree_leaves_its_neighbours() {
    let directory = tempfile::tempdir().unwrap();
    let catalog = Embedded::open(directory.path()).unwrap();
    for key in ["a", "a/1", "a/2/x", "a-x", "a0", "b"] {
        put(&catalog, key, &[], 0);
    }
    assert_eq!(remove(&catalog, "z", true, 1), 0);
    assert_eq!(remove(&catalog, "a/2", false, 1), 0);
    assert_eq!(remove(&catalog, "a", true, 1), 3);
    assert_eq!(keys(&catalog, "", "", 9).0, ["a-x", "a0", "b"]);
    assert_eq!(remove(&catalog, "a", true, 1), 0);
    assert_eq!(put(&catalog, "a/1", &[], 2).version, 2);
}

#[test]
fn a_tree_larger_than_one_step_goes_whole() {
    let directory = tempfile::tempdir().unwrap();
    let catalog = Embedded::open_at(directory.path(), 0).unwrap();
    let bytes = manifest(&[1]);
    thread::scope(|scope| {
        for worker in 0..64 {
            let (catalog, bytes) = (&catalog, &bytes);
            scope.spawn(move || {
                for number in 0..70 {
                    let commit = catalog.commit_at(format!("t/{worker}/{number}"), bytes.clone(), None, 0);
                    block_on(commit).unwrap();
                }
            });
        }
    });
    assert_eq!(remove(&catalog, "t", true, 0), 64 * 70);
    assert_eq!(keys(&catalog, "", "", 1), (vec![], false));
    assert!(referenced(&catalog, 1));
    assert_eq!(sweep(&catalog, GRACE_MS), 64 * 70);
    assert!(!referenced(&catalog, 1));
}

#[test]
fn references_last_for_the_grace_and_are_shared() {
    let directory = tempfile::tempdir().unwrap();
    let catalog = Embedded::open_at(directory.path(), 0).unwrap();
    put(&catalog, "a", &[1, 2, 2], 0);
    put(&catalog, "b", &[2, 3], 0);
    assert_eq!(catalog.references(&[chunk(3), chunk(9), chunk(1)]).unwrap(), [true, false, true]);
    put(&catalog, "a", &[4], 1_000);
    remove(&catalog, "b", false, 2_000);
    assert_eq!(sweep(&catalog, 1_000 + GRACE_MS - 1), 0);
    assert!(referenced(&catalog, 1));
    assert_eq!(sweep(&catalog, 1_000 + GRACE_MS), 1);
    assert_eq!([1, 2, 3, 4].map(|number| referenced(&catalog, number)), [false, true, true, true]);
    assert_eq!(sweep(&catalog, 2_000 + GRACE_MS), 1);
    assert_eq!([1, 2, 3, 4].map(|number| referenced(&catalog, number)), [false, false, false, true]);
}

#[test]
fn a_lease_outlives_the_grace_while_it_is_renewed() {
    let directory = tempfile::tempdir().unwrap();
    let catalog = Embedded::open_at(directory.path(), 0).unwrap();
    put(&catalog, "a", &[1], 0);
    assert_eq!(catalog.open_leased("none", 0).unwrap(), None);
    let (entry, lease) = catalog.open_leased("a", 0).unwrap().unwrap();
    let (_, second) = catalog.open_leased("a", 0).unwrap().unwrap();
    assert_eq!((entry.version, lease == second), (1, false));
    remove(&catalog, "a", false, 0);
    assert_eq!(catalog.renew(&[lease, second, 0], GRACE_MS), [0]);
    catalog.release(second);
    assert_eq!(sweep(&catalog, GRACE_MS + LEASE_MS - 1), 0);
    assert!(referenced(&catalog, 1));
    assert_eq!(sweep(&catalog, GRACE_MS + LEASE_MS), 1);
    assert!(!referenced(&catalog, 1));
    assert_eq!(catalog.renew(&[lease], GRACE_MS + LEASE_MS), [lease]);
}

#[test]
fn readers_of_the_previous_run_get_the_grace() {
    let directory = tempfile::tempdir().unwrap();
    let catalog = Embedded::open_at(directory.path(), 0).unwrap();
    put(&catalog, "a", &[1], 0);
    let (_, lease) = catalog.open_leased("a", 0).unwrap().unwrap();
    remove(&catalog, "a", false, 0);
    drop(catalog);
    let opened_ms = 5 * GRACE_MS;
    let catalog = Embedded::open_at(directory.path(), opened_ms).unwrap();
    assert_eq!(catalog.renew(&[lease], opened_ms), [lease]);
    // What is put and removed since then has nothing to wait for.
    put(&catalog, "b", &[2], opened_ms);
    remove(&catalog, "b", false, opened_ms);
    assert_eq!(sweep(&catalog, opened_ms + GRACE_MS), 1);
    assert_eq!(sweep(&catalog, opened_ms + REOPENED_GRACE_MS - 1), 0);
    assert!(referenced(&catalog, 1) && !referenced(&catalog, 2));
    assert_eq!(sweep(&catalog, opened_ms + REOPENED_GRACE_MS), 1);
}

#[test]
fn concurrent_commits_are_all_there_afterwards() {
    const THREADS: u64 = 16;
    const COMMITS: u64 = 25;
    let directory = tempfile::tempdir().unwrap();
    let catalog = Embedded::open(directory.path()).unwrap();
    let mut versions = BTreeSet::new();
    let mut revisions = BTreeSet::new();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|worker| {
                let catalog = catalog.clone();
                scope.spawn(move || {
                    let one = |number| {
                        let own = put(&catalog, &format!("own/{worker}/{number}"), &[worker as u8], 0);
                        (own, put(&catalog, "shared", &[100 + worker as u8], 0))
                    };
                    (0..COMMITS).map(one).collect::<Vec<_>>()
                })
            })
            .collect();
        for (own, shared) in workers.into_iter().flat_map(|worker| worker.join().unwrap()) {
            assert_eq!(own.version, 1);
            assert!(versions.insert(shared.version));
            assert!(revisions.insert(own.revision) && revisions.insert(shared.revision));
        }
    });
    drop(catalog);
    let catalog = Embedded::open(directory.path()).unwrap();
    assert_eq!(versions, (1..=THREADS * COMMITS).collect());
    assert_eq!(revisions, (1..=2 * THREADS * COMMITS).collect());
    assert_eq!(catalog.get("shared").unwrap().unwrap().version, THREADS * COMMITS);
    assert_eq!(keys(&catalog, "own/", "", LIST_ENTRIES_MAX).0.len() as u64, THREADS * COMMITS);
    assert!((0..THREADS).all(|worker| referenced(&catalog, worker as u8)));
}

#[test]
fn requests_of_one_group_see_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let catalog = Embedded::open(directory.path()).unwrap();
    let commit = |expected| catalog.commit("k".into(), manifest(&[1]), Some(expected));
    let all = zip(zip(commit(0), commit(1)), zip(catalog.remove("k".into(), true), commit(0)));
    let ((first, second), (removed, third)) = block_on(all);
    assert_eq!((first.unwrap().version, second.unwrap().version), (1, 2));
    assert_eq!((removed.unwrap(), third.unwrap().version), (1, 3));
}

#[test]
fn a_directory_in_use_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let catalog = Embedded::open(directory.path()).unwrap();
    assert!(matches!(Embedded::open(directory.path()), Err(CatalogError::Locked(_))));
    drop(catalog);
    Embedded::open(directory.path()).unwrap();
}

#[test]
fn lost_writes_are_noticed() {
    let directory = tempfile::tempdir().unwrap();
    drop(Embedded::open(directory.path()).unwrap());
    let (rows, old) = (directory.path().join("rows"), directory.path().join("old"));
    copy(&rows, &old);
    let catalog = Embedded::open(directory.path()).unwrap();
    put(&catalog, "a", &[1], 0);
    drop(catalog);
    fs::remove_dir_all(&rows).unwrap();
    fs::rename(&old, &rows).unwrap();
    let opened = Embedded::open(directory.path()).map(drop);
    assert!(matches!(opened, Err(CatalogError::LostWrites { found: 0, fenced: 1, .. })));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Flips one bit in every value of a table, behind the catalog's back.
fn rot(directory: &Path, table: &str) {
    let database = fjall::Database::builder(directory.join("rows")).open().unwrap();
    let keyspace = database.keyspace(table, fjall::KeyspaceCreateOptions::default).unwrap();
    let rows: Vec<_> = keyspace.iter().map(|row| row.into_inner().unwrap()).collect();
    assert!(!rows.is_empty());
    for (key, value) in rows {
        let mut value = value.to_vec();
        *value.last_mut().unwrap() ^= 1;
        keyspace.insert(key, value).unwrap();
    }
}

fn rotten(table: &str) -> (tempfile::TempDir, Embedded) {
    let directory = tempfile::tempdir().unwrap();
    let catalog = Embedded::open_at(directory.path(), 0).unwrap();
    put(&catalog, "gone", &[7], 0);
    remove(&catalog, "gone", false, 0);
    put(&catalog, "rotten", &[8], 0);
    drop(catalog);
    rot(directory.path(), table);
    let catalog = Embedded::open_at(directory.path(), 0).unwrap();
    (directory, catalog)
}

fn names<T: std::fmt::Debug>(outcome: Result<T, CatalogError>, subject: &str) {
    let error = outcome.unwrap_err();
    assert!(matches!(&error, CatalogError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains(subject), "{error}");
}

#[test]
fn rot_in_what_is_current_is_told() {
    let (_directory, catalog) = rotten("current");
    names(catalog.get("rotten"), "key 'rotten'");
    names(catalog.list("", "", 5), "key 'rotten'");
    names(catalog.open_leased("rotten", 0), "key 'rotten'");
    names(block_on(catalog.remove("rotten".into(), false)), "key 'rotten'");
    names(put_if(&catalog, "rotten", 1), "key 'rotten'");
    put(&catalog, "other", &[9], 0);
    assert_eq!(catalog.get("other").unwrap().unwrap().version, 1);
}

#[test]
fn rot_in_other_tables_is_told() {
    let (_directory, catalog) = rotten("versions");
    names(catalog.get("rotten"), "key 'rotten', version 1");
    names(block_on(catalog.sweep(REOPENED_GRACE_MS)), "key 'gone', version 1");
    assert!(referenced(&catalog, 7));
    let (_directory, catalog) = rotten("buried");
    names(put_if(&catalog, "gone", 0), "key 'gone'");
    let (_directory, catalog) = rotten("chunks");
    names(catalog.references(&[chunk(8)]), "chunk 0808");
    names(put_if(&catalog, "k", 0).and(block_on(catalog.sweep(REOPENED_GRACE_MS))), "chunk 0707");
    let (_directory, catalog) = rotten("retired");
    names(block_on(catalog.sweep(REOPENED_GRACE_MS)), "a version");
}

#[test]
fn rot_in_the_catalogs_own_numbers_is_told() {
    let (directory, catalog) = rotten_meta();
    assert!(catalog.is_err());
    names(catalog.map(drop), "its own number 'revision'");
    drop(directory);
}

fn rotten_meta() -> (tempfile::TempDir, Result<Embedded, CatalogError>) {
    let directory = tempfile::tempdir().unwrap();
    put(&Embedded::open(directory.path()).unwrap(), "a", &[], 0);
    rot(directory.path(), "meta");
    let opened = Embedded::open(directory.path());
    (directory, opened)
}

/// What a catalog must hold, kept in the plainest way.
#[derive(Default)]
struct Model {
    current: BTreeMap<String, (u64, Vec<u8>)>,
    last_version: BTreeMap<String, u64>,
    /// (key, version, chunks, retired at)
    retired: Vec<(String, u64, Vec<u8>, u64)>,
    /// (lease, key, version, expires at)
    leases: Vec<(u64, String, u64, u64)>,
    /// Versions from before the catalog was opened.
    old: BTreeSet<(String, u64)>,
    opened_ms: u64,
}

impl Model {
    fn retire(&mut self, key: &str, now_ms: u64) -> u64 {
        let Some((version, chunks)) = self.current.remove(key) else { return 0 };
        self.retired.push((key.into(), version, chunks, now_ms));
        1
    }

    fn sweep(&mut self, now_ms: u64) -> u64 {
        self.leases.retain(|(.., expires_ms)| *expires_ms > now_ms);
        let before = self.retired.len();
        let leased = |key: &str, version| self.leases.iter().any(|(_, k, v, _)| k == key && *v == version);
        let reopened = now_ms < self.opened_ms + REOPENED_GRACE_MS;
        let over = |key: &String, version: u64, at: u64| {
            at + GRACE_MS <= now_ms && !(reopened && self.old.contains(&(key.clone(), version)))
        };
        self.retired.retain(|(key, version, _, at)| !over(key, *version, *at) || leased(key, *version));
        (before - self.retired.len()) as u64
    }

    fn references(&self) -> BTreeSet<u8> {
        let current = self.current.values().map(|(_, chunks)| chunks);
        current.chain(self.retired.iter().map(|(_, _, chunks, _)| chunks)).flatten().copied().collect()
    }
}

#[derive(Debug, Clone)]
enum Act {
    Commit(&'static str, Vec<u8>, Option<u64>),
    Remove(&'static str, bool),
    Lease(&'static str),
    Renew(prop::sample::Index),
    Release(prop::sample::Index),
    Sweep,
    Wait(u64),
    Reopen,
}

fn act() -> impl Strategy<Value = Act> {
    let key = || prop::sample::select(vec!["a", "a/b", "a/b/c", "a-b", "b", "ab"]);
    let chunks = prop::collection::vec(0..6_u8, 0..4);
    prop_oneof![
        8 => (key(), chunks, prop::option::weighted(0.3, 0..3_u64)).prop_map(|(k, c, e)| Act::Commit(k, c, e)),
        3 => (key(), any::<bool>()).prop_map(|(key, recursive)| Act::Remove(key, recursive)),
        2 => key().prop_map(Act::Lease),
        1 => any::<prop::sample::Index>().prop_map(Act::Renew),
        1 => any::<prop::sample::Index>().prop_map(Act::Release),
        3 => Just(Act::Sweep),
        3 => (0..2 * GRACE_MS).prop_map(Act::Wait),
        1 => (0..REOPENED_GRACE_MS).prop_map(Act::Wait),
        1 => Just(Act::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    #[test]
    fn any_history_agrees_with_a_plain_map(acts in prop::collection::vec(act(), 1..40)) {
        let directory = tempfile::tempdir().unwrap();
        let mut catalog = Embedded::open_at(directory.path(), 0).unwrap();
        let (mut model, mut now_ms) = (Model::default(), 0);
        for act in acts {
            match act {
                Act::Commit(key, chunks, expected) => {
                    let outcome = block_on(catalog.commit_at(key.into(), manifest(&chunks), expected, now_ms));
                    let found = model.current.get(key).map_or(0, |(version, _)| *version);
                    if expected.is_some_and(|expected| expected != found) {
                        let refused = matches!(outcome, Err(CatalogError::Conflict { .. }));
                        prop_assert!(refused);
                    } else {
                        model.retire(key, now_ms);
                        let version = model.last_version.entry(key.into()).or_default();
                        *version += 1;
                        prop_assert_eq!(outcome.unwrap().version, *version);
                        model.current.insert(key.into(), (*version, chunks));
                    }
                }
                Act::Remove(key, recursive) => {
                    let below = |k: &&String| recursive && k.starts_with(&format!("{key}/"));
                    let doomed: Vec<_> = model.current.keys().filter(|k| *k == key || below(k)).cloned().collect();
                    let expected: u64 = doomed.iter().map(|key| model.retire(key, now_ms)).sum();
                    prop_assert_eq!(remove(&catalog, key, recursive, now_ms), expected);
                }
                Act::Lease(key) => {
                    let opened = catalog.open_leased(key, now_ms).unwrap();
                    let version = opened.as_ref().map(|(entry, _)| entry.version);
                    prop_assert_eq!(version, model.current.get(key).map(|(version, _)| *version));
                    if let Some((entry, lease)) = opened {
                        model.leases.push((lease, entry.key, entry.version, now_ms + LEASE_MS));
                    }
                }
                Act::Renew(which) if !model.leases.is_empty() => {
                    let lease = which.get_mut(&mut model.leases);
                    prop_assert!(catalog.renew(&[lease.0], now_ms).is_empty());
                    lease.3 = now_ms + LEASE_MS;
                }
                Act::Release(which) if !model.leases.is_empty() => {
                    let lease = model.leases.swap_remove(which.index(model.leases.len()));
                    catalog.release(lease.0);
                }
                Act::Renew(_) | Act::Release(_) => {}
                Act::Sweep => prop_assert_eq!(sweep(&catalog, now_ms), model.sweep(now_ms)),
                Act::Wait(ms) => now_ms += ms,
                Act::Reopen => {
                    drop(catalog);
                    catalog = Embedded::open_at(directory.path(), now_ms).unwrap();
                    model.leases.clear();
                    model.opened_ms = now_ms;
                    let current = model.current.iter().map(|(key, (version, _))| (key.clone(), *version));
                    let retired = model.retired.iter().map(|(key, version, ..)| (key.clone(), *version));
                    model.old = current.chain(retired).collect();
                }
            }
            let listed: Vec<(String, u64)> =
                catalog.list("", "", 99).unwrap().0.into_iter().map(|line| (line.key, line.version)).collect();
            let expected: Vec<_> = model.current.iter().map(|(key, (version, _))| (key.clone(), *version)).collect();
            prop_assert_eq!(listed, expected);
            for (key, (version, chunks)) in &model.current {
                let entry = catalog.get(key).unwrap().unwrap();
                prop_assert_eq!((entry.version, entry.manifest), (*version, manifest(chunks)));
            }
            let all: BTreeSet<u8> = (0..6).filter(|number| referenced(&catalog, *number)).collect();
            prop_assert_eq!(all, model.references());
        }
    }
}
