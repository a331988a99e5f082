//! A member that breaks the protocol of data connections: it is told by a closed connection, and nothing else breaks.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use flow::wire::Message;
use flow::wire::data::{MemoryMapped, PieceAt, PieceData, PiecePart, PieceTaken};
use flow::wire::session::ChunkReference;

use crate::tests::cluster::{bytes, config, get, put};
use crate::{Engine, Handle, Peer};

const STRANGE: u64 = 9;

/// An engine with a chunk, and a connection to it of a member that the test plays.
struct Scene {
    engine: Engine,
    chunk: ChunkReference,
    content: Vec<u8>,
    member: TcpStream,
    _directory: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (engine, _) = Engine::start(config(directory.path(), 1, 1, 64 << 20)).unwrap();
        let peer = Peer { node: STRANGE, name: "strange".into(), shards: 1, near: true };
        engine.handle().members(&[peer]);
        let content = bytes(1, 3 << 20);
        let chunk = put(engine.handle(), &content, false).unwrap();
        let member = connect(engine.handle());
        Self { engine, chunk, content, member, _directory: directory }
    }

    fn piece(&self, grant: u64, part: u32) -> PieceData {
        PieceData { chunk: self.chunk.id, grant, piece: 0, length: 1 << 20, checksum: 0, part }
    }

    fn send(&mut self, message: impl Into<Message>, payload: usize) -> &mut Self {
        self.member.write_all(&message.into().encode(0, 0)).unwrap();
        // The engine may have closed the connection before it has read all of it.
        let _ = self.member.write_all(&vec![7; payload]);
        self
    }

    /// The engine closes the connection, and serves on.
    fn expect_closed(mut self) {
        let mut rest = Vec::new();
        // A connection that is closed over unread bytes is reset.
        let _ = self.member.read_to_end(&mut rest);
        assert!(get(self.engine.handle(), self.chunk).unwrap() == self.content);
        // Another connection is taken, and works.
        self.member = connect(self.engine.handle());
        self.expect_open();
    }

    /// The engine has read all of it and keeps the connection.
    fn expect_open(mut self) {
        let missing = flow::wire::data::Describe { chunk: flow::chunk::ChunkId([0; 32]) };
        self.send(missing, 0);
        let mut header = [0; flow::wire::frame::HEADER_LENGTH];
        self.member.read_exact(&mut header).unwrap();
        self.engine.stop();
    }
}

fn connect(handle: &Handle) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let member = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (theirs, _) = listener.accept().unwrap();
    handle.attach(0, STRANGE, 0, theirs);
    member
}

#[test]
fn pieces_that_nobody_asked_for_are_skipped() {
    let mut scene = Scene::new();
    let (begin, rest) = (scene.piece(1, 1000), PiecePart { grant: 1, part: (1 << 20) - 1000 });
    scene.send(begin, 1000).send(rest, (1 << 20) - 1000);
    scene.expect_open();
}

#[test]
fn a_part_of_a_piece_that_was_not_begun() {
    let mut scene = Scene::new();
    scene.send(PiecePart { grant: 1, part: 10 }, 10);
    scene.expect_closed();
}

#[test]
fn a_part_of_another_piece_than_the_one_begun() {
    let mut scene = Scene::new();
    let begin = scene.piece(1, 1000);
    scene.send(begin, 1000).send(PiecePart { grant: 2, part: 10 }, 10);
    scene.expect_closed();
}

#[test]
fn a_piece_that_begins_before_the_last_one_ended() {
    let mut scene = Scene::new();
    let (first, second) = (scene.piece(1, 1000), scene.piece(2, 1000));
    scene.send(first, 1000).send(second, 1000);
    scene.expect_closed();
}

#[test]
fn more_of_a_piece_than_it_has() {
    let mut scene = Scene::new();
    let begin = scene.piece(1, (1 << 20) + 1);
    scene.send(begin, (1 << 20) + 1);
    scene.expect_closed();
}

#[test]
fn a_place_in_memory_that_was_not_shared() {
    let mut scene = Scene::new();
    let PieceData { chunk, grant, piece, length, checksum, .. } = scene.piece(1, 0);
    scene.send(MemoryMapped {}, 0).send(PieceAt { chunk, grant, piece, length, checksum, offset: 0 }, 0);
    scene.expect_closed();
}

#[test]
fn a_piece_taken_that_was_not_offered() {
    let mut scene = Scene::new();
    scene.send(PieceTaken { grant: 5 }, 0);
    scene.expect_closed();
}
