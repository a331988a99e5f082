use flow::chunk::{ChunkId, Descriptor, Geometry};
use flow::swarm::Priority;
use flow::verify::{Digest, checksum_of};
use flow::wire::Header;
use flow::wire::catalog::*;
use flow::wire::frame::FLAG_MORE;
use flow::wire::session::*;
use plan::manifest::{ChunkEntry, Extent, FileEntry, FileKind, Files, Manifest, Shape};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

use super::chunks::is_about_alone;
use super::*;
use crate::node::Seat;

/// A node of its own with a client on it, until it is dropped.
struct World {
    node: Arc<Node>,
    engine: Option<engine::Engine>,
    _directory: tempfile::TempDir,
}

impl World {
    fn run<T>(test: impl AsyncFnOnce(&World) -> T) -> T {
        let directory = tempfile::tempdir().unwrap();
        let identity = crate::node::Identity {
            node: 7,
            name: "seven".into(),
            address: "127.0.0.1:1".into(),
            rack: String::new(),
            shards: 1,
            incarnation: 1,
            listens_locally: true,
            token: flow::wire::handshake::Token::new(""),
            data_dir: directory.path().to_owned(),
        };
        let config = engine::Config {
            node: 7,
            data_dir: directory.path().to_owned(),
            shards: 1,
            pin_to_cores: false,
            memory_bytes: 64 << 20,
            congestion_control: None,
            sharing: None,
            gpus: engine::GpuSettings {
                source: engine::GpuSource::Emulated { count: 0, bytes: 0 },
                limit: engine::GpuLimit::Percent(100),
            },
            connections: flow::connections::Bounds::default(),
            uplinks: flow::swarm::Uplinks::Full,
            lanes: Vec::new(),
            corrupt_one_in: 0,
            prefault: false,
        };
        let (engine, _events) = engine::Engine::start(config).unwrap();
        let catalog = catalog::Embedded::open(&directory.path().join("catalog")).unwrap();
        let seat = Seat::Head(crate::cluster::Head::new(Arc::new(catalog)));
        let node = crate::running::assemble(identity, seat, Default::default(), &engine).unwrap();
        let world = World { node, engine: Some(engine), _directory: directory };
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test(&world))
    }

    fn connect(&self, bytes: Bytes) -> Client {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let (reader, writer) = tokio::io::split(theirs);
        let serving = tokio::spawn(serve(self.node.clone(), reader, Replies::over(writer), bytes));
        Client { stream: ours, serving }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(engine) = self.engine.take() {
            engine.stop();
        }
    }
}

struct Client {
    stream: DuplexStream,
    serving: JoinHandle<()>,
}

impl Client {
    async fn send(&mut self, message: impl Into<Message>, payload: &[u8]) {
        self.stream.write_all(&message.into().encode(0, 5)).await.unwrap();
        self.stream.write_all(payload).await.unwrap();
    }

    async fn receive(&mut self) -> (Header, Message) {
        let frame = frames::read(&mut self.stream, FRAME_BODY_MAX).await.unwrap().expect("an answer");
        (frame.header, frame.message.unwrap())
    }

    async fn ask<T: TryFrom<Message, Error = Message>>(&mut self, message: impl Into<Message>) -> T {
        self.send(message, &[]).await;
        T::try_from(self.receive().await.1).unwrap()
    }

    async fn refusal(&mut self, message: impl Into<Message>) -> FailureCode {
        self.ask::<Failure>(message).await.code
    }

    /// Ends the connection and waits until the node has given up what it held.
    async fn end(self) {
        drop(self.stream);
        self.serving.await.unwrap();
    }

    async fn create(&mut self, size: u64) -> u64 {
        let create = ChunkCreate { size, piece_size: 1 << 20, durable: false };
        self.ask::<ChunkCreated>(create).await.handle
    }
}

fn content(size: usize) -> (Vec<u8>, ChunkId) {
    let bytes: Vec<u8> = (0..size).map(|at| (at * 7 + at / 251) as u8).collect();
    let mut digest = Digest::default();
    digest.update(&bytes);
    (bytes, digest.finish())
}

/// Puts a chunk over the wire and gives what is needed to open it.
async fn put(client: &mut Client, bytes: &[u8], id: ChunkId) -> ChunkReference {
    let handle = client.create(bytes.len() as u64).await;
    for (piece, part) in bytes.chunks(1 << 20).enumerate() {
        let (piece, length, checksum) = (piece as u32, part.len() as u32, checksum_of(part));
        client.send(PieceBytes { handle, piece, length, checksum }, part).await;
        assert_eq!(client.receive().await.1, Done {}.into());
    }
    let seal = ChunkSeal { handle, id, size: bytes.len() as u64 };
    let ChunkSealed { geometry, descriptor_digest } = client.ask(seal).await;
    ChunkReference { id, geometry, descriptor_digest }
}

