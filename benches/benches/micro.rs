//! The small steps that every piece takes, one by one.
#![allow(missing_docs)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use flow::bitmap::Bitmap;
use flow::chunk::ChunkId;
use flow::limits::FRAME_BODY_MAX;
use flow::swarm::fetch::{Action, Fetch, Settings};
use flow::time::Instant;
use flow::verify::checksum_of;
use flow::wire::Message;
use flow::wire::control::TrackerPeer;
use flow::wire::data::{PieceData, Want};
use flow::wire::frame::Header;
use memory::Arena;

const PIECE: usize = 1 << 20;
/// Pieces of the chunk whose fetch is decided.
const PIECES: u32 = 1024;
/// Slots that a shard has free for one fetch.
const SLOTS: usize = 64;

criterion_group!(micro, wire, verify, decide, lease);
criterion_main!(micro);

/// The frame in front of every piece.
fn wire(criterion: &mut Criterion) {
    let data = PieceData {
        chunk: ChunkId([7; 32]),
        grant: 1 << 40,
        piece: 513,
        length: PIECE as u32,
        checksum: 3,
        part: PIECE as u32,
    };
    let message = Message::from(data);
    let frame = message.encode(0, 9);
    let mut group = criterion.benchmark_group("frame of a piece");
    group.bench_function("encode", |bencher| bencher.iter(|| black_box(&message).encode(0, 9)));
    group.bench_function("decode", |bencher| {
        bencher.iter(|| {
            let (header, body) = black_box(&frame).split_first_chunk().expect("a frame begins with a header");
            let header = Header::decode(header, FRAME_BODY_MAX).expect("the frame was encoded a moment ago");
            Message::decode(&header, body).expect("the frame was encoded a moment ago")
        });
    });
    group.finish();
}

/// The checksum of a piece that is in the cache.
fn verify(criterion: &mut Criterion) {
    let mut piece = vec![0; PIECE];
    fastrand::Rng::with_seed(1).fill(&mut piece);
    let mut group = criterion.benchmark_group("checksum");
    group.throughput(Throughput::Bytes(PIECE as u64));
    group.bench_function("1 MiB", |bencher| bencher.iter(|| checksum_of(black_box(&piece))));
    group.finish();
}

/// All decisions of a fetch, from the first peer to the last piece, counted by piece.
fn decide(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fetch");
    group.throughput(Throughput::Elements(PIECES.into()));
    for peers in [1, 24] {
        let name = format!("{peers} peers");
        group.bench_function(name, |bencher| {
            bencher.iter_batched(|| begun(peers), to_the_end, BatchSize::SmallInput);
        });
    }
    group.finish();
}

/// A fetch that knows one peer with the whole chunk, and others that lack one piece of it.
fn begun(peers: u64) -> Fetch {
    let now = Instant::ZERO;
    let mut fetch = Fetch::new(Settings::default(), Bitmap::new(PIECES), 1, now);
    let named: Vec<_> =
        (1..=peers).map(|node| TrackerPeer { node, complete: node == 1, near: true }).collect();
    fetch.on_peers(now, &named);
    for node in 1..=peers {
        let mut have = Bitmap::full(PIECES);
        if node > 1 {
            have.remove(0);
        }
        fetch.on_interest(now, node, true, have);
    }
    fetch
}

fn to_the_end(mut fetch: Fetch) -> Fetch {
    let mut now = Instant::ZERO;
    let mut granted = Vec::with_capacity(SLOTS);
    loop {
        match fetch.poll(now, SLOTS - granted.len()) {
            Some(Action::Grant { peer, grant, want }) => {
                let piece = match want {
                    Want::Piece(piece) => piece,
                    Want::LeastSent(words) => first_of(words),
                };
                granted.push((peer, grant, piece));
            }
            Some(Action::Revoke { grant, .. }) => granted.retain(|&(_, revoked, _)| revoked != grant),
            Some(Action::Complete) => return fetch,
            Some(_) => {}
            None => {
                now = now + Duration::from_millis(1);
                for (peer, grant, piece) in std::mem::take(&mut granted) {
                    fetch.on_arriving(now, peer, grant, piece);
                    fetch.on_verified(now, grant);
                }
            }
        }
    }
}

fn first_of(words: Vec<u64>) -> u32 {
    let wanted = Bitmap::from_words(PIECES, words).expect("a fetch asks for pieces of its chunk");
    wanted.iter().next().expect("a fetch asks for at least one piece")
}

/// A slot from the arena and back.
fn lease(criterion: &mut Criterion) {
    let arena = Arena::new(1 << 30, 1).expect("there is address space for an arena");
    // Others hold slots of several sizes, so that the free ranges are those of a node at work.
    let _held: Vec<_> = (0..100).filter_map(|number| arena.lease(0, 4096 << (number % 12))).collect();
    criterion.bench_function("lease and give back", |bencher| {
        bencher.iter(|| arena.lease(0, PIECE as u32).expect("the arena has room"));
    });
}
