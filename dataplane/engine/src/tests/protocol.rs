//! A member that breaks the protocol of data connections: it is told by a closed connection, and nothing else breaks.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use flow::bitmap::Bitmap;
use flow::chunk::{ChunkId, Descriptor, Geometry};
use flow::swarm::Priority;
use flow::verify::checksum_of;
use flow::wire::control::TrackerPeer;
use flow::wire::data::{
    Description, Interest, MemoryMapped, PieceAt, PieceData, PiecePart, PieceTaken, Want,
};
use flow::wire::frame::HEADER_LENGTH;
use flow::wire::session::ChunkReference;
use flow::wire::{Header, Message};
use futures_lite::future::block_on;

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
        let peer = Peer { node: STRANGE, name: "strange".into(), shards: 1, near: true, here: false };
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

fn receive(member: &mut TcpStream) -> std::io::Result<Message> {
    let mut header = [0; HEADER_LENGTH];
    member.read_exact(&mut header)?;
    let header = Header::decode(&header, u32::MAX).unwrap();
    let mut body = vec![0; header.length as usize];
    member.read_exact(&mut body)?;
    Ok(Message::decode(&header, &body).unwrap())
}

/// Sends pieces as they are granted, until the connection ends.
fn serve(mut member: TcpStream, chunk: ChunkId, content: &[u8], granted: Vec<(u64, Want)>) {
    let (mut granted, mut sent) = (granted, Bitmap::new(content.len().div_ceil(1 << 20) as u32));
    loop {
        for (grant, want) in granted.drain(..) {
            let piece = match want {
                Want::Piece(piece) => piece,
                Want::LeastSent(words) => {
                    let wanted = Bitmap::from_words(sent.len(), words).unwrap();
                    // What was sent for a grant that has ended since is asked for again.
                    let unsent = wanted.iter().find(|&piece| !sent.contains(piece));
                    unsent.or(wanted.iter().next()).unwrap()
                }
            };
            sent.insert(piece);
            let bytes = content.chunks(1 << 20).nth(piece as usize).unwrap();
            let (length, checksum) = (bytes.len() as u32, checksum_of(bytes));
            let head = PieceData { chunk, grant, piece, length, checksum, part: length };
            member.write_all(&Message::from(head).encode(0, 0)).unwrap();
            member.write_all(bytes).unwrap();
        }
        match receive(&mut member) {
            Ok(Message::Grant(grant)) => granted.push((grant.grant, grant.want)),
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

#[test]
fn who_has_everything_is_asked_at_once_and_a_piece_before_its_checksum_is_not_taken() {
    let mut scene = Scene::new();
    let content = bytes(2, (3 << 20) + 5);
    let geometry = Geometry::new(content.len() as u64, 1 << 20).unwrap();
    let (id, checksums) = (ChunkId([9; 32]), content.chunks(1 << 20).map(checksum_of).collect());
    let descriptor = Descriptor { id, geometry, checksums };
    let wanted = ChunkReference { id, geometry, descriptor_digest: descriptor.digest() };
    let known = vec![TrackerPeer { node: STRANGE, complete: true, near: true }];
    let handle = scene.engine.handle().clone();
    let opened = block_on(handle.open_from(wanted, Priority::Normal, known)).unwrap();
    let (mut asked, mut granted) = (Vec::new(), Vec::new());
    while granted.len() < 2 {
        match receive(&mut scene.member).unwrap() {
            Message::Grant(grant) => granted.push((grant.grant, grant.want)),
            other => asked.push(other.name()),
        }
    }
    assert!(asked.contains(&"Describe") && asked.contains(&"Interest"), "{asked:?}");
    let (grant, _) = granted.remove(0);
    let early = PieceData { chunk: id, grant, piece: 0, length: 1 << 20, checksum: 0, part: 1 << 20 };
    scene.send(early, 1 << 20);
    let have = Bitmap::full(geometry.pieces()).words().to_vec();
    scene.send(Description { descriptor }, 0);
    scene.send(Interest { chunk: id, pieces: geometry.pieces(), have, reply: false }, 0);
    let Scene { engine, member, _directory, .. } = scene;
    let serving = {
        let (member, content) = (member.try_clone().unwrap(), content.clone());
        std::thread::spawn(move || serve(member, id, &content, granted))
    };
    let mut slots = block_on(handle.whole(opened.handle)).unwrap();
    slots.sort_by_key(|slot| slot.piece);
    let arena = handle.arena();
    let view = memory::Mapping::map_shared(arena.read_only_fd(), arena.size(), false).unwrap();
    let seen = slots.iter().flat_map(|slot| view.read(slot.offset, slot.length as usize).unwrap());
    assert!(seen.eq(&content));
    assert_eq!(block_on(handle.whole(opened.handle)).unwrap(), []);
    let counters = block_on(handle.counters()).unwrap();
    let counted = |name| counters.iter().find(|(known, _)| known == name).unwrap().1;
    assert!(counted("pieces_unwanted") >= 1 && counted("pieces_corrupt") == 0);
    block_on(handle.close(opened.handle)).unwrap();
    assert!(block_on(handle.whole(opened.handle)).is_err());
    engine.stop();
    serving.join().unwrap();
}