#[test]
fn a_chunk_goes_in_and_out_over_the_wire() {
    World::run(async |world| {
        let mut client = world.connect(Bytes::OnTheWire);
        let (bytes, id) = content((2 << 20) + 77);
        let chunk = put(&mut client, &bytes, id).await;
        let ChunkOpened { handle, local_pieces } =
            client.ask(ChunkOpen { chunk, priority: Priority::Normal }).await;
        assert_eq!(local_pieces, 3);
        let mut read = vec![0; bytes.len()];
        let mut received = 0;
        while received < 3 {
            client.send(PieceNext { handle, first: 0, count: 3, limit: 2 }, &[]).await;
            loop {
                let (header, message) = client.receive().await;
                let Message::PieceBytes(piece) = message else {
                    assert_eq!(message, PieceViews { slots: Vec::new() }.into());
                    break;
                };
                assert_ne!(header.flags & FLAG_MORE, 0);
                let at = (piece.piece as usize) << 20;
                let part = &mut read[at..at + piece.length as usize];
                client.stream.read_exact(part).await.unwrap();
                assert_eq!(checksum_of(part), piece.checksum);
                received += 1;
            }
        }
        assert!(read == bytes);
        let next = PieceNext { handle, first: 0, count: 3, limit: 2 };
        assert_eq!(client.ask::<PieceViews>(next).await.slots, []);
        client.ask::<Done>(ChunkClose { handle }).await;
        assert_eq!(client.refusal(ChunkClose { handle }).await, FailureCode::NotFound);
        client.end().await;
    });
}

#[test]
fn a_chunk_goes_in_and_out_through_the_arena() {
    World::run(async |world| {
        let mut client = world.connect(Bytes::InArena);
        let (bytes, id) = content(100_000);
        let handle = client.create(100_000).await;
        let SlotLeased { slots } = client.ask(SlotLease { handle, first: 0, count: 1 }).await;
        world.node.mapping.writer(slots[0].offset, bytes.len()).unwrap().copy_from_slice(&bytes);
        let piece = FilledPiece { piece: 0, length: 100_000, checksum: checksum_of(&bytes) };
        client.ask::<Done>(PieceFill { handle, pieces: vec![piece] }).await;
        let sealed: ChunkSealed = client.ask(ChunkSeal { handle, id, size: 100_000 }).await;
        let ChunkSealed { geometry, descriptor_digest } = sealed;
        let chunk = ChunkReference { id, geometry, descriptor_digest };
        let ChunkOpened { handle, .. } = client.ask(ChunkOpen { chunk, priority: Priority::Normal }).await;
        let PieceViews { slots } = client.ask(PieceNext { handle, first: 0, count: 1, limit: 9 }).await;
        assert_eq!(world.node.mapping.read(slots[0].offset, bytes.len()), Some(&bytes[..]));
        client.ask::<Done>(PieceRelease { handle, pieces: vec![0] }).await;
        assert_eq!(client.ask::<ChunkVerified>(ChunkVerify { id }).await.digest, id);
        client.end().await;
    });
}

#[test]
fn a_handle_is_worth_nothing_on_another_connection() {
    World::run(async |world| {
        let (mut owner, mut other) = (world.connect(Bytes::InArena), world.connect(Bytes::InArena));
        let handle = owner.create(1000).await;
        assert_eq!(other.refusal(SlotLease { handle, first: 0, count: 1 }).await, FailureCode::NotFound);
        assert_eq!(other.refusal(ChunkAbort { handle }).await, FailureCode::NotFound);
        assert_eq!(other.refusal(LeaseRelease { lease: 1 }).await, FailureCode::NotFound);
        other.end().await;
        owner.ask::<SlotLeased>(SlotLease { handle, first: 0, count: 1 }).await;
        owner.end().await;
    });
}

#[test]
fn what_a_connection_holds_is_given_up_when_it_ends() {
    World::run(async |world| {
        let arena = world.node.engine.arena();
        let free = arena.free_bytes();
        let mut client = world.connect(Bytes::InArena);
        let handle = client.create(8 << 20).await;
        client.ask::<SlotLeased>(SlotLease { handle, first: 0, count: 8 }).await;
        assert!(arena.free_bytes() < free);
        client.end().await;
        assert_eq!(arena.free_bytes(), free);
        assert_eq!(world.node.activity.drain(std::time::Duration::from_secs(5)).await, 0);
    });
}

