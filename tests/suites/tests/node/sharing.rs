//! What a put and a get move through system calls: files once, and the bytes of chunks not at all.

use std::fs;
use std::ops::Range;

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
