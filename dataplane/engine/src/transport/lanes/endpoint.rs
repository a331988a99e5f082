//! The lanes of one shard over one device. What it does is caused by calls alone, and time is an argument.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use flow::time::Instant;
use flow::wire::lane::LaneAddress;
use memory::{Lease, SharedLease};

use super::error::LaneError;
use super::fabric::{Completion, Fabric, Health, LaneId, Refused, RemoteSlot, Room, Unsent, Write};
use super::polling::{Next, Polling};
use super::slots::{Filled, GrantedSlots};

/// Most lanes of a shard on one device. More peers than that take turns.
const LANES_MAX: usize = 256;
/// Writes under way on one lane: enough that the device always has the next one.
const WRITES_PER_LANE: usize = 8;
/// Writes under way on all lanes. More only share the link.
const WRITES_MAX: usize = 64;
/// Writes of one lane that wait for others.
const WAITING_PER_LANE: usize = 256;
/// Slots that are granted on one lane, and receives that are posted on it.
const GRANTS_PER_LANE: usize = 32;
/// A lane may be closed for another one when it was idle for this long, so that lanes are not closed as fast as they are
/// made.
const IDLE_MIN: Duration = Duration::from_secs(1);
/// How long an endpoint that is dropped waits for lanes that are not quiet. Their memory is never used again then.
const FAREWELL: Duration = Duration::from_secs(2);
/// The device is asked how it is before and after each wait, and once in so many polls between two waits: it is a call
/// of the kernel, and a poll is not.
const POLLS_PER_CHECK: u32 = 256;
/// Completions that are taken in one call, about.
const COMPLETIONS_MAX: usize = 512;

/// What an endpoint asks of its fabric.
pub(crate) const ROOM: Room =
    Room { lanes: LANES_MAX, writes_per_lane: WRITES_PER_LANE, receives_per_lane: GRANTS_PER_LANE };

/// What happened to a lane.
#[derive(Debug)]
pub(crate) enum LaneEvent {
    /// The peer has the bytes of a write.
    Sent { lane: LaneId, tag: u32, lease: SharedLease },
    /// A slot that was granted has been written, and is the caller's again. `was_revoked` says that it was not waited for.
    Arrived { lane: LaneId, tag: u32, bytes: u32, lease: Lease, was_revoked: bool },
    /// The lane is gone. The peer is to be told, so that it closes its end.
    Broken {
        lane: LaneId,
        error: LaneError,
        /// Writes of which it is not known whether the peer has their bytes, and those that were not begun.
        unsent: Vec<Unsent>,
        /// Slots that the peer did not fill, and cannot any more; none while it may.
        slots: Vec<(u32, Lease)>,
    },
}

/// All lanes of one shard on one device.
pub(crate) struct Endpoint<F: Fabric> {
    fabric: F,
    room: Room,
    /// A write that has no outcome after this long never will.
    write_patience: Duration,
    /// How long a slot that was revoked may stay with the peer until the lane is closed to get it back: longer than a
    /// write may take, so that the peer has time to give it up first.
    limbo_patience: Duration,
    lanes: BTreeMap<LaneId, Lane>,
    /// The memory that peers may write to.
    slots: GrantedSlots<Lease>,
    /// Lanes whose queue pairs are closed, until what they had done has been seen.
    closing: Vec<(LaneId, LaneError, Vec<Unsent>)>,
    /// Slots of lanes that are gone, on which the fabric works still.
    lingering: Vec<(LaneId, Vec<Lease>)>,
    /// Writes under way on all lanes.
    under_way: usize,
    /// The lane whose turn it was to post a write.
    last_turn: LaneId,
    health: Health,
    /// Polls until the device is asked how it is.
    polls_to_check: u32,
    polling: Polling,
    /// Kept for its memory.
    batch: Vec<Completion>,
}

struct Lane {
    connected: bool,
    last_used: Instant,
    /// When each write was posted, by its tag.
    under_way: BTreeMap<u32, Instant>,
    waiting: VecDeque<Write>,
}