#[test]
fn bad_requests_are_refused_and_the_connection_stays() {
    World::run(async |world| {
        let mut client = world.connect(Bytes::OnTheWire);
        assert_eq!(
            client.refusal(flow::wire::control::ReplicaQuery { chunk: None, after: None, limit: 1 }).await,
            FailureCode::Invalid
        );
        assert_eq!(client.refusal(SlotLease { handle: 1, first: 0, count: 1 }).await, FailureCode::Invalid);
        let huge = ChunkCreate { size: u64::MAX, piece_size: 3, durable: false };
        assert_eq!(client.refusal(huge).await, FailureCode::Invalid);
        client.send(PieceBytes { handle: 9, piece: 0, length: 70_000, checksum: 0 }, &[1; 70_000]).await;
        assert!(matches!(client.receive().await.1, Message::Failure(_)));
        let header = Header::for_body(9999, 0, 5, b"abc");
        client.stream.write_all(&header.encode()).await.unwrap();
        client.stream.write_all(b"abc").await.unwrap();
        assert!(matches!(client.receive().await.1, Message::Failure(_)));
        client.ask::<KeyListing>(KeyList { prefix: String::new(), after: String::new(), limit: 9 }).await;
        client.end().await;
    });
}

#[test]
fn a_damaged_piece_is_not_taken() {
    World::run(async |world| {
        let mut client = world.connect(Bytes::OnTheWire);
        let handle = client.create(1000).await;
        client.send(PieceBytes { handle, piece: 0, length: 1000, checksum: 1 }, &[3; 1000]).await;
        let (_, answer) = client.receive().await;
        assert!(matches!(answer, Message::Failure(Failure { code: FailureCode::Corrupt, .. })), "{answer:?}");
        client.ask::<Done>(ChunkAbort { handle }).await;
        client.end().await;
    });
}

#[test]
fn a_payload_larger_than_a_piece_ends_the_connection() {
    World::run(async |world| {
        let mut client = world.connect(Bytes::OnTheWire);
        client.send(PieceBytes { handle: 1, piece: 0, length: u32::MAX, checksum: 0 }, &[]).await;
        assert!(frames::read(&mut client.stream, FRAME_BODY_MAX).await.unwrap().is_none());
        client.end().await;
    });
}

#[test]
fn a_stopping_node_begins_nothing() {
    World::run(async |world| {
        let mut client = world.connect(Bytes::OnTheWire);
        let (bytes, id) = content(1000);
        let chunk = put(&mut client, &bytes, id).await;
        world.node.activity.drain(std::time::Duration::ZERO).await;
        let create = ChunkCreate { size: 1, piece_size: 1 << 20, durable: false };
        assert_eq!(client.refusal(create).await, FailureCode::Draining);
        assert_eq!(
            client.refusal(ChunkOpen { chunk, priority: Priority::Normal }).await,
            FailureCode::Draining
        );
        assert_eq!(
            client.refusal(ChunkFetch { chunk, device: Device::Dram, priority: Priority::Normal }).await,
            FailureCode::Draining
        );
        assert_eq!(Geometry::of(1000), Ok(chunk.geometry));
        client.end().await;
    });
}

/// Puts a file under a key; it has `used` bytes of a chunk, from its beginning on.
async fn put_file(client: &mut Client, key: &str, bytes: &[u8], used: u64) -> ChunkReference {
    let id = content(bytes.len()).1;
    let chunk = put(client, bytes, id).await;
    let (size, piece_size) = (chunk.geometry.size(), chunk.geometry.piece_size());
    let entry = ChunkEntry { id: id.0, size, piece_size, descriptor_digest: chunk.descriptor_digest };
    let content = CatalogContent::Manifest(manifest_of(entry, used).encode());
    let (ttl_ms, owner) = (None, None);
    let put = CatalogPut { key: key.into(), content, ttl_ms, owner, labels: vec![("a".into(), "b".into())] };
    let operations = vec![CatalogOperation::Put(put)];
    client.ask::<CatalogWritten>(CatalogWrite { conditions: Vec::new(), operations }).await;
    chunk
}

