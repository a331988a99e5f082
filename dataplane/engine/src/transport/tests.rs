//! Reader and writer over real sockets, with frames that are cut anywhere and peers that break the protocol.

use std::cell::RefCell;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;

use flow::chunk::ChunkId;
use flow::limits::FRAME_BODY_MAX;
use flow::verify::checksum_of;
use flow::wire::data::{Have, Leave, PieceData, PiecePart};
use flow::wire::{Header, Message};
use futures_lite::future::yield_now;
use glommio::task::JoinHandle;
use glommio::{LocalExecutorBuilder, Placement};
use memory::{Arena, Lease};

use super::{ConnectionError, Filling, Reader, Writer};
use crate::ring::DataRing;

const CHUNK: ChunkId = ChunkId([5; 32]);

fn run<T>(work: impl AsyncFnOnce(DataRing) -> T) -> T {
    let executor = LocalExecutorBuilder::new(Placement::Unbound).io_memory(64 << 10).make().unwrap();
    executor.run(async { work(DataRing::new().unwrap()).await })
}

/// A reader of bytes that a thread writes in steps of `step` bytes before it closes the connection.
fn reader_of(ring: &DataRing, bytes: Vec<u8>, step: usize) -> Reader {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    std::thread::spawn(move || bytes.chunks(step).try_for_each(|part| theirs.write_all(part)));
    Reader::new(ring.clone(), Rc::new(ours.into()))
}

fn piece_of(length: u32) -> (PieceData, Vec<u8>) {
    let payload: Vec<u8> = (0..length).map(|at| ((at * 31) >> 3) as u8).collect();
    let checksum = checksum_of(&payload);
    (PieceData { chunk: CHUNK, grant: 9, piece: 3, length, checksum, part: length }, payload)
}

#[test]
fn frames_and_payloads_are_told_apart_wherever_they_are_cut() {
    let (head, payload) = piece_of(20_000);
    let leave = Message::from(Leave { chunk: CHUNK });
    let have = Message::from(Have { chunk: CHUNK, pieces: (0..3000).collect() });
    let mut bytes = leave.encode(0, 0);
    for part in [&Message::from(head.clone()).encode(0, 0), &payload, &have.encode(0, 0)] {
        bytes.extend_from_slice(part);
    }
    for part in [&Message::from(head.clone()).encode(0, 0), &payload, &leave.encode(0, 0)] {
        bytes.extend_from_slice(part);
    }
    for step in [1, 31, 4096, 5000, usize::MAX] {
        run(async |ring| {
            let arena = Arena::new(16 << 20, 1).unwrap();
            let mut reader = reader_of(&ring, bytes.clone(), step);
            assert_eq!(reader.next().await.unwrap(), leave);
            assert_eq!(reader.next().await.unwrap(), head.clone().into());
            let filling = Filling::new(arena.lease(0, 20_000).unwrap());
            let (lease, _) = reader.payload_into(filling, 20_000).await.unwrap().finish();
            assert_eq!(lease.as_slice(), payload);
            assert_eq!(reader.next().await.unwrap(), have);
            assert_eq!(reader.next().await.unwrap(), head.clone().into());
            reader.skip_payload(20_000).await.unwrap();
            assert_eq!(reader.next().await.unwrap(), leave);
            assert!(matches!(reader.next().await, Err(ConnectionError::Closed)));
        });
    }
}

#[test]
fn what_is_no_frame_ends_the_connection() {
    let leave = Message::from(Leave { chunk: CHUNK }).encode(0, 0);
    let mut damaged = leave.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let mut large = Header::for_body(22, 0, 0, &[]);
    large.length = FRAME_BODY_MAX + 1;
    let cases = [b"GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n".to_vec(), damaged, large.encode().to_vec()];
    for bytes in cases {
        run(async |ring| {
            let error = reader_of(&ring, bytes, 7).next().await.unwrap_err();
            assert!(matches!(error, ConnectionError::Header(_) | ConnectionError::Message(_)), "{error}");
        });
    }
    run(async |ring| {
        let half = reader_of(&ring, leave[..leave.len() - 1].to_vec(), 7).next().await;
        assert!(matches!(half, Err(ConnectionError::Closed)));
    });
}