impl<F: Fabric> Endpoint<F> {
    /// Without lanes.
    pub(crate) fn new(fabric: F) -> Self {
        let (room, write_patience) = (fabric.room(), fabric.patience());
        Self {
            room,
            write_patience,
            limbo_patience: write_patience * 3 / 2,
            fabric,
            lanes: BTreeMap::new(),
            slots: GrantedSlots::new(room.receives_per_lane),
            closing: Vec::new(),
            lingering: Vec::new(),
            under_way: 0,
            last_turn: LaneId(0),
            health: Health::Up,
            polls_to_check: 0,
            polling: Polling::default(),
            batch: Vec::new(),
        }
    }

    /// Whether a lane from here could have its other end there.
    pub(crate) fn reaches(&self, remote: &LaneAddress) -> bool {
        self.fabric.reaches(remote)
    }

    /// Whether such a lane is known to stay within a subnet.
    pub(crate) fn shares_subnet(&self, remote: &LaneAddress) -> bool {
        self.fabric.shares_subnet(remote)
    }

    /// Begins a lane: what the peer is to be told. When there are as many as there may be, the one that was idle for the
    /// longest time is closed for it.
    pub(crate) fn offer(&mut self, now: Instant) -> Result<(LaneId, LaneAddress), LaneError> {
        match self.fabric.health() {
            Health::Up => {}
            health => return Err(self.illness(health)),
        }
        if self.lanes.len() + self.lingering.len() >= self.room.lanes {
            let idle = self.longest_idle(now).ok_or(LaneError::TooManyLanes { lanes: self.room.lanes })?;
            self.end(idle, LaneError::Reclaimed, None);
        }
        let (lane, offer) = self.fabric.open_lane()?;
        let state =
            Lane { connected: false, last_used: now, under_way: BTreeMap::new(), waiting: VecDeque::new() };
        self.lanes.insert(lane, state);
        Ok((lane, offer))
    }

    /// Connects a lane to what the peer has offered. When it fails the lane is gone, without an event.
    pub(crate) fn accept(
        &mut self,
        lane: LaneId,
        remote: &LaneAddress,
        now: Instant,
    ) -> Result<(), LaneError> {
        let state = self.lanes.get_mut(&lane).filter(|state| !state.connected).ok_or(LaneError::NoLane)?;
        state.connected = true;
        state.last_used = now;
        let connected = self.fabric.connect(lane, remote);
        if connected.is_err() {
            self.lanes.remove(&lane);
        }
        connected
    }

    /// Lets the peer write to a slot, until its bytes have arrived. It says what the peer is to be told, with the tag. At
    /// most one slot has the same tag at a time.
    pub(crate) fn grant(
        &mut self,
        lane: LaneId,
        tag: u32,
        lease: Lease,
        now: Instant,
    ) -> Result<RemoteSlot, (LaneError, Lease)> {
        let Some(state) = self.lanes.get_mut(&lane).filter(|state| state.connected) else {
            return Err((LaneError::NoLane, lease));
        };
        state.last_used = now;
        let slot = RemoteSlot { offset: lease.offset(), length: lease.length() };
        self.slots.grant(lane, tag, lease)?;
        self.fabric.expect(lane, tag, slot);
        Ok(slot)
    }

    /// A slot's bytes are not waited for any more. Whether there is such a slot. The peer is to be told: it declines, or
    /// the bytes arrive all the same. It is kept until then.
    pub(crate) fn revoke(&mut self, lane: LaneId, tag: u32, now: Instant) -> bool {
        self.slots.revoke(lane, tag, now)
    }

    /// The peer has said that it did not write to a slot and will not. A slot that is being written to all the same is kept.
    pub(crate) fn declined(&mut self, lane: LaneId, tag: u32) -> Option<Lease> {
        if self.fabric.forget(lane, tag) { self.slots.declined(lane, tag) } else { None }
    }

