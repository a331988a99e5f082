//! The model conforms, and endpoints keep to their limits on it.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use flow::time::Instant;
use memory::Arena;
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::transport::lanes::conformance::{self, Rig};
use crate::transport::lanes::endpoint::{Endpoint, LaneEvent, ROOM as SHARD};
use crate::transport::lanes::error::LaneError;
use crate::transport::lanes::fabric::{Health, LaneId, Room, Write};
use crate::transport::lanes::model::{Faults, ModelFabric, Network, pattern, patterned};

const NOW: Instant = Instant::from_micros(1);

impl Rig for Network {
    type Fabric = ModelFabric;

    fn open(&self, _end: usize, arena: &Arena, room: Room) -> ModelFabric {
        self.open(arena, room)
    }

    fn await_readable(&self, descriptors: &[BorrowedFd<'_>]) {
        let is_readable = || {
            let polled =
                descriptors.iter().map(|descriptor| PollFd::from_borrowed_fd(*descriptor, PollFlags::IN));
            let mut descriptors: Vec<PollFd<'_>> = polled.collect();
            rustix::event::poll(&mut descriptors, Some(&Timespec::default())).unwrap() > 0
        };
        while !is_readable() {
            assert!(self.step(), "nothing comes");
        }
    }
}

#[test]
fn the_model_conforms() {
    (0..8).for_each(|seed| conformance::check(|| Network::new(seed, Faults::default())));
}

/// Two endpoints with one lane.
struct Two {
    network: Network,
    arenas: [Arena; 2],
    ends: [Endpoint<ModelFabric>; 2],
    lanes: [LaneId; 2],
}

fn two(room: Room) -> Two {
    let network = Network::new(1, Faults::default());
    let arenas = [(); 2].map(|()| Arena::new(16 << 20, 1).unwrap());
    let ends = arenas.each_ref().map(|arena| Endpoint::new(network.open(arena, room)));
    let mut two = Two { network, arenas, ends, lanes: [LaneId(0); 2] };
    two.lanes = two.connect(NOW);
    two
}

impl Two {
    fn connect(&mut self, now: Instant) -> [LaneId; 2] {
        let [(a, from_a), (b, from_b)] = self.ends.each_mut().map(|end| end.offer(now).unwrap());
        self.ends[0].accept(a, &from_b, now).unwrap();
        self.ends[1].accept(b, &from_a, now).unwrap();
        [a, b]
    }

    /// The second end grants a slot, and the first writes into it.
    fn write(&mut self, tag: u32) {
        let slot = self.arenas[1].lease(0, 4096).unwrap();
        let to = self.ends[1].grant(self.lanes[1], tag, slot, NOW).unwrap();
        let write = Write { lease: patterned(&self.arenas[0], 4096, tag), length: 4096, to, tag };
        self.ends[0].write(self.lanes[0], write, NOW).unwrap();
    }

