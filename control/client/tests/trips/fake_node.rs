//! A node that keeps keys and chunks in the memory of the test and speaks the protocol over a real socket, with a
//! real arena when it is local.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufReader, IoSlice, Read};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

use client::{Address, Client};
use flow::bitmap::Bitmap;
use flow::chunk::{ChunkId, Descriptor, Geometry};
use flow::verify::checksum_of;
use flow::wire::catalog::{CatalogContent, CatalogEntry, CatalogFound, CatalogOperation, CatalogWritten};
use flow::wire::frame::{FLAG_MORE, FLAG_REPLY, HEADER_LENGTH};
use flow::wire::handshake::{self, Refuse, Token, Welcome};
use flow::wire::session::*;
use flow::wire::{Header, Message};
use memory::{Arena, Lease};
use plan::manifest::{ChunkEntry, Manifest};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tempfile::TempDir;

/// The token that the node wants of clients over TCP.
pub const TOKEN: &str = "a token of the test";
/// Memory of the node, in bytes: less than the tests move.
pub const ARENA: u64 = 48 << 20;

/// What the node does in place of answering.
pub enum Fault {
    /// It refuses.
    Refuse(FailureCode),
    /// It never answers.
    Ignore,
    /// It ends the connection.
    Close,
    /// It answers with bytes that are no frame.
    Garbage,
    /// It answers with another message than is due.
    Misanswer,
}

/// Decides about every request.
pub type Mood = Box<dyn FnMut(&Message) -> Option<Fault> + Send>;

/// The node.
pub struct FakeNode {
    pub address: Address,
    state: Arc<Mutex<State>>,
    serving: Option<JoinHandle<()>>,
    _folder: TempDir,
}

pub struct State {
    pub keys: BTreeMap<String, Vec<Vec<u8>>>,
    pub labels: HashMap<String, Vec<(String, String)>>,
    pub chunks: HashMap<ChunkId, Arc<Chunk>>,
    pub aborted: u32,
    pub leases_open: u32,
    pub durable: u32,
    socket: Option<OwnedFd>,
    mood: Mood,
}

pub struct Chunk {
    pub bytes: Vec<u8>,
    pub descriptor: Descriptor,
}

impl FakeNode {
    /// A node with a local socket that serves one connection.
    pub fn local() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shoal.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let accept = move || listener.accept().unwrap().0.into();
        Self::start(folder, Address::Local(path), accept, Some(Arena::new(ARENA, 1).unwrap()))
    }

    /// A node with a TCP port that serves one connection.
    pub fn tcp() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap().to_string());
        let accept = move || listener.accept().unwrap().0.into();
        Self::start(tempfile::tempdir().unwrap(), address, accept, None)
    }

    fn start(
        folder: TempDir,
        address: Address,
        accept: impl FnOnce() -> OwnedFd + Send + 'static,
        arena: Option<Arena>,
    ) -> Self {
        let state = Arc::new(Mutex::new(State {
            labels: HashMap::new(),
            keys: BTreeMap::new(),
            chunks: HashMap::new(),
            aborted: 0,
            leases_open: 0,
            durable: 0,
            socket: None,
            mood: Box::new(|_| None),
        }));
        let shared = state.clone();
        let serving = thread::spawn(move || {
            Session::serve(accept(), shared.clone(), arena);
            shared.lock().unwrap().socket = None;
        });
        Self { address, state, serving: Some(serving), _folder: folder }
    }

    pub fn connect(&self) -> Client {
        Client::connect(&self.address, Some(&Token::new(TOKEN))).unwrap()
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn set_mood(&self, mood: impl FnMut(&Message) -> Option<Fault> + Send + 'static) {
        self.state().mood = Box::new(mood);
    }

    /// Waits until the connection has ended; fails if the client left memory of the arena behind before that.
    pub fn join(mut self) {
        self.serving.take().unwrap().join().unwrap();
    }

    /// Ends the connection.
    pub fn end(&self) {
        let socket = self.state().socket.take().expect("a client is connected");
        rustix::net::shutdown(socket, rustix::net::Shutdown::Both).unwrap();
    }

    pub fn manifest(&self, key: &str) -> Manifest {
        Manifest::decode(self.state().keys[key].last().unwrap()).unwrap()
    }

    /// Stores a chunk as if somebody had put it.
    pub fn plant_chunk(&self, bytes: &[u8]) -> ChunkEntry {
        let geometry = Geometry::of(bytes.len() as u64).unwrap();
        let checksums = bytes.chunks(geometry.piece_size() as usize).map(checksum_of).collect();
        let id = ChunkId(blake3::hash(bytes).into());
        let descriptor = Descriptor { id, geometry, checksums };
        let digest = descriptor.digest();
        self.state().chunks.insert(id, Arc::new(Chunk { bytes: bytes.to_vec(), descriptor }));
        let (size, piece_size) = (geometry.size(), geometry.piece_size());
        ChunkEntry { id: id.0, size, piece_size, descriptor_digest: digest }
    }

    /// Commits a manifest, however odd, as if somebody had put it.
    pub fn plant_key(&self, key: &str, manifest: &Manifest) {
        self.state().keys.entry(key.into()).or_default().push(manifest.encode());
    }
}