    /// Writes into a slot that the peer has granted, after what was to be written before, if the lane has as much under
    /// way as it may have.
    pub(crate) fn write(&mut self, lane: LaneId, write: Write, now: Instant) -> Result<(), Refused> {
        let Some(state) = self.lanes.get_mut(&lane).filter(|state| state.connected) else {
            return Err(Refused { error: LaneError::NoLane, write });
        };
        let tag = write.tag;
        if state.under_way.contains_key(&tag) || state.waiting.iter().any(|waiting| waiting.tag == tag) {
            return Err(Refused { error: LaneError::TagInUse { tag }, write });
        }
        if state.waiting.len() >= WAITING_PER_LANE {
            let error = LaneError::LaneFull { count: state.waiting.len(), what: "writes waiting" };
            return Err(Refused { error, write });
        }
        state.last_used = now;
        if state.waiting.is_empty() && self.under_way < WRITES_MAX && state.has_room(&self.room) {
            self.fabric.write(lane, write)?;
            state.under_way.insert(tag, now);
            self.under_way += 1;
        } else {
            state.waiting.push_back(write);
        }
        Ok(())
    }

    /// Takes back a write that has not begun, because its slot was revoked: then the peer can be told that it will not come.
    pub(crate) fn cancel(&mut self, lane: LaneId, tag: u32) -> Option<SharedLease> {
        let waiting = &mut self.lanes.get_mut(&lane)?.waiting;
        let at = waiting.iter().position(|write| write.tag == tag)?;
        waiting.remove(at).map(|write| write.lease)
    }

    /// Closes a lane. The next poll has its [`LaneEvent::Broken`].
    pub(crate) fn close(&mut self, lane: LaneId) {
        self.end(lane, LaneError::Closed, None);
    }

    /// What has happened since the last call, and whether to poll again or to wait.
    pub(crate) fn poll(&mut self, now: Instant) -> (Vec<LaneEvent>, Next) {
        let mut events = Vec::new();
        match self.polls_to_check.checked_sub(1) {
            Some(left) => self.polls_to_check = left,
            None => self.check_health(),
        }
        self.end_overdue(now);
        let is_empty = self.take_completions(now, &mut events);
        if is_empty {
            self.finish_closings(&mut events);
        }
        self.post_waiting(now);
        let is_awaited = self.under_way > 0 || !self.slots.is_empty() || !self.lingering.is_empty();
        let next = self.polling.polled(now, !events.is_empty(), is_awaited);
        // What ended since the completions were taken has its event in the next call.
        let next = if is_empty && self.closing.is_empty() { next } else { Next::Poll };
        if next == Next::Wait {
            self.polls_to_check = 0;
        }
        (events, next)
    }

    /// Makes the descriptors tell of what comes from here on. A poll must follow before they are waited for.
    pub(crate) fn arm(&mut self) -> Result<(), LaneError> {
        self.fabric.arm()
    }

