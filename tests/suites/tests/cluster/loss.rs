//! Nodes that die while they send or receive.

use flow::wire::session::{ChunkPlace, Device};
use suites::{Cluster, Node, holds, shoal, write_noise};

use crate::broadcast::{Broadcast, id_of, replicas, share};

/// Large enough to be caught under way, small enough to be quick.
const SIZE: u64 = 160 << 20;

fn cluster(count: usize) -> Cluster {
    Cluster::start_with(count, |setup| setup.memory("320MB"))
}

#[test]
fn a_broadcast_outlives_one_of_its_sources() {
    let mut cluster = cluster(6);
    let [_, source, other, receivers @ ..] = &cluster.nodes[..] else { panic!("six nodes") };
    let receivers: Vec<&Node> = receivers.iter().collect();
    let mut broadcast = Broadcast::catch(source, &receivers, SIZE, |broadcast| {
        let (node, device) = (other.name().into(), Device::Nvme);
        let copy =
            ChunkPlace { id: broadcast.chunk, node, device, remove_source: false, from: String::new() };
        source.client().place(copy).unwrap();
    });
    cluster.nodes[1].kill();
    broadcast.finish().into_iter().for_each(|outcome| drop(outcome.success()));
    broadcast.assert_copies(&[0, 1, 2]);
}

#[test]
fn without_a_source_receivers_finish_together_or_say_why_not() {
    let mut cluster = cluster(5);
    let receivers: Vec<&Node> = cluster.nodes[2..].iter().collect();
    let mut broadcast = Broadcast::catch(&cluster.nodes[1], &receivers, SIZE, |_| ());
    cluster.nodes[1].kill();
    let mut arrived = Vec::new();
    for (at, outcome) in broadcast.finish().into_iter().enumerate() {
        if outcome.code == Some(0) {
            arrived.push(at);
        } else {
            outcome.exits(4).tells("no live node has the others").tells("hint:");
        }
    }
    broadcast.assert_copies(&arrived);
    if arrived.is_empty() {
        // Nobody held back a piece that another lacked.
        let watcher = cluster.nodes[2].client();
        let held: Vec<f64> = replicas(&watcher, broadcast.chunk).values().map(share).collect();
        assert!(held.iter().all(|&share| share > 0.0 && share < 1.0), "{held:?}");
    } else {
        assert_eq!(arrived, [0, 1, 2], "what one could have, all could have");
    }
    // The put was durable, so the source brings everything back.
    cluster.nodes[1].restart();
    cluster.wait_until_all_know(5);
    cluster.nodes.iter().for_each(|node| broadcast.get_again(node));
}

#[test]
fn a_receiver_that_died_comes_back_with_what_it_had() {
    let mut cluster = cluster(4);
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("own");
    write_noise(&own, 77, 20 << 20);
    shoal(&cluster.nodes[2], ["put", "own", "--src", own.to_str().unwrap()]).success();

    let receivers: Vec<&Node> = cluster.nodes[2..].iter().collect();
    let mut broadcast = Broadcast::catch(&cluster.nodes[1], &receivers, SIZE, |_| ());
    cluster.nodes[2].kill();
    let outcomes = broadcast.finish();
    outcomes[0].clone().exits(4).tells("closed the connection");
    outcomes[1].clone().success();
    broadcast.assert_copies(&[1]);
    let state = |cluster: &Cluster| {
        let nodes = shoal(&cluster.nodes[0], ["node", "ls", "--json"]).success().json();
        let found = nodes.as_array().unwrap().iter().find(|node| node["name"] == "n3").cloned();
        found.unwrap()["state"].as_str().unwrap().to_owned()
    };
    holds("the head notices that n3 is dead", || state(&cluster) == "dead");
    shoal(&cluster.nodes[1], ["get", "own", "--dest", folder.path().join("no").to_str().unwrap()])
        .exits(4)
        .tells("no live node has");

    cluster.nodes[2].restart();
    cluster.wait_until_all_know(4);
    let copy = folder.path().join("copy");
    shoal(&cluster.nodes[1], ["get", "own", "--dest", copy.to_str().unwrap()]).success();
    suites::assert_same_tree(&own, &copy);
    broadcast.get_again(&cluster.nodes[2]);
    let returned = replicas(&cluster.nodes[0].client(), broadcast.chunk);
    assert_eq!(share(&returned[&id_of(&cluster.nodes[2])]), 1.0);
}
