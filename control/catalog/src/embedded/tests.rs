use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use futures_lite::future::{block_on, poll_once, zip};
use plan::manifest::{ChunkEntry, FileEntry, FileKind, Files, Manifest, Shape};
use proptest::prelude::*;

use super::*;
use crate::{Condition, Content, Expiry, GRACE_MS, LEASE_MS, Put, REOPENED_GRACE_MS, Swept};

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

/// A catalog, and a clock that stands still until it is set.
struct World {
    catalog: Option<Embedded>,
    clock: Arc<Hands>,
    directory: tempfile::TempDir,
}

#[derive(Default)]
struct Hands(AtomicU64);

impl Clock for Hands {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl World {
    fn new() -> Self {
        let mut world =
            Self { catalog: None, clock: Arc::default(), directory: tempfile::tempdir().unwrap() };
        world.reopen();
        world
    }

    fn settings(&self) -> Settings {
        Settings { clock: self.clock.clone(), ..Settings::default() }
    }

    fn reopen(&mut self) {
        self.reopen_with(self.settings());
    }

    fn reopen_with(&mut self, settings: Settings) {
        self.catalog = None;
        self.catalog = Some(Embedded::open_with(self.directory.path(), settings).unwrap());
    }

    fn at(&self, now_ms: u64) -> &Embedded {
        self.clock.0.store(now_ms, Ordering::Relaxed);
        self
    }
}

impl std::ops::Deref for World {
    type Target = Embedded;

