//! From one byte to the largest piece.

use futures_lite::future::block_on;

use super::member::Member;
use super::way::{Way, drop_all, fetching};
use crate::EngineError;
use crate::tests::cluster::{bytes, get, put};

each_way! { every_length_arrives_this_way any_number_of_shards_will_do the_largest_pieces_arrive }

const PIECE: usize = 1 << 20;

fn every_length_arrives_this_way(way: Way) {
    let cluster = way.cluster(2, 64 << 20);
    way.settle(&cluster, 1, 2);
    let lengths =
        [1, 63, 4095, 4096, 4097, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 9 * PIECE + 3, 24 * PIECE];
    for (seed, length) in (1..).zip(lengths) {
        let before = way.received(cluster.handle(2));
        let content = bytes(seed, length);
        let chunk = put(cluster.handle(1), &content, false).unwrap();
        assert!(get(cluster.handle(2), chunk).unwrap() == content, "{length} bytes");
        // More than that where a piece took so long that it was asked for again.
        assert!(way.received(cluster.handle(2)) - before >= length as u64);
        drop_all(cluster.handle(1));
        drop_all(cluster.handle(2));
    }
    cluster.stop();
}

fn any_number_of_shards_will_do(way: Way) {
    for shards in [[1, 3], [3, 2]] {
        let cluster = way.cluster_with(&shards, 64 << 20, |_| {});
        for (seed, length) in [(1, 1), (2, 5000), (3, 9 * PIECE + 3), (4, PIECE), (5, 2 * PIECE - 1)] {
            let content = bytes(seed, length);
            let chunk = put(cluster.handle(1), &content, false).unwrap();
            assert!(get(cluster.handle(2), chunk).unwrap() == content);
            let again = fetching(cluster.handle(2), chunk).join().unwrap().unwrap();
            assert_eq!(again.pieces_local, chunk.geometry.pieces());
        }
        drop_all(cluster.handle(1));
        drop_all(cluster.handle(2));
        cluster.stop();
    }
}

/// Only a chunk of more than eight GiB has such pieces of its own accord, so it comes from a member that is played, and
/// goes from engine to engine then.
fn the_largest_pieces_arrive(way: Way) {
    let cluster = way.cluster(2, 128 << 20);
    way.settle(&cluster, 1, 2);
    let member = Member::join(&cluster, 9, way);
    let sizes = [(1, 64 * PIECE, 16 * PIECE), (2, 32 * PIECE - 1, 16 * PIECE), (3, 9 * PIECE, 8 * PIECE)];
    for (seed, size, piece_size) in sizes {
        let held = member.hold(&cluster, seed, size, piece_size as u32, true);
        std::thread::scope(|scope| {
            let fetch = fetching(cluster.handle(1), held.chunk);
            scope.spawn(|| {
                let mut line = member.accept();
                line.offer();
                line.serve(&[&held]);
            });
            fetch.join().unwrap().unwrap();
            // The member is not asked for what the next engine wants.
            cluster.forget(member.node, held.chunk.id);
            cluster.cut(1);
        });
        way.settle(&cluster, 1, 2);
        let before = way.received(cluster.handle(2));
        assert!(get(cluster.handle(2), held.chunk).unwrap() == held.content);
        assert!(way.received(cluster.handle(2)) - before >= size as u64);
        drop_all(cluster.handle(1));
        drop_all(cluster.handle(2));
    }
    cluster.stop();
}

#[test]
fn an_empty_chunk_has_no_pieces_and_is_refused() {
    let cluster = Way::Tcp.cluster(1, 32 << 20);
    let refused = block_on(cluster.handle(1).create(0, 1 << 20, flow::wire::session::Device::Dram));
    assert!(matches!(refused, Err(EngineError::Geometry(_))), "{refused:?}");
    drop_all(cluster.handle(1));
    cluster.stop();
}
