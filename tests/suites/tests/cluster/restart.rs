//! The head and the trackers go away while others work, and come back.

use std::collections::BTreeSet;

use flow::wire::control::NodeId;
use suites::{Cluster, Node, Shoal, holds, shoal};

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
    let mut broadcast = Broadcast::catch(&cluster.nodes[1], &[&cluster.nodes[2]], SIZE, |_| ());
    // Sources and receivers may track as well; the others are lost. The head is among them at times, and is spared.
    let trackers = plan::rendezvous::trackers(&broadcast.chunk.0, ids.iter().copied(), 2);
    for at in [3, 4].into_iter().filter(|&at| trackers.contains(&ids[at])) {
        cluster.nodes[at].kill();
    }
    broadcast.finish().remove(0).success();
    broadcast.assert_copies(&[0]);
    let lost = cluster.nodes.iter().filter(|node| !node.runs()).count();
    holds("the head misses the trackers", || {
        let nodes = shoal(&cluster.nodes[0], ["node", "ls", "--json"]).success().json();
        nodes.as_array().unwrap().iter().filter(|node| node["state"] == "dead").count() == lost
    });
    // Whoever tracks the chunk in their place has heard of it.
    broadcast.get_again(&cluster.nodes[0]);
}