    /// What to wait for, all of them to be read: completions, and news of the device.
    pub(crate) fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        self.fabric.descriptors()
    }

    /// When to poll also if nothing happens. Every other call may change it.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        if !self.closing.is_empty() {
            return Some(Instant::ZERO);
        }
        let write =
            self.lanes.values().filter_map(Lane::oldest).min().map(|since| since + self.write_patience);
        let slot = self.slots.oldest_in_limbo().map(|(since, _)| since + self.limbo_patience);
        write.into_iter().chain(slot).min()
    }

    /// How the device was at the last poll.
    pub(crate) fn health(&self) -> Health {
        self.health
    }

    /// Writes under way and waiting of a lane, by which lanes on several devices are chosen among.
    pub(crate) fn load(&self, lane: LaneId) -> Option<usize> {
        self.lanes.get(&lane).map(|state| state.under_way.len() + state.waiting.len())
    }

    /// The lane that was not used for the longest time, and nothing is posted or granted on.
    fn longest_idle(&self, now: Instant) -> Option<LaneId> {
        let is_idle = |(id, lane): &(&LaneId, &Lane)| {
            let is_unused =
                lane.under_way.is_empty() && lane.waiting.is_empty() && self.slots.count(**id) == 0;
            is_unused && now.since(lane.last_used) >= IDLE_MIN
        };
        let idle = self.lanes.iter().filter(is_idle).min_by_key(|(_, lane)| lane.last_used);
        idle.map(|(id, _)| *id)
    }

    fn illness(&self, health: Health) -> LaneError {
        let device = self.fabric.name().to_owned();
        if health == Health::PortDown {
            LaneError::PortDown { device }
        } else {
            LaneError::DeviceGone { device }
        }
    }

    /// Ends all lanes when the device cannot carry them, rather than wait for their retries.
    fn check_health(&mut self) {
        self.polls_to_check = POLLS_PER_CHECK;
        self.health = self.fabric.health();
        if self.health != Health::Up {
            let error = self.illness(self.health);
            self.end_all(&error);
        }
    }

    fn end_all(&mut self, error: &LaneError) {
        let lanes: Vec<LaneId> = self.lanes.keys().copied().collect();
        lanes.into_iter().for_each(|lane| self.end(lane, error.clone(), None));
    }

    fn end_overdue(&mut self, now: Instant) {
        let is_overdue =
            |lane: &Lane| lane.oldest().is_some_and(|since| now.since(since) >= self.write_patience);
        let overdue: Vec<LaneId> =
            self.lanes.iter().filter(|(_, lane)| is_overdue(lane)).map(|(id, _)| *id).collect();
        for lane in overdue {
            self.end(lane, LaneError::NoCompletion { seconds: self.write_patience.as_secs() }, None);
        }
        // One at a time is enough: the next poll finds the next.
        if let Some((since, lane)) = self.slots.oldest_in_limbo()
            && now.since(since) >= self.limbo_patience
        {
            self.end(lane, LaneError::SlotKept { seconds: self.limbo_patience.as_secs() }, None);
        }
    }

    /// Takes completions until there are none, or enough; whether there are none left.
    fn take_completions(&mut self, now: Instant, events: &mut Vec<LaneEvent>) -> bool {
        let mut batch = std::mem::take(&mut self.batch);
        let mut taken = 0;
        let is_empty = loop {
            let polled = self.fabric.poll(&mut batch);
            for completion in batch.drain(..) {
                events.extend(self.on_completion(completion, now));
            }
            match polled {
                Ok(0) => break true,
                Ok(count) => taken += count,
                // What the lanes had done is still there when they are closed.
                Err(_) if !self.lanes.is_empty() => {
                    self.health = Health::Gone;
                    self.end_all(&self.illness(Health::Gone));
                }
                Err(_) => break true,
            }
            if taken >= COMPLETIONS_MAX {
                break false;
            }
        };
        self.batch = batch;
        is_empty
    }

    fn on_completion(&mut self, completion: Completion, now: Instant) -> Option<LaneEvent> {
        match completion {
            Completion::Written { lane, tag, lease } => {
                self.forget_write(lane, tag, now);
                Some(LaneEvent::Sent { lane, tag, lease })
            }
            Completion::Arrived { lane, tag, bytes } => {
                if let Some(state) = self.lanes.get_mut(&lane) {
                    state.last_used = now;
                }
                let Filled { lease, was_revoked } = self.slots.arrived(lane, tag)?;
                Some(LaneEvent::Arrived { lane, tag, bytes, lease, was_revoked })
            }
            Completion::Failed { lane, error, write } => {
                if let Some(write) = &write {
                    self.forget_write(lane, write.tag, now);
                }
                self.end(lane, error, write);
                None
            }
        }
    }

    fn forget_write(&mut self, lane: LaneId, tag: u32, now: Instant) {
        if let Some(state) = self.lanes.get_mut(&lane) {
            state.last_used = now;
            self.under_way -= usize::from(state.under_way.remove(&tag).is_some());
        }
    }

    /// Closes the queue pair of a lane that is there, and remembers why; or adds to what is known of one that is closing.
    fn end(&mut self, lane: LaneId, error: LaneError, write: Option<Unsent>) {
        if let Some(state) = self.lanes.remove(&lane) {
            self.under_way -= state.under_way.len();
            let mut unsent: Vec<Unsent> = write.into_iter().collect();
            match self.fabric.close_lane(lane) {
                Ok(given_up) => unsent.extend(given_up),
                Err(error) => {
                    let slots = self.slots.abandon(lane);
                    tracing::error!(%error, slots, "a queue pair cannot be closed; its memory is never used again");
                }
            }
            let waiting = state.waiting.into_iter();
            unsent.extend(waiting.map(|Write { tag, lease, .. }| Unsent { tag, lease }));
            self.closing.push((lane, error, unsent));
        } else if let Some((_, known, unsent)) = self.closing.iter_mut().find(|(id, ..)| *id == lane) {
            if known.is_consequence() {
                *known = error;
            }
            unsent.extend(write);
        }
    }

    /// Tells of the lanes that are closed. Of those that are not quiet yet the memory goes back to the arena later.
    fn finish_closings(&mut self, events: &mut Vec<LaneEvent>) {
        for (lane, error, unsent) in std::mem::take(&mut self.closing) {
            let mut slots = self.slots.closed(lane);
            if !self.fabric.is_quiet(lane) {
                let kept = slots.drain(..).map(|(_, lease)| lease).collect();
                self.lingering.push((lane, kept));
            }
            events.push(LaneEvent::Broken { lane, error, unsent, slots });
        }
        self.lingering.retain(|(lane, _)| !self.fabric.is_quiet(*lane));
    }

    /// Posts writes that wait, one of each lane in turn, as far as there is room.
    fn post_waiting(&mut self, now: Instant) {
        while self.under_way < WRITES_MAX {
            let Some(lane) = self.next_waiting() else { return };
            self.last_turn = lane;
            let Some(state) = self.lanes.get_mut(&lane) else { return };
            let Some(write) = state.waiting.pop_front() else { return };
            let tag = write.tag;
            match self.fabric.write(lane, write) {
                Ok(()) => {
                    state.under_way.insert(tag, now);
                    self.under_way += 1;
                }
                Err(Refused { error, write: Write { tag, lease, .. } }) => {
                    self.end(lane, error, Some(Unsent { tag, lease }));
                }
            }
        }
    }

    /// The lane after the last one that has a write waiting and room for it.
    fn next_waiting(&self) -> Option<LaneId> {
        let after = self.lanes.range((Bound::Excluded(self.last_turn), Bound::Unbounded));
        let mut lanes = after.chain(self.lanes.range(..=self.last_turn));
        lanes.find(|(_, lane)| !lane.waiting.is_empty() && lane.has_room(&self.room)).map(|(id, _)| *id)
    }
}

impl Lane {
    fn has_room(&self, room: &Room) -> bool {
        self.under_way.len() < room.writes_per_lane
    }

    /// When the write was posted that has been under way the longest.
    fn oldest(&self) -> Option<Instant> {
        self.under_way.values().min().copied()
    }
}

impl<F: Fabric> Drop for Endpoint<F> {
    /// Slots are given back to the arena only when no peer can write to them.
    fn drop(&mut self) {
        self.end_all(&LaneError::Closed);
        self.finish_closings(&mut Vec::new());
        let began = std::time::Instant::now();
        while !self.lingering.is_empty() && began.elapsed() < FAREWELL {
            if self.fabric.poll(&mut self.batch).is_err() {
                break;
            }
            self.lingering.retain(|(lane, _)| !self.fabric.is_quiet(*lane));
        }
        std::mem::take(&mut self.lingering).into_iter().for_each(|(_, slots)| std::mem::forget(slots));
    }
}
