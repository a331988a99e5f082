//! Many pieces, chunks and directions at once.

use std::time::Duration;

use flow::wire::data::{Grant, Have, Interest, Want};
use futures_lite::future::block_on;

use super::member::Member;
use super::way::{Way, drop_all, eventually, fetching};
use crate::tests::cluster::{bytes, get, put};

each_way! {
    many_chunks_travel_both_ways_at_once
    many_receivers_help_each_other
    answers_may_come_in_any_order
    news_tell_of_pieces_that_were_checked
}

const PIECE: usize = 1 << 20;
/// How often receivers are given the chance to help each other.
const ATTEMPTS_MAX: u64 = 20;

fn many_chunks_travel_both_ways_at_once(way: Way) {
    let cluster = way.cluster(2, 128 << 20);
    let lengths = [1, PIECE, 5 * PIECE + 1, 3000, 2 * PIECE - 1, 7 * PIECE, PIECE + 1, 6 * PIECE];
    std::thread::scope(|scope| {
        for (from, to, first) in [(1, 2, 1), (2, 1, 100)] {
            for (seed, length) in (first..).zip(lengths) {
                let (from, to) = (cluster.handle(from), cluster.handle(to));
                scope.spawn(move || {
                    let content = bytes(seed, length);
                    let chunk = put(from, &content, false).unwrap();
                    assert!(get(to, chunk).unwrap() == content);
                });
            }
        }
    });
    drop_all(cluster.handle(1));
    drop_all(cluster.handle(2));
    cluster.stop();
}

fn many_receivers_help_each_other(way: Way) {
    let cluster = way.cluster(6, 128 << 20);
    // A receiver may be done before others have begun, on a machine that has other things to do.
    let helped = (1..=ATTEMPTS_MAX).any(|seed| {
        let chunk = put(cluster.handle(1), &bytes(seed, 48 << 20), false).unwrap();
        let fetches: Vec<_> = (2..=6).map(|node| fetching(cluster.handle(node), chunk)).collect();
        let reports: Vec<_> = fetches.into_iter().map(|fetch| fetch.join().unwrap().unwrap()).collect();
        for (node, report) in (2..).zip(&reports) {
            assert_eq!(report.pieces_from_origin + report.pieces_from_peers, 48, "{report:?}");
            assert_eq!(block_on(cluster.handle(node).verify(chunk.id)), Ok(chunk.id));
        }
        (1..=6).for_each(|node| drop_all(cluster.handle(node)));
        reports.iter().map(|report| report.pieces_from_peers).sum::<u32>() > 48
    });
    assert!(helped, "receivers do not serve while they receive");
    cluster.stop();
}

fn answers_may_come_in_any_order(way: Way) {
    let cluster = way.cluster(1, 64 << 20);
    let member = Member::join(&cluster, 9, way);
    let held = [(1, 8 * PIECE, true), (2, 6 * PIECE + 5, false), (3, 10, true)]
        .map(|(seed, size, complete)| member.hold(&cluster, seed, size, PIECE as u32, complete));
    std::thread::scope(|scope| {
        let fetches = held.each_ref().map(|held| fetching(cluster.handle(1), held.chunk));
        scope.spawn(|| {
            let mut line = member.accept();
            line.offer();
            let held = held.each_ref();
            let mut waiting = Vec::new();
            loop {
                match line.next(Duration::from_millis(5)) {
                    Some(Some((message, _))) => waiting.extend(line.hear(&held, message)),
                    Some(None) => return,
                    // All that may be granted at once is: the last is answered first.
                    None => waiting.drain(..).rev().for_each(|(held, grant)| line.give(held, &grant, false)),
                }
            }
        });
        fetches.into_iter().for_each(|fetch| drop(fetch.join().unwrap().unwrap()));
        cluster.dismiss(member.node);
    });
    for held in &held {
        assert!(get(cluster.handle(1), held.chunk).unwrap() == held.content);
    }
    drop_all(cluster.handle(1));
    cluster.stop();
}

/// Nobody hears of a piece that is not what it should be, and whoever has heard of one is given it.
fn news_tell_of_pieces_that_were_checked(way: Way) {
    let cluster = way.cluster(1, 64 << 20);
    let (source, listener) = (Member::join(&cluster, 8, way), Member::join(&cluster, 9, way));
    let held = source.hold(&cluster, 1, 4 * PIECE + 7, PIECE as u32, true);
    let fetch = fetching(cluster.handle(1), held.chunk);
    let mut line = source.accept();
    line.introduce(&held);
    let mut ear = listener.dial(&cluster, 1);
    ear.take_part(&held.chunk);
    assert_eq!(ear.expect::<Interest>().have, [0]);

    let grant = line.expect();
    line.give(&held, &grant, true);
    eventually("the damage is told", || !cluster.faults().is_empty());
    ear.sync();
    assert!(ear.news().is_empty());

    std::thread::scope(|scope| {
        scope.spawn(|| line.serve(&[&held]));
        let mut told = Vec::new();
        while told.len() < 5 {
            for piece in ear.expect::<Have>().pieces {
                told.push(piece);
                let grant = u64::from(piece);
                ear.send(Grant { chunk: held.chunk.id, grant, want: Want::Piece(piece) });
                let start = piece as usize * PIECE;
                let content = &held.content[start..(start + PIECE).min(held.content.len())];
                assert!(ear.take(cluster.handle(1).arena()) == content);
            }
        }
        told.sort_unstable();
        assert_eq!(told, [0, 1, 2, 3, 4]);
        fetch.join().unwrap().unwrap();
        cluster.dismiss(source.node);
    });
    assert_eq!(cluster.faults().len(), 1);
    drop_all(cluster.handle(1));
    cluster.stop();
}