    fn deref(&self) -> &Embedded {
        self.catalog.as_ref().unwrap()
    }
}

fn write_of(put: Put, expected: Option<u64>) -> Write {
    let condition = expected.map(|version| Condition::Version { key: put.key.clone(), version });
    Write { conditions: condition.into_iter().collect(), operations: vec![Operation::Put(put)] }
}

fn try_put(
    catalog: &Embedded,
    key: &str,
    chunks: &[u8],
    expected: Option<u64>,
) -> Result<(u64, u64), CatalogError> {
    let put = Put::new(key, Content::Manifest(manifest(chunks)));
    let written = block_on(catalog.write(write_of(put, expected)))?;
    Ok((written.versions[0], written.revision))
}

/// The version and the revision.
fn put(catalog: &Embedded, key: &str, chunks: &[u8]) -> (u64, u64) {
    try_put(catalog, key, chunks, None).unwrap()
}

fn put_if(catalog: &Embedded, key: &str, expected: u64) -> Result<(u64, u64), CatalogError> {
    try_put(catalog, key, &[1], Some(expected))
}

fn get(catalog: &Embedded, key: &str) -> Result<Option<Entry>, CatalogError> {
    Ok(block_on(Catalog::get(catalog, &[key.into()], Consistency::Quorum))?.entries.remove(0))
}

fn open_leased(catalog: &Embedded, key: &str) -> Result<Option<(Entry, u64)>, CatalogError> {
    block_on(catalog.open_leased(key))
}

fn renew(catalog: &Embedded, leases: &[u64]) -> Vec<u64> {
    block_on(catalog.renew(leases)).unwrap()
}

fn remove(catalog: &Embedded, key: &str, recursive: bool) -> u64 {
    block_on(catalog.remove(key, recursive)).unwrap()
}

/// How many versions were forgotten.
fn sweep(catalog: &Embedded) -> u64 {
    block_on(catalog.sweep()).unwrap().forgotten
}

fn references(catalog: &Embedded, chunks: &[[u8; 32]]) -> Result<Vec<bool>, CatalogError> {
    block_on(catalog.references(chunks))
}

fn referenced(catalog: &Embedded, number: u8) -> bool {
    references(catalog, &[chunk(number)]).unwrap() == [true]
}

fn list(catalog: &Embedded, prefix: &str) -> Result<Vec<Entry>, CatalogError> {
    let scan = Scan { prefix: prefix.into(), after: None, limit: 10_000, contents: false };
    Ok(block_on(Catalog::scan(catalog, &scan, Consistency::Quorum))?.entries)
}

fn keys(catalog: &Embedded, prefix: &str) -> Vec<String> {
    list(catalog, prefix).unwrap().into_iter().map(|entry| entry.key).collect()
}

#[test]
fn a_put_is_read_back_after_a_restart() {
    let mut world = World::new();
    let (first, second) = (put(world.at(5), "a/b", &[1]), put(world.at(6), "a/b", &[2]));
    assert_eq!((first, second), ((1, 1), (2, 2)));
    let cluster = world.cluster_id();
    world.reopen();
    assert_eq!(world.cluster_id(), cluster);
    let entry = get(&world, "a/b").unwrap().unwrap();
    assert_eq!((entry.version, entry.revision, entry.created_ms, entry.updated_ms), (2, 2, 5, 6));
    assert_eq!((entry.size, entry.files, entry.content), (7, 1, Some(Content::Manifest(manifest(&[2])))));
    assert_eq!(get(&world, "a").unwrap(), None);
    assert_eq!(put(&world, "a/b", &[3]), (3, 3));
}

#[test]
fn an_expected_version_must_be_the_current_one() {
    let catalog = World::new();
    assert!(matches!(put_if(&catalog, "k", 1), Err(CatalogError::Conflict { expected: 1, found: 0, .. })));
    assert_eq!(put_if(&catalog, "k", 0).unwrap().0, 1);
    assert!(matches!(put_if(&catalog, "k", 0), Err(CatalogError::Conflict { expected: 0, found: 1, .. })));
    assert_eq!(put_if(&catalog, "k", 1).unwrap().0, 2);
    assert_eq!(remove(&catalog, "k", false), 1);
    assert!(matches!(put_if(&catalog, "k", 2), Err(CatalogError::Conflict { found: 0, .. })));
    assert_eq!(put_if(&catalog, "k", 0).unwrap().0, 3);
}

#[test]
fn removing_a_tree_leaves_its_neighbours() {
    let catalog = World::new();
    for key in ["a", "a/1", "a/2/x", "a-x", "a0", "b"] {
        put(&catalog, key, &[]);
    }
    assert_eq!(remove(&catalog, "z", true), 0);
    assert_eq!(remove(&catalog, "a/2", false), 0);
    assert_eq!(remove(&catalog, "a", true), 3);
    assert_eq!(keys(&catalog, ""), ["a-x", "a0", "b"]);
    assert_eq!(remove(&catalog, "a", true), 0);
    assert_eq!(put(&catalog, "a/1", &[]).0, 2);
}

#[test]
fn a_tree_larger_than_one_step_goes_whole() {
    const KEYS: u64 = 5_000;
    let catalog = World::new();
    let puts =
        (0..KEYS).map(|at| Operation::Put(Put::new(format!("t/{at}"), Content::Manifest(manifest(&[1])))));
    let puts: Vec<Operation> = puts.collect();
    for operations in puts.chunks(128) {
        block_on(catalog.write(Write { operations: operations.to_vec(), ..Write::default() })).unwrap();
    }
    assert_eq!(remove(&catalog, "t", true), KEYS);
    assert_eq!(keys(&catalog, ""), [""; 0]);
    assert!(referenced(&catalog, 1));
    assert_eq!(sweep(catalog.at(GRACE_MS)), KEYS);
    assert!(!referenced(&catalog, 1));
}

#[test]
fn references_last_for_the_grace_and_are_shared() {
    let catalog = World::new();
    put(&catalog, "a", &[1, 2, 2]);
    put(&catalog, "b", &[2, 3]);
    assert_eq!(references(&catalog, &[chunk(3), chunk(9), chunk(1)]).unwrap(), [true, false, true]);
    put(catalog.at(1_000), "a", &[4]);
    remove(catalog.at(2_000), "b", false);
    assert_eq!(sweep(catalog.at(1_000 + GRACE_MS - 1)), 0);
    assert!(referenced(&catalog, 1));
    assert_eq!(sweep(catalog.at(1_000 + GRACE_MS)), 1);
    assert_eq!([1, 2, 3, 4].map(|number| referenced(&catalog, number)), [false, true, true, true]);
    assert_eq!(sweep(catalog.at(2_000 + GRACE_MS)), 1);
    assert_eq!([1, 2, 3, 4].map(|number| referenced(&catalog, number)), [false, false, false, true]);
}

#[test]
fn a_manifest_whose_expiry_changes_keeps_its_chunks() {
    let catalog = World::new();
    put(&catalog, "a", &[1]);
    let expire = |when| {
        let operations = vec![Operation::Expire { key: "a".into(), when }];
        block_on(catalog.write(Write { operations, ..Write::default() })).unwrap().versions
    };
    assert_eq!(expire(Expiry::In(10 * GRACE_MS)), [2]);
    assert_eq!(sweep(catalog.at(GRACE_MS)), 1);
    assert!(referenced(&catalog, 1));
    assert_eq!(get(&catalog, "a").unwrap().unwrap().content, Some(Content::Manifest(manifest(&[1]))));
    let swept = block_on(catalog.at(10 * GRACE_MS).sweep()).unwrap();
    assert_eq!(swept, Swept { forgotten: 0, expired: 1, abandoned: 0 });
    assert_eq!((sweep(catalog.at(11 * GRACE_MS)), referenced(&catalog, 1)), (1, false));
}

#[test]
fn a_lease_outlives_the_grace_while_it_is_renewed() {
    let catalog = World::new();
    put(&catalog, "a", &[1]);
    assert_eq!(open_leased(&catalog, "none").unwrap(), None);
    let (entry, lease) = open_leased(&catalog, "a").unwrap().unwrap();
    let (_, second) = open_leased(&catalog, "a").unwrap().unwrap();
    assert_eq!((entry.version, lease == second), (1, false));
    remove(&catalog, "a", false);
    assert_eq!(renew(catalog.at(GRACE_MS), &[lease, second, 0]), [0]);
    block_on(catalog.release(second)).unwrap();
    assert_eq!(sweep(catalog.at(GRACE_MS + LEASE_MS - 1)), 0);
    assert!(referenced(&catalog, 1));
    assert_eq!(sweep(catalog.at(GRACE_MS + LEASE_MS)), 1);
    assert!(!referenced(&catalog, 1));
    assert_eq!(renew(&catalog, &[lease]), [lease]);
}

#[test]
fn what_is_leased_does_not_hide_what_is_swept_later() {
    let catalog = World::new();
    put(&catalog, "a", &[1]);
    let (_, lease) = open_leased(&catalog, "a").unwrap().unwrap();
    remove(&catalog, "a", false);
    put(&catalog, "b", &[2]);
    remove(catalog.at(10), "b", false);
    assert_eq!(sweep(catalog.at(10 + GRACE_MS)), 1);
    assert_eq!(sweep(catalog.at(20 + GRACE_MS)), 0);
    block_on(catalog.release(lease)).unwrap();
    assert_eq!(sweep(&catalog), 1);
    assert!(!referenced(&catalog, 1) && !referenced(&catalog, 2));
}

#[test]
fn readers_of_the_previous_run_get_the_grace() {
    let mut world = World::new();
    put(&world, "a", &[1]);
    let (_, lease) = open_leased(&world, "a").unwrap().unwrap();
    remove(&world, "a", false);
    let opened_ms = 5 * GRACE_MS;
    world.at(opened_ms);
    world.reopen();
    assert_eq!(renew(&world, &[lease]), [lease]);
    // What is put and removed since then has nothing to wait for.
    put(&world, "b", &[2]);
    remove(&world, "b", false);
    assert_eq!(sweep(world.at(opened_ms + GRACE_MS)), 1);
    assert_eq!(sweep(world.at(opened_ms + REOPENED_GRACE_MS - 1)), 0);
    assert!(referenced(&world, 1) && !referenced(&world, 2));
    assert_eq!(sweep(world.at(opened_ms + REOPENED_GRACE_MS)), 1);
}

#[test]
fn concurrent_puts_are_all_there_afterwards() {
    const THREADS: u64 = 16;
    const PUTS: u64 = 25;
    let mut world = World::new();
    let mut versions = BTreeSet::new();
    let mut revisions = BTreeSet::new();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|worker| {
                let catalog: Embedded = (*world).clone();
                scope.spawn(move || {
                    let one = |number| {
                        let own = put(&catalog, &format!("own/{worker}/{number}"), &[worker as u8]);
                        (own, put(&catalog, "shared", &[100 + worker as u8]))
                    };
                    (0..PUTS).map(one).collect::<Vec<_>>()
                })
            })
            .collect();
        for (own, shared) in workers.into_iter().flat_map(|worker| worker.join().unwrap()) {
            assert_eq!(own.0, 1);
            assert!(versions.insert(shared.0));
            assert!(revisions.insert(own.1) && revisions.insert(shared.1));
        }
    });
    world.reopen();
    assert_eq!(versions, (1..=THREADS * PUTS).collect());
    assert_eq!(revisions, (1..=2 * THREADS * PUTS).collect());
    assert_eq!(get(&world, "shared").unwrap().unwrap().version, THREADS * PUTS);
    assert_eq!(keys(&world, "own/").len() as u64, THREADS * PUTS);
    assert!((0..THREADS).all(|worker| referenced(&world, worker as u8)));
}

