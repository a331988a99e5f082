//! The demonstration: what it prints, and that it leaves nothing behind.

use std::fs;
use std::path::Path;

use suites::{Shoal, Signal, holds, processes_below};

/// A demonstration that keeps its folder, and thereby its nodes, in a place of this test's own.
fn demo(folder: &Path, words: &[&str]) -> Shoal {
    Shoal::alone().env("TMPDIR", folder).arg("demo").args(words)
}

#[test]
fn a_demonstration_tells_what_it_saw() {
    let folder = tempfile::tempdir().unwrap();
    let report = demo(folder.path(), &["--nodes", "3", "--size", "64MiB", "--json"]).run().success().json();
    assert_eq!((&report["nodes"], &report["size"]), (&3.into(), &(64 << 20).into()));
    assert!(report["broadcast"]["gigabytes_per_s"].as_f64().unwrap() > 0.0);
    assert!(report["plain_tcp"]["elapsed_us"].as_u64().unwrap() > 0);
    let receivers = report["receivers"].as_array().unwrap();
    assert_eq!(receivers.len(), 2);
    for receiver in receivers {
        assert_eq!(receiver["verified"], true);
        assert_eq!(receiver["pieces_corrupt"], 0);
        let pieces = |from: &str| receiver[from].as_u64().unwrap();
        assert!(pieces("pieces_from_origin") + pieces("pieces_from_peers") >= 64, "{receiver}");
    }
    assert_nothing_left(folder.path());
    let text = demo(folder.path(), &["--nodes", "3", "--size", "16MiB"]).run().success().text();
    for part in [
        "NODE",
        "TIME",
        "GB/s",
        "FROM ORIGIN",
        "FROM PEERS",
        "demo-2",
        "right",
        "█",
        "plain TCP",
        "Shoal took",
    ] {
        assert!(text.contains(part), "'{part}' is missing:\n{text}");
    }
    assert_nothing_left(folder.path());
}

#[test]
fn an_interrupted_demonstration_leaves_nothing() {
    for signal in [Signal::INT, Signal::TERM] {
        let folder = tempfile::tempdir().unwrap();
        let demo = demo(folder.path(), &["--nodes", "4", "--size", "128MiB", "--keep"]).start();
        holds("the nodes run", || processes_below(folder.path()).len() == 4);
        demo.signal(signal);
        let outcome = demo.wait();
        // It may have come to the end of its work, where a signal is what it waits for.
        assert!(matches!(outcome.code, Some(0 | 130 | 143)), "{outcome:?}");
        assert_nothing_left(folder.path());
    }
}

#[test]
fn a_killed_demonstration_takes_its_nodes_along() {
    let folder = tempfile::tempdir().unwrap();
    let demo = demo(folder.path(), &["--nodes", "3", "--size", "16MiB", "--keep"]).start();
    holds("the nodes run", || processes_below(folder.path()).len() == 3);
    demo.signal(Signal::KILL);
    assert_eq!(demo.wait().code, None);
    holds("the nodes end", || processes_below(folder.path()).is_empty());
}

#[test]
fn a_demonstration_that_does_not_fit_says_so() {
    let folder = tempfile::tempdir().unwrap();
    demo(folder.path(), &["--nodes", "200", "--size", "1TiB"]).run().exits(1).tells("memory").tells("--size");
    demo(folder.path(), &["--nodes", "1"]).run().exits(2);
    assert_nothing_left(folder.path());
}

#[track_caller]
fn assert_nothing_left(folder: &Path) {
    let left: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(processes_below(folder), Vec::<u32>::new());
}