/// One connection.
struct Session {
    socket: OwnedFd,
    state: Arc<Mutex<State>>,
    arena: Option<Arena>,
    writing: HashMap<u64, Writing>,
    reading: HashMap<u64, Reading>,
    last_handle: u64,
    /// Requests that wait for memory.
    parked: Vec<(u64, Message)>,
}

struct Writing {
    geometry: Geometry,
    leased: HashMap<u32, Lease>,
    filled: BTreeMap<u32, Vec<u8>>,
}

struct Reading {
    chunk: Arc<Chunk>,
    given: Bitmap,
    views: HashMap<u32, Lease>,
}

impl Session {
    fn serve(socket: OwnedFd, state: Arc<Mutex<State>>, arena: Option<Arena>) {
        let mut session = Self {
            socket,
            state,
            arena,
            writing: HashMap::new(),
            reading: HashMap::new(),
            last_handle: 0,
            parked: Vec::new(),
        };
        session.lock().socket = Some(session.socket.try_clone().unwrap());
        let reader = std::fs::File::from(session.socket.try_clone().unwrap());
        let mut reader = BufReader::new(reader);
        if session.shake_hands(&mut reader).is_none() {
            return;
        }
        while let Some((header, message)) = read_frame(&mut reader) {
            let payload = match &message {
                Message::PieceBytes(piece) => {
                    let mut payload = vec![0; piece.length as usize];
                    reader.read_exact(&mut payload).unwrap();
                    payload
                }
                _ => Vec::new(),
            };
            let fault = (session.lock().mood)(&message);
            match fault {
                None => session.answer(header.request_id, message, &payload),
                Some(Fault::Ignore) => {}
                Some(Fault::Close) => return,
                Some(Fault::Garbage) => session.send(&[7; 64]),
                Some(Fault::Misanswer) => {
                    session.reply(header.request_id, 0, NodeListing { epoch: 0, nodes: vec![] })
                }
                Some(Fault::Refuse(code)) => session.refuse(header.request_id, code),
            }
            for (id, message) in std::mem::take(&mut session.parked) {
                session.answer(id, message, &[]);
            }
        }
    }

