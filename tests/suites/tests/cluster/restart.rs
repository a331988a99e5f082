//! The head and the trackers go away while others work, and come back.

use std::collections::BTreeSet;

use client::ChunkId;
use flow::wire::control::NodeId;
use suites::{Cluster, Node, Running, Shoal, Signal, shoal};

use crate::broadcast::{Broadcast, id_of};

const SIZE: u64 = 160 << 20;

fn cluster(count: usize) -> Cluster {
    Cluster::start_with(count, |setup| setup.memory("320MB"))
}

fn the_head_goes_and_comes_back(mut cluster: Cluster, end: impl Fn(&mut Node)) {
    shoal(&cluster.nodes[2], ["put", "kept", "--src", "-"]).success();
    let receivers: Vec<&Node> = cluster.nodes[2..].iter().collect();
    let mut broadcast = Broadcast::catch(&cluster.nodes[1], &receivers, SIZE, |_| ());
    end(&mut cluster.nodes[0]);
    members_say_so(&cluster.nodes[2]);
    broadcast.finish().into_iter().for_each(|outcome| drop(outcome.success()));
    broadcast.assert_copies(&[0, 1]);

    cluster.nodes[0].restart();
    cluster.wait_until_all_know(4);
    for node in &cluster.nodes {
        let keys = shoal(node, ["ls", "-R", "--json"]).success().json();
        let keys: BTreeSet<_> = keys.as_array().unwrap().iter().map(|key| key["key"].to_string()).collect();
        assert_eq!(keys, BTreeSet::from([format!("\"{}\"", broadcast.key), "\"kept\"".into()]));
    }
    cluster.nodes.iter().for_each(|node| broadcast.get_again(node));
    shoal(&cluster.nodes[3], ["put", "kept", "--src", "-"]).success();
}

/// What needs the head fails at once and says why; what does not goes on.
fn members_say_so(member: &Node) {
    let needs_head: [&[&str]; 7] = [
        &["ls"],
        &["info", "kept"],
        &["get", "kept", "--dest", "-"],
        &["put", "other", "--src", "-"],
        &["rm", "kept"],
        &["node", "drain", "n4"],
        &["bench", "put", "--size", "1MiB", "--rounds", "1"],
    ];
    for words in needs_head {
        shoal(member, words)
            .exits(4)
            .tells("the head does not answer")
            .tells("hint: check that the head runs");
    }
    let failure = Shoal::at(member).args(["--json", "ls"]).run().exits(4).error_json();
    assert_eq!(failure["code"], "unavailable");
    let nodes = shoal(member, ["node", "ls", "--json"]).success().json();
    let dead = nodes.as_array().unwrap().iter().filter(|node| node["state"] == "dead");
    assert_eq!(dead.map(|node| &node["name"]).collect::<Vec<_>>(), ["n1"]);
    shoal(member, ["status"]).success();
    shoal(member, ["chunk", "ls"]).success().tells("no answer from n1");
}

#[test]
fn the_head_stops_and_starts_again() {
    the_head_goes_and_comes_back(cluster(4), Node::stop);
}

#[test]
fn the_head_is_killed_and_starts_again() {
    the_head_goes_and_comes_back(cluster(4), Node::kill);
}

#[test]
fn a_transfer_outlives_its_trackers() {
    let mut cluster = cluster(5);
    let ids: Vec<NodeId> = cluster.nodes.iter().map(id_of).collect();
    let trackers_of = |chunk: &ChunkId| plan::rendezvous::trackers(&chunk.0, ids.iter().copied(), 2);
    // Who tracks shall neither send nor receive. It may be the head.
    let (source, receiver) = (1, 2);
    let suits = |chunk: &ChunkId| {
        trackers_of(chunk).iter().all(|tracker| *tracker != ids[source] && *tracker != ids[receiver])
    };
    let nodes = &cluster.nodes;
    let mut broadcast = Broadcast::catch_one(&nodes[source], &[&nodes[receiver]], SIZE, suits, |_| ());
    let trackers = trackers_of(&broadcast.chunk);
    let lost: Vec<usize> = (0..5).filter(|&at| trackers.contains(&ids[at])).collect();
    assert_eq!(lost.len(), 2);
    lost.iter().for_each(|&at| cluster.nodes[at].kill());
    broadcast.finish().remove(0).success();
    broadcast.assert_copies(&[0]);

    // Whoever comes to track the chunk hears of it.
    lost.iter().for_each(|&at| cluster.nodes[at].restart());
    cluster.wait_until_all_know(5);
    cluster.nodes.iter().for_each(|node| broadcast.get_again(node));
}

#[test]
fn a_head_that_stands_still_keeps_nobody_waiting_for_ever() {
    let cluster = Cluster::start_with(2, |setup| setup.memory("64MB"));
    let (head, member) = (&cluster.nodes[0], &cluster.nodes[1]);
    head.signal(Signal::STOP);
    let calls: [&[&str]; 3] = [&["ls"], &["put", "key", "--src", "-"], &["get", "key", "--dest", "-"]];
    let calls: Vec<Running> = calls.iter().map(|words| Shoal::at(member).args(*words).start()).collect();
    for call in calls {
        call.wait().exits(4).tells("the head does not answer");
    }
    head.signal(Signal::CONT);
    cluster.wait_until_all_know(2);
    shoal(member, ["put", "key", "--src", "-"]).success();
}
