//! What only the model can do at will: completions that are lost or come twice, queue pairs that fail, devices that go,
//! and processes that die at every step of a transfer.

use std::time::Duration;

use super::way::{Way, drop_all, eventually, fetching};
use crate::tests::cluster::{Cluster, bytes, counter, get, put};
use crate::transport::lanes::fabric::Health;
use crate::transport::lanes::model::{Faults, Network};

const WAY: Way = Way::Model;
const PIECE: usize = 1 << 20;
/// When a write is given up whose completion was lost.
const PATIENCE: Duration = Duration::from_millis(200);

/// Engines with one shard each, whose devices are numbered as they are, but from 0.
fn cluster(engines: usize, seed: u64, faults: Faults) -> (Network, Cluster) {
    let network = Network::with_patience(seed, faults, PATIENCE);
    let cluster = Cluster::on(&network, &vec![1; engines], 64 << 20, |_| {});
    (network, cluster)
}

#[test]
fn chunks_arrive_whole_whatever_the_network_does() {
    for seed in 0..4 {
        let (_network, cluster) = cluster(3, seed, Faults { lost: 6, twice: 24, broken: 2, late: 8 });
        let handles = [1, 2, 3].map(|node| cluster.handle(node));
        let mut round = 0;
        let mut lanes_broke = false;
        eventually("lanes break, and pieces come over lanes", || {
            round += 1;
            std::thread::scope(|scope| {
                for (at, length) in [5 * PIECE + 1, 9 * PIECE, 3000].into_iter().enumerate() {
                    let content = bytes(1000 * seed + 10 * round + at as u64, length);
                    let chunk = put(handles[at], &content, false).unwrap();
                    for to in handles {
                        let content = content.clone();
                        scope.spawn(move || assert!(get(to, chunk).unwrap() == content));
                    }
                }
            });
            handles.iter().for_each(|handle| drop_all(handle));
            lanes_broke |= handles.iter().any(|handle| counter(handle, "lanes_broken") > 0);
            lanes_broke && round >= 4 && handles.iter().any(|handle| WAY.received(handle) > 0)
        });
        assert_eq!(cluster.faults(), []);
        cluster.stop();
    }
}

/// Lets a fetch of engine 2 take that many steps of the network, and has it halt there.
fn fetch_halted_after(
    steps: u32,
    network: &Network,
    cluster: &Cluster,
    chunk: flow::wire::session::ChunkReference,
) -> std::thread::JoinHandle<Result<flow::wire::session::ChunkFetched, crate::EngineError>> {
    network.halt_after(Some(steps));
    let fetch = fetching(cluster.handle(2), chunk);
    eventually("the network halts", || network.is_halted() || fetch.is_finished());
    fetch
}

/// Steps of the network at which something happens: all of the first piece, and some of the others.
fn steps() -> impl Iterator<Item = u32> {
    (0..8).chain((8..40).step_by(5))
}

#[test]
fn a_source_that_dies_at_any_step_is_replaced_by_another() {
    for step in steps() {
        let (network, mut cluster) = cluster(3, step.into(), Faults::default());
        let content = bytes(1, 4 * PIECE);
        let chunk = put(cluster.handle(1), &content, false).unwrap();
        assert!(get(cluster.handle(3), chunk).unwrap() == content);
        WAY.settle(&cluster, 1, 2);
        WAY.settle(&cluster, 3, 2);
        let fetch = fetch_halted_after(step, &network, &cluster, chunk);
        network.kill(0);
        network.halt_after(None);
        cluster.stop_one(1);
        fetch.join().unwrap().unwrap();
        assert!(get(cluster.handle(2), chunk).unwrap() == content, "after {step} steps");
        drop_all(cluster.handle(2));
        drop_all(cluster.handle(3));
        cluster.stop();
    }
}

#[test]
fn a_receiver_that_dies_at_any_step_leaves_nothing_behind() {
    for step in steps() {
        let (network, mut cluster) = cluster(2, step.into(), Faults::default());
        let chunk = put(cluster.handle(1), &bytes(1, 4 * PIECE), false).unwrap();
        WAY.settle(&cluster, 1, 2);
        let fetch = fetch_halted_after(step, &network, &cluster, chunk);
        network.kill(1);
        network.halt_after(None);
        cluster.stop_one(2);
        drop(fetch.join().unwrap());
        drop_all(cluster.handle(1));
        cluster.stop();
    }
}

#[test]
fn a_device_that_goes_at_any_step_leaves_the_rest_to_tcp() {
    for (step, device) in steps().zip([0, 1].into_iter().cycle()) {
        let (network, cluster) = cluster(2, step.into(), Faults::default());
        let content = bytes(1, 4 * PIECE);
        let chunk = put(cluster.handle(1), &content, false).unwrap();
        WAY.settle(&cluster, 1, 2);
        let fetch = fetch_halted_after(step, &network, &cluster, chunk);
        network.set_health(device, Health::Gone);
        network.halt_after(None);
        fetch.join().unwrap().unwrap();
        assert!(get(cluster.handle(2), chunk).unwrap() == content, "after {step} steps");
        drop_all(cluster.handle(1));
        drop_all(cluster.handle(2));
        let before = WAY.received(cluster.handle(2));
        let chunk = put(cluster.handle(1), &content, false).unwrap();
        assert!(get(cluster.handle(2), chunk).unwrap() == content);
        assert_eq!(WAY.received(cluster.handle(2)), before, "the device is gone for good");
        cluster.stop();
    }
}

#[test]
fn a_port_that_comes_back_is_used_again() {
    let (network, cluster) = cluster(2, 1, Faults::default());
    for device in [0, 1] {
        WAY.settle(&cluster, 1, 2);
        let content = bytes(1, 4 * PIECE);
        let chunk = put(cluster.handle(1), &content, false).unwrap();
        let fetch = fetch_halted_after(5, &network, &cluster, chunk);
        network.set_health(device, Health::PortDown);
        network.halt_after(None);
        fetch.join().unwrap().unwrap();
        assert!(get(cluster.handle(2), chunk).unwrap() == content);
        network.set_health(device, Health::Up);
        drop_all(cluster.handle(1));
        drop_all(cluster.handle(2));
    }
    WAY.settle(&cluster, 1, 2);
    assert_eq!(counter(cluster.handle(2), "lanes_open"), 1);
    cluster.stop();
}
