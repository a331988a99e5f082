//! What only lanes that are connected by address can show: calls of strangers, ends that do not answer, and ends that are
//! given up at every step. Without an iWARP device each test says so and passes.

use std::time::Duration;

use flow::wire::lane::{LaneAddress, ListenerAddress};
use memory::Arena;

use super::device::{await_readable, iwarp};
use crate::transport::lanes::error::LaneError;
use crate::transport::lanes::fabric::{Adapter, Completion, Fabric, Health, LaneId, RemoteSlot, Room, Write};
use crate::transport::lanes::model::{pattern, patterned};

const ROOM: Room = Room { lanes: 4, writes_per_lane: 4, receives_per_lane: 4 };
const ARENA_BYTES: u64 = 16 << 20;
const SLOT: RemoteSlot = RemoteSlot { offset: 0, length: 4096 };

/// Both ends of a lane that is offered.
struct Two {
    arenas: [Arena; 2],
    fabrics: [Box<dyn Fabric>; 2],
    lanes: [LaneId; 2],
    offers: [ListenerAddress; 2],
}

impl Two {
    /// Two ends, if there is a device: the first calls the second.
    fn offered() -> Option<Self> {
        let arenas = [(); 2].map(|()| Arena::new(ARENA_BYTES, 1).unwrap());
        let [first, second] = arenas.each_ref().map(|arena| iwarp(arena)?.open(ROOM).ok());
        let mut two = Self {
            arenas,
            fabrics: [first?, second?],
            lanes: [LaneId(0); 2],
            offers: [ListenerAddress { ip: [0; 16], port: 0, token: 0, key: 0, base: 0, length: 0 }; 2],
        };
        two.offer();
        Some(two)
    }

    fn offer(&mut self) {
        for end in [0, 1] {
            let (lane, address) = self.fabrics[end].open_lane().unwrap();
            let LaneAddress::Listener(offer) = address else { panic!("{address:?}") };
            (self.lanes[end], self.offers[end]) = (lane, offer);
        }
        if self.offers[0].token < self.offers[1].token {
            self.arenas.swap(0, 1);
            self.fabrics.swap(0, 1);
            self.lanes.swap(0, 1);
            self.offers.swap(0, 1);
        }
    }

    /// An end is told of the other one, as `lie` has it.
    fn connect(&mut self, end: usize, lie: impl Fn(&mut ListenerAddress)) {
        let mut offer = self.offers[1 - end];
        lie(&mut offer);
        self.fabrics[end].connect(self.lanes[end], &LaneAddress::Listener(offer)).unwrap();
    }

    fn write(&mut self, end: usize, to: RemoteSlot, tag: u32) {
        let write = Write { lease: patterned(&self.arenas[end], 4096, tag), length: 4096, to, tag };
        self.fabrics[end].write(self.lanes[end], write).unwrap();
    }

    fn poll(&mut self, end: usize) -> Vec<Completion> {
        let mut completions = Vec::new();
        assert_eq!(self.fabrics[end].health(), Health::Up);
        while self.fabrics[end].poll(&mut completions).unwrap() > 0 {}
        completions
    }

    /// What comes to an end, which must be something; the other one is polled too.
    fn comes_to(&mut self, end: usize) -> Vec<Completion> {
        loop {
            self.fabrics.iter_mut().for_each(|fabric| fabric.arm().unwrap());
            let others = self.poll(1 - end);
            assert!(others.is_empty(), "{others:?}");
            let completions = self.poll(end);
            if !completions.is_empty() {
                return completions;
            }
            let descriptors = self.fabrics.each_ref().map(|fabric| fabric.descriptors());
            await_readable(&descriptors.concat());
        }
    }

    /// Moves bytes through a lane that is made now, to see that the ends are well.
    fn are_well(&mut self) {
        self.offer();
        [0, 1].into_iter().for_each(|end| self.connect(end, |_| {}));
        let mut slot = self.arenas[1].lease(0, 4096).unwrap();
        slot.as_mut_slice().fill(0);
        self.write(0, RemoteSlot { offset: slot.offset(), length: 4096 }, 9);
        let arrived = self.comes_to(1);
        assert!(matches!(arrived[..], [Completion::Arrived { tag: 9, bytes: 4096, .. }]), "{arrived:?}");
        assert_eq!(slot.as_slice(), pattern(4096, 9));
        let written = self.comes_to(0);
        assert!(matches!(written[..], [Completion::Written { tag: 9, .. }]), "{written:?}");
    }
}

