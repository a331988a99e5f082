//! Pieces that come too late: their slots may be somebody else's by then.

use flow::wire::data::{Grant, Interest, PieceData, PiecePart, Revoke};
use futures_lite::future::block_on;

use super::member::Member;
use super::way::{Way, drop_all, fetching};
use crate::tests::cluster::{bytes, counter, get, put};

each_way! { what_was_withdrawn_is_dropped what_still_arrives_when_all_is_here_is_dropped }

const PIECE: u32 = 1 << 20;

fn what_was_withdrawn_is_dropped(way: Way) {
    let cluster = way.cluster(1, 32 << 20);
    let handle = cluster.handle(1);
    let member = Member::join(&cluster, 9, way);
    let held = member.hold(&cluster, 1, 3 << 20, PIECE, false);
    let fetch = fetching(handle, held.chunk);
    let mut line = member.accept();
    line.introduce(&held);
    let late: Grant = line.expect();
    while line.expect::<Revoke>().grant != late.grant {}

    // Every slot that is free is given to somebody else.
    let mut others = Vec::new();
    for seed in 100.. {
        if handle.arena().free_bytes() < PIECE.into() {
            break;
        }
        // The fetch may have taken the last slot meanwhile.
        if let Ok(chunk) = put(handle, &bytes(seed, PIECE as usize), false) {
            // It may be evicted for the fetch until it is pinned.
            others.extend(block_on(handle.pin(chunk.id, true)).unwrap().then_some(chunk.id));
        }
    }
    let unwanted = counter(handle, "pieces_unwanted");
    line.give(&held, &late, true);
    line.give(&held, &late, false);
    line.sync();
    assert_eq!(counter(handle, "pieces_unwanted") - unwanted, 2);
    for other in others {
        assert_eq!(block_on(handle.verify(other)), Ok(other));
        assert_eq!(block_on(handle.drop_replica(other, None, true)), Ok(true));
    }

    std::thread::scope(|scope| {
        scope.spawn(|| line.serve(&[&held]));
        fetch.join().unwrap().unwrap();
        cluster.dismiss(member.node);
    });
    assert_eq!(cluster.faults(), []);
    assert!(get(handle, held.chunk).unwrap() == held.content);
    drop_all(handle);
    cluster.stop();
}

/// A slot is not free before the bytes that arrive in it are through, however long the fetch is over.
fn what_still_arrives_when_all_is_here_is_dropped(way: Way) {
    let cluster = way.cluster(1, 32 << 20);
    let handle = cluster.handle(1);
    let (slow, quick) = (Member::join(&cluster, 8, way), Member::join(&cluster, 9, way));
    let [held, same] = [&slow, &quick].map(|member| member.hold(&cluster, 1, PIECE as usize, PIECE, false));
    let fetch = fetching(handle, held.chunk);
    let (mut line, mut other) = (slow.accept(), quick.accept());
    line.introduce(&held);
    other.offer();
    other.expect::<Interest>();
    // It is asked for no description when the other one's came sooner.
    other.tell_interest(&same);
    let (half, rest) = held.content.split_at(held.content.len() / 2);
    // Should the other one have been asked first, then its silence leads here.
    let grant = loop {
        let grant = line.expect::<Grant>().grant;
        let unwanted = counter(handle, "pieces_unwanted");
        line.send(PieceData { part: half.len() as u32, ..held.head(grant, 0) }).send_bytes(half);
        line.sync();
        if counter(handle, "pieces_unwanted") == unwanted {
            break grant;
        }
        line.send(PiecePart { grant, part: rest.len() as u32 }).send_bytes(rest);
    };

    std::thread::scope(|scope| {
        scope.spawn(|| other.serve(&[&same]));
        fetch.join().unwrap().unwrap();
        cluster.dismiss(quick.node);
    });
    assert_eq!(block_on(handle.drop_replica(held.chunk.id, None, true)), Ok(true));
    let leased = handle.arena().size() - handle.arena().free_bytes();
    assert_eq!(leased, u64::from(PIECE), "the slot of the piece that is half here, and no other");
    line.send(PiecePart { grant, part: rest.len() as u32 }).send_bytes(rest);
    line.sync();
    assert_eq!(block_on(handle.replicas(None)), Ok(vec![]));
    drop_all(handle);
    cluster.stop();
}