#[test]
fn requests_of_one_group_see_each_other() {
    let catalog = World::new();
    let write = |expected| {
        let put = Put::new("k", Content::Manifest(manifest(&[1])));
        catalog.write(write_of(put, Some(expected)))
    };
    let all = zip(zip(write(0), write(1)), zip(catalog.remove("k", true), write(0)));
    let ((first, second), (removed, third)) = block_on(all);
    assert_eq!((first.unwrap().versions, second.unwrap().versions), (vec![1], vec![2]));
    assert_eq!((removed.unwrap(), third.unwrap().versions), (1, vec![3]));
}

#[test]
fn who_was_told_early_sees_it_at_once() {
    const THREADS: u64 = 8;
    const PUTS: u64 = 25;
    let mut world = World::new();
    thread::scope(|scope| {
        for worker in 0..THREADS {
            let catalog: Embedded = (*world).clone();
            scope.spawn(move || {
                for number in 0..PUTS {
                    let key = format!("{worker}/{number}");
                    let chunk = (worker * PUTS + number) as u8;
                    let value = Put::new(&key, Content::Manifest(manifest(&[chunk])));
                    let write = write_of(value, Some(0));
                    // Some groups hold writes of both kinds.
                    let written = match worker % 4 {
                        0 => block_on(catalog.write(write)),
                        _ => block_on(catalog.write_early(write)),
                    };
                    let revision = written.unwrap().revision;
                    assert_eq!(get(&catalog, &key).unwrap().unwrap().revision, revision);
                    assert!(referenced(&catalog, chunk) && keys(&catalog, &key) == [key]);
                    let since = Start::After(revision - 1);
                    let all = Selector::Prefix(String::new());
                    let mut changes = block_on(catalog.changes(since, all)).unwrap();
                    assert_eq!(block_on(changes.next()).unwrap()[0].revision, revision);
                }
            });
        }
    });
    world.reopen();
    assert_eq!(keys(&world, "").len() as u64, THREADS * PUTS);
    assert_eq!(put(&world, "next", &[1]), (1, THREADS * PUTS + 1));
}

