//! Keys are listed, shown and removed.

use std::collections::BTreeSet;
use std::io::Cursor;
use std::thread;

use client::{PutOptions, Silent, Source};
use flow::limits::LIST_ENTRIES_MAX;
use serde_json::Value;
use suites::{Node, shoal};

use crate::corner::{keys, put_bytes};

const KEYS: [&str; 6] = ["a", "a-b", "a/b", "a/c/d", "a/c/e", "z"];

fn node_with_keys() -> Node {
    let node = Node::start();
    KEYS.iter().for_each(|key| drop(put_bytes(&node, key, key.as_bytes(), &["--volatile"]).success()));
    node
}

#[test]
fn keys_are_listed_one_level_at_a_time() {
    let node = node_with_keys();
    let names = |words: &[&str]| {
        let text = shoal(&node, [&["ls"], words].concat()).success().text();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(names(&[]), ["a", "a-b", "a/", "z"]);
    assert_eq!(keys(&node), KEYS);
    let below = shoal(&node, ["ls", "a", "--json"]).success().json();
    let below: Vec<_> = below.as_array().unwrap().iter().map(|line| line["key"].as_str().unwrap()).collect();
    assert_eq!(below, ["a", "a/b", "a/c/"]);
    let long = shoal(&node, ["ls", "a/c", "-l"]).success().text();
    assert!(["SIZE", "VERSION", "AGE", "5 B"].iter().all(|word| long.contains(word)), "{long}");
}

#[test]
fn keys_are_removed_alone_or_with_all_below_them() {
    let node = node_with_keys();
    shoal(&node, ["rm", "a/c"]).exits(3);
    assert_eq!(keys(&node), KEYS);
    shoal(&node, ["rm", "a"]).success();
    assert_eq!(keys(&node), ["a-b", "a/b", "a/c/d", "a/c/e", "z"]);
    shoal(&node, ["rm", "a/c", "-r"]).success();
    assert_eq!(keys(&node), ["a-b", "a/b", "z"]);
    shoal(&node, ["rm", "a", "--recursive"]).success();
    assert_eq!(keys(&node), ["a-b", "z"]);
    shoal(&node, ["rm", "a", "-r"]).exits(3).tells("there is no key 'a'");
}

#[test]
fn a_key_is_shown_with_its_chunks_and_where_they_are() {
    let node = Node::start();
    put_bytes(&node, "k", &[7; 3000], &[]).success();
    put_bytes(&node, "k", &[8; 2000], &[]).success();
    let info = shoal(&node, ["info", "k", "--json"]).success().json();
    assert_eq!((&info["version"], &info["size"]), (&Value::from(2), &Value::from(2000)));
    let id = info["chunks"][0]["id"].as_str().unwrap();
    let text = shoal(&node, ["info", "k"]).success().text();
    for part in [id, "n1:dram, n1:nvme", "2000 bytes"] {
        assert!(text.contains(part), "'{part}' is missing:\n{text}");
    }
    let chunk = shoal(&node, ["chunk", "info", &id[..8], "--json"]).success().json();
    assert_eq!((&chunk[0]["chunk"], &chunk[0]["node"]), (&id.into(), &"n1".into()), "{chunk}");
    let text = shoal(&node, ["chunk", "info", &id[..8]]).success().text();
    assert!(text.contains(id) && text.contains("n1"), "{text}");
}

/// Puts keys `k/…` of a chunk each, from several threads at once.
fn put_many(node: &Node, count: u32) {
    const WRITERS: u32 = 16;
    let write = |writer: u32| {
        let client = node.client();
        for at in (writer..count).step_by(WRITERS as usize) {
            let source = Source::Reader(Box::new(Cursor::new(at.to_le_bytes())));
            let options = PutOptions { volatile: true, ..PutOptions::default() };
            client.put(&format!("k/{at:05}"), source, &options, &Silent).unwrap();
        }
    };
    thread::scope(|scope| (0..WRITERS).for_each(|writer| drop(scope.spawn(move || write(writer)))));
}

#[test]
fn more_than_fits_on_a_page_is_listed_whole() {
    let node = Node::start();
    let count = LIST_ENTRIES_MAX + 500;
    put_many(&node, count);
    let expected: Vec<String> = (0..count).map(|at| format!("k/{at:05}")).collect();
    assert!(keys(&node) == expected, "keys are missing or there twice");
    let chunks = shoal(&node, ["chunk", "ls", "--json"]).success().json();
    let ids = chunks.as_array().unwrap().iter().map(|replica| replica["chunk"].as_str().unwrap());
    let ids: BTreeSet<_> = ids.collect();
    assert_eq!((ids.len(), chunks.as_array().unwrap().len()), (count as usize, count as usize));
}
