//! Two nodes with one lane after the other, in a world where peers die, links fail, slots are revoked, completions are
//! lost and come twice. Whatever happens: a slot that was given back is not written any more, every write that was taken
//! has one end, and all memory comes back.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use flow::time::Instant;
use flow::wire::lane::LaneAddress;
use memory::Arena;
use proptest::prelude::*;

use crate::transport::lanes::endpoint::{Endpoint, LaneEvent};
use crate::transport::lanes::error::LaneError;
use crate::transport::lanes::fabric::{Health, LaneId, RemoteSlot, Room, Unsent, Write};
use crate::transport::lanes::model::{Faults, ModelFabric, Network, pattern, patterned};

const ROOM: Room = Room { lanes: 4, writes_per_lane: 2, receives_per_lane: 6 };
const ARENA_BYTES: u64 = 16 << 20;
const SLOT_BYTES: u32 = 6000;

/// What nodes tell each other over their connection. Each names the lane by a number that both have for it.
#[derive(Debug)]
enum Letter {
    Offer(LaneAddress),
    Answer(LaneAddress),
    Grant { tag: u32, to: RemoteSlot },
    Revoke { tag: u32 },
    Decline { tag: u32 },
    Closed,
}

struct Side {
    endpoint: Endpoint<ModelFabric>,
    /// Lanes by the number that both sides have for them.
    lanes: BTreeMap<u32, LaneId>,
    /// Slots that were granted and not given back, as a device may write to them.
    granted: BTreeMap<(LaneId, u32), (u64, u32)>,
    revoked: Vec<(u32, u32)>,
    /// Writes that the endpoint took and did not end.
    writing: Vec<(LaneId, u32)>,
}

struct World {
    network: Network,
    arenas: [Arena; 2],
    /// None when its process was killed.
    sides: [Option<Side>; 2],
    /// What is on its way to each side, in order.
    mail: [VecDeque<(u32, Letter)>; 2],
    now: Instant,
    next: u32,
}

/// What a test makes happen.
#[derive(Debug, Clone, Copy)]
enum Act {
    Connect,
    Grant(usize),
    Revoke(usize),
    Deliver(usize),
    Step(u8),
    Poll(usize),
    Close(usize),
    Health(usize, bool),
    Later(u8),
    Kill(usize),
    Gone(usize),
}

impl World {
    fn new(seed: u64, faults: Faults) -> Self {
        let network = Network::new(seed, faults);
        let arenas = [(); 2].map(|()| Arena::new(ARENA_BYTES, 1).unwrap());
        let sides = arenas.each_ref().map(|arena| {
            Some(Side {
                endpoint: Endpoint::new(network.open(arena, ROOM)),
                lanes: BTreeMap::new(),
                granted: BTreeMap::new(),
                revoked: Vec::new(),
                writing: Vec::new(),
            })
        });
        Self { network, arenas, sides, mail: Default::default(), now: Instant::from_micros(1), next: 0 }
    }

    fn act(&mut self, act: Act) {
        self.now = self.now + Duration::from_micros(100);
        match act {
            Act::Connect => self.connect(),
            Act::Grant(side) => self.grant(side),
            Act::Revoke(side) => self.revoke(side),
            Act::Deliver(side) => self.deliver(side),
            Act::Step(count) => (0..count).for_each(|_| _ = self.network.step()),
            Act::Poll(side) => self.poll(side),
            Act::Close(side) => {
                if let Some(Side { endpoint, lanes, .. }) = &mut self.sides[side] {
                    lanes.values().for_each(|lane| endpoint.close(*lane));
                }
            }
            Act::Health(side, is_up) => {
                let health = if is_up { Health::Up } else { Health::PortDown };
                self.network.set_health(side, health);
            }
            Act::Later(seconds) => self.now = self.now + Duration::from_secs(seconds.into()),
            Act::Kill(side) => self.kill(side),
            Act::Gone(side) => self.network.set_health(side, Health::Gone),
        }
        self.declare();
    }

    /// Tells the network where it may write.
    fn declare(&self) {
        for (node, side) in (0..).zip(&self.sides) {
            let granted = side.as_ref().map(|side| side.granted.values().copied().collect());
            self.network.set_writable(node, granted.unwrap_or_default());
        }
    }

    fn send(&mut self, to: usize, lane: u32, letter: Letter) {
        if self.sides[to].is_some() {
            self.mail[to].push_back((lane, letter));
        }
    }

    fn connect(&mut self) {
        self.next += 1;
        let (number, now) = (self.next, self.now);
        let Some(side) = &mut self.sides[0] else { return };
        let Ok((lane, offer)) = side.endpoint.offer(now) else { return };
        side.lanes.insert(number, lane);
        self.send(1, number, Letter::Offer(offer));
    }