#[test]
fn what_was_told_early_is_waited_for() {
    let catalog = World::new();
    put(&catalog, "k", &[1]);
    let told_early = catalog.shared().tell_early();
    let chunks = [chunk(1)];
    let (mut reads, mut asks) = (pin!(catalog.snapshot()), pin!(catalog.references(&chunks)));
    assert!(block_on(poll_once(&mut reads)).is_none() && block_on(poll_once(&mut asks)).is_none());
    drop(told_early);
    assert_eq!(block_on(reads).unwrap().revision(), 1);
    assert_eq!(block_on(asks).unwrap(), [true]);
}

#[test]
fn a_directory_in_use_is_refused() {
    let mut world = World::new();
    assert!(matches!(Embedded::open(world.directory.path()), Err(CatalogError::Locked(_))));
    world.catalog = None;
    Embedded::open(world.directory.path()).unwrap();
}

#[test]
fn lost_writes_are_noticed() {
    let mut world = World::new();
    world.catalog = None;
    let directory = world.directory.path();
    let (rows, old) = (directory.join("rows"), directory.join("old"));
    copy(&rows, &old);
    let catalog = Embedded::open(directory).unwrap();
    put(&catalog, "a", &[1]);
    drop(catalog);
    fs::remove_dir_all(&rows).unwrap();
    fs::rename(&old, &rows).unwrap();
    let opened = Embedded::open(directory).map(drop);
    assert!(matches!(opened, Err(CatalogError::LostWrites { found: 0, fenced: 1, .. })));
}

