//! Peers that go away at every step.

use flow::wire::data::{Describe, Description, Grant, Interest, PieceAt, PieceData, PiecePart, Want};
use flow::wire::session::Device;
use futures_lite::future::block_on;

use super::member::{Held, Line, Member};
use super::way::{Way, drop_all, eventually, fetching};
use crate::EngineError;
use crate::tests::cluster::{Cluster, bytes, get, put};

each_way! {
    a_source_that_dies_ends_the_fetch_when_it_was_the_only_one
    a_source_that_dies_is_replaced_by_another
    a_receiver_that_dies_gives_everything_back
    an_engine_that_stops_is_replaced_by_another_source
    an_engine_that_stops_ends_the_fetch_when_it_was_the_only_source
}

const PIECE: usize = 1 << 20;

/// The last thing that a source does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Connects,
    OffersMemory,
    TellsWhatItHas,
    Describes,
    IsGranted,
    SendsHead,
    SendsHeadAndBytes,
    SendsFirstPart,
    SendsHeadOfSecondPart,
    SendsBytesOfSecondPart,
    SendsPiece,
}

impl Source {
    const ALL: [Self; 11] = [
        Self::Connects,
        Self::OffersMemory,
        Self::TellsWhatItHas,
        Self::Describes,
        Self::IsGranted,
        Self::SendsHead,
        Self::SendsHeadAndBytes,
        Self::SendsFirstPart,
        Self::SendsHeadOfSecondPart,
        Self::SendsBytesOfSecondPart,
        Self::SendsPiece,
    ];

    /// Does everything up to its last step, and closes the connection.
    fn run(self, mut line: Line, held: &Held) {
        if self == Self::Connects {
            return;
        }
        line.offer();
        if self == Self::OffersMemory {
            return;
        }
        line.expect::<Interest>();
        line.tell_interest(held);
        if self == Self::TellsWhatItHas {
            return;
        }
        line.describe(held);
        if self == Self::Describes {
            return;
        }
        let grant: Grant = line.expect();
        let (piece, half) = (line.choose(held, &grant.want), PIECE as u32 / 2);
        let head = held.head(grant.grant, piece);
        let bytes = &held.content[piece as usize * PIECE..];
        let (first, second) = (&bytes[..half as usize], &bytes[half as usize..]);
        let more = PiecePart { grant: grant.grant, part: half };
        match self {
            Self::SendsHead => drop(line.send(head)),
            Self::SendsHeadAndBytes => drop(line.send(head).send_bytes(first)),
            Self::SendsFirstPart => drop(line.send(PieceData { part: half, ..head }).send_bytes(first)),
            Self::SendsHeadOfSecondPart => {
                line.send(PieceData { part: half, ..head }).send_bytes(first).send(more);
            }
            Self::SendsBytesOfSecondPart => {
                line.send(PieceData { part: half, ..head }).send_bytes(first).send(more);
                line.send_bytes(&second[..half as usize - 1]);
            }
            Self::SendsPiece => line.give(held, &grant, false),
            _ => {}
        }
    }
}

fn a_source_that_dies_ends_the_fetch_when_it_was_the_only_one(way: Way) {
    let cluster = way.cluster(1, 32 << 20);
    let member = Member::join(&cluster, 9, way);
    for (seed, step) in (1..).zip(Source::ALL) {
        let held = member.hold(&cluster, seed, 3 * PIECE, PIECE as u32, seed % 2 == 0);
        let fetch = fetching(cluster.handle(1), held.chunk);
        let line = member.accept();
        cluster.forget(member.node, held.chunk.id);
        step.run(line, &held);
        let outcome = fetch.join().unwrap();
        assert!(matches!(outcome, Err(EngineError::Unavailable { of: 3, .. })), "{step:?}: {outcome:?}");
        drop_all(cluster.handle(1));
    }
    assert_eq!(cluster.faults(), []);
    cluster.stop();
}

fn a_source_that_dies_is_replaced_by_another(way: Way) {
    let cluster = way.cluster(1, 32 << 20);
    let (dies, lives) = (Member::join(&cluster, 8, way), Member::join(&cluster, 9, way));
    for (seed, step) in (1..).zip(Source::ALL) {
        let held = dies.hold(&cluster, seed, 3 * PIECE, PIECE as u32, seed % 2 == 0);
        let fetch = fetching(cluster.handle(1), held.chunk);
        step.run(dies.accept(), &held);
        // In this order, since the fetch rightly ends once it hears that nobody has the chunk.
        let same = lives.hold(&cluster, seed, 3 * PIECE, PIECE as u32, seed % 3 == 0);
        cluster.forget(dies.node, held.chunk.id);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut line = lives.accept();
                line.offer();
                line.serve(&[&same]);
            });
            let outcome = fetch.join().unwrap();
            cluster.cut(1);
            assert!(outcome.is_ok(), "{step:?}: {outcome:?}");
        });
        assert!(get(cluster.handle(1), held.chunk).unwrap() == held.content, "{step:?}");
        drop_all(cluster.handle(1));
    }
    assert_eq!(cluster.faults(), []);
    cluster.stop();
}