    fn grant(&mut self, at: usize) {
        self.next += 1;
        let (tag, now) = (self.next, self.now);
        let Some(side) = &mut self.sides[at] else { return };
        let Some((&number, &lane)) = side.lanes.last_key_value() else { return };
        let mut slot = self.arenas[at].lease(0, SLOT_BYTES).unwrap();
        slot.as_mut_slice().fill(0);
        let Ok(to) = side.endpoint.grant(lane, tag, slot, now) else { return };
        side.granted.insert((lane, tag), (to.offset, to.length));
        self.send(1 - at, number, Letter::Grant { tag, to });
    }

    fn revoke(&mut self, at: usize) {
        let now = self.now;
        let Some(side) = &mut self.sides[at] else { return };
        let Some((&(lane, tag), _)) = side.granted.first_key_value() else { return };
        let number = side.lanes.iter().find(|(_, of)| **of == lane).map(|(number, _)| *number);
        let Some(number) = number else { return };
        // A lane that is closing still has its slots.
        if side.endpoint.revoke(lane, tag, now) && !side.revoked.contains(&(number, tag)) {
            side.revoked.push((number, tag));
            self.send(1 - at, number, Letter::Revoke { tag });
        }
    }

    fn deliver(&mut self, at: usize) {
        let Some((number, letter)) = self.mail[at].pop_front() else { return };
        let now = self.now;
        let Some(side) = &mut self.sides[at] else { return };
        let Some(&lane) = side.lanes.get(&number) else {
            if let Letter::Offer(offer) = letter {
                self.answer(at, number, &offer);
            }
            return;
        };
        match letter {
            Letter::Offer(_) => panic!("an offer came twice"),
            Letter::Answer(offer) => {
                if side.endpoint.accept(lane, &offer, now).is_err() {
                    side.lanes.remove(&number);
                    self.send(1 - at, number, Letter::Closed);
                }
            }
            Letter::Grant { tag, to } => {
                let lease = patterned(&self.arenas[at], SLOT_BYTES, tag);
                match side.endpoint.write(lane, Write { lease, length: SLOT_BYTES, to, tag }, now) {
                    Ok(()) => side.writing.push((lane, tag)),
                    Err(_) => self.send(1 - at, number, Letter::Decline { tag }),
                }
            }
            Letter::Revoke { tag } => {
                if side.endpoint.cancel(lane, tag).is_some() {
                    side.end_writing(lane, tag);
                    self.send(1 - at, number, Letter::Decline { tag });
                }
            }
            Letter::Decline { tag } => {
                if side.endpoint.declined(lane, tag).is_some() {
                    assert!(side.granted.remove(&(lane, tag)).is_some(), "a slot was given back twice");
                }
            }
            Letter::Closed => side.endpoint.close(lane),
        }
    }

    fn answer(&mut self, at: usize, number: u32, offer: &LaneAddress) {
        let now = self.now;
        let Some(side) = &mut self.sides[at] else { return };
        let made = side.endpoint.offer(now).and_then(|(lane, own)| {
            side.endpoint.accept(lane, offer, now)?;
            Ok((lane, own))
        });
        match made {
            Ok((lane, own)) => {
                side.lanes.insert(number, lane);
                self.send(1 - at, number, Letter::Answer(own));
            }
            Err(_) => self.send(1 - at, number, Letter::Closed),
        }
    }

    fn poll(&mut self, at: usize) {
        let now = self.now;
        let Some(side) = &mut self.sides[at] else { return };
        let (events, _) = side.endpoint.poll(now);
        for event in events {
            let Some(side) = &mut self.sides[at] else { return };
            match event {
                LaneEvent::Sent { lane, tag, lease } => {
                    assert_eq!(lease.as_slice(), pattern(SLOT_BYTES, tag), "another lease");
                    side.end_writing(lane, tag);
                }
                LaneEvent::Arrived { lane, tag, bytes, lease, .. } => {
                    assert!(side.granted.remove(&(lane, tag)).is_some(), "a slot was given back twice");
                    assert_eq!(bytes, SLOT_BYTES);
                    assert_eq!(lease.as_slice(), pattern(SLOT_BYTES, tag), "other bytes than were sent");
                }
                LaneEvent::Broken { lane, error, unsent, slots } => {
                    assert!(!matches!(error, LaneError::ReceiverNotReady), "a receive was missing");
                    for Unsent { tag, lease } in unsent {
                        assert_eq!(lease.as_slice(), pattern(SLOT_BYTES, tag), "another lease");
                        side.end_writing(lane, tag);
                    }
                    assert!(!side.writing.iter().any(|(of, _)| *of == lane), "a write has no end");
                    for (tag, _) in &slots {
                        assert!(side.granted.remove(&(lane, *tag)).is_some(), "a slot was given back twice");
                    }
                    assert!(!side.granted.keys().any(|(of, _)| *of == lane), "a slot is kept for ever");
                    let number = side.lanes.iter().find(|(_, of)| **of == lane).map(|(number, _)| *number);
                    if let Some(number) = number {
                        side.lanes.remove(&number);
                        self.send(1 - at, number, Letter::Closed);
                    }
                }
            }
        }
    }