/// Of a file that has `used` bytes of a chunk, from its beginning on.
fn manifest_of(chunk: ChunkEntry, used: u64) -> Manifest {
    let extents = vec![Extent { file_offset: 0, chunk: 0, chunk_offset: 0, length: used }];
    let kind = FileKind::Regular { size: used, digest: chunk.id, extents };
    let files = Files::Inline(vec![FileEntry { path: b"f".to_vec(), kind, mode: 0o644, mtime_ns: 0 }]);
    Manifest { shape: Shape::File, size: used, file_count: 1, chunks: vec![chunk], files }
}

fn open_file(key: &str, view_max: u64) -> FileOpen {
    FileOpen { key: key.into(), priority: Priority::Normal, view_max }
}

#[test]
fn a_file_is_opened_with_all_of_its_bytes() {
    World::run(async |world| {
        let mut writer = world.connect(Bytes::OnTheWire);
        let (bytes, _) = content((2 << 20) + 77);
        put_file(&mut writer, "whole", &bytes, bytes.len() as u64).await;
        put_file(&mut writer, "part", &bytes, 1000).await;
        let mut client = world.connect(Bytes::InArena);
        let size = bytes.len() as u64;
        let FileOpened { entry, lease, mut chunks } = client.ask(open_file("whole", size)).await;
        assert_eq!((entry.version, lease, chunks.len()), (1, 0, 1));
        assert_eq!(entry.labels, [("a".to_owned(), "b".to_owned())]);
        let ChunkInMemory { handle, mut slots } = chunks.remove(0);
        slots.sort_by_key(|slot| slot.piece);
        let piece = |slot: &SlotRef| world.node.mapping.read(slot.offset, slot.length as usize).unwrap();
        assert!(slots.iter().flat_map(piece).eq(&bytes));
        let next = PieceNext { handle, first: 0, count: 3, limit: 3 };
        assert_eq!(client.ask::<PieceViews>(next).await.slots, [], "every piece was given out");
        client.ask::<Done>(ChunkClose { handle }).await;
        // What is larger than wanted, or a part of its chunk, or cannot be seen, has to be read.
        for (key, view_max) in [("whole", size - 1), ("whole", 0), ("part", size)] {
            let FileOpened { lease, chunks, .. } = client.ask(open_file(key, view_max)).await;
            assert!(lease != 0 && chunks.is_empty());
            client.ask::<Done>(LeaseRelease { lease }).await;
        }
        let FileOpened { lease, chunks, .. } = writer.ask(open_file("whole", size)).await;
        assert!(lease != 0 && chunks.is_empty());
        assert_eq!(client.refusal(open_file("nothing", size)).await, FailureCode::NotFound);
        client.end().await;
        writer.end().await;
        assert!(world.node.leases.all().is_empty());
    });
}

#[test]
fn a_file_that_nobody_has_is_not_opened_and_leaves_nothing() {
    World::run(async |world| {
        let mut client = world.connect(Bytes::InArena);
        let mut writer = world.connect(Bytes::OnTheWire);
        let (bytes, _) = content(3 << 20);
        let chunk = put_file(&mut writer, "gone", &bytes, bytes.len() as u64).await;
        writer.end().await;
        let free = world.node.engine.arena().size();
        world.node.engine.drop_replica(chunk.id, None, true).await.unwrap();
        // Nobody answers this node's questions for other holders, so that it waits until the client goes.
        client.send(open_file("gone", u64::MAX), &[]).await;
        let waited = tokio::time::timeout(std::time::Duration::from_millis(200), client.receive()).await;
        assert!(waited.is_err());
        client.end().await;
        assert!(world.node.leases.all().is_empty());
        assert_eq!(world.node.engine.arena().free_bytes(), free);
        assert_eq!(world.node.activity.drain(std::time::Duration::from_secs(5)).await, 0);
    });
}

/// A write that makes a chunk the next version of a key, if the key has `version`.
fn write_of(key: &str, version: u64, id: ChunkId, size: u64, descriptor_digest: [u8; 32]) -> CatalogWrite {
    let geometry = Geometry::of(size).unwrap();
    let chunk = ChunkEntry { id: id.0, size, piece_size: geometry.piece_size(), descriptor_digest };
    let content = CatalogContent::Manifest(manifest_of(chunk, size).encode());
    let put = CatalogPut { key: key.into(), content, ttl_ms: None, owner: None, labels: Vec::new() };
    CatalogWrite {
        conditions: vec![CatalogCondition::Version(KeyVersion { key: key.into(), version })],
        operations: vec![CatalogOperation::Put(put)],
    }
}