#[test]
fn a_catalog_of_an_older_build_is_refused() {
    let mut world = World::new();
    world.catalog = None;
    alter(world.directory.path(), "meta", |key, _| match key {
        // Sealed by a bitwise CRC-32C over what format 1 covers: the number 7 as the cluster.
        b"cluster" => OLD_CLUSTER.to_vec(),
        _ => Vec::new(),
    });
    let opened = Embedded::open(world.directory.path()).map(drop);
    assert!(matches!(opened, Err(CatalogError::Format { format: 1, .. })), "{opened:?}");
}

const OLD_CLUSTER: [u8; 6] = [1, 254, 250, 37, 168, 7];

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

/// Changes every value of a table, behind the catalog's back.
fn alter(directory: &Path, table: &str, change: impl Fn(&[u8], Vec<u8>) -> Vec<u8>) {
    let database = fjall::Database::builder(directory.join("rows")).open().unwrap();
    let keyspace = database.keyspace(table, fjall::KeyspaceCreateOptions::default).unwrap();
    let rows: Vec<_> = keyspace.iter().map(|row| row.into_inner().unwrap()).collect();
    assert!(!rows.is_empty());
    for (key, value) in rows {
        let value = change(&key, value.to_vec());
        keyspace.insert(key, value).unwrap();
    }
}

fn rotten(table: &str) -> World {
    let mut world = World::new();
    put(&world, "gone", &[7]);
    remove(&world, "gone", false);
    put(&world, "rotten", &[8]);
    let value = Put { ttl_ms: Some(10), ..Put::new("short", Content::Value(b"v".to_vec())) };
    block_on(world.write(write_of(value, None))).unwrap();
    world.catalog = None;
    alter(world.directory.path(), table, |_, mut value| {
        *value.last_mut().unwrap() ^= 1;
        value
    });
    world.reopen();
    world
}

