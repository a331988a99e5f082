//! Engines that write into each other's memory over a link that can be cut: the one that `cargo xtask hw soft-roce` makes.
//! The connections of these tests do not pass over it.

use std::path::Path;
use std::process::Command;

use crate::tests::cluster::{bytes, counter, get, put};
use crate::tests::conformance::way::{Way, eventually, fetching};

const LINK: &str = "shoal0";

fn set_link(state: &str) {
    let status = Command::new("ip").args(["link", "set", LINK, state]).status().unwrap();
    assert!(status.success());
}

#[test]
fn while_the_link_is_cut_pieces_take_tcp_and_come_back_after() {
    let way = Way::Rdma;
    if !way.is_here() || !Path::new("/sys/class/net").join(LINK).exists() {
        println!("skipped: there is no link {LINK} that could be cut");
        return;
    }
    let cluster = way.cluster(2, 128 << 20);
    way.settle(&cluster, 1, 2);
    let receiver = cluster.handle(2);
    assert_eq!(counter(receiver, "lanes_broken"), 0);
    let content = bytes(1, 48 << 20);
    let chunk = put(cluster.handle(1), &content, false).unwrap();
    let before = way.received(receiver);
    let fetch = fetching(receiver, chunk);
    eventually("the fetch has begun", || way.received(receiver) > before || fetch.is_finished());
    set_link("down");
    fetch.join().unwrap().unwrap();
    assert!(get(receiver, chunk).unwrap() == content, "it was cut in the middle");

    // The device at the other end of the link is told a little later.
    let mut seed = 2;
    eventually("pieces take TCP", || {
        seed += 1;
        let during = way.received(receiver);
        let content = bytes(seed, 4 << 20);
        let chunk = put(cluster.handle(1), &content, false).unwrap();
        assert!(get(receiver, chunk).unwrap() == content, "it was cut before");
        way.received(receiver) == during
    });
    // The sender may have known it first, and have sent nothing over the lane from then on.
    eventually("the receiver has seen a lane break", || counter(receiver, "lanes_broken") > 0);

    set_link("up");
    way.settle(&cluster, 1, 2);
    cluster.stop();
}