#[test]
fn a_payload_that_ends_early_gives_no_piece() {
    let (head, payload) = piece_of(50_000);
    let mut bytes = Message::from(head).encode(0, 0);
    bytes.extend_from_slice(&payload[..40_000]);
    run(async |ring| {
        let arena = Arena::new(16 << 20, 1).unwrap();
        let mut reader = reader_of(&ring, bytes, 4096);
        reader.next().await.unwrap();
        let cut = reader.payload_into(Filling::new(arena.lease(0, 50_000).unwrap()), 50_000).await;
        assert!(matches!(cut, Err(ConnectionError::Closed)));
        assert_eq!(arena.free_bytes(), arena.size());
    });
}

type Sent = Rc<RefCell<Vec<(u64, u32)>>>;
type Ended = Result<(), ConnectionError>;

/// A writer that runs, the grants and lengths of the pieces that it says have left, and the other end.
fn running(ring: &DataRing) -> (Writer, Sent, Reader, JoinHandle<Ended>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (writer, sent) = (Writer::new(), Rc::new(RefCell::new(Vec::new())));
    let note = sent.clone();
    let sending = writer.clone().run(ring.clone(), Rc::new(ours.into()), move |piece| {
        note.borrow_mut().push((piece.grant, piece.length));
    });
    let sending = glommio::spawn_local(sending).detach();
    (writer, sent, Reader::new(ring.clone(), Rc::new(theirs.into())), sending)
}

/// Reads a piece in its parts, with what stands between them.
async fn piece(reader: &mut Reader, lease: Lease, mut head: PieceData) -> (Lease, u64, Vec<Message>) {
    let (length, mut between) = (head.length, Vec::new());
    let Message::PieceData(first) = reader.next().await.unwrap() else { panic!("no piece") };
    head.part = first.part;
    assert_eq!(first, head);
    let mut filling = reader.payload_into(Filling::new(lease), first.part).await.unwrap();
    let mut received = first.part;
    while received < length {
        match reader.next().await.unwrap() {
            Message::PiecePart(PiecePart { grant, part }) => {
                assert_eq!(grant, head.grant);
                filling = reader.payload_into(filling, part).await.unwrap();
                received += part;
            }
            other => between.push(other),
        }
    }
    let (lease, checksum) = filling.finish();
    (lease, checksum, between)
}

#[test]
fn what_is_queued_arrives_and_news_travel_together() {
    run(async |ring| {
        let (writer, sent, mut reader, sending) = running(&ring);
        let arena = Arena::new(16 << 20, 1).unwrap();
        let (head, payload) = piece_of(2 << 20);
        let mut lease = arena.lease(0, 2 << 20).unwrap();
        lease.as_mut_slice().copy_from_slice(&payload);
        writer.have(CHUNK, 1);
        writer.have(CHUNK, 2);
        writer.piece(head.clone(), Arc::new(lease));
        assert_eq!(reader.next().await.unwrap(), Have { chunk: CHUNK, pieces: vec![1, 2] }.into());
        let (lease, checksum, between) = piece(&mut reader, arena.lease(0, 2 << 20).unwrap(), head).await;
        assert!(lease.as_slice() == payload && checksum == checksum_of(&payload) && between.is_empty());
        writer.close();
        writer.message(Leave { chunk: CHUNK });
        assert!(sending.await.unwrap().is_ok());
        assert_eq!(*sent.borrow(), [(9, 2 << 20)]);
    });
}

#[test]
fn messages_overtake_a_piece_that_takes_long() {
    run(async |ring| {
        let (writer, sent, mut reader, sending) = running(&ring);
        let arena = Arena::new(64 << 20, 1).unwrap();
        let (head, payload) = piece_of(16 << 20);
        let mut lease = arena.lease(0, 16 << 20).unwrap();
        lease.as_mut_slice().copy_from_slice(&payload);
        writer.piece(head.clone(), Arc::new(lease));
        // Nobody reads, so the socket is full long before the piece is through.
        yield_now().await;
        writer.message(Leave { chunk: CHUNK });
        let (lease, checksum, between) = piece(&mut reader, arena.lease(0, 16 << 20).unwrap(), head).await;
        assert!(lease.as_slice() == payload && checksum == checksum_of(&payload));
        assert_eq!(between, [Leave { chunk: CHUNK }.into()]);
        writer.close();
        assert!(sending.await.unwrap().is_ok());
        assert_eq!(*sent.borrow(), [(9, 16 << 20)]);
    });
}