/// Begins a chunk and writes all of it into its slots; what is left is to commit it.
async fn begin(world: &World, client: &mut Client, bytes: &[u8], id: ChunkId, version: u64) -> ChunkCommit {
    let (size, piece_size) = (bytes.len() as u64, 1 << 20);
    let begin = ChunkBegin { size, piece_size, durable: false, count: 9 };
    let ChunkBegun { handle, slots } = client.ask(begin).await;
    let pieces = slots.iter().zip(bytes.chunks(1 << 20)).map(|(slot, part)| {
        world.node.mapping.writer(slot.offset, part.len()).unwrap().copy_from_slice(part);
        FilledPiece { piece: slot.piece, length: part.len() as u32, checksum: checksum_of(part) }
    });
    let pieces: Vec<_> = pieces.collect();
    assert_eq!(pieces.len(), bytes.len().div_ceil(1 << 20));
    let checksums = pieces.iter().map(|piece| piece.checksum).collect();
    let descriptor = Descriptor { id, geometry: Geometry::of(size).unwrap(), checksums };
    let write = write_of("k", version, id, size, descriptor.digest());
    ChunkCommit { handle, pieces, id, size, write }
}

/// What else is in a write may be durable, and then so must be its answer.
#[test]
fn only_a_write_of_one_key_of_the_chunk_itself_may_be_answered_early() {
    let (bytes, id) = content(1000);
    let write = write_of("k", 0, id, bytes.len() as u64, [0; 32]);
    assert!(is_about_alone(&write, id));
    assert!(!is_about_alone(&write, ChunkId([7; 32])));
    let with = |more: CatalogOperation| {
        let mut write = write.clone();
        write.operations.push(more);
        is_about_alone(&write, id)
    };
    assert!(!with(CatalogOperation::Delete("other".into())));
    assert!(!with(write.operations[0].clone()));
    assert!(!is_about_alone(&CatalogWrite { operations: Vec::new(), ..write.clone() }, id));
    let mut value = write.clone();
    let CatalogOperation::Put(put) = &mut value.operations[0] else { panic!("it is a put") };
    put.content = CatalogContent::Value(vec![1]);
    assert!(!is_about_alone(&value, id));
}

#[test]
fn a_chunk_is_filled_sealed_and_committed_at_once() {
    World::run(async |world| {
        let mut client = world.connect(Bytes::InArena);
        let (bytes, id) = content((2 << 20) + 77);
        let commit = begin(world, &mut client, &bytes, id, 0).await;
        let CatalogOperation::Put(CatalogPut { content, .. }) = commit.write.operations[0].clone() else {
            panic!("it is a put")
        };
        let CatalogContent::Manifest(root) = content else { panic!("it is a manifest") };
        let entry = Manifest::decode(&root).unwrap().chunks[0].clone();
        let CatalogWritten { versions, .. } = client.ask(commit.clone()).await;
        assert_eq!(versions, [1]);
        assert_eq!(client.refusal(commit).await, FailureCode::NotFound);
        let geometry = Geometry::of(bytes.len() as u64).unwrap();
        let chunk = ChunkReference { id, geometry, descriptor_digest: entry.descriptor_digest };
        let opened: ChunkOpened = client.ask(ChunkOpen { chunk, priority: Priority::Normal }).await;
        assert_eq!(opened.local_pieces, 3);
        assert_eq!(client.ask::<ChunkVerified>(ChunkVerify { id }).await.digest, id);
        client.ask::<Done>(ChunkClose { handle: opened.handle }).await;
        // Nothing of the connection keeps it any more.
        assert!(world.node.engine.drop_replica(id, None, false).await.unwrap());
        client.end().await;
    });
}

#[test]
fn what_is_not_sealed_is_not_committed() {
    World::run(async |world| {
        let mut client = world.connect(Bytes::InArena);
        let (bytes, id) = content((2 << 20) + 77);
        let mut commits = Vec::new();
        for _ in 0..4 {
            commits.push(begin(world, &mut client, &bytes, id, 0).await);
        }
        commits[0].pieces.pop();
        let twice = commits[1].pieces[0];
        commits[1].pieces.push(twice);
        commits[2].size -= 1;
        commits[3].pieces[0].length = u32::MAX;
        for commit in commits {
            let handle = commit.handle;
            assert_eq!(client.refusal(commit).await, FailureCode::Invalid);
            client.ask::<Done>(ChunkAbort { handle }).await;
        }
        let key = CatalogGet { keys: vec!["k".into()], consistency: ReadConsistency::Quorum, snapshot: 0 };
        assert_eq!(client.ask::<CatalogFound>(key).await.entries, [None]);
        assert_eq!(world.node.engine.replicas(None).await.unwrap(), []);
        client.end().await;
    });
}

