//! The ring against real sockets and files.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;

use glommio::{LocalExecutorBuilder, Placement};
use memory::Arena;

use super::{DataRing, Part};

fn run<T>(work: impl AsyncFnOnce(DataRing) -> T) -> T {
    let executor = LocalExecutorBuilder::new(Placement::Unbound).io_memory(64 << 10).make().unwrap();
    executor.run(async { work(DataRing::new().unwrap()).await })
}

fn pair() -> (Rc<OwnedFd>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Rc::new(ours.into()), theirs)
}

#[test]
fn what_is_sent_in_parts_arrives_in_order() {
    run(async |ring| {
        let (socket, mut peer) = pair();
        let arena = Arena::new(16 << 20, 1).unwrap();
        let mut lease = arena.lease(0, 3 << 20).unwrap();
        lease.as_mut_slice().fill(7);
        let reading = std::thread::spawn(move || {
            let mut received = Vec::new();
            peer.read_to_end(&mut received).unwrap();
            received
        });
        let parts =
            vec![Part::Bytes(vec![1; 10]), Part::Piece(Arc::new(lease), 0, 3 << 20), Part::Bytes(vec![2; 5])];
        let (sent, _) = ring.send(&socket, parts, 4).await;
        assert_eq!(sent.unwrap(), (3 << 20) + 11);
        drop(socket);
        let received = glommio::executor().spawn_blocking(move || reading.join().unwrap()).await;
        assert_eq!(received.len(), (3 << 20) + 11);
        assert!(received[..6] == [1; 6] && received[6..received.len() - 5].iter().all(|&byte| byte == 7));
    });
}

#[test]
fn a_piece_is_received_whole_and_an_end_is_seen() {
    run(async |ring| {
        let (socket, mut peer) = pair();
        let arena = Arena::new(16 << 20, 1).unwrap();
        let writing = std::thread::spawn(move || {
            for _ in 0..64 {
                peer.write_all(&[9; 1024]).unwrap();
                std::thread::yield_now();
            }
        });
        let lease = arena.lease(0, 65_536).unwrap();
        let (received, (_, lease)) = ring.receive_piece(&socket, lease, 0, 65_536).await;
        assert_eq!(received.unwrap(), 65_536);
        assert!(lease.as_slice().iter().all(|&byte| byte == 9));
        writing.join().unwrap();
        let (received, _) = ring.receive_some(&socket, vec![0; 10], 3).await;
        assert_eq!(received.unwrap(), 0);
    });
}

#[test]
fn memory_of_a_dropped_receive_returns_only_when_the_kernel_is_done_with_it() {
    run(async |ring| {
        let (socket, _peer) = pair();
        let arena = Arena::new(16 << 20, 1).unwrap();
        let receiving = ring.receive_piece(&socket, arena.lease(0, 1 << 20).unwrap(), 0, 1 << 20);
        assert_eq!(ring.inner.borrow().in_flight, 1);
        assert!(arena.free_bytes() < arena.size());
        drop(receiving);
        while ring.inner.borrow().in_flight > 0 {
            assert!(arena.free_bytes() < arena.size(), "the slot is free while the kernel may write into it");
            glommio::timer::sleep(std::time::Duration::from_millis(1)).await;
        }
        assert_eq!(arena.free_bytes(), arena.size());
    });
}

#[test]
fn more_operations_than_the_queue_holds_are_under_way_at_once() {
    run(async |ring| {
        let arena = Arena::new(64 << 20, 1).unwrap();
        let pairs: Vec<_> = (0..400).map(|_| pair()).collect();
        let lease = || arena.lease(0, 4096).unwrap();
        let receives: Vec<_> =
            pairs.iter().map(|(socket, _)| ring.receive_piece(socket, lease(), 0, 4096)).collect();
        for (at, (_, peer)) in pairs.iter().enumerate() {
            let mut peer = peer;
            peer.write_all(&[at as u8; 4096]).unwrap();
        }
        for (at, receive) in receives.into_iter().enumerate() {
            let (received, (_, lease)) = receive.await;
            assert_eq!(received.unwrap(), 4096);
            assert!(lease.as_slice().iter().all(|&byte| byte == at as u8));
        }
    });
}

#[test]
fn a_ring_that_goes_away_waits_for_its_operations() {
    let arena = Arena::new(16 << 20, 1).unwrap();
    let lease = arena.lease(0, 4096).unwrap();
    run(async |ring| {
        let (socket, _peer) = pair();
        // The future is leaked without its ring, so that the ring alone can end the operation.
        let mut receiving = std::mem::ManuallyDrop::new(ring.receive_piece(&socket, lease, 0, 4096));
        drop(std::mem::replace(&mut receiving.ring, DataRing::new().unwrap()));
    });
    assert_eq!(arena.free_bytes(), arena.size());
}

#[test]
fn files_are_written_synced_and_read() {
    run(async |ring| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap();
        let file = Arc::new(file);
        let arena = Arena::new(16 << 20, 1).unwrap();
        let mut lease = arena.lease(0, 5000).unwrap();
        lease.as_mut_slice().fill(3);
        lease.zero_after(5000);
        let (written, (_, lease)) = ring.write(&file, Arc::new(lease), 5000, 0, 4096).await;
        assert_eq!(written.unwrap(), 8192);
        ring.sync(&file).await.0.unwrap();
        let (read, (_, back)) = ring.read(&file, arena.lease(0, 5000).unwrap(), 4096).await;
        assert_eq!(read.unwrap(), 8192);
        assert_eq!(back.as_slice(), lease.as_slice());
        let (read, _) = ring.read(&file, back, 1 << 20).await;
        assert_eq!(read.unwrap(), 0);
    });
}
