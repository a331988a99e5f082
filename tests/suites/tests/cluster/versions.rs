//! Keys that change while they are read.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use suites::{Cluster, Node, Shoal, Way, noise, shoal};

use crate::broadcast::Broadcast;

/// Bytes of the large file of a version. Several pieces, so that there is something to mix.
const SIZE: usize = 12 << 20;
const VERSIONS: u64 = 10;

each_way! { a_get_yields_exactly_one_version readers_of_an_old_version_finish_on_it }

fn a_get_yields_exactly_one_version(way: Way) {
    let cluster = Cluster::start_with(4, |setup| setup.over(way).memory("256MB"));
    let folder = tempfile::tempdir().unwrap();
    let committed = Mutex::new(BTreeMap::new());
    let put = |at: u64| {
        let source = folder.path().join(format!("source-{at}"));
        write_version(&source, at);
        // Whoever reads a version may do so before the put that made it has returned.
        let mut committed = committed.lock().unwrap();
        let node = &cluster.nodes[at as usize % cluster.nodes.len()];
        let words = ["--json", "put", "key", "--src", source.to_str().unwrap()];
        let version = shoal(node, words).success().json()["version"].as_u64().unwrap();
        committed.insert(version, at);
    };
    put(1);
    let done = AtomicBool::new(false);
    let seen: Vec<(u64, u64)> = thread::scope(|scope| {
        let read = |node| read_until(node, &done, &folder.path().join(node.name()));
        let readers: Vec<_> = cluster.nodes.iter().map(|node| scope.spawn(move || read(node))).collect();
        (2..=VERSIONS).for_each(put);
        done.store(true, Ordering::Relaxed);
        readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect()
    });
    let committed = committed.into_inner().unwrap();
    for (version, content) in &seen {
        assert_eq!(committed.get(version), Some(content), "version {version} has the content of another");
    }
    assert!(seen.contains(&(VERSIONS, VERSIONS)), "{seen:?}");
}

/// A version is a large file and small ones that all come from the same seed.
fn write_version(folder: &Path, seed: u64) {
    fs::create_dir(folder).unwrap();
    fs::write(folder.join("large"), noise(seed, SIZE)).unwrap();
    (0..20).for_each(|at| fs::write(folder.join(format!("small-{at}")), format!("{seed} {at}")).unwrap());
    fs::write(folder.join("seed"), seed.to_string()).unwrap();
}

/// Gets the key again and again, the last time after `done`; gives the versions and the contents that came.
fn read_until(node: &Node, done: &AtomicBool, copy: &Path) -> Vec<(u64, u64)> {
    let mut seen = Vec::new();
    loop {
        let is_last = done.load(Ordering::Relaxed);
        let words = ["--json", "get", "key", "--dest", copy.to_str().unwrap()];
        let version = shoal(node, words).success().json()["version"].as_u64().unwrap();
        seen.push((version, content_of(copy)));
        fs::remove_dir_all(copy).unwrap();
        if is_last {
            return seen;
        }
    }
}

/// The seed of which everything in the folder is made.
fn content_of(folder: &Path) -> u64 {
    let seed: u64 = fs::read_to_string(folder.join("seed")).unwrap().parse().unwrap();
    assert!(fs::read(folder.join("large")).unwrap() == noise(seed, SIZE), "the large file is not {seed}");
    for at in 0..20 {
        assert_eq!(fs::read_to_string(folder.join(format!("small-{at}"))).unwrap(), format!("{seed} {at}"));
    }
    seed
}

fn readers_of_an_old_version_finish_on_it(way: Way) {
    let cluster = Cluster::start_with(4, |setup| setup.over(way).memory("256MB"));
    let receivers: Vec<&Node> = cluster.nodes[2..].iter().collect();
    let mut broadcast = Broadcast::catch(&cluster.nodes[1], &receivers, 120 << 20, |_| ());
    let put = Shoal::at(&cluster.nodes[0]).args(["put", &broadcast.key, "--src", "-"]);
    put.input(&b"another version"[..]).run().success();
    let read = || shoal(&cluster.nodes[3], ["get", &broadcast.key, "--dest", "-"]);
    assert_eq!(read().success().text(), "another version");
    shoal(&cluster.nodes[0], ["rm", &broadcast.key]).success();
    read().exits(3);
    broadcast.finish().into_iter().for_each(|outcome| drop(outcome.success()));
    broadcast.assert_copies(&[0, 1]);
}
