//! Two ends of a lane, each with a device and an arena, and what they wait for.

use std::os::fd::BorrowedFd;

use flow::wire::lane::LaneAddress;
use memory::{Arena, Lease, SharedLease};

use super::{ARENA_BYTES, ROOM, Rig};
use crate::transport::lanes::error::LaneError;
use crate::transport::lanes::fabric::{Completion, Fabric, Health, LaneId, RemoteSlot, Room, Write};
use crate::transport::lanes::model::patterned;

/// The tag of what a lane carries when it is made.
const FIRST_TAG: u32 = u32::MAX;

/// One end of a lane.
pub(super) struct End<F> {
    pub(super) arena: Arena,
    pub(super) fabric: F,
    pub(super) lane: LaneId,
    /// What completed and was not asked for yet.
    pub(super) taken: Vec<Completion>,
}

pub(super) fn ends<R: Rig>(rig: &R) -> (End<R::Fabric>, End<R::Fabric>) {
    ends_with(rig, ROOM)
}

pub(super) fn ends_with<R: Rig>(rig: &R, room: Room) -> (End<R::Fabric>, End<R::Fabric>) {
    let open = |end| {
        let arena = Arena::new(ARENA_BYTES, 1).unwrap();
        let fabric = rig.open(end, &arena, room);
        assert_eq!(fabric.room(), room);
        End { arena, fabric, lane: LaneId(u64::MAX), taken: Vec::new() }
    };
    (open(0), open(1))
}

/// Two ends of a lane that has carried something both ways.
pub(super) fn connected<R: Rig>(rig: &R) -> (End<R::Fabric>, End<R::Fabric>) {
    let (mut a, mut b) = ends(rig);
    connect(&mut a, &mut b, |key, length| (key, length));
    move_a_byte(rig, &mut a, &mut b);
    move_a_byte(rig, &mut b, &mut a);
    (a, b)
}

fn move_a_byte<R: Rig>(rig: &R, from: &mut End<R::Fabric>, to: &mut End<R::Fabric>) {
    let slot = to.arena.lease(0, 1).unwrap();
    from.write(to, 1, &slot, FIRST_TAG).unwrap();
    assert_eq!(to.arrival(rig, from), (FIRST_TAG, 1));
    assert_eq!(from.written(rig, to).0, FIRST_TAG);
}

/// Makes a lane between two ends. The second's key and length are told to the first as `lie` has them.
pub(super) fn connect<F: Fabric>(a: &mut End<F>, b: &mut End<F>, lie: impl Fn(u32, u64) -> (u32, u64)) {
    let ((lane_a, offer_a), (lane_b, mut offer_b)) =
        (a.fabric.open_lane().unwrap(), b.fabric.open_lane().unwrap());
    let (key, length) = match &mut offer_b {
        LaneAddress::QueuePair(address) => (&mut address.key, &mut address.length),
        LaneAddress::Listener(address) => (&mut address.key, &mut address.length),
        LaneAddress::Worker(address) => {
            // What stands for a key is the token.
            address.token ^= u64::from(lie(0, 0).0);
            (&mut 0, &mut 0)
        }
    };
    (*key, *length) = lie(*key, *length);
    a.fabric.connect(lane_a, &offer_b).unwrap();
    b.fabric.connect(lane_b, &offer_a).unwrap();
    (a.lane, b.lane) = (lane_a, lane_b);
}

pub(super) fn cleared(arena: &Arena) -> Lease {
    let mut slot = arena.lease(0, 4096).unwrap();
    slot.as_mut_slice().fill(0);
    slot
}

impl<F: Fabric> End<F> {
    /// Writes into a slot that the other end has granted.
    pub(super) fn write(
        &mut self,
        other: &mut Self,
        length: u32,
        slot: &Lease,
        tag: u32,
    ) -> Result<(), LaneError> {
        let to = RemoteSlot { offset: slot.offset(), length: slot.length() };
        other.fabric.expect(other.lane, tag, to);
        self.write_to(length, to, tag)
    }

