//! Nodes that die while they send or receive.

use std::cell::Cell;
use std::thread;
use std::time::Duration;

use client::{ChunkId, Client};
use flow::limits::PIECE_SIZE_MIN;
use suites::{Cluster, Node, Signal, Way, holds, shoal, write_noise};

use crate::broadcast::{Broadcast, id_of, replicas, share};

/// Large enough to be caught under way, small enough to be quick.
const SIZE: u64 = 160 << 20;

fn cluster(count: usize) -> Cluster {
    Cluster::start_with(count, |setup| setup.memory("320MB"))
}

each_way! { a_broadcast_outlives_one_of_its_sources }

fn a_broadcast_outlives_one_of_its_sources(way: Way) {
    let mut cluster = Cluster::start_with(6, |setup| setup.over(way).memory("320MB"));
    let [_, source, other, receivers @ ..] = &cluster.nodes[..] else { panic!("six nodes") };
    let receivers: Vec<&Node> = receivers.iter().collect();
    let mut broadcast =
        Broadcast::catch(source, &receivers, SIZE, |broadcast| copy(source, broadcast.chunk, other));
    cluster.nodes[1].kill();
    broadcast.finish().into_iter().for_each(|outcome| drop(outcome.success()));
    broadcast.assert_copies(&[0, 1, 2]);
}

#[test]
fn a_source_that_stands_still_holds_nobody_up_and_comes_back() {
    let cluster = cluster(4);
    let [head, source, other, receiver] = &cluster.nodes[..] else { panic!("four nodes") };
    let mut broadcast =
        Broadcast::catch(source, &[receiver], SIZE, |broadcast| copy(source, broadcast.chunk, other));
    source.signal(Signal::STOP);
    broadcast.finish().remove(0).success();
    broadcast.assert_copies(&[0]);
    holds("the head notices that n2 is silent", || state(head, "n2") == "dead");
    source.signal(Signal::CONT);
    cluster.wait_until_all_know(4);
    broadcast.get_again(source);
}

#[test]
fn receivers_that_have_everything_between_them_need_no_source() {
    let mut cluster = cluster(5);
    // How far they are when the source dies cannot be told beforehand, so it may take several times.
    let finished = (0..10).any(|_| {
        let (source, receivers) = (&cluster.nodes[1], cluster.nodes[2..].iter().collect::<Vec<_>>());
        let (client, sent_before) = (source.client(), Cell::new(0));
        let prepare = |_: &Broadcast| sent_before.set(sent_by(&client));
        let mut broadcast = Broadcast::catch(source, &receivers, SIZE, prepare);
        // A source sends first what it has sent least often, so that every piece has left it by then.
        let enough = sent_before.get() + SIZE / u64::from(PIECE_SIZE_MIN) + 8;
        while sent_by(&client) < enough {
            thread::sleep(Duration::from_millis(1));
        }
        let complete = replicas(&client, broadcast.chunk).values().filter(|one| share(one) == 1.0).count();
        let were_on_their_way = complete == 1;
        cluster.nodes[1].kill();
        let outcomes = broadcast.finish();
        let all_finished = outcomes.iter().all(|outcome| outcome.code == Some(0));
        if all_finished {
            broadcast.assert_copies(&[0, 1, 2]);
        }
        cluster.nodes[1].restart();
        cluster.wait_until_all_know(5);
        shoal(&cluster.nodes[0], ["chunk", "rm", &broadcast.chunk.to_string(), "--force"]).success();
        shoal(&cluster.nodes[0], ["rm", &broadcast.key]).success();
        were_on_their_way && all_finished
    });
    assert!(finished, "receivers never finished without their source");
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
    holds("the head notices that n3 is dead", || state(&cluster.nodes[0], "n3") == "dead");
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

/// Pieces that a node has sent since it started.
fn sent_by(client: &Client) -> u64 {
    let counters = client.status().unwrap().counters;
    counters.into_iter().find(|(name, _)| name == "pieces_sent").unwrap().1
}

/// Brings a whole replica to another node.
fn copy(source: &Node, chunk: ChunkId, to: &Node) {
    let place = format!("{}:nvme", to.name());
    shoal(source, ["chunk", "copy", &chunk.to_string(), "--to", &place]).success();
}

/// What the head thinks of a node.
fn state(head: &Node, name: &str) -> String {
    let nodes = shoal(head, ["node", "ls", "--json"]).success().json();
    let found = nodes.as_array().unwrap().iter().find(|node| node["name"] == name).cloned();
    found.unwrap()["state"].as_str().unwrap().to_owned()
}
