//! A node that is killed while it is called.

use client::Address;
use suites::Cluster;
use suites::linearizability::{Remote, Turns, Workload, runs};

use super::{CALLS, Tally};

#[test]
fn histories_of_a_head_that_is_killed_are_linearizable() {
    let mut cluster = Cluster::start(2);
    let mut tally = Tally::default();
    for seed in 0..runs(2) {
        let to = |node: usize| Address::Local(cluster.nodes[node].socket());
        // The member asks the head for everything.
        let store = Turns::of([0, 1].map(|node| Box::new(Remote::at(to(node))) as _).into());
        let history = Workload::new(CALLS, seed).record_while("head/", &store, || {
            cluster.nodes[0].kill();
            cluster.nodes[0].restart();
        });
        tally.check(seed, &history);
    }
    println!("{tally:?}");
    assert!(tally.written > 0 && tally.answered > tally.written);
}
