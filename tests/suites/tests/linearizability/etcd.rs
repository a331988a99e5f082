//! Two nodes' engines on three members of etcd, of which the leader is killed or frozen.

use std::thread;
use std::time::Duration;

use catalog::{Etcd, EtcdSettings};
use futures_lite::future::block_on;
use suites::Etcds;
use suites::linearizability::{Turns, Workload, runs};

use super::{CALLS, Tally};

/// Longer than the members wait before they elect another leader.
const FROZEN: Duration = Duration::from_millis(1800);

#[test]
fn histories_of_etcd_whose_leader_dies_or_freezes_are_linearizable() {
    let Some(mut etcds) = Etcds::start(3) else { return };
    let address = etcds.address().parse().unwrap();
    let open = |_| block_on(Etcd::open(&address, EtcdSettings::default())).unwrap();
    let store = Turns::of([0, 1].map(open).map(|engine| Box::new(engine) as _).into());
    let mut tally = Tally::default();
    for seed in 0..runs(2) {
        let history = Workload::new(CALLS, seed).record_while("etcd/", &store, || {
            let leader = etcds.leader();
            if seed % 2 == 0 {
                etcds.kill(leader);
                etcds.restart(leader);
            } else {
                etcds.freeze(leader);
                thread::sleep(FROZEN);
                etcds.thaw(leader);
            }
        });
        tally.check(seed, &history);
    }
    println!("{tally:?}");
    assert!(tally.written > 0 && tally.answered > tally.written);
}
