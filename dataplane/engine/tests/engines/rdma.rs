//! Engines that write into each other's memory over RDMA. Without a device these tests say so and pass; with
//! `VERBS_REQUIRE_DEVICE=1` they fail then.

use std::process::Command;
use std::time::Duration;

use engine::{Config, RdmaSettings};
use flow::wire::session::Device;
use futures_lite::future::block_on;

use crate::cluster::{Cluster, bytes, get, put};

fn over_rdma(config: &mut Config) {
    config.rdma = Some(RdmaSettings::default());
}

fn has_device() -> bool {
    let has = std::fs::read_dir("/sys/class/infiniband").is_ok_and(|mut devices| devices.next().is_some());
    assert!(has || std::env::var_os("VERBS_REQUIRE_DEVICE").is_none(), "there is no RDMA device");
    if !has {
        println!("skipped: there is no RDMA device");
    }
    has
}

fn counter(cluster: &Cluster, node: usize, name: &str) -> u64 {
    let counters = block_on(cluster.handle(node).counters()).unwrap();
    counters.into_iter().find(|(known, _)| known == name).unwrap().1
}

/// Moves small chunks from node 1 to node 2 until a lane carries them.
fn wait_for_lane(cluster: &Cluster, seed: u64) {
    let before = counter(cluster, 2, "bytes_received_rdma");
    for seed in (seed..).take(1000) {
        let chunk = put(cluster.handle(1), &bytes(seed, 4096), false).unwrap();
        block_on(cluster.handle(2).fetch(chunk, Device::Dram)).unwrap();
        if counter(cluster, 2, "bytes_received_rdma") > before {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("there was no lane");
}

#[test]
fn pieces_are_written_into_the_receivers_memory() {
    if !has_device() {
        return;
    }
    let cluster = Cluster::with(&[1, 1], 64 << 20, over_rdma);
    wait_for_lane(&cluster, 1000);
    let before = counter(&cluster, 2, "bytes_received_rdma");
    let mut total = 0;
    for (seed, length) in [(1, 1), (2, 4097), (3, (20 << 20) + 3)] {
        let content = bytes(seed, length);
        let chunk = put(cluster.handle(1), &content, false).unwrap();
        assert!(get(cluster.handle(2), chunk).unwrap() == content);
        total += length as u64;
    }
    assert_eq!(counter(&cluster, 2, "bytes_received_rdma") - before, total);
    assert_eq!(counter(&cluster, 1, "lanes_broken"), 0);
    cluster.stop();
}

#[test]
fn damage_on_the_way_is_found_and_fetched_again() {
    if !has_device() {
        return;
    }
    let cluster = Cluster::with(&[1, 1], 64 << 20, |config| {
        over_rdma(config);
        config.corrupt_one_in = 10;
    });
    for seed in 1..4 {
        let content = bytes(seed, 12 << 20);
        let chunk = put(cluster.handle(1), &content, false).unwrap();
        assert!(get(cluster.handle(2), chunk).unwrap() == content);
    }
    assert!(!cluster.faults().is_empty());
    assert!(counter(&cluster, 2, "bytes_received_rdma") > 0);
    cluster.stop();
}

#[test]
fn many_receivers_write_to_each_other() {
    if !has_device() {
        return;
    }
    let cluster = Cluster::with(&[1, 2, 1], 64 << 20, over_rdma);
    let content = bytes(1, 24 << 20);
    let chunk = put(cluster.handle(1), &content, false).unwrap();
    let fetches: Vec<_> = (2..=3)
        .map(|node| {
            let handle = cluster.handle(node).clone();
            std::thread::spawn(move || block_on(handle.fetch(chunk, Device::Dram)).unwrap())
        })
        .collect();
    fetches.into_iter().for_each(|fetch| drop(fetch.join().unwrap()));
    for node in 2..=3 {
        assert_eq!(block_on(cluster.handle(node).verify(chunk.id)), Ok(chunk.id));
    }
    assert!(counter(&cluster, 2, "bytes_received_rdma") + counter(&cluster, 3, "bytes_received_rdma") > 0);
    cluster.stop();
}

/// The link of the devices that `cargo xtask hw soft-roce` makes. The connections of these tests do not pass over it.
const LINK: &str = "shoal0";

fn set_link(state: &str) {
    let status = Command::new("ip").args(["link", "set", LINK, state]).status().unwrap();
    assert!(status.success());
}

#[test]
fn while_the_link_is_cut_pieces_take_tcp_and_come_back_after() {
    if !has_device() || !std::path::Path::new("/sys/class/net").join(LINK).exists() {
        println!("skipped: there is no link {LINK} that could be cut");
        return;
    }
    let cluster = Cluster::with(&[1, 1], 128 << 20, over_rdma);
    wait_for_lane(&cluster, 1000);
    let content = bytes(1, 48 << 20);
    let chunk = put(cluster.handle(1), &content, false).unwrap();
    let before = counter(&cluster, 2, "bytes_received_rdma");
    let receiver = cluster.handle(2).clone();
    let fetch = std::thread::spawn(move || block_on(receiver.fetch(chunk, Device::Dram)).unwrap());
    while counter(&cluster, 2, "bytes_received_rdma") == before && !fetch.is_finished() {
        std::thread::yield_now();
    }
    set_link("down");
    fetch.join().unwrap();
    assert!(get(cluster.handle(2), chunk).unwrap() == content, "it was cut in the middle");

    let during = counter(&cluster, 2, "bytes_received_rdma");
    let content = bytes(2, 8 << 20);
    let chunk = put(cluster.handle(1), &content, false).unwrap();
    assert!(get(cluster.handle(2), chunk).unwrap() == content, "it was cut before");
    assert_eq!(counter(&cluster, 2, "bytes_received_rdma"), during);
    assert!(counter(&cluster, 2, "lanes_broken") > 0);

    set_link("up");
    wait_for_lane(&cluster, 2000);
    cluster.stop();
}

#[test]
fn every_slot_comes_back() {
    if !has_device() {
        return;
    }
    let cluster = Cluster::with(&[1, 1], 64 << 20, over_rdma);
    wait_for_lane(&cluster, 1000);
    // Several times the memory of either: what is not given back would soon be missing.
    for seed in 1..10 {
        let content = bytes(seed, 24 << 20);
        let chunk = put(cluster.handle(1), &content, false).unwrap();
        assert!(get(cluster.handle(2), chunk).unwrap() == content);
        for node in [1, 2] {
            block_on(cluster.handle(node).drop_replica(chunk.id, None, true)).unwrap();
        }
    }
    cluster.stop();
}
