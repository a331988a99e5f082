//! Engines that read each other's memory.

use std::time::Duration;

use engine::{Config, Sharing};
use flow::wire::session::Device;
use futures_lite::future::block_on;

use crate::cluster::{Cluster, bytes, get, put};

/// All on one host.
fn sharing(config: &mut Config) {
    config.sharing = Some(Sharing { boot_id: "here".into(), socket: "/unused".into() });
}

fn counter(cluster: &Cluster, node: usize, name: &str) -> u64 {
    let counters = block_on(cluster.handle(node).counters()).unwrap();
    counters.into_iter().find(|(known, _)| known == name).unwrap().1
}

/// Moves small chunks from node 1 to node 2 until their memory is mapped, which is on its way from the first one on.
fn wait_until_mapped(cluster: &Cluster) {
    for seed in 1000..2000 {
        let chunk = put(cluster.handle(1), &bytes(seed, 4096), false).unwrap();
        block_on(cluster.handle(2).fetch(chunk, Device::Dram)).unwrap();
        if counter(cluster, 2, "bytes_received_shm") > 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the memory was not mapped");
}

#[test]
fn pieces_are_copied_out_of_the_senders_memory() {
    let cluster = Cluster::with(&[1, 1], 128 << 20, sharing);
    wait_until_mapped(&cluster);
    let before = (counter(&cluster, 2, "bytes_received_shm"), counter(&cluster, 1, "bytes_sent_shm"));
    let content = bytes(1, (40 << 20) + 3);
    let chunk = put(cluster.handle(1), &content, false).unwrap();
    assert!(get(cluster.handle(2), chunk).unwrap() == content);
    assert_eq!(counter(&cluster, 2, "bytes_received_shm") - before.0, content.len() as u64);
    // The last word that a piece was taken may still be on its way.
    let last = content.len() as u64 - (16 << 20);
    assert!(counter(&cluster, 1, "bytes_sent_shm") - before.1 >= last.min(24 << 20));
    cluster.stop();
}

#[test]
fn every_slot_comes_back() {
    let cluster = Cluster::with(&[1, 1], 64 << 20, sharing);
    wait_until_mapped(&cluster);
    // Many times the memory of either: what is not given back would soon be missing.
    for seed in 1..16 {
        let content = bytes(seed, 24 << 20);
        let chunk = put(cluster.handle(1), &content, false).unwrap();
        assert!(get(cluster.handle(2), chunk).unwrap() == content);
        for node in [1, 2] {
            block_on(cluster.handle(node).drop_replica(chunk.id, None, true)).unwrap();
        }
    }
    cluster.stop();
}

#[test]
fn damage_on_the_way_is_found_and_fetched_again() {
    let cluster = Cluster::with(&[1, 1], 128 << 20, |config| {
        sharing(config);
        config.corrupt_one_in = 30;
    });
    let content = bytes(1, 40 << 20);
    let chunk = put(cluster.handle(1), &content, false).unwrap();
    assert!(get(cluster.handle(2), chunk).unwrap() == content);
    let faults: Vec<_> = cluster.faults().iter().map(|(node, fault)| (*node, fault.peer)).collect();
    assert_eq!(faults, [(2, Some(1)); 2]);
    cluster.stop();
}

#[test]
fn nodes_of_different_hosts_keep_to_tcp() {
    let cluster = Cluster::with(&[1, 1], 64 << 20, |config| {
        config.sharing = Some(Sharing { boot_id: config.node.to_string(), socket: "/unused".into() });
    });
    let content = bytes(1, 8 << 20);
    for seed in 1..4 {
        let chunk = put(cluster.handle(1), &bytes(seed, 8 << 20), false).unwrap();
        block_on(cluster.handle(2).fetch(chunk, Device::Dram)).unwrap();
    }
    let chunk = put(cluster.handle(1), &content, false).unwrap();
    assert!(get(cluster.handle(2), chunk).unwrap() == content);
    assert_eq!(counter(&cluster, 2, "bytes_received_shm"), 0);
    cluster.stop();
}

#[test]
fn many_receivers_share_what_they_have() {
    let cluster = Cluster::with(&[2, 1, 2, 1], 128 << 20, sharing);
    let content = bytes(1, 48 << 20);
    let chunk = put(cluster.handle(1), &content, false).unwrap();
    let fetches: Vec<_> = (2..=4)
        .map(|node| {
            let handle = cluster.handle(node).clone();
            std::thread::spawn(move || block_on(handle.fetch(chunk, Device::Dram)).unwrap())
        })
        .collect();
    fetches.into_iter().for_each(|fetch| drop(fetch.join().unwrap()));
    for node in 2..=4 {
        assert_eq!(block_on(cluster.handle(node).verify(chunk.id)), Ok(chunk.id));
    }
    cluster.stop();
}
