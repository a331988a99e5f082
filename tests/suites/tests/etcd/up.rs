//! `shoal cluster up`, as somebody uses it who tries it out.

use std::fs;
use std::path::Path;

use rustix::process::{Pid, kill_process};
use suites::{Outcome, Shoal, Signal, holds, processes_below};

/// A call with folders in a place of this test's own, by which its processes are found.
fn up(folder: &Path, words: &[&str]) -> Shoal {
    Shoal::alone().env("TMPDIR", folder).args(["cluster", "up", "--max-memory", "64MiB"]).args(words)
}

/// A call at one of the nodes.
fn at(data_dir: &Path, node: &str, words: &[&str]) -> Outcome {
    let socket = data_dir.join(node).join("shoal.sock");
    Shoal::alone().env("SHOAL_NODE", socket).args(words).run()
}

/// Waits until all of three nodes know each other.
fn wait_for_three(data_dir: &Path) {
    holds("three nodes that know each other", || {
        ["n1", "n2", "n3"].iter().all(|node| {
            let listed = at(data_dir, node, &["node", "ls", "--json"]);
            listed.code == Some(0) && listed.text().matches("\"alive\"").count() == 3
        })
    });
}

#[test]
fn a_cluster_outlives_a_node_and_goes_with_its_command() {
    if !suites::has_etcd() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("kept");
    let words = ["--data-dir", data_dir.to_str().unwrap()];
    let first = up(folder.path(), &words).start();
    wait_for_three(&data_dir);
    at(&data_dir, "n1", &["kv", "put", "a", "1"]).success();
    assert_eq!(at(&data_dir, "n2", &["kv", "get", "a"]).success().text().trim(), "1");
    kill(&data_dir, "n1");
    holds("a write after a node was lost", || at(&data_dir, "n2", &["kv", "put", "b", "2"]).code == Some(0));
    assert_eq!(at(&data_dir, "n3", &["kv", "get", "b"]).success().text().trim(), "2");
    first.signal(Signal::INT);
    let outcome = first.wait().exits(0).tells("n1 has ended");
    assert!(outcome.text().contains("export SHOAL_NODE="), "{}", outcome.text());
    assert_eq!(processes_below(folder.path()), Vec::<u32>::new());
    // The same again goes on with what is there, and is gone too when it is killed.
    let second = up(folder.path(), &words).start();
    wait_for_three(&data_dir);
    assert_eq!(at(&data_dir, "n1", &["kv", "get", "b"]).success().text().trim(), "2");
    second.signal(Signal::KILL);
    assert_eq!(second.wait().code, None);
    holds("nothing that runs", || processes_below(folder.path()).is_empty());
    up(folder.path(), &[&words[..], &["--nodes", "5"]].concat()).run().exits(2).tells("has 3 nodes");
}

#[test]
fn what_is_temporary_is_removed() {
    if !suites::has_etcd() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let running = up(folder.path(), &["--nodes", "1", "--json"]).start();
    holds("a node and a member of etcd", || processes_below(folder.path()).len() == 2);
    running.signal(Signal::TERM);
    // It may not have come to the end of its beginning, where a signal is what it waits for.
    assert!(matches!(running.wait().code, Some(0 | 143)));
    assert_eq!(processes_below(folder.path()), Vec::<u32>::new());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn without_etcd_it_says_where_to_have_it_from() {
    let folder = tempfile::tempdir().unwrap();
    up(folder.path(), &[]).env("PATH", folder.path()).run().exits(1).tells("etcd").tells("etcd-server");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Kills a node.
fn kill(data_dir: &Path, node: &str) {
    let folder = data_dir.join(node);
    let [process] = processes_below(&folder)[..] else { panic!("one process has {}", folder.display()) };
    let process = Pid::from_raw(process.try_into().unwrap()).unwrap();
    kill_process(process, Signal::KILL).unwrap();
}
