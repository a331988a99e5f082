//! Pieces that are not what they were.

use flow::limits::BAD_PIECES_PER_PEER;

use super::member::Member;
use super::way::{Way, drop_all, fetching};
use crate::EngineError;
use crate::tests::cluster::{bytes, counter, get, put};

each_way! { damage_on_the_way_is_found_and_fetched_again who_sends_nothing_good_is_not_asked_for_ever }

fn damage_on_the_way_is_found_and_fetched_again(way: Way) {
    let cluster = way.cluster_with(&[1, 1], 128 << 20, |config| config.corrupt_one_in = 25);
    way.settle(&cluster, 1, 2);
    let damaged = counter(cluster.handle(2), "pieces_corrupt");
    let content = bytes(1, 40 << 20);
    let chunk = put(cluster.handle(1), &content, false).unwrap();
    assert!(get(cluster.handle(2), chunk).unwrap() == content);
    let faults: Vec<_> = cluster.faults().into_iter().filter(|(_, fault)| fault.chunk == chunk.id).collect();
    assert!(faults.iter().all(|(node, fault)| (*node, fault.peer) == (2, Some(1))), "{faults:?}");
    // Of any 25 that leave one is damaged, those sent again among them.
    assert!((1..=2).contains(&faults.len()), "{faults:?}");
    assert_eq!(counter(cluster.handle(2), "pieces_corrupt") - damaged, faults.len() as u64);
    drop_all(cluster.handle(1));
    drop_all(cluster.handle(2));
    cluster.stop();
}

fn who_sends_nothing_good_is_not_asked_for_ever(way: Way) {
    let cluster = way.cluster(1, 64 << 20);
    let member = Member::join(&cluster, 9, way);
    let held = member.hold(&cluster, 1, 6 << 20, 1 << 20, true);
    let fetch = fetching(cluster.handle(1), held.chunk);
    let mut line = member.accept();
    line.introduce(&held);
    for _ in 0..BAD_PIECES_PER_PEER {
        let grant = line.expect();
        line.give(&held, &grant, true);
    }
    let senders = vec![("n9".to_owned(), BAD_PIECES_PER_PEER)];
    let spoiled = EngineError::Spoiled { chunk: held.chunk.id, pieces: 0, of: 6, senders };
    assert_eq!(fetch.join().unwrap(), Err(spoiled));
    assert_eq!(cluster.faults().len() as u32, BAD_PIECES_PER_PEER);
    drop_all(cluster.handle(1));
    cluster.stop();
}
