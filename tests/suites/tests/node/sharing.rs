//! What a put and a get move through system calls: files once, and the bytes of chunks not at all.

use std::fs;
use std::ops::Range;
use std::sync::Arc;

use client::Access;
use client::kv::Consistency;
use suites::{Node, Relay, Shoal, write_noise};

const SIZE: u64 = 64 << 20;
/// Requests and replies for so many bytes take far less.
const MESSAGES_MAX: u64 = 1 << 20;

#[test]
fn bytes_of_chunks_pass_through_no_socket_and_those_of_files_once() {
    let node = Node::start();
    let relay = Relay::before(&node);
    let (source, target) = (node.folder().join("source"), node.folder().join("target"));
    write_noise(&source, 1, SIZE);
    let call = |words: &[&str], path| {
        let call = Shoal::alone().env("SHOAL_NODE", relay.socket()).args(words).arg(path);
        let before = relay.passed();
        let outcome = call.run().success();
        let passed = relay.passed() - before;
        assert!((1..MESSAGES_MAX).contains(&passed), "{words:?}: {passed} bytes for {SIZE}");
        (outcome.read, outcome.written)
    };
    let (once, hardly) = (SIZE..SIZE + MESSAGES_MAX, 0..MESSAGES_MAX);
    let assert_moved = |(read, written): (u64, u64), reads: &Range<u64>, writes: &Range<u64>| {
        assert!(reads.contains(&read) && writes.contains(&written), "{read} read, {written} written");
    };
    assert_moved(call(&["put", "k", "--src"], &source), &once, &hardly);
    assert_moved(call(&["get", "k", "--dest"], &target), &hardly, &once);
    assert!(fs::read(&source).unwrap() == fs::read(&target).unwrap());
    // Other bytes, since those that the node has are not stored twice.
    write_noise(&source, 2, SIZE);
    assert_moved(call(&["put", "l", "--volatile", "--src"], &source), &once, &hardly);
    assert_moved(call(&["get", "l", "--verify", "--dest"], &target), &once, &once);
}

#[test]
fn what_is_seen_stays_when_its_node_stops_and_does_not_keep_it() {
    let mut node = Node::start();
    let path = node.folder().join("source");
    write_noise(&path, 3, 20 << 20);
    Shoal::at(&node).args(["put", "k", "--src"]).arg(&path).run().success();
    let client = Arc::new(node.client());
    let view = client.open("k", Consistency::Quorum).unwrap().view(Access::ReadOnly).unwrap().unwrap();
    node.stop();
    assert!(!node.log().contains("cut off"), "the node waited as long as it may");
    assert!(*view == *fs::read(&path).unwrap() && !view.is_held());
    drop(view);
}