#[test]
fn a_write_that_is_refused_lets_go_of_its_chunk() {
    World::run(async |world| {
        let mut client = world.connect(Bytes::InArena);
        let (bytes, id) = content(100_000);
        let commit = begin(world, &mut client, &bytes, id, 7).await;
        let refused: CatalogRefused = client.ask(commit).await;
        assert!(matches!(refused.reason, CatalogReason::Conflict(_)), "{refused:?}");
        let replicas = world.node.engine.replicas(None).await.unwrap();
        assert_eq!(replicas.len(), 1, "it is there until it is collected");
        assert!(world.node.engine.drop_replica(id, None, false).await.unwrap(), "nothing keeps it");
        client.end().await;
    });
}

#[test]
fn a_chunk_that_is_sealed_twice_is_kept_when_one_write_is_refused() {
    World::run(async |world| {
        let mut client = world.connect(Bytes::InArena);
        let (bytes, id) = content(100_000);
        let kept = begin(world, &mut client, &bytes, id, 0).await;
        let refused = begin(world, &mut client, &bytes, id, 7).await;
        client.ask::<Done>(PieceFill { handle: kept.handle, pieces: kept.pieces.clone() }).await;
        let seal = ChunkSeal { handle: kept.handle, id, size: kept.size };
        client.ask::<ChunkSealed>(seal).await;
        client.ask::<CatalogRefused>(refused).await;
        assert!(!world.node.engine.drop_replica(id, None, false).await.unwrap_or(false));
        client.ask::<CatalogWritten>(kept.write).await;
        client.end().await;
    });
}

#[test]
fn a_chunk_that_is_prepared_keeps_nobody_waiting_and_goes_with_its_connection() {
    World::run(async |world| {
        let free = world.node.engine.arena().free_bytes();
        let prepare = ChunkPrepare { size: (2 << 20) + 77, piece_size: 1 << 20 };
        let mut client = world.connect(Bytes::InArena);
        let ChunkBegun { handle, slots } = client.ask(prepare.clone()).await;
        let lengths: Vec<u32> = slots.iter().map(|slot| slot.length).collect();
        assert_eq!(lengths, [1 << 20, 1 << 20, 77]);
        assert!(world.node.engine.arena().free_bytes() <= free - prepare.size);
        client.ask::<Done>(ChunkAbort { handle }).await;
        assert_eq!(world.node.engine.arena().free_bytes(), free);
        for wrong in [ChunkPrepare { size: u64::MAX, ..prepare }, ChunkPrepare { piece_size: 3, ..prepare }] {
            assert_eq!(client.refusal(wrong).await, FailureCode::Invalid);
        }
        let mut other = world.connect(Bytes::OnTheWire);
        assert_eq!(other.refusal(prepare.clone()).await, FailureCode::Invalid);
        other.end().await;

        client.ask::<ChunkBegun>(prepare.clone()).await;
        assert_eq!(world.node.activity.drain(std::time::Duration::from_secs(60)).await, 0);
        assert_eq!(client.refusal(prepare).await, FailureCode::Draining);
        client.end().await;
        assert_eq!(world.node.engine.arena().free_bytes(), free);
    });
}

#[test]
fn memory_is_for_those_who_share_it() {
    World::run(async |world| {
        let (mut owner, mut other) = (world.connect(Bytes::InArena), world.connect(Bytes::OnTheWire));
        let (bytes, id) = content(100_000);
        let commit = begin(world, &mut owner, &bytes, id, 0).await;
        let begin = ChunkBegin { size: 5, piece_size: 1 << 20, durable: false, count: 1 };
        assert_eq!(other.refusal(begin.clone()).await, FailureCode::Invalid);
        assert_eq!(other.refusal(commit.clone()).await, FailureCode::Invalid);
        let empty = ChunkCommit { pieces: Vec::new(), ..commit.clone() };
        assert_eq!(other.refusal(empty).await, FailureCode::NotFound);
        for wrong in [ChunkBegin { size: u64::MAX, ..begin.clone() }, ChunkBegin { piece_size: 3, ..begin }] {
            assert_eq!(owner.refusal(wrong).await, FailureCode::Invalid);
        }
        owner.ask::<CatalogWritten>(commit).await;
        other.end().await;
        owner.end().await;
    });
}