    pub(super) fn write_to(&mut self, length: u32, to: RemoteSlot, tag: u32) -> Result<(), LaneError> {
        let lease = match length {
            0 => SharedLease::new(self.arena.lease(0, 1).unwrap()),
            length => patterned(&self.arena, length, tag),
        };
        self.fabric.write(self.lane, Write { lease, length, to, tag }).map_err(|refused| refused.error)
    }

    /// Does what must be done until nothing of a closed lane touches memory any more.
    pub(super) fn become_quiet(&mut self, rig: &impl Rig, other: &mut Self) {
        while !self.fabric.is_quiet(self.lane) {
            for end in [&mut *self, &mut *other] {
                end.fabric.arm().unwrap();
                end.polled();
            }
            if !self.fabric.is_quiet(self.lane) {
                rig.await_readable(&[self.fabric.descriptors(), other.fabric.descriptors()].concat());
            }
        }
    }

    /// How many completions are there.
    pub(super) fn polled(&mut self) -> usize {
        assert_eq!(self.fabric.health(), Health::Up);
        while self.fabric.poll(&mut self.taken).unwrap() > 0 {}
        self.taken.len()
    }

    /// Whether nothing was told but the end of the lane.
    pub(super) fn nothing_has_come(&mut self) -> bool {
        self.polled();
        self.taken.iter().all(|completion| matches!(completion, Completion::Failed { write: None, .. }))
    }

    /// The next completion, which must come. The other end does what it must meanwhile.
    pub(super) fn completion(&mut self, rig: &impl Rig, mut other: Option<&mut Self>) -> Completion {
        loop {
            self.fabric.arm().unwrap();
            if let Some(other) = &mut other {
                other.fabric.arm().unwrap();
                other.polled();
            }
            self.polled();
            // What comes of other lanes is of no concern here.
            let is_of_this = |completion: &Completion| !matches!(completion, Completion::Failed { lane, write: None, .. } if *lane != self.lane);
            if let Some(place) = self.taken.iter().position(is_of_this) {
                return self.taken.remove(place);
            }
            let ends = [Some(&*self), other.as_deref()];
            let descriptors: Vec<BorrowedFd<'_>> =
                ends.into_iter().flatten().flat_map(|end| end.fabric.descriptors()).collect();
            rig.await_readable(&descriptors);
        }
    }

    pub(super) fn arrival(&mut self, rig: &impl Rig, other: &mut Self) -> (u32, u32) {
        match self.completion_of_lane(rig, other) {
            Completion::Arrived { lane, tag, bytes } if lane == self.lane => (tag, bytes),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn written(&mut self, rig: &impl Rig, other: &mut Self) -> (u32, SharedLease) {
        match self.completion_of_lane(rig, other) {
            Completion::Written { lane, tag, lease } if lane == self.lane => (tag, lease),
            other => panic!("{other:?}"),
        }
    }

    /// The next completion but the end of other lanes.
    fn completion_of_lane(&mut self, rig: &impl Rig, other: &mut Self) -> Completion {
        loop {
            match self.completion(rig, Some(other)) {
                Completion::Failed { lane, write: None, .. } if lane != self.lane => {}
                completion => break completion,
            }
        }
    }

    /// Why the first write that failed did. Others may be done, and receives be flushed, before it.
    pub(super) fn failure(&mut self, rig: &impl Rig, other: &mut Self) -> LaneError {
        loop {
            match self.completion(rig, Some(other)) {
                Completion::Failed { lane, error, write: Some(_) } if lane == self.lane => return error,
                // Where a device does not fail each write, they come back when this end is closed too.
                Completion::Failed { lane, error, .. } if lane == self.lane && !rig.names_memory() => {
                    return error;
                }
                Completion::Failed { write: None, .. } | Completion::Written { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
}
