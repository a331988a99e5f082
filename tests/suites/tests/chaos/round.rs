//! One round.

use std::fs;
use std::thread;
use std::time::Instant;

use client::{ChunkId, Client};
use suites::{Node, Shoal, holds, shoal, write_noise};
use tempfile::TempDir;

use crate::fleet::{Fleet, MEMORY_BYTES};
use crate::part::{Attempt, Stage, act};
use crate::plan::{Cast, NODES, Plan};
use crate::verdict::Tally;

/// Memory of a node's process beyond what it may have for chunks, in bytes: code, stacks, messages, the catalog.
const MEMORY_BESIDE_MAX: u64 = 128 << 20;

/// Plays the round of a seed. Panics when anything is not as it must be, and says what the round was.
pub fn play(fleet: &mut Fleet, seed: u64) -> Tally {
    let folder = tempfile::Builder::new().prefix("shoal-chaos-").tempdir().unwrap();
    let key = format!("chaos/{seed}");
    let cast = Cast::of(seed);
    let chunk = put(fleet, &key, seed, cast, &folder);
    let plan = Plan::of(seed, &fleet.trackers(&chunk), fleet.has_links());
    let _told = Told(&plan);
    let newcomers: Vec<usize> = (0..NODES).filter(|&at| plan.parts[at].joins()).collect();
    newcomers.iter().for_each(|&at| fleet.places[at].retire());
    fleet.wait_until_all_know(NODES - newcomers.len());

    let received_before = received(fleet);
    let head = fleet.head().to_owned();
    let stage = Stage { begin: Instant::now(), key: &key, folder: folder.path(), head: &head };
    let attempts = all_act(fleet, &plan, &stage);
    let mut tally = Tally::default();
    let mut has_it = [false; NODES];
    for (at, attempts) in attempts.into_iter().enumerate() {
        for attempt in attempts {
            has_it[at] = tally.judge(&plan, at, &chunk.0, &attempt.end());
        }
    }
    check_received(fleet, &plan, &received_before);

    let begin = Instant::now();
    bring_back(fleet);
    fleet.wait_until_all_know(NODES);
    tally.slowest_return = begin.elapsed();
    let missing = fleet.nodes().filter(|(at, _)| !has_it[*at]);
    let again: Vec<_> = missing.map(|(at, node)| (at, Attempt::start(node, &stage, NODES))).collect();
    for (at, attempt) in again {
        let ended = attempt.end();
        assert_eq!(ended.outcome.code, Some(0), "node {at} was asked again: {}", ended.outcome.error());
        assert!(tally.judge(&plan, at, &chunk.0, &ended));
    }
    tally.memory_bytes = fleet.nodes().map(|(_, node)| check_node(node, chunk)).max().unwrap_or_default();
    shoal(fleet.node(cast.source), ["rm", &key]).success();
    tally
}

/// Puts the chunk at its source and brings it to a second node, both of which keep it durably.
fn put(fleet: &Fleet, key: &str, seed: u64, cast: Cast, folder: &TempDir) -> ChunkId {
    let original = folder.path().join("original");
    // One file is one chunk, which is called by the digest of its bytes.
    let chunk = ChunkId(write_noise(&original, seed, cast.size));
    let source = fleet.node(cast.source);
    Shoal::at(source).args(["put", key, "--src"]).arg(&original).run().success();
    fs::remove_file(original).unwrap();
    let second = format!("{}:nvme", fleet.node(cast.second).name());
    shoal(source, ["chunk", "copy", &chunk.to_string(), "--to", &second]).success();
    chunk
}

/// Lets every node play its part, and gives the gets that were begun. When it returns nothing hurts any more, but for
/// the nodes that were killed for the rest of the round.
fn all_act(fleet: &mut Fleet, plan: &Plan, stage: &Stage) -> Vec<Vec<Attempt>> {
    thread::scope(|scope| {
        let parts = fleet.places.iter_mut().zip(&plan.parts);
        let threads: Vec<_> =
            parts.map(|(place, part)| scope.spawn(move || act(place, part, stage))).collect();
        let ended: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        ended
            .into_iter()
            .map(|ended| ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// Starts the nodes again that were killed for the rest of the round.
fn bring_back(fleet: &mut Fleet) {
    thread::scope(|scope| {
        let nodes = fleet.places.iter_mut().filter_map(|place| place.node.as_mut());
        for node in nodes.filter(|node| !node.runs()) {
            scope.spawn(|| node.restart());
        }
    });
}

/// What each node has received since it started.
fn received(fleet: &Fleet) -> Vec<u64> {
    let of = |place: &crate::fleet::Place| {
        place.node.as_ref().map_or(0, |node| counter(&node.client(), "bytes_received"))
    };
    fleet.places.iter().map(of).collect()
}

/// Nodes to which nothing happened have received the chunk, and hardly more than that.
fn check_received(fleet: &Fleet, plan: &Plan, before: &[u64]) {
    let Cast { size, source, second } = plan.cast;
    for (at, node) in fleet.nodes() {
        let has_begun_with_it = [source, second].contains(&at);
        if has_begun_with_it || plan.parts[at].suffers() || plan.head_suffers() {
            continue;
        }
        let received = counter(&node.client(), "bytes_received") - before[at];
        assert!((size..=2 * size).contains(&received), "node {at} received {received} bytes for {size}");
    }
}

/// The node answers, has seen no damage, is done with the chunk and keeps within its memory. Gives the most that its
/// process has had, in bytes.
fn check_node(node: &Node, chunk: ChunkId) -> u64 {
    let client = node.client();
    let status = client.status().unwrap();
    assert_eq!(counter(&client, "pieces_corrupt"), 0, "pieces came to {} damaged", node.name());
    assert!(status.node.memory_used <= MEMORY_BYTES, "{} holds {}", node.name(), status.node.memory_used);
    holds("no fetch is under way", || {
        let listing = client.replicas(Some(chunk)).unwrap();
        listing.replicas.iter().all(|replica| !replica.fetching)
    });
    let most = memory_bytes(node.process());
    assert!(most <= MEMORY_BYTES + MEMORY_BESIDE_MAX, "the process of {} has had {most} bytes", node.name());
    most
}

/// A counter of a node since it started.
pub fn counter(client: &Client, name: &str) -> u64 {
    let counters = client.status().unwrap().counters;
    counters.into_iter().find(|(counter, _)| counter == name).expect("the counter is there").1
}

/// The most memory that a process has had at once, in bytes; see proc_pid_status(5).
fn memory_bytes(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel counts");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Says what the round was when it fails.
struct Told<'a>(&'a Plan);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}
