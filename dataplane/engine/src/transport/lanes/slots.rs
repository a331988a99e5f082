//! Memory that peers may write to.
//!
//! ```text
//! granted ──revoke──► limbo
//!    │                  │
//!    └── arrived, declined, or the lane is closed ──► released
//! ```
//!
//! A device writes when it will, also long after whoever granted the slot has lost interest. So a slot that was revoked is
//! kept until nothing can be written to it any more: in limbo.

use std::collections::BTreeMap;

use flow::time::Instant;

use super::error::LaneError;
use super::fabric::LaneId;

/// The leases of granted slots, by lane and tag. A lease leaves it only when the peer can write to it no more.
#[derive(Debug)]
pub(crate) struct GrantedSlots<L> {
    lanes: BTreeMap<LaneId, BTreeMap<u32, Slot<L>>>,
    per_lane_max: usize,
}

#[derive(Debug)]
struct Slot<L> {
    lease: L,
    revoked: Option<Instant>,
}

/// A slot that a peer has filled.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Filled<L> {
    /// The memory.
    pub(crate) lease: L,
    /// Whether it had been revoked before the bytes came. They are whole all the same.
    pub(crate) was_revoked: bool,
}

impl<L> GrantedSlots<L> {
    /// Room for so many slots on each lane, those in limbo among them.
    pub(crate) fn new(per_lane_max: usize) -> Self {
        Self { lanes: BTreeMap::new(), per_lane_max }
    }

    /// Keeps the lease of a slot that a peer is about to be told of.
    pub(crate) fn grant(&mut self, lane: LaneId, tag: u32, lease: L) -> Result<(), (LaneError, L)> {
        let count = self.count(lane);
        if self.lanes.get(&lane).is_some_and(|slots| slots.contains_key(&tag)) {
            return Err((LaneError::TagInUse { tag }, lease));
        }
        if count >= self.per_lane_max {
            return Err((LaneError::LaneFull { count, what: "granted slots" }, lease));
        }
        self.lanes.entry(lane).or_default().insert(tag, Slot { lease, revoked: None });
        Ok(())
    }

    /// The peer has written. Releases the slot, unless it is none of this lane's.
    pub(crate) fn arrived(&mut self, lane: LaneId, tag: u32) -> Option<Filled<L>> {
        let Slot { lease, revoked } = self.take(lane, tag)?;
        Some(Filled { lease, was_revoked: revoked.is_some() })
    }

    /// The bytes are not wanted any more. Whether there is such a slot; it goes to limbo.
    pub(crate) fn revoke(&mut self, lane: LaneId, tag: u32, now: Instant) -> bool {
        let slot = self.lanes.get_mut(&lane).and_then(|slots| slots.get_mut(&tag));
        let Some(slot) = slot else { return false };
        slot.revoked.get_or_insert(now);
        true
    }

    /// The peer has said that it has not written and will not. Releases the slot.
    pub(crate) fn declined(&mut self, lane: LaneId, tag: u32) -> Option<L> {
        self.take(lane, tag).map(|slot| slot.lease)
    }

    /// The queue pair of the lane is destroyed. Releases its slots.
    pub(crate) fn closed(&mut self, lane: LaneId) -> Vec<(u32, L)> {
        let slots = self.lanes.remove(&lane).unwrap_or_default();
        slots.into_iter().map(|(tag, slot)| (tag, slot.lease)).collect()
    }

    /// The queue pair of the lane could not be destroyed: its slots are never used again. How many that are.
    pub(crate) fn abandon(&mut self, lane: LaneId) -> usize {
        let slots = self.closed(lane);
        let count = slots.len();
        slots.into_iter().for_each(std::mem::forget);
        count
    }

    /// How many slots a lane has, those in limbo among them.
    pub(crate) fn count(&self, lane: LaneId) -> usize {
        self.lanes.get(&lane).map_or(0, BTreeMap::len)
    }

    /// Whether nothing is granted.
    pub(crate) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// When the slot was revoked that has been in limbo the longest, with its lane.
    pub(crate) fn oldest_in_limbo(&self) -> Option<(Instant, LaneId)> {
        let revoked = |(lane, slots): (&LaneId, &BTreeMap<u32, Slot<L>>)| {
            slots.values().filter_map(|slot| slot.revoked).min().map(|since| (since, *lane))
        };
        self.lanes.iter().filter_map(revoked).min()
    }