    fn free_bytes(&self) -> [u64; 2] {
        self.arenas.each_ref().map(Arena::free_bytes)
    }
}

const ROOM: Room = Room { lanes: 2, writes_per_lane: 2, receives_per_lane: 8 };

#[test]
fn what_exceeds_the_writes_of_a_lane_waits_in_order_and_can_be_taken_back() {
    let mut two = two(ROOM);
    (0..6).for_each(|tag| two.write(tag));
    assert_eq!(two.ends[0].load(two.lanes[0]), Some(6));
    assert!(two.ends[0].cancel(two.lanes[0], 1).is_none(), "it is under way");
    assert!(two.ends[0].cancel(two.lanes[0], 4).is_some());
    assert!(two.ends[1].declined(two.lanes[1], 4).is_some());
    let mut sent = Vec::new();
    for _ in 0..10 {
        two.network.settle();
        sent.extend(two.ends[0].poll(NOW).0.into_iter().map(|event| match event {
            LaneEvent::Sent { tag, .. } => tag,
            other => panic!("{other:?}"),
        }));
    }
    assert!(sent[..2].contains(&0) && sent[4] == 5 && sent.len() == 5, "{sent:?}");
    drop(two.ends[1].poll(NOW));
    while !two.ends[1].poll(NOW).0.is_empty() {}
    assert_eq!(two.free_bytes(), [16 << 20; 2]);
}

#[test]
fn a_tag_is_one_at_a_time() {
    let mut two = two(ROOM);
    two.write(7);
    let slot = two.arenas[1].lease(0, 4096).unwrap();
    let (error, slot) = two.ends[1].grant(two.lanes[1], 7, slot, NOW).unwrap_err();
    assert!(matches!(error, LaneError::TagInUse { tag: 7 }), "{error}");
    let to = two.ends[1].grant(two.lanes[1], 8, slot, NOW).unwrap();
    let write = Write { lease: patterned(&two.arenas[0], 4096, 7), length: 4096, to, tag: 7 };
    let refused = two.ends[0].write(two.lanes[0], write, NOW).unwrap_err();
    assert!(matches!(refused.error, LaneError::TagInUse { tag: 7 }));
}

#[test]
fn the_lane_that_was_idle_longest_makes_room_and_one_in_use_does_not() {
    let later = NOW + Duration::from_secs(2);
    let mut two = two(ROOM);
    let second = two.connect(NOW);
    assert!(
        matches!(two.ends[0].offer(NOW), Err(LaneError::TooManyLanes { lanes: 2 })),
        "it was used just before"
    );
    two.write(1);
    let (third, _) = two.ends[0].offer(later).unwrap();
    let events = two.ends[0].poll(later).0;
    assert!(
        matches!(&events[..], [LaneEvent::Broken { lane, error: LaneError::Reclaimed, .. }] if *lane == second[0]),
        "{events:?}"
    );
    two.ends[0].close(third);
    two.ends[0].offer(later).unwrap();
}

#[test]
fn all_lanes_end_when_the_port_goes_down_and_others_are_made_when_it_is_back() {
    let mut two = two(ROOM);
    two.write(1);
    two.network.set_health(0, Health::PortDown);
    let events = two.ends[0].poll(NOW).0;
    let [LaneEvent::Broken { error: LaneError::PortDown { .. }, unsent, .. }] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!(unsent.len(), 1);
    assert_eq!(two.ends[0].health(), Health::PortDown);
    assert!(matches!(two.ends[0].offer(NOW), Err(LaneError::PortDown { .. })));
    two.ends[1].close(two.lanes[1]);
    drop(two.ends[1].poll(NOW));
    two.network.set_health(0, Health::Up);
    assert!(two.ends[0].poll(NOW).0.is_empty());
    assert_eq!(two.ends[0].health(), Health::Up);
    two.lanes = two.connect(NOW);
    two.write(2);
    two.network.settle();
    assert!(matches!(&two.ends[1].poll(NOW).0[..], [LaneEvent::Arrived { tag: 2, .. }]));
}

#[test]
fn a_device_that_is_gone_gives_everything_back_and_stays_gone() {
    let mut two = two(ROOM);
    (0..4).for_each(|tag| two.write(tag));
    two.network.set_health(0, Health::Gone);
    let events = two.ends[0].poll(NOW).0;
    let [LaneEvent::Broken { error: LaneError::DeviceGone { .. }, unsent, .. }] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!(unsent.len(), 4);
    assert!(matches!(two.ends[0].offer(NOW), Err(LaneError::DeviceGone { .. })));
    drop(events);
    assert_eq!(two.free_bytes()[0], 16 << 20);
}

#[test]
fn a_write_whose_completion_is_lost_is_given_up_after_a_while() {
    let network = Network::new(3, Faults { lost: 255, ..Faults::default() });
    let mut two = Two { network: network.clone(), ..two(ROOM) };
    two.ends = two.arenas.each_ref().map(|arena| Endpoint::new(network.open(arena, ROOM)));
    two.lanes = two.connect(NOW);
    two.write(1);
    network.settle();
    assert!(two.ends[0].poll(NOW).0.is_empty());
    let deadline = two.ends[0].deadline().unwrap();
    let events = two.ends[0].poll(deadline).0;
    assert!(
        matches!(&events[..], [LaneEvent::Broken { error: LaneError::NoCompletion { .. }, unsent, .. }] if unsent.len() == 1),
        "{events:?}"
    );
    assert_eq!(two.ends[0].deadline(), None);
}

#[test]
fn a_revoked_slot_comes_back_late_or_costs_the_lane() {
    let mut two = two(ROOM);
    two.write(1);
    assert!(two.ends[1].revoke(two.lanes[1], 1, NOW));
    assert!(two.ends[1].poll(NOW).0.is_empty(), "it is kept");
    assert_eq!(two.free_bytes()[1], (16 << 20) - 4096);
    two.network.settle();
    let events = two.ends[1].poll(NOW).0;
    let [LaneEvent::Arrived { tag: 1, lease, was_revoked: true, .. }] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!(lease.as_slice(), pattern(4096, 1));
    let slot = two.arenas[1].lease(0, 4096).unwrap();
    two.ends[1].grant(two.lanes[1], 2, slot, NOW).unwrap();
    two.ends[1].revoke(two.lanes[1], 2, NOW);
    let deadline = two.ends[1].deadline().unwrap();
    let events = two.ends[1].poll(deadline).0;
    assert!(
        matches!(&events[..], [LaneEvent::Broken { error: LaneError::SlotKept { .. }, slots, .. }] if slots.len() == 1),
        "{events:?}"
    );
}

#[test]
fn memory_behind_a_queue_pair_that_cannot_be_closed_is_never_used_again() {
    let mut two = two(ROOM);
    two.write(1);
    two.network.stick(1);
    two.ends[1].close(two.lanes[1]);
    let events = two.ends[1].poll(NOW).0;
    assert!(matches!(&events[..], [LaneEvent::Broken { slots, .. }] if slots.is_empty()), "{events:?}");
    drop(events);
    let Two { arenas, ends, network, .. } = two;
    drop(ends);
    network.settle();
    assert_eq!(arenas[1].free_bytes(), (16 << 20) - 4096);
}

#[test]
fn a_write_behind_a_key_that_was_changed_breaks_the_lane_and_changes_nothing() {
    let mut two = two(ROOM);
    two.network.change_key(1);
    two.write(1);
    two.network.settle();
    let events = two.ends[0].poll(NOW).0;
    assert!(matches!(&events[..], [LaneEvent::Broken { error: LaneError::RemoteAccess, .. }]), "{events:?}");
    let events = two.ends[1].poll(NOW).0;
    let [LaneEvent::Broken { slots, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!(slots[0].1.as_slice(), [0; 4096]);
}

/// Thousands of peers take turns on the lanes of a shard: each piece flows, and queue pairs stay within their bound at
/// both ends.
#[test]
fn a_thousand_peers_share_the_lanes_of_a_shard() {
    const PEERS: usize = 1000;
    let network = Network::new(1, Faults::default());
    let [ours, theirs] = [(); 2].map(|()| Arena::new(64 << 20, 1).unwrap());
    let mut hub = Endpoint::new(network.open(&ours, SHARD));
    let open = |_| Endpoint::new(network.open(&theirs, Room { lanes: 1, ..ROOM }));
    let mut peers: Vec<Endpoint<ModelFabric>> = (0..PEERS).map(open).collect();
    let mut ends: BTreeMap<LaneId, (usize, LaneId)> = BTreeMap::new();
    let mut now = NOW;
    let mut arrived = 0;
    for turn in 0..2 * PEERS as u32 {
        now = now + Duration::from_millis(10);
        let at = turn as usize % PEERS;
        let (lane, from_hub) = hub.offer(now).unwrap();
        let (end, from_peer) = peers[at].offer(now).unwrap();
        hub.accept(lane, &from_peer, now).unwrap();
        peers[at].accept(end, &from_hub, now).unwrap();
        ends.insert(lane, (at, end));
        let to = hub.grant(lane, turn, ours.lease(0, 4096).unwrap(), now).unwrap();
        let write = Write { lease: patterned(&theirs, 4096, turn), length: 4096, to, tag: turn };
        peers[at].write(end, write, now).unwrap();
        network.settle();
        drop(peers[at].poll(now));
        loop {
            let (events, _) = hub.poll(now);
            if events.is_empty() {
                break;
            }
            for event in events {
                match event {
                    LaneEvent::Arrived { tag, lease, .. } => {
                        assert_eq!(lease.as_slice(), pattern(4096, tag));
                        arrived += 1;
                    }
                    LaneEvent::Broken { lane, error: LaneError::Reclaimed, .. } => {
                        // The peer is told over their connection.
                        let (peer, end) = ends.remove(&lane).unwrap();
                        peers[peer].close(end);
                        drop(peers[peer].poll(now));
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        assert!(ends.len() <= SHARD.lanes && network.queue_pairs(0) <= SHARD.lanes);
        let at_peers: usize = (1..=PEERS).map(|node| network.queue_pairs(node)).sum();
        assert!(at_peers <= SHARD.lanes, "an end is left over");
    }
    assert_eq!(arrived, 2 * PEERS);
    assert_eq!(network.queue_pairs(0), SHARD.lanes);
}