fn names<T: std::fmt::Debug>(outcome: Result<T, CatalogError>, subject: &str) {
    let error = outcome.unwrap_err();
    assert!(matches!(&error, CatalogError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains(subject), "{error}");
}

#[test]
fn rot_in_what_is_current_is_told() {
    let catalog = rotten("current");
    names(get(&catalog, "rotten"), "key 'rotten'");
    names(list(&catalog, ""), "key 'rotten'");
    names(block_on(Catalog::count(&*catalog, "", Consistency::Quorum)), "key 'rotten'");
    names(open_leased(&catalog, "rotten"), "key 'rotten'");
    names(block_on(catalog.remove("rotten", false)), "key 'rotten'");
    names(put_if(&catalog, "rotten", 1), "key 'rotten'");
    // What expires is damaged too; the sweep goes on with the rest, and says it again each time.
    names(block_on(catalog.at(10).sweep()), "key 'short'");
    names(block_on(catalog.at(20).sweep()), "key 'short'");
    put(&catalog, "other", &[9]);
    assert_eq!(get(&catalog, "other").unwrap().unwrap().version, 1);
}

#[test]
fn rot_in_other_tables_is_told() {
    let catalog = rotten("contents");
    names(get(&catalog, "rotten"), "key 'rotten', version 1");
    names(block_on(catalog.at(REOPENED_GRACE_MS).sweep()), "key 'gone', version 1");
    assert!(referenced(&catalog, 7));
    let catalog = rotten("buried");
    names(put_if(&catalog, "gone", 0), "key 'gone'");
    let catalog = rotten("chunks");
    names(references(&catalog, &[chunk(8)]), "chunk 0808");
    names(put_if(&catalog, "k", 0).and(block_on(catalog.at(REOPENED_GRACE_MS).sweep())), "chunk 0707");
    let catalog = rotten("retired");
    names(block_on(catalog.at(REOPENED_GRACE_MS).sweep()), "a version");
    let catalog = rotten("changes");
    let mut changes = block_on(catalog.changes(Start::After(0), Selector::Prefix(String::new()))).unwrap();
    names(block_on(changes.next()), "a change of revision 1");
}

#[test]
fn rot_in_the_catalogs_own_numbers_is_told() {
    let mut world = World::new();
    put(&world, "a", &[]);
    world.catalog = None;
    alter(world.directory.path(), "meta", |_, mut value| {
        *value.last_mut().unwrap() ^= 1;
        value
    });
    names(Embedded::open(world.directory.path()).map(drop), "its own 'cluster'");
}

fn put_value(catalog: &Embedded, key: &str, text: &str, change: impl FnOnce(&mut Put)) -> u64 {
    let mut put = Put::new(key, Content::Value(text.as_bytes().to_vec()));
    change(&mut put);
    block_on(catalog.write(write_of(put, None))).unwrap().revision
}

fn follow(catalog: &Embedded, start: Start) -> Result<Box<dyn ChangeStream>, CatalogError> {
    block_on(catalog.changes(start, Selector::Prefix(String::new())))
}

fn next(stream: &mut Box<dyn ChangeStream>) -> Result<Vec<String>, CatalogError> {
    Ok(block_on(stream.next())?.into_iter().map(|change| change.key).collect())
}

#[test]
fn changes_are_kept_for_as_long_as_is_set() {
    let mut world = World::new();
    world.reopen_with(Settings { retention_ms: 1_000, ..world.settings() });
    put_value(&world, "a", "1", |_| {});
    let mut early = follow(&world, Start::After(0)).unwrap();
    put_value(world.at(500), "b", "1", |_| {});
    put_value(world.at(900), "c", "1", |_| {});
    block_on(world.at(1_500).sweep()).unwrap();
    // What is in memory is still delivered to who follows it.
    assert_eq!(next(&mut early).unwrap(), ["a"]);
    assert!(matches!(
        follow(&world, Start::After(0)).map(drop),
        Err(CatalogError::ChangesGone { asked: 0, kept: 1 })
    ));
    assert!(matches!(follow(&world, Start::At(0)).map(drop), Err(CatalogError::ChangesGone { kept: 1, .. })));
    // A stream holds on to the directory.
    drop(early);
    world.reopen_with(Settings { retention_ms: 1_000, ..world.settings() });
    let mut kept = follow(&world, Start::After(1)).unwrap();
    assert_eq!(next(&mut follow(&world, Start::At(1)).unwrap()).unwrap(), ["b"]);
    assert_eq!(next(&mut follow(&world, Start::At(501)).unwrap()).unwrap(), ["c"]);
    put_value(&world, "d", "1", |_| {});
    assert_eq!(
        [next(&mut kept).unwrap(), next(&mut kept).unwrap(), next(&mut kept).unwrap()],
        [["b"], ["c"], ["d"]]
    );
    assert_eq!(kept.position(), 4);
}

#[test]
fn who_falls_behind_what_is_kept_is_told() {
    let mut world = World::new();
    put_value(&world, "a", "1", |_| {});
    let settings = Settings { changes_size_max: 100 << 10, ..world.settings() };
    world.reopen_with(settings);
    // From before the catalog was opened, so that it is read from disk.
    let mut stream = follow(&world, Start::After(0)).unwrap();
    for _ in 0..20 {
        put_value(&world, "large", &"x".repeat(10 << 10), |_| {});
    }
    block_on(world.sweep()).unwrap();
    let refused = next(&mut stream);
    assert!(matches!(refused, Err(CatalogError::ChangesGone { asked: 0, kept: 2.. })), "{refused:?}");
    assert_eq!(next(&mut follow(&world, Start::After(20)).unwrap()).unwrap(), ["large"]);
}

#[test]
fn who_waits_for_changes_is_told_when_the_catalog_ends() {
    let mut world = World::new();
    let mut stream = follow(&world, Start::Now).unwrap();
    put_value(&world, "a", "1", |_| {});
    world.catalog = None;
    assert_eq!(next(&mut stream).unwrap(), ["a"]);
    assert!(matches!(next(&mut stream), Err(CatalogError::Stopped)));
}

#[test]
fn what_has_changed_is_known_after_a_restart_too() {
    let mut world = World::new();
    let first = put_value(&world, "a/1", "1", |_| {});
    let second = put_value(&world, "b", "1", |_| {});
    remove(&world, "a/1", false);
    world.reopen();
    let holds = |prefix: &str, exact, revision| {
        let conditions = vec![Condition::Unchanged { prefix: prefix.into(), exact, revision }];
        block_on(world.write(Write { conditions, operations: Vec::new() })).is_ok()
    };
    assert!(!holds("a/", false, second) && !holds("a/1", true, second) && !holds("", false, first));
    assert!(holds("b", false, second) && holds("b", true, second) && holds("c", false, 0));
    assert!(holds("a/", false, second + 1));
}

#[test]
fn services_outlive_a_restart_with_their_whole_time() {
    let mut world = World::new();
    block_on(world.keep_service("s", 1_000)).unwrap();
    put_value(&world, "k", "1", |put| put.owner = Some("s".into()));
    world.at(900);
    world.reopen();
    block_on(world.at(1_800).sweep()).unwrap();
    assert_eq!(keys(&world, ""), ["k"]);
    let swept = block_on(world.at(1_900).sweep()).unwrap();
    assert_eq!(swept, Swept { abandoned: 1, ..Swept::default() });
    assert_eq!(keys(&world, ""), [""; 0]);
    world.reopen();
    assert_eq!(block_on(world.services()).unwrap(), []);
}

#[test]
fn time_does_not_go_back() {
    let mut world = World::new();
    put_value(world.at(1_000), "a", "1", |put| put.ttl_ms = Some(50));
    assert_eq!(keys(world.at(1_050), ""), [""; 0]);
    assert_eq!(keys(world.at(1_000), ""), [""; 0]);
    put_value(world.at(10), "b", "1", |_| {});
    assert_eq!(get(&world, "b").unwrap().unwrap().updated_ms, 1_050);
    world.at(20);
    world.reopen();
    assert_eq!(keys(&world, ""), ["b"]);
    put_value(&world, "c", "1", |_| {});
    assert_eq!(get(&world, "c").unwrap().unwrap().updated_ms, 1_050);
}

#[test]
fn a_snapshot_outlives_what_is_removed() {
    let world = World::new();
    put_value(&world, "small", "1", |_| {});
    put_value(&world, "large", &"x".repeat(5_000), |put| put.ttl_ms = Some(10));
    let snapshot = block_on(world.snapshot()).unwrap();
    put_value(&world, "small", &"y".repeat(5_000), |_| {});
    put_value(&world, "small", "2", |_| {});
    block_on(world.at(10).sweep()).unwrap();
    let found = block_on(snapshot.get(&["small".into(), "large".into()])).unwrap();
    let sizes: Vec<_> = found.iter().flatten().map(|entry| (entry.version, entry.size)).collect();
    assert_eq!((sizes, snapshot.revision()), (vec![(1, 1), (1, 5_000)], 2));
    assert_eq!(keys(&world, ""), ["small"]);
}

#[test]
fn pages_go_on_after_a_restart() {
    let mut world = World::new();
    for key in ["a", "b", "c"] {
        put_value(&world, key, "1", |_| {});
    }
    let scan = |after: Option<String>| Scan { prefix: String::new(), after, limit: 2, contents: true };
    let first = block_on(Catalog::scan(&*world, &scan(None), Consistency::One)).unwrap();
    world.reopen();
    let second = block_on(Catalog::scan(&*world, &scan(first.next), Consistency::One)).unwrap();
    assert_eq!((second.entries.len(), second.entries[0].key.as_str(), second.next), (1, "c", None));
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
        let mut catalog = World::new();
        let (mut model, mut now_ms) = (Model::default(), 0);
        for act in acts {
            match act {
                Act::Commit(key, chunks, expected) => {
                    let outcome = try_put(&catalog, key, &chunks, expected);
                    let found = model.current.get(key).map_or(0, |(version, _)| *version);
                    if expected.is_some_and(|expected| expected != found) {
                        let refused = matches!(outcome, Err(CatalogError::Conflict { .. }));
                        prop_assert!(refused);
                    } else {
                        model.retire(key, now_ms);
                        let version = model.last_version.entry(key.into()).or_default();
                        *version += 1;
                        prop_assert_eq!(outcome.unwrap().0, *version);
                        model.current.insert(key.into(), (*version, chunks));
                    }
                }
                Act::Remove(key, recursive) => {
                    let below = |k: &&String| recursive && k.starts_with(&format!("{key}/"));
                    let doomed: Vec<_> = model.current.keys().filter(|k| *k == key || below(k)).cloned().collect();
                    let expected: u64 = doomed.iter().map(|key| model.retire(key, now_ms)).sum();
                    prop_assert_eq!(remove(&catalog, key, recursive), expected);
                }
                Act::Lease(key) => {
                    let opened = open_leased(&catalog, key).unwrap();
                    let version = opened.as_ref().map(|(entry, _)| entry.version);
                    prop_assert_eq!(version, model.current.get(key).map(|(version, _)| *version));
                    if let Some((entry, lease)) = opened {
                        model.leases.push((lease, entry.key, entry.version, now_ms + LEASE_MS));
                    }
                }
                Act::Renew(which) if !model.leases.is_empty() => {
                    let lease = which.get_mut(&mut model.leases);
                    prop_assert!(renew(&catalog, &[lease.0]).is_empty());
                    lease.3 = now_ms + LEASE_MS;
                }
                Act::Release(which) if !model.leases.is_empty() => {
                    let lease = model.leases.swap_remove(which.index(model.leases.len()));
                    block_on(catalog.release(lease.0)).unwrap();
                }
                Act::Renew(_) | Act::Release(_) => {}
                Act::Sweep => prop_assert_eq!(sweep(&catalog), model.sweep(now_ms)),
                Act::Wait(ms) => {
                    now_ms += ms;
                    catalog.at(now_ms);
                }
                Act::Reopen => {
                    catalog.reopen();
                    model.leases.clear();
                    model.opened_ms = now_ms;
                    let current = model.current.iter().map(|(key, (version, _))| (key.clone(), *version));
                    let retired = model.retired.iter().map(|(key, version, ..)| (key.clone(), *version));
                    model.old = current.chain(retired).collect();
                }
            }
            let listed: Vec<(String, u64)> =
                list(&catalog, "").unwrap().into_iter().map(|line| (line.key, line.version)).collect();
            let expected: Vec<_> = model.current.iter().map(|(key, (version, _))| (key.clone(), *version)).collect();
            prop_assert_eq!(listed, expected);
            for (key, (version, chunks)) in &model.current {
                let entry = get(&catalog, key).unwrap().unwrap();
                prop_assert_eq!((entry.version, entry.content), (*version, Some(Content::Manifest(manifest(chunks)))));
            }
            let all: BTreeSet<u8> = (0..6).filter(|number| referenced(&catalog, *number)).collect();
            prop_assert_eq!(all, model.references());
        }
    }
}