    fn take(&mut self, lane: LaneId, tag: u32) -> Option<Slot<L>> {
        let slots = self.lanes.get_mut(&lane)?;
        let slot = slots.remove(&tag);
        if slots.is_empty() {
            self.lanes.remove(&lane);
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LANE: LaneId = LaneId(1);

    #[test]
    fn a_revoked_slot_is_kept_until_nothing_can_be_written() {
        let mut slots = GrantedSlots::new(2);
        slots.grant(LANE, 7, "seven").unwrap();
        assert!(slots.revoke(LANE, 7, Instant::from_micros(5)));
        assert!(slots.revoke(LANE, 7, Instant::from_micros(9)), "revoking twice changes nothing");
        assert_eq!(slots.oldest_in_limbo(), Some((Instant::from_micros(5), LANE)));
        assert!(matches!(slots.grant(LANE, 7, "again"), Err((LaneError::TagInUse { tag: 7 }, "again"))));
        assert_eq!(slots.arrived(LANE, 7), Some(Filled { lease: "seven", was_revoked: true }));
        assert_eq!(slots.arrived(LANE, 7), None, "an event that comes twice releases nothing");
        assert!(!slots.revoke(LANE, 7, Instant::ZERO));
    }

    #[test]
    fn room_is_limited_for_each_lane_with_those_in_limbo() {
        let mut slots = GrantedSlots::new(1);
        slots.grant(LANE, 1, ()).unwrap();
        slots.revoke(LANE, 1, Instant::ZERO);
        assert!(matches!(slots.grant(LANE, 2, ()), Err((LaneError::LaneFull { count: 1, .. }, ()))));
        slots.grant(LaneId(2), 1, ()).unwrap();
        assert_eq!(slots.declined(LANE, 1), Some(()));
        slots.grant(LANE, 2, ()).unwrap();
    }

    #[derive(Debug, Clone)]
    enum Step {
        Grant,
        Arrived(u32),
        Revoke(u32),
        Declined(u32),
        Closed,
    }

    fn step() -> impl Strategy<Value = (u64, Step)> {
        let tag = 0..12_u32;
        let step = prop_oneof![
            4 => Just(Step::Grant),
            2 => tag.clone().prop_map(Step::Arrived),
            2 => tag.clone().prop_map(Step::Revoke),
            1 => tag.prop_map(Step::Declined),
            1 => Just(Step::Closed),
        ];
        (0..3_u64, step)
    }

    proptest! {
        /// Beside it stands what the peer may still write to, by the rules alone.
        #[test]
        fn leases_leave_only_when_nothing_can_be_written(steps in proptest::collection::vec(step(), 0..120)) {
            let mut slots = GrantedSlots::new(4);
            let mut writable = std::collections::BTreeSet::new();
            for (next_tag, (lane, step)) in (0_u32..).zip(steps) {
                let id = LaneId(lane);
                let released = match step {
                    Step::Grant => {
                        let tag = next_tag % 12;
                        let outcome = slots.grant(id, tag, (lane, tag));
                        let count = writable.iter().filter(|(of, _)| *of == lane).count();
                        prop_assert_eq!(outcome.is_ok(), count < 4 && !writable.contains(&(lane, tag)));
                        if outcome.is_ok() {
                            writable.insert((lane, tag));
                        }
                        vec![]
                    }
                    Step::Arrived(tag) => {
                        let filled = slots.arrived(id, tag).map(|filled| filled.lease);
                        prop_assert_eq!(filled.is_some(), writable.remove(&(lane, tag)));
                        filled.into_iter().collect()
                    }
                    Step::Revoke(tag) => {
                        let known = slots.revoke(id, tag, Instant::from_micros(next_tag.into()));
                        prop_assert_eq!(known, writable.contains(&(lane, tag)));
                        vec![]
                    }
                    Step::Declined(tag) => {
                        let lease = slots.declined(id, tag);
                        prop_assert_eq!(lease.is_some(), writable.remove(&(lane, tag)));
                        lease.into_iter().collect()
                    }
                    Step::Closed => {
                        writable.retain(|(of, _)| *of != lane);
                        slots.closed(id).into_iter().map(|(_, lease)| lease).collect()
                    }
                };
                prop_assert!(released.iter().all(|lease| !writable.contains(lease)));
                let held: usize = (0..3).map(|lane| slots.count(LaneId(lane))).sum();
                prop_assert_eq!(held, writable.len());
            }
        }
    }
}