    fn shake_hands(&self, reader: &mut impl Read) -> Option<()> {
        let token = Token::new(if self.arena.is_some() { "" } else { TOKEN });
        let (_, Message::Hello(hello)) = read_frame(reader)? else { panic!("no hello") };
        let challenge = handshake::challenge(&hello, &token, 5, [3; 32]).unwrap();
        self.send(&Message::from(challenge.clone()).encode(0, 0));
        let proof = match read_frame(reader)? {
            (_, Message::Proof(proof)) => proof,
            // The client turns away from a node with another token.
            (_, Message::Refuse(_)) => return None,
            (_, other) => panic!("no proof but {}", other.name()),
        };
        if let Err(error) = handshake::check(&hello, &challenge, &proof, &token) {
            self.send(&Message::from(Refuse { reason: error.to_string() }).encode(0, 0));
            return None;
        }
        let arena_size = self.arena.as_ref().map_or(0, Arena::size);
        let welcome = Welcome { name: "fake".into(), arena_size, shards: 1 };
        let frame = Message::from(welcome).encode(0, 0);
        let Some(arena) = &self.arena else {
            self.send(&frame);
            return Some(());
        };
        let descriptors = [arena.read_only_fd(), arena.read_write_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        let sent =
            rustix::net::sendmsg(&self.socket, &[IoSlice::new(&frame)], &mut control, SendFlags::NOSIGNAL);
        assert_eq!(sent, Ok(frame.len()));
        Some(())
    }

    fn answer(&mut self, id: u64, message: Message, payload: &[u8]) {
        match message {
            Message::CatalogWrite(_) | Message::KeyOpen(_) | Message::LeaseRelease(_) => {
                self.answer_key(id, message)
            }
            Message::CatalogGet(request) => {
                let state = self.lock();
                let entries = request.keys.iter().map(|key| entry(&state, key)).collect();
                drop(state);
                self.reply(id, 0, CatalogFound { revision: 1, entries, stale: false });
            }
            Message::ChunkReferences(request) => {
                let state = self.lock();
                let manifests = state.keys.values().flatten().map(|root| Manifest::decode(root).unwrap());
                let known: Vec<_> =
                    manifests.flat_map(|manifest| manifest.chunks).map(|chunk| chunk.id).collect();
                let referenced = request.chunks.iter().map(|chunk| known.contains(&chunk.0)).collect();
                drop(state);
                self.reply(id, 0, ChunkReferenced { referenced });
            }
            Message::ChunkCreate(request) => {
                let handle = self.begin(request.size, request.piece_size, request.durable);
                self.reply(id, 0, ChunkCreated { handle });
            }
            Message::ChunkBegin(request) => {
                let handle = self.begin(request.size, request.piece_size, request.durable);
                let slots = self.slots(handle, 0..request.count);
                self.reply(id, 0, ChunkBegun { handle, slots });
            }
            Message::ChunkPrepare(request) => {
                let handle = self.begin(request.size, request.piece_size, false);
                let pieces = Geometry::new(request.size, request.piece_size).unwrap().pieces();
                let slots = self.slots(handle, 0..pieces);
                self.reply(id, 0, ChunkBegun { handle, slots });
            }
            Message::SlotLease(request) => self.lease(id, request),
            Message::PieceFill(request) => {
                self.fill(request.handle, request.pieces);
                self.reply(id, 0, Done {});
            }
            Message::ChunkCommit(request) => {
                self.fill(request.handle, request.pieces);
                let (handle, chunk, size) = (request.handle, request.id, request.size);
                self.seal(ChunkSeal { handle, id: chunk, size });
                self.answer_key(id, request.write.into());
            }
            Message::PieceBytes(piece) => {
                assert_eq!(checksum_of(payload), piece.checksum);
                let writing = self.writing.get_mut(&piece.handle).unwrap();
                assert!(writing.filled.insert(piece.piece, payload.to_vec()).is_none(), "filled twice");
                self.reply(id, 0, Done {});
            }
            Message::ChunkSeal(request) => {
                let sealed = self.seal(request);
                self.reply(id, 0, sealed);
            }
            Message::ChunkAbort(request) => {
                if self.writing.remove(&request.handle).is_some() {
                    self.lock().aborted += 1;
                }
                self.reply(id, 0, Done {});
            }
            Message::ChunkOpen(request) => self.open(id, request),
            Message::PieceNext(request) => self.give(id, request),
            Message::PieceRelease(request) => {
                let reading = self.reading.get_mut(&request.handle).unwrap();
                for piece in request.pieces {
                    reading.views.remove(&piece).expect("only pieces that were given out are released");
                }
                self.reply(id, 0, Done {});
            }
            Message::ChunkClose(request) => {
                self.reading.remove(&request.handle).expect("only open chunks are closed");
                self.reply(id, 0, Done {});
            }
            other => panic!("the fake node does not know {}", other.name()),
        }
    }

    fn answer_key(&self, id: u64, message: Message) {
        let mut state = self.lock();
        match message {
            Message::CatalogWrite(request) => {
                let [CatalogOperation::Put(put)] = &request.operations[..] else {
                    panic!("a put writes one key")
                };
                let CatalogContent::Manifest(root) = put.content.clone() else {
                    panic!("a put writes a manifest")
                };
                let manifest = Manifest::decode(&root).unwrap();
                for chunk in manifest.all_chunks() {
                    assert!(state.chunks.contains_key(&ChunkId(chunk.id)), "a chunk is not sealed");
                }
                let versions = state.keys.entry(put.key.clone()).or_default();
                versions.push(root);
                let version = versions.len() as u64;
                state.labels.insert(put.key.clone(), put.labels.clone());
                drop(state);
                self.reply(id, 0, CatalogWritten { revision: 1, versions: vec![version] });
            }
            Message::KeyOpen(request) => {
                let Some(versions) = state.keys.get(&request.key) else {
                    drop(state);
                    return self.refuse(id, FailureCode::NotFound);
                };
                let (version, manifest) = (versions.len() as u64, versions.last().unwrap().clone());
                state.leases_open += u32::from(request.lease);
                drop(state);
                let lease = u64::from(request.lease) * 9;
                let (key, revision, created_ms) = (request.key, 1, 1);
                self.reply(id, 0, KeyEntry { key, version, revision, created_ms, manifest, lease });
            }
            _ => {
                state.leases_open -= 1;
                drop(state);
                self.reply(id, 0, Done {});
            }
        }
    }

    fn begin(&mut self, size: u64, piece_size: u32, durable: bool) -> u64 {
        let geometry = Geometry::new(size, piece_size).unwrap();
        self.lock().durable += u32::from(durable);
        self.last_handle += 1;
        let writing = Writing { geometry, leased: HashMap::new(), filled: BTreeMap::new() };
        self.writing.insert(self.last_handle, writing);
        self.last_handle
    }

    fn fill(&mut self, handle: u64, pieces: Vec<FilledPiece>) {
        let writing = self.writing.get_mut(&handle).unwrap();
        for piece in pieces {
            let lease = writing.leased.remove(&piece.piece).expect("only leased pieces are filled");
            let bytes = &lease.as_slice()[..piece.length as usize];
            assert_eq!(checksum_of(bytes), piece.checksum);
            assert!(writing.filled.insert(piece.piece, bytes.to_vec()).is_none(), "filled twice");
        }
    }

    fn lease(&mut self, id: u64, request: SlotLease) {
        if !self.writing.contains_key(&request.handle) {
            return self.refuse(id, FailureCode::NotFound);
        }
        let slots = self.slots(request.handle, request.first..request.first + request.count);
        if slots.is_empty() {
            return self.parked.push((id, request.into()));
        }
        self.reply(id, 0, SlotLeased { slots });
    }

    /// Slots for pieces one after another, as far as there is memory.
    fn slots(&mut self, handle: u64, pieces: Range<u32>) -> Vec<SlotRef> {
        let writing = self.writing.get_mut(&handle).unwrap();
        let mut slots = Vec::new();
        for piece in pieces {
            let length = writing.geometry.length(piece);
            let Some(lease) = self.arena.as_ref().unwrap().lease(0, length) else { break };
            slots.push(SlotRef { piece, length, offset: lease.offset() });
            assert!(writing.leased.insert(piece, lease).is_none(), "leased twice");
        }
        slots
    }

    fn seal(&mut self, request: ChunkSeal) -> ChunkSealed {
        let writing = self.writing.remove(&request.handle).unwrap();
        let geometry = Geometry::new(request.size, writing.geometry.piece_size()).unwrap();
        assert!(writing.filled.keys().copied().eq(0..geometry.pieces()), "pieces are missing");
        let checksums = writing.filled.values().map(|piece| checksum_of(piece)).collect();
        let bytes: Vec<u8> = writing.filled.into_values().flatten().collect();
        assert_eq!(bytes.len() as u64, request.size);
        if request.id.is_digest() {
            assert_eq!(request.id, ChunkId(blake3::hash(&bytes).into()), "the id is wrong");
        }
        let descriptor = Descriptor { id: request.id, geometry, checksums };
        let descriptor_digest = descriptor.digest();
        self.lock().chunks.insert(request.id, Arc::new(Chunk { bytes, descriptor }));
        ChunkSealed { geometry, descriptor_digest }
    }

    fn open(&mut self, id: u64, request: ChunkOpen) {
        let Some(chunk) = self.lock().chunks.get(&request.chunk.id).cloned() else {
            return self.refuse(id, FailureCode::Unavailable);
        };
        assert_eq!(chunk.descriptor.geometry, request.chunk.geometry);
        assert_eq!(chunk.descriptor.digest(), request.chunk.descriptor_digest);
        self.last_handle += 1;
        let (handle, pieces) = (self.last_handle, request.chunk.geometry.pieces());
        self.reading.insert(handle, Reading { chunk, given: Bitmap::new(pieces), views: HashMap::new() });
        self.reply(id, 0, ChunkOpened { handle, local_pieces: pieces });
    }

    /// Gives pieces out, the last ones of the range first.
    fn give(&mut self, id: u64, request: PieceNext) {
        let reading = self.reading.get_mut(&request.handle).unwrap();
        let range = request.first..request.first.saturating_add(request.count).min(reading.given.len());
        let wanted: Vec<u32> = range.rev().filter(|&piece| !reading.given.contains(piece)).collect();
        let geometry = reading.chunk.descriptor.geometry;
        let bytes_of = |chunk: &Chunk, piece: u32| {
            let at = geometry.offset(piece) as usize;
            chunk.bytes[at..at + geometry.length(piece) as usize].to_vec()
        };
        let Some(arena) = &self.arena else {
            let chunk = reading.chunk.clone();
            let given: Vec<u32> = wanted.into_iter().take(request.limit as usize).collect();
            assert!(given.iter().all(|&piece| reading.given.insert(piece)));
            for piece in given {
                let bytes = bytes_of(&chunk, piece);
                let (length, checksum) = (bytes.len() as u32, checksum_of(&bytes));
                self.reply(id, FLAG_MORE, PieceBytes { handle: request.handle, piece, length, checksum });
                self.send(&bytes);
            }
            return self.reply(id, 0, PieceViews { slots: Vec::new() });
        };
        let mut slots = Vec::new();
        for &piece in wanted.iter().take(request.limit as usize) {
            let length = geometry.length(piece);
            let Some(mut lease) = arena.lease(0, length) else { break };
            lease.as_mut_slice()[..length as usize].copy_from_slice(&bytes_of(&reading.chunk, piece));
            slots.push(SlotRef { piece, length, offset: lease.offset() });
            reading.views.insert(piece, lease);
            reading.given.insert(piece);
        }
        if slots.is_empty() && !wanted.is_empty() {
            return self.parked.push((id, request.into()));
        }
        self.reply(id, 0, PieceViews { slots });
    }

    fn refuse(&self, id: u64, code: FailureCode) {
        let (message, hint) = (format!("refused: {code:?}"), "try harder".into());
        self.reply(id, 0, Failure { code, message, hint });
    }

    fn reply(&self, id: u64, flags: u32, message: impl Into<Message>) {
        self.send(&message.into().encode(FLAG_REPLY | flags, id));
    }

    fn send(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match rustix::net::send(self.socket.as_fd(), bytes, SendFlags::NOSIGNAL) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(_) => return,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

fn read_frame(reader: &mut impl Read) -> Option<(Header, Message)> {
    let mut header = [0; HEADER_LENGTH];
    match reader.read_exact(&mut header) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return None,
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
        Err(error) => panic!("{error}"),
    }
    let header = Header::decode(&header, flow::limits::FRAME_BODY_MAX).unwrap();
    let mut body = vec![0; header.length as usize];
    reader.read_exact(&mut body).unwrap();
    Some((header, Message::decode(&header, &body).unwrap()))
}

/// What a key has, without its content.
fn entry(state: &State, key: &str) -> Option<CatalogEntry> {
    let version = state.keys.get(key)?.len() as u64;
    let labels = state.labels.get(key).cloned().unwrap_or_default();
    Some(CatalogEntry {
        key: key.into(),
        version,
        revision: 1,
        created_ms: 0,
        updated_ms: 0,
        expires_ms: None,
        owner: None,
        labels,
        size: 0,
        files: 0,
        content: None,
    })
}
