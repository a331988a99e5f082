//! What is there after a stop, a kill and a crash.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use client::{Client, ClientError, GetOptions, Naming, PutOptions, Silent, Source};
use suites::{Node, Noise, Setup, noise, shoal};

use crate::corner::{Corner, files_below, get_bytes, keys, put_bytes};

#[test]
fn a_stop_and_a_kill_lose_nothing() {
    let mut corner = Corner::start();
    let (small, large) = (noise(1, 1000), noise(2, (20 << 20) + 1));
    corner.put_bytes("small", &small);
    corner.put_bytes("large", &large);
    for ends in [Node::stop, Node::kill, Node::kill] {
        ends(&mut corner.node);
        corner.node.restart();
        assert!(corner.bytes("small") == small && corner.bytes("large") == large);
    }
    corner.put_bytes("small", b"another version");
    corner.node.kill();
    corner.node.restart();
    assert_eq!(corner.bytes("small"), b"another version");
    let info = shoal(&corner.node, ["info", "small", "--json"]).success().json();
    assert_eq!(info["version"], 2);
}

#[test]
fn what_is_volatile_is_gone_after_a_restart_and_that_is_told() {
    let mut corner = Corner::start();
    put_bytes(&corner.node, "volatile", b"in memory alone", &["--volatile"]).success();
    corner.put_bytes("durable", b"on disk");
    assert_eq!(corner.bytes("volatile"), b"in memory alone");
    corner.node.stop();
    corner.node.restart();
    get_bytes(&corner.node, "volatile").exits(4).tells("no live node has").tells("--volatile is gone");
    corner.get("volatile", &corner.path("copy")).exits(4);
    assert_eq!(files_below(corner.folder()), Vec::<std::path::PathBuf>::new());
    let info = shoal(&corner.node, ["info", "volatile"]).success().text();
    assert!(info.contains("none on a live node"), "{info}");
    // It can be put again, durably this time.
    corner.put_bytes("volatile", b"in memory alone");
    corner.node.kill();
    corner.node.restart();
    assert_eq!(corner.bytes("volatile"), b"in memory alone");
    assert_eq!(corner.bytes("durable"), b"on disk");
}

/// What is put from memory is acknowledged before the catalog has synced its journal; the kernel has it all the same.
#[test]
fn a_kill_right_after_a_volatile_put_does_not_undo_its_key() {
    let mut node = Node::start();
    let options = PutOptions { volatile: true, naming: Naming::Unique, ..PutOptions::default() };
    let mut revision = 0;
    for version in 1..=10 {
        let client = node.client();
        let put = client.put("k", Source::Memory(Box::new(noise(version, 100_000))), &options, &Silent);
        assert_eq!(put.unwrap().version, version);
        node.kill();
        node.restart();
        let info = node.client().info("k").unwrap();
        assert_eq!(info.entry.version, version);
        assert!(info.entry.revision > revision, "revision {} after {revision}", info.entry.revision);
        revision = info.entry.revision;
    }
}

/// Keys that one writer each puts again and again.
const SMALL_KEYS: usize = 4;
/// Rounds of writing, a kill and a look at what is left.
const ROUNDS: u64 = 50;

/// What is known of a key: its content is made of the number of the attempt.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// The last attempt that was acknowledged, and the version that it became; 0 before the first.
    acknowledged: (u64, u64),
    /// The last attempt that was begun.
    begun: u64,
}

/// What an attempt writes to a key: small for all keys but the first.
fn content(key: usize, attempt: u64) -> Noise {
    let seed = (key as u64) << 32 | attempt;
    let length = match key {
        0 => (6 << 20) + seed % (12 << 20),
        _ => 1 + seed * 7919 % 60_000,
    };
    Noise::new(seed, length)
}

fn name(key: usize) -> String {
    format!("crash/{key}")
}

/// Puts a key again and again until the node dies or the round is over.
fn write(node: &Client, key: usize, mut known: Known, over: &AtomicBool) -> Known {
    while !over.load(Ordering::Relaxed) {
        known.begun += 1;
        let source = Source::Reader(Box::new(content(key, known.begun)));
        match node.put(&name(key), source, &PutOptions::default(), &Silent) {
            Ok(put) => known.acknowledged = (known.begun, put.version),
            Err(error) => {
                assert!(matches!(error, ClientError::Closed { .. }), "{error}");
                break;
            }
        }
    }
    known
}

/// Checks that a key is what was acknowledged last, or what was begun after that, whole.
fn check(node: &Client, key: usize, known: &mut Known) {
    let mut bytes = Vec::new();
    let got = node.get_to_writer(
        &name(key),
        &mut bytes,
        &GetOptions { verify: true, ..GetOptions::default() },
        &Silent,
    );
    let (attempt, version) = known.acknowledged;
    let got = match got {
        Ok(got) => got,
        Err(error) => {
            let absent = error.code() == Some(flow::wire::session::FailureCode::NotFound);
            assert!(absent && attempt == 0, "{}, acknowledged as version {version}: {error}", name(key));
            return;
        }
    };
    let same = |attempt: u64| {
        let mut expected = Vec::new();
        std::io::Read::read_to_end(&mut content(key, attempt), &mut expected).unwrap();
        expected == bytes
    };
    match got.version.checked_sub(version) {
        Some(0) => assert!(same(attempt), "{} is not what was acknowledged", name(key)),
        Some(1) => {
            assert!(known.begun > attempt && same(known.begun), "{} is half written", name(key));
            known.acknowledged = (known.begun, got.version);
        }
        _ => panic!("{} has version {}, acknowledged was {version}", name(key), got.version),
    }
}

/// Fifty times the node is killed at a random moment while keys are put; whatever it acknowledged is there afterwards,
/// and nothing is there in part.
#[test]
fn crashes_lose_nothing_that_was_acknowledged() {
    let mut generator = fastrand::Rng::with_seed(2026);
    let mut node = Setup::named("n1").memory("128MB").start();
    let mut known = BTreeMap::from_iter((0..=SMALL_KEYS).map(|key| (key, Known::default())));
    for round in 0..ROUNDS {
        let (over, client) = (&AtomicBool::new(false), &node.client());
        thread::scope(|scope| {
            let writers: Vec<_> = known
                .iter()
                .map(|(&key, &known)| (key, scope.spawn(move || write(client, key, known, over))))
                .collect();
            thread::sleep(Duration::from_millis(generator.u64(5..250)));
            node.kill();
            over.store(true, Ordering::Relaxed);
            for (key, writer) in writers {
                known.insert(key, writer.join().unwrap());
            }
        });
        node.restart();
        assert_eq!(drafts(&node.data_dir()), Vec::<std::path::PathBuf>::new(), "after round {round}");
        let client = node.client();
        for (&key, known) in &mut known {
            check(&client, key, known);
        }
        let written = known.values().filter(|known| known.acknowledged.0 > 0).count();
        assert_eq!(keys(&node).len(), written, "after round {round}");
    }
    assert!(known.values().all(|known| known.acknowledged.0 > 0), "{known:?}");
    node.stop();
}

/// Files of chunks that were never completed.
fn drafts(data_dir: &Path) -> Vec<std::path::PathBuf> {
    files_below(&data_dir.join("chunks/tmp"))
}
