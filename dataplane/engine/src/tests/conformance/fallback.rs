//! The way falls away, or is not there: everything comes over TCP.

use super::death::half_way;
use super::member::Member;
use super::way::{Way, drop_all};
use crate::Sharing;
use crate::tests::cluster::{Cluster, bytes, counter, get, put};

each_way! { the_rest_comes_when_the_way_falls_away every_slot_comes_back }

fn the_rest_comes_when_the_way_falls_away(way: Way) {
    let cluster = way.cluster(2, 32 << 20);
    let member = Member::join(&cluster, 9, way);
    let (held, mut line, fetches) = half_way(way, &cluster, &member);
    let received = || (way.received(cluster.handle(2)), counter(cluster.handle(2), "bytes_received"));
    let before = received();
    cluster.part();
    cluster.cut(2);
    std::thread::scope(|scope| {
        scope.spawn(|| line.serve(&[&held]));
        fetches.into_iter().for_each(|fetch| drop(fetch.join().unwrap().unwrap()));
        cluster.dismiss(member.node);
    });
    let after = received();
    assert!(after.1 - before.1 >= 4 << 20);
    assert!(way != Way::Memory || after.0 == before.0, "all of it came over TCP");
    assert!(get(cluster.handle(2), held.chunk).unwrap() == held.content);
    drop_all(cluster.handle(1));
    drop_all(cluster.handle(2));
    cluster.stop();
}

fn every_slot_comes_back(way: Way) {
    let cluster = way.cluster(2, 64 << 20);
    way.settle(&cluster, 1, 2);
    // Many times the memory of either: what is not given back would soon be missing.
    for seed in 1..8 {
        let content = bytes(seed, 24 << 20);
        let chunk = put(cluster.handle(1), &content, false).unwrap();
        assert!(get(cluster.handle(2), chunk).unwrap() == content);
        drop_all(cluster.handle(1));
        drop_all(cluster.handle(2));
    }
    cluster.stop();
}

#[test]
fn nodes_of_different_hosts_keep_to_tcp() {
    let cluster = Cluster::with(&[1, 1], 64 << 20, |config| {
        config.sharing = Some(Sharing { boot_id: config.node.to_string(), socket: "/unused".into() });
    });
    for seed in 1..4 {
        let content = bytes(seed, 8 << 20);
        let chunk = put(cluster.handle(1), &content, false).unwrap();
        assert!(get(cluster.handle(2), chunk).unwrap() == content);
    }
    assert_eq!(counter(cluster.handle(2), "bytes_received_shm"), 0);
    cluster.stop();
}
