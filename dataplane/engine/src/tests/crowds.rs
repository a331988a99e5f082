//! More peers than a shard has connections for.

use std::time::Duration;

use flow::connections::Bounds;
use flow::wire::data::Interest;
use futures_lite::future::block_on;

use super::conformance::member::Member;
use super::conformance::way::{Way, eventually};
use crate::tests::cluster::{Cluster, bytes, counter, get, put};

/// Longest wait for what an engine must say.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn who_is_refused_gets_everything_from_others() {
    let cluster = Cluster::with(&[1, 1, 1], 64 << 20, |config| {
        if config.node == 1 {
            config.connections = Bounds { all: 2, asked: 1 };
        }
    });
    let content = bytes(1, 6 << 20);
    let chunk = put(cluster.handle(1), &content, false).unwrap();
    assert!(get(cluster.handle(2), chunk).unwrap() == content);
    // Who has everything makes way for the next one, and who lacks something does not.
    let member = Member::join(&cluster, 9, Way::Tcp);
    eventually("a connection that nobody uses makes way", || block_on(cluster.handle(1).has_room(0)));
    let mut line = member.dial(&cluster, 1);
    line.take_part(&chunk);
    line.expect::<Interest>();
    let refused = counter(cluster.handle(1), "connections_refused");
    assert!(get(cluster.handle(3), chunk).unwrap() == content);
    assert!(counter(cluster.handle(1), "connections_refused") > refused);
    eventually("one connection is left", || counter(cluster.handle(1), "connections_open") == 1);
    line.sync();
    cluster.stop();
}

#[test]
fn a_connection_beyond_all_places_is_closed() {
    let cluster = Cluster::with(&[1], 64 << 20, |config| config.connections = Bounds { all: 1, asked: 1 });
    let [first, second] = [8, 9].map(|node| Member::join(&cluster, node, Way::Tcp));
    let mut kept = first.dial(&cluster, 1);
    kept.sync();
    assert!(matches!(second.dial(&cluster, 1).next(PATIENCE), Some(None)), "it is closed without a word");
    kept.sync();
    assert_eq!(counter(cluster.handle(1), "connections_refused"), 1);
    cluster.stop();
}
