//! What every fabric must do, the model as well as libibverbs and libucp.

mod ends; // two ends of a lane, and what they wait for

use std::os::fd::BorrowedFd;

use flow::time::Instant;
use flow::wire::lane::{LaneAddress, ListenerAddress, QueuePairAddress, WorkerAddress};
use memory::{Arena, Lease};

use self::ends::{cleared, connect, connected, ends, ends_with};
use super::endpoint::{self, Endpoint, LaneEvent};
use super::error::LaneError;
use super::fabric::{Completion, Fabric, RemoteSlot, Room, Write};
use super::model::{pattern, patterned};

/// Where fabrics come from.
pub(super) trait Rig {
    type Fabric: Fabric;

    /// The device of one of two ends, 0 or 1, with an arena.
    fn open(&self, end: usize, arena: &Arena, room: Room) -> Self::Fabric;

    /// Waits until one of the descriptors is readable, which must happen.
    fn await_readable(&self, descriptors: &[BorrowedFd<'_>]);

    /// Whether devices answer writes by themselves, and say why one failed. Elsewhere the peer's fabric answers when it is
    /// polled, and a connection that ends says nothing.
    fn device_answers(&self) -> bool {
        true
    }

    /// Whether writes name memory of the peer, which its device checks. Elsewhere the peer knows by the tag where they go.
    fn names_memory(&self) -> bool {
        true
    }
}

const ROOM: Room = Room { lanes: 8, writes_per_lane: 24, receives_per_lane: 24 };
const ARENA_BYTES: u64 = 16 << 20;

/// Runs every case, each with devices of its own.
pub(super) fn check<R: Rig>(rig: impl Fn() -> R) {
    pieces_of_all_sizes_arrive(&rig());
    many_writes_are_all_told(&rig());
    a_wrong_key_opens_nothing(&rig());
    nothing_beyond_the_arena_is_written(&rig());
    if !rig().names_memory() {
        what_was_not_granted_is_not_taken(&rig());
    }
    a_closed_lane_takes_no_write(&rig());
    nothing_is_written_once_a_lane_is_closed(&rig());
    a_closed_lane_gives_back_what_was_posted(&rig());
    a_lane_may_be_closed_before_its_other_end_is_connected(&rig());
    if rig().device_answers() {
        a_peer_without_receives_is_told_from_a_dead_one(&rig());
    }
    lanes_do_not_disturb_each_other(&rig());
    an_end_of_another_kind_is_refused(&rig());
    endpoints_move_pieces_both_ways(&rig());
}

fn pieces_of_all_sizes_arrive<R: Rig>(rig: &R) {
    let (mut a, mut b) = connected(rig);
    for (tag, length) in (0..).zip([0, 1, 4096, 4097, 1 << 20, 16 << 20]) {
        let slot = b.arena.lease(0, length.max(1)).unwrap();
        a.write(&mut b, length, &slot, tag).unwrap();
        assert_eq!(b.arrival(rig, &mut a), (tag, length));
        assert_eq!(slot.as_slice()[..length as usize], pattern(length, tag), "{length} bytes");
        let (sent, lease) = a.written(rig, &mut b);
        assert_eq!((sent, lease.length()), (tag, length.max(1)));
    }
    assert_eq!((a.polled(), b.polled()), (0, 0), "something comes that was not asked for");
}

fn many_writes_are_all_told<R: Rig>(rig: &R) {
    let (mut a, mut b) = connected(rig);
    for round in 0..4 {
        let tags = || (round * 1000..).take(ROOM.writes_per_lane);
        let slots: Vec<(u32, Lease)> = tags().map(|tag| (tag, b.arena.lease(0, 4096).unwrap())).collect();
        slots.iter().for_each(|(tag, slot)| a.write(&mut b, 4096, slot, *tag).unwrap());
        let mut told: Vec<u32> = slots.iter().map(|_| b.arrival(rig, &mut a).0).collect();
        told.sort_unstable();
        assert_eq!(told, tags().collect::<Vec<_>>());
        let mut sent: Vec<u32> = slots.iter().map(|_| a.written(rig, &mut b).0).collect();
        sent.sort_unstable();
        assert_eq!(sent, told);
        slots.iter().for_each(|(tag, slot)| assert_eq!(slot.as_slice(), pattern(4096, *tag)));
    }
    assert_eq!(a.arena.free_bytes(), ARENA_BYTES, "a lease has not come back");
}

fn a_wrong_key_opens_nothing<R: Rig>(rig: &R) {
    let (mut a, mut b) = ends(rig);
    connect(&mut a, &mut b, |key, length| (key ^ 0x5500, length));
    let slot = cleared(&b.arena);
    a.write(&mut b, 4096, &slot, 1).unwrap();
    let failure = a.failure(rig, &mut b);
    assert!(is_refusal(rig, &failure), "{failure}");
    assert_eq!(slot.as_slice(), [0; 4096]);
    assert!(b.nothing_has_come(), "the peer is told of a write that was refused");
}

fn is_refusal<R: Rig>(rig: &R, failure: &LaneError) -> bool {
    match failure {
        LaneError::RemoteAccess => rig.device_answers() || !rig.names_memory(),
        LaneError::Disconnected => !rig.device_answers(),
        _ => false,
    }
}

fn nothing_beyond_the_arena_is_written<R: Rig>(rig: &R) {
    let (mut a, _b) = connected(rig);
    let beyond = RemoteSlot { offset: ARENA_BYTES - 2048, length: 4096 };
    let refused = a.write_to(4096, RemoteSlot { offset: 0, length: 4095 }, 1).unwrap_err();
    assert!(matches!(refused, LaneError::OutOfRange { .. }), "{refused}");
    if rig.names_memory() {
        for offset in [beyond.offset, u64::MAX] {
            let refused = a.write_to(4096, RemoteSlot { offset, length: 4096 }, 1).unwrap_err();
            assert!(matches!(refused, LaneError::OutOfRange { .. }), "{refused}");
        }
    }
    let (mut a, mut b) = ends(rig);
    connect(&mut a, &mut b, |key, length| (key, length + 4096));
    a.write_to(4096, beyond, 1).unwrap();
    let failure = a.failure(rig, &mut b);
    assert!(is_refusal(rig, &failure), "{failure}");
    assert!(b.nothing_has_come(), "the peer is told of a write that was refused");
    let last: Vec<Lease> = std::iter::from_fn(|| b.arena.lease(0, 4096)).collect();
    assert!(last.iter().all(|lease| lease.as_slice() == [0; 4096]));
}

fn what_was_not_granted_is_not_taken<R: Rig>(rig: &R) {
    let (mut a, mut b) = connected(rig);
    let slot = cleared(&b.arena);
    let to = RemoteSlot { offset: slot.offset(), length: slot.length() };
    // Nothing, too little, and nothing any more.
    for tag in 0..3 {
        b.fabric.expect(b.lane, tag, RemoteSlot { length: 4095, ..to });
        if tag != 1 {
            assert!(b.fabric.forget(b.lane, tag));
        }
        a.write_to(4096, to, tag).unwrap();
        let failure = a.failure(rig, &mut b);
        assert!(matches!(failure, LaneError::RemoteAccess), "{failure}");
    }
    assert!(b.nothing_has_come());
    assert_eq!(slot.as_slice(), [0; 4096]);
    // The lane is as it was.
    a.write(&mut b, 4096, &slot, 9).unwrap();
    assert_eq!(b.arrival(rig, &mut a), (9, 4096));
    assert_eq!(slot.as_slice(), pattern(4096, 9));
}

fn a_closed_lane_takes_no_write<R: Rig>(rig: &R) {
    let (mut a, mut b) = connected(rig);
    let slot = cleared(&b.arena);
    assert!(b.fabric.close_lane(b.lane).unwrap().is_empty());
    a.write(&mut b, 4096, &slot, 1).unwrap();
    let failure = a.failure(rig, &mut b);
    assert!(is_silence(rig, &failure), "{failure}");
    assert_eq!(slot.as_slice(), [0; 4096]);
    let refused = b.write_to(1, RemoteSlot { offset: 0, length: 1 }, 2).unwrap_err();
    assert!(matches!(refused, LaneError::NoLane), "{refused}");
    assert_eq!(b.polled(), 0, "something comes of a closed lane");
}

fn is_silence<R: Rig>(rig: &R, failure: &LaneError) -> bool {
    match failure {
        LaneError::RetriesExceeded => rig.device_answers(),
        LaneError::RemoteAccess | LaneError::UcxFailed(_) => !rig.names_memory(),
        LaneError::Disconnected | LaneError::NotConnected(_) => !rig.device_answers(),
        _ => false,
    }
}

fn nothing_is_written_once_a_lane_is_closed<R: Rig>(rig: &R) {
    let (mut a, mut b) = connected(rig);
    let mut slot = b.arena.lease(0, 1 << 20).unwrap();
    (0..10).for_each(|tag| a.write(&mut b, 1 << 20, &slot, tag).unwrap());
    // The others are on their way, or about to be, or have arrived where the device is fast.
    b.arrival(rig, &mut a);
    b.fabric.close_lane(b.lane).unwrap();
    b.become_quiet(rig, &mut a);
    slot.as_mut_slice().fill(0);
    let mut outcomes = 0;
    while outcomes < 10 {
        match a.completion(rig, Some(&mut b)) {
            Completion::Written { .. } | Completion::Failed { write: Some(_), .. } => outcomes += 1,
            // Where a device does not fail each write, they come back when this end is closed too.
            Completion::Failed { write: None, .. } if !rig.names_memory() => {
                outcomes += a.fabric.close_lane(a.lane).unwrap().len();
            }
            Completion::Failed { write: None, .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(slot.as_slice().iter().all(|byte| *byte == 0), "a delayed write came through");
}

fn a_peer_without_receives_is_told_from_a_dead_one<R: Rig>(rig: &R) {
    let (mut a, mut b) = ends_with(rig, Room { receives_per_lane: 2, ..ROOM });
    connect(&mut a, &mut b, |key, length| (key, length));
    let slot = b.arena.lease(0, 64).unwrap();
    (0..3).for_each(|tag| a.write(&mut b, 64, &slot, tag).unwrap());
    let failure = loop {
        // The peer is not polled, so that it posts no more.
        match a.completion(rig, None) {
            Completion::Failed { error, write: Some(_), .. } => break error,
            Completion::Failed { write: None, .. } | Completion::Written { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(failure, LaneError::ReceiverNotReady), "{failure}");
}

fn a_closed_lane_gives_back_what_was_posted<R: Rig>(rig: &R) {
    let (mut a, mut b) = connected(rig);
    let slot = b.arena.lease(0, 1 << 20).unwrap();
    b.fabric.close_lane(b.lane).unwrap();
    (0..10).for_each(|tag| a.write(&mut b, 1 << 20, &slot, tag).unwrap());
    let mut back: Vec<u32> =
        a.fabric.close_lane(a.lane).unwrap().into_iter().map(|unsent| unsent.tag).collect();
    a.become_quiet(rig, &mut b);
    a.polled();
    back.extend(a.taken.drain(..).filter_map(|completion| match completion {
        Completion::Failed { write, .. } => write.map(|write| write.tag),
        other => panic!("{other:?}"),
    }));
    back.sort_unstable();
    assert_eq!(back, (0..10).collect::<Vec<_>>());
    assert_eq!(a.arena.free_bytes(), ARENA_BYTES);
}

fn a_lane_may_be_closed_before_its_other_end_is_connected<R: Rig>(rig: &R) {
    let (mut a, mut b) = ends(rig);
    // Whichever end calls the other, if one does: each is closed first in some rounds.
    for round in 0..6 {
        let ((lane_a, offer_a), (lane_b, offer_b)) =
            (a.fabric.open_lane().unwrap(), b.fabric.open_lane().unwrap());
        (a.lane, b.lane) = (lane_a, lane_b);
        a.fabric.connect(lane_a, &offer_b).unwrap();
        // A call is made, or one is waited for.
        a.polled();
        let slot = cleared(&a.arena);
        assert!(a.fabric.close_lane(lane_a).unwrap().is_empty());
        b.fabric.connect(lane_b, &offer_a).unwrap();
        b.write(&mut a, 4096, &slot, round).unwrap();
        if rig.device_answers() {
            let failure = b.failure(rig, &mut a);
            assert!(is_silence(rig, &failure), "{failure}");
        } else {
            // What the connection says comes when it will.
            (0..100).for_each(|_| _ = (a.polled(), b.polled()));
        }
        let back = b.fabric.close_lane(lane_b).unwrap().len();
        b.become_quiet(rig, &mut a);
        b.polled();
        let failed = b.taken.drain(..).filter(|completion| match completion {
            Completion::Failed { write, .. } => write.is_some(),
            other => panic!("{other:?}"),
        });
        assert_eq!(back + failed.count(), usize::from(!rig.device_answers()));
        assert_eq!(slot.as_slice(), [0; 4096]);
        a.taken.clear();
    }
    assert_eq!(b.arena.free_bytes(), ARENA_BYTES);
}

fn lanes_do_not_disturb_each_other<R: Rig>(rig: &R) {
    let (mut a, mut b) = connected(rig);
    let (first_a, first_b) = (a.lane, b.lane);
    connect(&mut a, &mut b, |key, length| (key, length));
    assert!(a.lane != first_a && b.lane != first_b);
    b.fabric.close_lane(first_b).unwrap();
    let slot = b.arena.lease(0, 8192).unwrap();
    a.write(&mut b, 8192, &slot, 5).unwrap();
    assert_eq!(b.arrival(rig, &mut a), (5, 8192));
    assert_eq!(slot.as_slice(), pattern(8192, 5));
    assert_eq!(a.written(rig, &mut b).0, 5);
}

fn an_end_of_another_kind_is_refused<R: Rig>(rig: &R) {
    let (mut a, _b) = ends(rig);
    let listener = ListenerAddress { ip: [0; 16], port: 1, token: 0, key: 0, base: 0, length: 1 };
    let worker = WorkerAddress { address: vec![0; 40], token: 0 };
    let pair = QueuePairAddress {
        gid: [0; 16],
        lid: 0,
        queue_pair: 1,
        packet_sequence_number: 0,
        mtu_bytes: 4096,
        key: 0,
        base: 0,
        length: 1,
    };
    let others = [LaneAddress::QueuePair(pair), LaneAddress::Listener(listener), LaneAddress::Worker(worker)];
    for address in others {
        let (lane, own) = a.fabric.open_lane().unwrap();
        a.lane = lane;
        if std::mem::discriminant(&own) != std::mem::discriminant(&address) {
            assert!(!a.fabric.reaches(&address));
            let refused = a.fabric.connect(a.lane, &address).unwrap_err();
            assert!(matches!(refused, LaneError::OtherKind | LaneError::Ucx(_)), "{refused}");
            let refused = a.write_to(1, RemoteSlot { offset: 0, length: 1 }, 1).unwrap_err();
            assert!(matches!(refused, LaneError::NoLane), "{refused}");
        }
    }
}

fn endpoints_move_pieces_both_ways<R: Rig>(rig: &R) {
    const PIECES: u32 = 30;
    let now = Instant::from_micros(1);
    let arenas = [(); 2].map(|()| Arena::new(ARENA_BYTES, 1).unwrap());
    let mut ends = [0, 1].map(|end| Endpoint::new(rig.open(end, &arenas[end], endpoint::ROOM)));
    let [(a, from_a), (b, from_b)] = [0, 1].map(|end: usize| ends[end].offer(now).unwrap());
    ends[0].accept(a, &from_b, now).unwrap();
    ends[1].accept(b, &from_a, now).unwrap();
    let lanes = [a, b];
    for tag in 0..PIECES {
        for (receiver, sender) in [(0, 1), (1, 0)] {
            let slot = arenas[receiver].lease(0, 65_536).unwrap();
            let to = ends[receiver].grant(lanes[receiver], tag, slot, now).unwrap();
            let write = Write { lease: patterned(&arenas[sender], 65_536, tag), length: 65_536, to, tag };
            ends[sender].write(lanes[sender], write, now).unwrap();
        }
    }
    let mut seen = [(0, 0); 2];
    while seen != [(PIECES, PIECES); 2] {
        for (end, event) in events_of_both(rig, &mut ends, now) {
            match event {
                LaneEvent::Sent { .. } => seen[end].0 += 1,
                LaneEvent::Arrived { tag, bytes, lease, was_revoked, .. } => {
                    assert_eq!((bytes, was_revoked), (65_536, false));
                    assert_eq!(lease.as_slice(), pattern(65_536, tag));
                    seen[end].1 += 1;
                }
                LaneEvent::Broken { error, .. } => panic!("{error}"),
            }
        }
    }
    assert_eq!(arenas.each_ref().map(Arena::free_bytes), [ARENA_BYTES; 2]);
    ends[0].close(a);
    let broken = ends[0].poll(now).0;
    assert!(matches!(&broken[..], [LaneEvent::Broken { error: LaneError::Closed, .. }]), "{broken:?}");
}

/// What has happened at the endpoints, which must be something. Each has writes that wait until it is polled.
fn events_of_both<R: Rig>(
    rig: &R,
    ends: &mut [Endpoint<R::Fabric>; 2],
    now: Instant,
) -> Vec<(usize, LaneEvent)> {
    loop {
        ends.iter_mut().for_each(|end| end.arm().unwrap());
        let polled = ends.each_mut().map(|end| end.poll(now).0);
        let events: Vec<_> = (0..)
            .zip(polled)
            .flat_map(|(end, events)| events.into_iter().map(move |event| (end, event)))
            .collect();
        if !events.is_empty() {
            return events;
        }
        rig.await_readable(&ends.each_ref().map(|end| end.descriptors()).concat());
    }
}