/// The last thing that a receiver does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Receiver {
    Connects,
    TakesPart,
    AsksForDescription,
    IsTold,
    Grants,
    ReadsHead,
    TakesPiece,
    GrantsAnother,
}

impl Receiver {
    const ALL: [Self; 8] = [
        Self::Connects,
        Self::TakesPart,
        Self::AsksForDescription,
        Self::IsTold,
        Self::Grants,
        Self::ReadsHead,
        Self::TakesPiece,
        Self::GrantsAnother,
    ];

    fn run(self, mut line: Line, way: Way, cluster: &Cluster, held: flow::wire::session::ChunkReference) {
        if self == Self::Connects {
            return;
        }
        line.take_part(&held);
        if self == Self::TakesPart {
            return;
        }
        line.send(Describe { chunk: held.id });
        if self == Self::AsksForDescription {
            return;
        }
        line.expect::<Interest>();
        line.expect::<Description>();
        if self == Self::IsTold {
            return;
        }
        line.send(Grant { chunk: held.id, grant: 1, want: Want::Piece(1) });
        match (self, way) {
            (Self::Grants, _) => {}
            (Self::ReadsHead, Way::Memory) => drop(line.expect::<PieceAt>()),
            (Self::ReadsHead, _) => drop(line.expect::<PieceData>()),
            _ => drop(line.take(cluster.handle(1).arena())),
        }
        if self == Self::GrantsAnother {
            line.send(Grant { chunk: held.id, grant: 2, want: Want::LeastSent(vec![0b101]) });
        }
    }
}

fn a_receiver_that_dies_gives_everything_back(way: Way) {
    let cluster = way.cluster(2, 32 << 20);
    let member = Member::join(&cluster, 9, way);
    let content = bytes(1, 3 * PIECE);
    let chunk = put(cluster.handle(1), &content, false).unwrap();
    // More often than pieces may be under way at once.
    for step in [Receiver::ALL; 4].into_iter().flatten() {
        step.run(member.dial(&cluster, 1), way, &cluster, chunk);
    }
    assert!(get(cluster.handle(2), chunk).unwrap() == content);
    drop_all(cluster.handle(1));
    drop_all(cluster.handle(2));
    cluster.stop();
}

/// Engine 1 has half of a chunk from a played member that then stands still, and engine 2 has that from engine 1.
pub fn half_way(way: Way, cluster: &Cluster, member: &Member) -> (Held, Line, Fetches) {
    let held = member.hold(cluster, 1, 8 * PIECE, PIECE as u32, true);
    let first = fetching(cluster.handle(1), held.chunk);
    let mut line = member.accept();
    line.introduce(&held);
    while pieces(cluster, 1, &held) < 4 {
        let grant = line.expect();
        line.give(&held, &grant, false);
        line.sync();
    }
    way.settle(cluster, 1, 2);
    let second = fetching(cluster.handle(2), held.chunk);
    eventually("half of the chunk has come", || pieces(cluster, 2, &held) == 4);
    (held, line, [first, second])
}

type Fetches = [std::thread::JoinHandle<Result<flow::wire::session::ChunkFetched, EngineError>>; 2];

fn pieces(cluster: &Cluster, node: usize, held: &Held) -> u32 {
    let replicas = block_on(cluster.handle(node).replicas(Some(held.chunk.id))).unwrap();
    replicas.iter().map(|replica| replica.dram_pieces).sum()
}

fn an_engine_that_stops_is_replaced_by_another_source(way: Way) {
    let mut cluster = way.cluster(2, 32 << 20);
    let member = Member::join(&cluster, 9, way);
    let (held, line, [first, second]) = half_way(way, &cluster, &member);
    cluster.stop_one(1);
    drop(line);
    assert_eq!(first.join().unwrap(), Err(EngineError::Stopping));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut line = member.accept();
            line.offer();
            line.serve(&[&held]);
        });
        second.join().unwrap().unwrap();
        cluster.dismiss(member.node);
    });
    assert!(get(cluster.handle(2), held.chunk).unwrap() == held.content);
    drop_all(cluster.handle(2));
    cluster.stop();
}

fn an_engine_that_stops_ends_the_fetch_when_it_was_the_only_source(way: Way) {
    let mut cluster = way.cluster(2, 32 << 20);
    let member = Member::join(&cluster, 9, way);
    let (held, line, [first, second]) = half_way(way, &cluster, &member);
    cluster.dismiss(member.node);
    drop(line);
    cluster.stop_one(1);
    drop(first.join().unwrap());
    let missing = EngineError::Unavailable { chunk: held.chunk.id, pieces: 4, of: 8 };
    assert_eq!(second.join().unwrap(), Err(missing));
    assert_eq!(block_on(cluster.handle(2).drop_replica(held.chunk.id, Some(Device::Dram), false)), Ok(true));
    drop_all(cluster.handle(2));
    cluster.stop();
}
