//! Nodes that share one catalog.

use std::collections::BTreeMap;
use std::thread;

use catalog::{
    Catalog, CatalogError, ChangeKind, Condition, Consistency, EtcdSettings, Expiry, Operation, Put, Scan,
    Selector, Start, Write,
};
use futures_lite::future::block_on;
use plan::manifest::{ChunkEntry, FileEntry, FileKind, Files, Manifest, Shape};
use suites::{Etcds, holds, until};

use super::{open, open_with, put, text, value, write};

fn manifest(chunk: u8) -> catalog::Content {
    let chunk = ChunkEntry { id: [chunk; 32], size: 10, piece_size: 1 << 20, descriptor_digest: [0; 32] };
    let kind = FileKind::Regular { size: 7, digest: [0; 32], extents: Vec::new() };
    let file = FileEntry { path: Vec::new(), kind, mode: 0o644, mtime_ns: 0 };
    let files = Files::Inline(vec![file]);
    let manifest = Manifest { shape: Shape::Stream, size: 7, file_count: 1, chunks: vec![chunk], files };
    catalog::Content::Manifest(manifest.encode())
}

#[test]
fn what_one_node_writes_the_others_see() {
    let Some(etcds) = Etcds::start(1) else { return };
    let (a, b) = (open(&etcds), open(&etcds));
    assert_eq!(a.cluster_id(), b.cluster_id());
    let first = write(&a, vec![put("a/1", "x"), put("a/2", "y")]);
    assert_eq!((first.versions.as_slice(), text(&b, "a/1").as_deref()), (&[1, 1][..], Some("x")));
    // b has not written the key and must find out its version; a must find out b's.
    assert_eq!(write(&b, vec![put("a/1", "z")]).versions, [2]);
    assert_eq!(write(&a, vec![Operation::Delete { key: "a/1".into() }]).versions, [2]);
    assert_eq!(write(&b, vec![Operation::Delete { key: "a/1".into() }]).versions, [0]);
    assert_eq!(text(&b, "a/1"), None);
    assert_eq!(block_on(b.count("a/", Consistency::Quorum)).unwrap(), 1);
    assert_eq!(write(&b, vec![put("a/1", "again")]).versions, [3], "it goes on counting");
    let condition = Condition::Version { key: "a/1".into(), version: 2 };
    let late = block_on(a.write(Write { conditions: vec![condition], operations: vec![put("a/2", "no")] }));
    assert!(matches!(late, Err(CatalogError::Conflict { expected: 2, found: 3, .. })), "{late:?}");
    assert_eq!(text(&a, "a/2").as_deref(), Some("y"));
}

