//! A member that the test plays, message by message.

use std::collections::{HashMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use flow::bitmap::Bitmap;
use flow::chunk::{ChunkId, Descriptor, Geometry};
use flow::limits::FRAME_BODY_MAX;
use flow::verify::{Digest, checksum_of};
use flow::wire::data::*;
use flow::wire::frame::HEADER_LENGTH;
use flow::wire::session::ChunkReference;
use flow::wire::{Header, Message};
use memory::{Arena, Lease, Mapping};

use super::way::Way;
use crate::tests::cluster::{Cluster, bytes};

/// Longest wait for what an engine must say.
const PATIENCE: Duration = Duration::from_secs(30);

/// A member of the cluster without an engine.
pub struct Member {
    pub node: u64,
    way: Way,
    arena: Arena,
    dialled: flume::Receiver<TcpStream>,
}

/// A chunk in the memory of a played member.
pub struct Held {
    pub chunk: ChunkReference,
    pub content: Vec<u8>,
    descriptor: Descriptor,
    pieces: Vec<Lease>,
    /// Bytes that are those of no piece.
    spoiled: Lease,
}

/// A connection between a played member and an engine.
pub struct Line {
    stream: TcpStream,
    way: Way,
    /// What came before what was waited for, and the payload of each.
    passed_over: VecDeque<(Message, Vec<u8>)>,
    /// How often each piece was sent.
    sent: HashMap<(ChunkId, u32), u32>,
}

impl Member {
    pub fn join(cluster: &Cluster, node: u64, way: Way) -> Self {
        let arena = Arena::new(128 << 20, 1).unwrap();
        let dialled = cluster.play(node, &arena);
        Self { node, way, arena, dialled }
    }

    /// Takes a chunk that nobody else has, in pieces of `piece_size` bytes, and lets the trackers know. Whoever is said
    /// to have it complete from the start chooses itself which piece it sends.
    pub fn hold(&self, cluster: &Cluster, seed: u64, size: usize, piece_size: u32, complete: bool) -> Held {
        let content = bytes(seed, size);
        let geometry = Geometry::new(size as u64, piece_size).unwrap();
        let lease = |piece: &[u8]| {
            let mut lease = self.arena.lease(0, piece.len() as u32).unwrap();
            lease.as_mut_slice()[..piece.len()].copy_from_slice(piece);
            lease
        };
        let mut digest = Digest::default();
        digest.update(&content);
        let checksums = content.chunks(piece_size as usize).map(checksum_of).collect();
        let descriptor = Descriptor { id: digest.finish(), geometry, checksums };
        let chunk = ChunkReference { id: descriptor.id, geometry, descriptor_digest: descriptor.digest() };
        let pieces = content.chunks(piece_size as usize).map(lease).collect();
        let spoiled = lease(&bytes(!seed, geometry.length(0) as usize));
        cluster.played_holds(self.node, chunk.id, geometry.pieces(), complete);
        Held { chunk, content, descriptor, pieces, spoiled }
    }

    /// The next connection that an engine dials.
    pub fn accept(&self) -> Line {
        Line::new(self.dialled.recv_timeout(PATIENCE).expect("an engine dials"), self.way)
    }

    pub fn dial(&self, cluster: &Cluster, to: u64) -> Line {
        Line::new(cluster.dial(self.node, to), self.way)
    }
}

impl Line {
    fn new(stream: TcpStream, way: Way) -> Self {
        Self { stream, way, passed_over: VecDeque::new(), sent: HashMap::new() }
    }

    /// Sends a message, which the engine may be past reading.
    pub fn send(&mut self, message: impl Into<Message>) -> &mut Self {
        self.send_bytes(&message.into().encode(0, 0))
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) -> &mut Self {
        let _ = self.stream.write_all(bytes);
        self
    }

    /// The next message of one kind and its payload. What comes before it is kept.
    pub fn expect_with_payload<T: TryFrom<Message>>(&mut self) -> (T, Vec<u8>) {
        let mut kept = std::mem::take(&mut self.passed_over);
        for at in 0.. {
            while at >= kept.len() {
                let read = self.read(PATIENCE).expect("the engine says something");
                kept.push_back(read.expect("the connection is open"));
            }
            if let Ok(wanted) = T::try_from(kept[at].0.clone()) {
                let payload = kept.remove(at).map(|(_, payload)| payload).unwrap_or_default();
                self.passed_over = kept;
                return (wanted, payload);
            }
        }
        unreachable!("the loop ends with a message or a panic")
    }

    pub fn expect<T: TryFrom<Message>>(&mut self) -> T {
        self.expect_with_payload().0
    }

    /// Waits until the engine has read all that was sent. What it says meanwhile is kept, but for the chunks whose swarm
    /// it leaves: they are given.
    pub fn sync(&mut self) -> Vec<ChunkId> {
        self.send(Describe { chunk: NOBODYS });
        std::iter::from_fn(|| Some(self.expect::<Leave>().chunk))
            .take_while(|left| *left != NOBODYS)
            .collect()
    }

    /// Offers memory where that is the way, and tells of a chunk that an engine is fetching.
    pub fn introduce(&mut self, held: &Held) {
        self.offer();
        self.expect::<Interest>();
        self.tell_interest(held);
        self.describe(held);
    }

    /// Takes part in a chunk of an engine that has some of it, and looks at its memory where that is the way.
    pub fn take_part(&mut self, chunk: &ChunkReference) {
        if self.way == Way::Memory {
            self.expect::<MemoryOffer>();
            self.send(MemoryMapped {});
        }
        let pieces = chunk.geometry.pieces();
        let have = Bitmap::new(pieces).words().to_vec();
        self.send(Interest { chunk: chunk.id, pieces, have, reply: true });
    }

    /// Offers memory where that is the way.
    pub fn offer(&mut self) {
        if self.way == Way::Memory {
            self.send(MemoryOffer { boot_id: "here".into(), socket: "/unused".into() });
            self.expect::<MemoryMapped>();
        }
    }

    pub fn tell_interest(&mut self, held: &Held) {
        let pieces = held.chunk.geometry.pieces();
        let have = Bitmap::full(pieces).words().to_vec();
        self.send(Interest { chunk: held.chunk.id, pieces, have, reply: false });
    }

    pub fn describe(&mut self, held: &Held) {
        self.expect::<Describe>();
        self.send(Description { descriptor: held.descriptor.clone() });
    }

    /// Gives the piece of a grant, or other bytes in its place.
    pub fn give(&mut self, held: &Held, grant: &Grant, is_spoiled: bool) {
        let piece = self.choose(held, &grant.want);
        let head = held.head(grant.grant, piece);
        let lease = if is_spoiled { &held.spoiled } else { &held.pieces[piece as usize] };
        if self.way == Way::Memory {
            let PieceData { chunk, grant, piece, length, checksum, .. } = head;
            self.send(PieceAt { chunk, grant, piece, length, checksum, offset: lease.offset() });
        } else {
            let length = head.length as usize;
            self.send(head).send_bytes(&lease.as_slice()[..length]);
        }
    }

    /// The piece that a grant asks for, or the one of its choice that was sent least often.
    pub fn choose(&mut self, held: &Held, want: &Want) -> u32 {
        let (id, pieces) = (held.chunk.id, held.chunk.geometry.pieces());
        let sent = |piece: &u32| self.sent.get(&(id, *piece)).copied().unwrap_or(0);
        let piece = match want {
            Want::Piece(piece) => *piece,
            Want::LeastSent(words) => {
                Bitmap::from_words(pieces, words.clone()).unwrap().iter().min_by_key(sent).unwrap()
            }
        };
        *self.sent.entry((id, piece)).or_default() += 1;
        piece
    }

    /// Gives what is granted until the engine closes the connection.
    pub fn serve(&mut self, held: &[&Held]) {
        while let Some((message, _)) = self.next(PATIENCE).expect("the engine says something") {
            if let Some((held, grant)) = self.hear(held, message) {
                self.give(held, &grant, false);
            }
        }
    }

    /// Answers what an engine asks about chunks. Gives back what it grants.
    pub fn hear<'a>(&mut self, held: &[&'a Held], message: Message) -> Option<(&'a Held, Grant)> {
        let held = |id: ChunkId| *held.iter().find(|held| held.chunk.id == id).expect("the chunk is here");
        match message {
            Message::Interest(Interest { chunk, reply: true, .. }) => self.tell_interest(held(chunk)),
            Message::Describe(Describe { chunk }) => {
                self.send(Description { descriptor: held(chunk).descriptor.clone() });
            }
            Message::Grant(grant) => return Some((held(grant.chunk), grant)),
            _ => {}
        }
        None
    }

    /// The piece that an engine sends next, whichever way. `arena` is the engine's.
    pub fn take(&mut self, arena: &Arena) -> Vec<u8> {
        if self.way == Way::Memory {
            let PieceAt { grant, offset, length, .. } = self.expect();
            let mapping = Mapping::map_shared(arena.read_only_fd(), arena.size(), false).unwrap();
            let bytes = mapping.read(offset, length as usize).unwrap().to_vec();
            self.send(PieceTaken { grant });
            return bytes;
        }
        let (head, mut bytes) = self.expect_with_payload::<PieceData>();
        while bytes.len() < head.length as usize {
            bytes.extend(self.expect_with_payload::<PiecePart>().1);
        }
        bytes
    }

    /// News of pieces that have come so far.
    pub fn news(&mut self) -> Vec<u32> {
        let news = self.passed_over.iter().filter_map(|(message, _)| match message {
            Message::Have(have) => Some(have.pieces.clone()),
            _ => None,
        });
        news.flatten().collect()
    }

    /// What came before, or comes within `wait`; `Some(None)` when the connection has ended.
    #[expect(clippy::option_option, reason = "silence is not the end")]
    pub fn next(&mut self, wait: Duration) -> Option<Option<(Message, Vec<u8>)>> {
        self.passed_over.pop_front().map(Some).or_else(|| self.read(wait))
    }

    #[expect(clippy::option_option, reason = "silence is not the end")]
    fn read(&mut self, wait: Duration) -> Option<Option<(Message, Vec<u8>)>> {
        self.stream.set_read_timeout(Some(wait)).unwrap();
        match self.stream.peek(&mut [0]) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return None,
            _ => self.stream.set_read_timeout(Some(PATIENCE)).unwrap(),
        }
        let mut header = [0; HEADER_LENGTH];
        if self.stream.read_exact(&mut header).is_err() {
            return Some(None);
        }
        let header = Header::decode(&header, FRAME_BODY_MAX).unwrap();
        let mut body = vec![0; header.length as usize];
        if self.stream.read_exact(&mut body).is_err() {
            return Some(None);
        }
        let message = Message::decode(&header, &body).unwrap();
        let part = match &message {
            Message::PieceData(PieceData { part, .. }) | Message::PiecePart(PiecePart { part, .. }) => *part,
            _ => 0,
        };
        let mut payload = vec![0; part as usize];
        Some(self.stream.read_exact(&mut payload).ok().map(|()| (message, payload)))
    }
}

/// A chunk that no test has.
const NOBODYS: ChunkId = ChunkId([0; 32]);

impl Held {
    /// The head of a piece that is sent in one part.
    pub fn head(&self, grant: u64, piece: u32) -> PieceData {
        let Descriptor { id: chunk, geometry, checksums } = &self.descriptor;
        let length = geometry.length(piece);
        PieceData { chunk: *chunk, grant, piece, length, checksum: checksums[piece as usize], part: length }
    }
}