    fn kill(&mut self, at: usize) {
        self.network.kill(at);
        self.mail[at].clear();
        let Some(side) = self.sides[at].take() else { return };
        // The process is gone; that its memory is freed here is the test's affair.
        drop(side.endpoint);
        // Connections of a process that is gone are closed, which the other one sees after what was sent before.
        for number in side.lanes.keys() {
            self.send(1 - at, *number, Letter::Closed);
        }
    }

    /// Lets everything happen that still can, and checks what must hold then.
    fn end(mut self) {
        for _ in 0..12 {
            for side in [0, 1] {
                while !self.mail[side].is_empty() && self.sides[side].is_some() {
                    self.act(Act::Deliver(side));
                }
                self.act(Act::Step(200));
                self.act(Act::Poll(side));
            }
        }
        // Far beyond all patience.
        for side in [0, 1, 0, 1] {
            self.act(Act::Later(60));
            self.act(Act::Poll(side));
            self.act(Act::Poll(side));
        }
        assert_eq!(self.network.trespasses(), 0, "memory was written after it was given back");
        for side in self.sides.iter().flatten() {
            assert!(side.writing.is_empty(), "writes have no end: {:?}", side.writing);
        }
        let World { arenas, sides, network, .. } = self;
        drop(sides);
        network.settle();
        assert_eq!(arenas.each_ref().map(Arena::free_bytes), [ARENA_BYTES; 2], "memory did not come back");
    }
}

impl Side {
    fn end_writing(&mut self, lane: LaneId, tag: u32) {
        let at = self.writing.iter().position(|write| *write == (lane, tag));
        self.writing.swap_remove(at.expect("a write ends once"));
    }
}

/// What happens without faults: both sides grant, and everything arrives.
fn script() -> Vec<Act> {
    use Act::*;
    let mut acts = vec![Connect, Deliver(1), Deliver(0)];
    for _ in 0..4 {
        acts.extend([Grant(0), Grant(1), Grant(0), Deliver(1), Deliver(1), Deliver(0), Step(3)]);
        acts.extend([Poll(0), Revoke(1), Deliver(0), Deliver(1), Step(4), Poll(1), Poll(0)]);
    }
    acts
}

#[test]
fn nothing_is_lost_when_nothing_fails() {
    let mut world = World::new(5, Faults::default());
    script().into_iter().filter(|act| !matches!(act, Act::Revoke(_))).for_each(|act| world.act(act));
    for _ in 0..20 {
        [0, 1].into_iter().for_each(|side| world.act(Act::Deliver(side)));
        world.act(Act::Step(100));
        [0, 1].into_iter().for_each(|side| world.act(Act::Poll(side)));
    }
    for side in world.sides.iter().flatten() {
        assert!(side.granted.is_empty() && side.writing.is_empty() && side.lanes.len() == 1);
    }
    world.end();
}

#[test]
fn a_peer_may_die_a_port_go_down_and_a_device_vanish_at_every_step() {
    let script = script();
    for at in 0..=script.len() {
        for side in [0, 1] {
            for fault in [Act::Kill(side), Act::Health(side, false), Act::Gone(side), Act::Close(side)] {
                let mut world = World::new(at as u64, Faults::default());
                script[..at].iter().for_each(|act| world.act(*act));
                world.act(fault);
                script[at..].iter().for_each(|act| world.act(*act));
                world.end();
            }
        }
    }
}

fn act() -> impl Strategy<Value = Act> {
    let side = 0..2_usize;
    prop_oneof![
        2 => Just(Act::Connect),
        12 => side.clone().prop_map(Act::Grant),
        3 => side.clone().prop_map(Act::Revoke),
        20 => side.clone().prop_map(Act::Deliver),
        16 => (1..8_u8).prop_map(Act::Step),
        12 => side.clone().prop_map(Act::Poll),
        1 => side.clone().prop_map(Act::Close),
        2 => (side.clone(), any::<bool>()).prop_map(|(side, is_up)| Act::Health(side, is_up)),
        1 => (0..40_u8).prop_map(Act::Later),
        1 => side.clone().prop_map(Act::Gone),
        1 => side.prop_map(Act::Kill),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn no_slot_is_written_after_it_was_given_back(
        seed in any::<u64>(),
        lost in 0..40_u8,
        twice in 0..40_u8,
        broken in 0..10_u8,
        acts in proptest::collection::vec(act(), 0..150),
    ) {
        let mut world = World::new(seed, Faults { lost, twice, broken, late: 0 });
        [Act::Connect, Act::Deliver(1), Act::Deliver(0)].into_iter().for_each(|act| world.act(act));
        acts.into_iter().for_each(|act| world.act(act));
        world.end();
    }
}