#[test]
fn writers_of_one_key_all_get_through_and_a_counter_is_exact() {
    let Some(etcds) = Etcds::start(1) else { return };
    let nodes = [open(&etcds), open(&etcds)];
    write(&nodes[0], vec![put("counter", "0")]);
    let increment = |node: &catalog::Etcd| loop {
        let found = block_on(node.get(&["counter".into()], Consistency::Quorum)).unwrap();
        let entry = found.entries[0].clone().unwrap();
        let Some(catalog::Content::Value(old)) = entry.content else { panic!("a value") };
        let next = String::from_utf8(old).unwrap().parse::<u64>().unwrap() + 1;
        let conditions = vec![Condition::Version { key: "counter".into(), version: entry.version }];
        let operations = vec![put("counter", next.to_string())];
        match block_on(node.write(Write { conditions, operations })) {
            Ok(_) => break,
            Err(CatalogError::Conflict { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    };
    thread::scope(|scope| {
        for at in 0..6 {
            let node = &nodes[at % 2];
            scope.spawn(move || (0..10).for_each(|_| increment(node)));
            scope.spawn(move || (0..10).for_each(|_| drop(write(node, vec![put("blind", at.to_string())]))));
        }
    });
    assert_eq!(text(&nodes[0], "counter").as_deref(), Some("60"));
    let found = block_on(nodes[1].get(&["blind".into()], Consistency::Quorum)).unwrap();
    assert_eq!(found.entries[0].as_ref().unwrap().version, 60);
}

#[test]
fn writes_as_large_as_they_may_be_are_carried_out() {
    let Some(etcds) = Etcds::start(1) else { return };
    let node = open(&etcds);
    let keys: Vec<String> = (0..128).map(|at| format!("k/{at:03}/{}", "x".repeat(900))).collect();
    let operations = || keys.iter().map(|key| put(key, "v".repeat(9 << 10))).collect::<Vec<_>>();
    let conditions = |version| {
        let others = (0..128).map(move |at| Condition::Version { key: format!("other/{at}"), version });
        others.collect::<Vec<_>>()
    };
    let all = Write { conditions: conditions(0), operations: operations() };
    assert_eq!(block_on(node.write(all)).unwrap().versions, vec![1; 128]);
    let all = Write { conditions: conditions(1), operations: operations() };
    assert!(matches!(block_on(node.write(all)), Err(CatalogError::Conflict { .. })));
    let scan = Scan { prefix: "k/".into(), after: None, limit: 10_000, contents: true };
    let page = block_on(node.scan(&scan, Consistency::Quorum)).unwrap();
    assert_eq!((page.entries.len(), page.next), (128, None));
    assert_eq!(block_on(node.remove("k", true)).unwrap(), 128);
}

#[test]
fn every_change_comes_once_and_in_order() {
    let Some(etcds) = Etcds::start(1) else { return };
    let (a, b) = (open(&etcds), open(&etcds));
    let begin = write(&a, vec![put("p/0", "x"), put("q", "x")]).revision;
    let mut stream = block_on(b.changes(Start::After(begin - 1), Selector::Prefix("p/".into()))).unwrap();
    let first = block_on(stream.next()).unwrap();
    assert_eq!((first.len(), first[0].revision, &*first[0].key), (1, begin, "p/0"));
    let mut short = Put::new("p/1", value("y"));
    short.ttl_ms = Some(300);
    write(&b, vec![Operation::Put(short), put("p/2", "z")]);
    write(&a, vec![Operation::Delete { key: "p/2".into() }]);
    holds("an expired key that was swept", || block_on(a.sweep()).unwrap().expired == 1);
    write(&a, vec![Operation::Expire { key: "p/0".into(), when: Expiry::In(60_000) }]);
    let mut seen: Vec<(String, String)> = Vec::new();
    let mut last = begin;
    for _ in 0..4 {
        for change in block_on(stream.next()).unwrap() {
            assert!(change.revision >= last);
            last = change.revision;
            let kind = match change.kind {
                ChangeKind::Put(entry) => format!("put {}", entry.version),
                ChangeKind::Delete { version } => format!("delete {version}"),
                ChangeKind::Expire { version } => format!("expire {version}"),
                ChangeKind::OwnerEnded { version } => format!("end {version}"),
            };
            seen.push((change.key, kind));
        }
    }
    let expected =
        [("p/1", "put 1"), ("p/2", "put 1"), ("p/2", "delete 1"), ("p/1", "expire 1"), ("p/0", "put 2")];
    let expected: Vec<(String, String)> = expected.map(|(key, kind)| (key.into(), kind.into())).into();
    assert_eq!(seen, expected);
    assert_eq!(stream.position(), last);
    // Nothing selected is written, and yet the stream knows how far it is.
    let other = write(&a, vec![put("q", "y")]).revision;
    holds("a position that grows", || stream.position() >= other);
}

#[test]
fn old_history_goes_and_who_is_behind_is_told() {
    let Some(etcds) = Etcds::start(1) else { return };
    let node = open_with(&etcds, EtcdSettings { retention_ms: 600, ..EtcdSettings::default() });
    let begin = write(&node, vec![put("gone", "x"), put("kept", "x")]).revision;
    write(&node, vec![Operation::Delete { key: "gone".into() }]);
    let snapshot = block_on(node.snapshot()).unwrap();
    holds("history that goes", || {
        block_on(node.sweep()).unwrap();
        let old = block_on(node.changes(Start::After(begin), Selector::Prefix(String::new())));
        let mut old = old.unwrap();
        write(&node, vec![put("busy", "x")]);
        matches!(block_on(old.next()), Err(CatalogError::ChangesGone { kept, .. }) if kept > begin)
    });
    assert!(matches!(block_on(snapshot.get(&["kept".into()])), Err(CatalogError::SnapshotGone { .. })));
    assert_eq!(text(&node, "kept").as_deref(), Some("x"));
    // Whoever depends on what is not kept is refused, although the key looks as if it had never been.
    let condition = Condition::Unchanged { prefix: "gone".into(), exact: true, revision: begin };
    let late = block_on(node.write(Write { conditions: vec![condition], operations: vec![put("x", "x")] }));
    assert!(matches!(late, Err(CatalogError::Changed { .. })), "{late:?}");
    assert_eq!(write(&node, vec![put("gone", "y")]).versions, [1], "it begins anew");
}

#[test]
fn changes_are_found_by_time() {
    let Some(etcds) = Etcds::start(1) else { return };
    let node = open_with(&etcds, EtcdSettings { retention_ms: 60_000, ..EtcdSettings::default() });
    write(&node, vec![put("a", "early")]);
    let entry = |key: &str| {
        block_on(node.get(&[key.into()], Consistency::Quorum)).unwrap().entries[0].clone().unwrap()
    };
    let early = entry("a").updated_ms;
    let late = until("a later millisecond", || {
        block_on(node.sweep()).unwrap();
        write(&node, vec![put("a", "late")]);
        Some(entry("a")).filter(|entry| entry.updated_ms > early + 1500)
    });
    for (at_ms, revision) in [(late.updated_ms, late.revision), (early, 0)] {
        let mut stream = block_on(node.changes(Start::At(at_ms), Selector::Key("a".into()))).unwrap();
        let first = block_on(stream.next()).unwrap();
        assert!(first[0].at_ms >= at_ms && first[0].revision >= revision);
        assert!(revision != 0 || first[0].at_ms == early, "the first write at that time");
    }
}

#[test]
fn prefixes_that_change_are_noticed() {
    let Some(etcds) = Etcds::start(1) else { return };
    let (a, b) = (open(&etcds), open(&etcds));
    let revision = write(&a, vec![put("p/1", "x"), put("q", "x")]).revision;
    let guarded = |prefix: &str, revision| {
        let condition = Condition::Unchanged { prefix: prefix.into(), exact: false, revision };
        let outcome =
            block_on(a.write(Write { conditions: vec![condition], operations: vec![put("mine", "x")] }));
        match outcome {
            Ok(_) => true,
            Err(CatalogError::Changed { .. }) => false,
            Err(error) => panic!("{error}"),
        }
    };
    assert!(guarded("p/", revision));
    write(&b, vec![put("p/2", "phantom")]);
    assert!(!guarded("p/", revision) && guarded("q", revision));
    let revision = write(&b, vec![Operation::Delete { key: "p/1".into() }]).revision;
    assert!(!guarded("p/", revision - 1) && guarded("p/", revision));
    let mut short = Put::new("p/3", value("x"));
    short.ttl_ms = Some(200);
    let revision = write(&b, vec![Operation::Put(short)]).revision;
    assert!(guarded("p/", revision));
    holds("an expiry", || text(&b, "p/3").is_none());
    assert!(!guarded("p/", revision), "an expiry that nobody has swept is a change too");
}

#[test]
fn a_version_that_is_read_keeps_its_chunks_on_every_node() {
    let Some(etcds) = Etcds::start(1) else { return };
    let (a, b) = (open(&etcds), open(&etcds));
    let put = |chunk| Operation::Put(Put::new("m", manifest(chunk)));
    write(&a, vec![put(1)]);
    let (entry, lease) = block_on(a.open_leased("m")).unwrap().unwrap();
    assert!(entry.version == 1 && lease != 0);
    write(&b, vec![put(2)]);
    // A node that starts later finds out what the version that is read consists of.
    let c = open(&etcds);
    let referenced =
        |node: &catalog::Etcd, chunk| block_on(node.references(&[[chunk; 32]])).map(|found| found[0]);
    for node in [&a, &b, &c] {
        assert!(until("references", || referenced(node, 1).ok()) && referenced(node, 2).unwrap());
    }
    assert!(block_on(a.renew(&[lease, lease ^ 1])).unwrap() == [lease ^ 1]);
    block_on(a.release(lease)).unwrap();
    let mut forgotten = BTreeMap::new();
    holds("a version that is forgotten", || {
        for (name, node) in [("a", &a), ("b", &b)] {
            *forgotten.entry(name).or_insert(0) += block_on(node.sweep()).unwrap().forgotten;
        }
        forgotten.values().all(|count| *count == 1)
    });
    assert!(block_on(a.open_leased("absent")).unwrap().is_none());
}

#[test]
fn what_a_service_owns_ends_with_it() {
    let Some(etcds) = Etcds::start(1) else { return };
    let (a, b) = (open(&etcds), open(&etcds));
    let owned = |key: &str, owner: &str| {
        let mut put = Put::new(key, value("x"));
        put.owner = Some(owner.into());
        Write { conditions: Vec::new(), operations: vec![Operation::Put(put)] }
    };
    let nobody = block_on(a.write(owned("k", "nobody")));
    assert!(matches!(nobody, Err(CatalogError::NoService { .. })), "{nobody:?}");
    block_on(a.keep_service("told", 60_000)).unwrap();
    block_on(b.keep_service("told", 60_000)).unwrap();
    block_on(a.keep_service("lost", 2_000)).unwrap();
    block_on(b.write(owned("by/told", "told"))).unwrap();
    block_on(b.write(owned("by/lost", "lost"))).unwrap();
    let services = block_on(a.services()).unwrap();
    let told = services.iter().find(|service| service.name == "told").unwrap();
    assert!(services.len() == 2 && told.ttl_ms == 60_000 && told.left_ms > 50_000 && told.keys == 1);
    assert_eq!(block_on(a.end_service("told")).unwrap(), 1);
    assert_eq!((text(&b, "by/told"), text(&b, "by/lost").as_deref()), (None, Some("x")));
    let late = block_on(b.write(owned("by/told", "told")));
    assert!(matches!(late, Err(CatalogError::NoService { .. })), "{late:?}");
    holds("what a lost service owned to be gone", || block_on(a.sweep()).unwrap().abandoned == 1);
    assert_eq!(text(&b, "by/lost"), None);
    assert!(block_on(b.services()).unwrap().is_empty());
}