fn assert_not_connected(completions: &[Completion]) {
    match completions {
        [Completion::Failed { error: LaneError::NotConnected(_), write: Some(write), .. }] => {
            assert_eq!(write.tag, 1);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_call_with_a_token_of_nobody_is_rejected() {
    let Some(mut two) = Two::offered() else { return };
    two.connect(1, |_| {});
    // Smaller than that of the caller all the same.
    two.connect(0, |offer| offer.token ^= 1);
    two.write(0, SLOT, 1);
    assert_not_connected(&two.comes_to(0));
    two.are_well();
}

#[test]
fn a_call_of_somebody_else_is_rejected() {
    let Some(mut two) = Two::offered() else { return };
    // The other end waits for somebody with a larger token still.
    two.connect(1, |offer| offer.token = offer.token.saturating_add(1));
    two.connect(0, |_| {});
    two.write(0, SLOT, 1);
    assert_not_connected(&two.comes_to(0));
    two.are_well();
}

#[test]
fn a_token_of_a_lane_that_is_closed_opens_nothing() {
    let Some(mut two) = Two::offered() else { return };
    assert!(two.fabrics[1].close_lane(two.lanes[1]).unwrap().is_empty());
    two.connect(0, |_| {});
    two.write(0, SLOT, 1);
    assert_not_connected(&two.comes_to(0));
    two.are_well();
}

#[test]
fn a_port_that_nobody_listens_at_fails_the_lane() {
    let Some(mut two) = Two::offered() else { return };
    two.connect(0, |offer| offer.port = 9);
    two.write(0, SLOT, 1);
    assert_not_connected(&two.comes_to(0));
    two.are_well();
}

#[test]
fn what_is_not_answered_gives_its_writes_back() {
    let Some(mut two) = Two::offered() else { return };
    // The other end never learns who calls, and keeps the call.
    two.connect(0, |_| {});
    two.write(0, SLOT, 1);
    let mut completions = Vec::new();
    while completions.is_empty() {
        completions = two.poll(0);
        assert!(two.poll(1).is_empty());
        std::thread::sleep(Duration::from_millis(5));
    }
    match &completions[..] {
        [Completion::Failed { error, write: Some(_), .. }] => {
            assert!(matches!(error, LaneError::NoAnswer { .. } | LaneError::NotConnected(_)), "{error}");
        }
        other => panic!("{other:?}"),
    }
    drop(completions);
    assert_eq!(two.arenas[0].free_bytes(), ARENA_BYTES);
    two.are_well();
}

#[test]
fn an_end_may_be_given_up_after_any_number_of_polls() {
    for polls in 0..12 {
        for end in [0, 1] {
            let Some(mut two) = Two::offered() else { return };
            let slots = two.arenas.each_ref().map(|arena| arena.lease(0, 4096).unwrap());
            [0, 1].into_iter().for_each(|end| two.connect(end, |_| {}));
            for end in [0, 1] {
                let to = RemoteSlot { offset: slots[1 - end].offset(), length: 4096 };
                two.write(end, to, 1);
            }
            for _ in 0..polls {
                [0, 1].into_iter().for_each(|end| drop(two.poll(end)));
                std::thread::sleep(Duration::from_micros(300));
            }
            drop(two.fabrics[end].close_lane(two.lanes[end]).unwrap());
            // Nothing is written to a slot that is the caller's again.
            let [mut first, mut second] = slots;
            let slot = if end == 0 { &mut first } else { &mut second };
            slot.as_mut_slice().fill(0);
            for _ in 0..20 {
                [0, 1].into_iter().for_each(|end| drop(two.poll(end)));
                std::thread::sleep(Duration::from_micros(300));
            }
            assert!(
                slot.as_slice().iter().all(|byte| *byte == 0),
                "it was written after the lane was closed"
            );
            drop((first, second));
            drop(two.fabrics[1 - end].close_lane(two.lanes[1 - end]).unwrap());
            [0, 1].into_iter().for_each(|end| drop(two.poll(end)));
            two.are_well();
        }
    }
}
