//! Fetches that nobody waits for any more.

use flow::swarm::Priority;
use flow::wire::data::{Grant, Interest, Leave, Revoke, Want};
use flow::wire::session::Device;
use futures_lite::future::{block_on, poll_once};

use super::member::{Line, Member};
use super::way::{Way, drop_all, eventually, fetching};
use crate::tests::cluster::get;

each_way! {
    a_fetch_ends_when_whoever_asked_for_it_has_gone
    a_fetch_goes_on_while_somebody_waits_for_it
    a_fetch_ends_when_its_readers_have_closed
    what_a_cancelled_fetch_has_left_is_served
}

/// A source that stands still ends the fetch no sooner: only its waiters do.
fn a_fetch_ends_when_whoever_asked_for_it_has_gone(way: Way) {
    let cluster = way.cluster(1, 32 << 20);
    let handle = cluster.handle(1);
    let member = Member::join(&cluster, 9, way);
    let held = member.hold(&cluster, 1, 6 << 20, 1 << 20, true);
    for pieces_sent in [0, 1, 3] {
        let mut fetch = Box::pin(handle.fetch(held.chunk, Device::Dram, Priority::Normal));
        assert_eq!(block_on(poll_once(&mut fetch)), None);
        let mut line = member.accept();
        line.introduce(&held);
        give(&mut line, &held, pieces_sent);
        let late: Grant = line.expect();
        drop(fetch);
        // Whoever has all of it need not hold it for a receiver any more.
        assert_eq!(line.expect::<Leave>().chunk, held.chunk.id);
        eventually("the fetch has ended", || {
            block_on(handle.replicas(Some(held.chunk.id))).unwrap().iter().all(|replica| !replica.fetching)
        });
        drop_all(handle);
        // What was granted before comes to nothing.
        line.give(&held, &late, false);
        line.sync();
        assert_eq!(handle.arena().free_bytes(), handle.arena().size());
        cluster.cut(1);
    }
    cluster.stop();
}

fn give(line: &mut Line, held: &super::member::Held, pieces: u32) {
    for _ in 0..pieces {
        let grant = line.expect();
        line.give(held, &grant, false);
    }
}

fn a_fetch_goes_on_while_somebody_waits_for_it(way: Way) {
    let cluster = way.cluster(1, 32 << 20);
    let handle = cluster.handle(1);
    let member = Member::join(&cluster, 9, way);
    let held = member.hold(&cluster, 1, 6 << 20, 1 << 20, true);
    let mut first = Box::pin(handle.fetch(held.chunk, Device::Dram, Priority::Normal));
    assert_eq!(block_on(poll_once(&mut first)), None);
    let mut line = member.accept();
    line.introduce(&held);
    let second = fetching(handle, held.chunk);
    give(&mut line, &held, 2);
    drop(first);
    std::thread::scope(|scope| {
        scope.spawn(|| line.serve(&[&held]));
        second.join().unwrap().unwrap();
        cluster.dismiss(member.node);
    });
    assert!(get(handle, held.chunk).unwrap() == held.content);
    drop_all(handle);
    cluster.stop();
}

fn a_fetch_ends_when_its_readers_have_closed(way: Way) {
    let cluster = way.cluster(1, 32 << 20);
    let handle = cluster.handle(1);
    let member = Member::join(&cluster, 9, way);
    let held = member.hold(&cluster, 1, 6 << 20, 1 << 20, true);
    let reading = block_on(handle.open(held.chunk, Priority::Normal)).unwrap().handle;
    let mut line = member.accept();
    line.introduce(&held);
    give(&mut line, &held, 1);
    let arrived = block_on(handle.next(reading, 0, 6, 6)).unwrap();
    assert_eq!(arrived.len(), 1);
    {
        let mut more = Box::pin(handle.next(reading, 0, 6, 6));
        assert_eq!(block_on(poll_once(&mut more)), None);
    }
    block_on(handle.close(reading)).unwrap();
    let replica = block_on(handle.replicas(Some(held.chunk.id))).unwrap().remove(0);
    assert_eq!((replica.fetching, replica.dram_pieces), (false, 1));
    drop_all(handle);
    let late: Grant = line.expect();
    while line.expect::<Revoke>().grant != late.grant {}
    line.give(&held, &late, false);
    line.sync();
    assert_eq!(handle.arena().free_bytes(), handle.arena().size());
    cluster.stop();
}

fn what_a_cancelled_fetch_has_left_is_served(way: Way) {
    let cluster = way.cluster(1, 32 << 20);
    let handle = cluster.handle(1);
    let (source, receiver) = (Member::join(&cluster, 8, way), Member::join(&cluster, 9, way));
    let held = source.hold(&cluster, 1, 6 << 20, 1 << 20, true);
    let mut fetch = Box::pin(handle.fetch(held.chunk, Device::Dram, Priority::Normal));
    assert_eq!(block_on(poll_once(&mut fetch)), None);
    let mut line = source.accept();
    line.introduce(&held);
    give(&mut line, &held, 2);
    line.sync();
    let mut ear = receiver.dial(&cluster, 1);
    ear.take_part(&held.chunk);
    let have = ear.expect::<Interest>().have;
    drop(fetch);
    assert_eq!(line.expect::<Leave>().chunk, held.chunk.id);
    assert_eq!(ear.sync(), []);
    let piece = have[0].trailing_zeros();
    ear.send(Grant { chunk: held.chunk.id, grant: 1, want: Want::Piece(piece) });
    assert!(ear.take(handle.arena()) == held.content[(piece as usize) << 20..][..1 << 20]);
    drop_all(handle);
    assert_eq!(ear.sync(), [held.chunk.id]);
    cluster.stop();
}
