//! One end of a lane: its connection, and what is on its way on it.

use std::rc::Rc;
use std::time::Instant;

use ::verbs::{
    AddressResolved, Connecting, Connection, Identifier, Operation, QueuePair, RemoteRange, Request, Reset,
    Sizes, TakesReceives, Unresolved,
};
use memory::SharedLease;

use super::message::{Message, Places, Written};
use super::outgoing::Outgoing;
use crate::transport::lanes::adapter::{Completions, VerbsAdapter};
use crate::transport::lanes::error::LaneError;
use crate::transport::lanes::fabric::{LaneId, Room, Unsent, Write};

/// Messages that tell of nothing but arrivals, and are under way on a lane. What arrives meanwhile is told with the next.
const ACKNOWLEDGEMENTS: usize = 2;

const SEND: Operation = Operation::Send { immediate: None };

/// What a work request is, and the memory that it works on beside its segment.
pub(super) struct Held {
    pub(super) lane: LaneId,
    pub(super) work: Work,
}

pub(super) enum Work {
    /// A write, by its number, out of this memory.
    Write { number: u32, _lease: SharedLease },
    /// The message that follows a write.
    Message { number: u32 },
    /// A message that follows none.
    Acknowledgement,
    /// A message from the other end.
    Receive { place: usize, places: Rc<Places> },
}

/// How much is posted for a lane.
#[derive(Debug, Clone, Copy)]
pub(super) struct Posted {
    pub(super) sends: usize,
    pub(super) receives: usize,
}

impl Posted {
    /// Each write is two requests. Of the other end come a message for each of its writes, one for each of this end's that
    /// it acknowledges, and its first: so many are under way at most, since every acknowledgement is of a write that was
    /// not acknowledged before.
    pub(super) fn of(room: Room) -> Self {
        let Room { writes_per_lane, receives_per_lane, .. } = room;
        Self {
            sends: 2 * writes_per_lane + ACKNOWLEDGEMENTS,
            receives: receives_per_lane + writes_per_lane + 1,
        }
    }

    /// The room of a device whose queue pairs take so many requests of each kind.
    pub(super) fn room(wanted: Room, requests_max: usize) -> Room {
        let writes_max = requests_max.saturating_sub(ACKNOWLEDGEMENTS) / 2;
        let writes_per_lane = wanted.writes_per_lane.clamp(1, writes_max.max(1));
        let receives_max = requests_max.saturating_sub(writes_per_lane + 1);
        let receives_per_lane = wanted.receives_per_lane.clamp(1, receives_max.max(1));
        Room { writes_per_lane, receives_per_lane, ..wanted }
    }

    pub(super) fn all(self) -> usize {
        self.sends + self.receives
    }
}

/// How far its connection is.
pub(super) enum Stage {
    /// The other end is not known. It may have called before, with this token.
    Offered {
        pair: QueuePair<Held, Reset>,
        call: Option<(u64, Request)>,
    },
    /// The other end will call.
    Awaiting {
        pair: QueuePair<Held, Reset>,
    },
    /// The device that leads to the other end is looked for.
    Resolving {
        pair: QueuePair<Held, Reset>,
        identifier: Identifier<Unresolved>,
    },
    /// The way there is looked for.
    Routing {
        pair: QueuePair<Held, Reset>,
        identifier: Identifier<AddressResolved>,
    },
    /// The other end was called or answered.
    Connecting(Connecting<Held>),
    Connected(Connection<Held>),
    /// It failed before it was connected.
    Ended,
}

/// The other end, as it said.
pub(super) struct Remote {
    pub(super) token: u64,
    pub(super) arena: RemoteRange,
    /// Until when it must be connected.
    pub(super) until: Instant,
}

pub(super) struct Lane {
    /// What the other end must say when it calls.
    pub(super) token: u64,
    pub(super) stage: Stage,
    pub(super) remote: Option<Remote>,
    /// Over iWARP the end that called must be the first to send.
    pub(super) may_send: bool,
    /// Whether its failure was told.
    pub(super) has_failed: bool,
    pub(super) outgoing: Outgoing<Write>,
    places: Rc<Places>,
    /// Writes of the other end that have arrived.
    arrived: u32,
    /// How many of them the other end was told of. Something is told even of none, because the end that answers waits
    /// for the first message.
    told: Option<u32>,
    /// Messages that follow no write: posted so far, and under way.
    acknowledgements: (usize, usize),
}

impl Lane {
    pub(super) fn open(
        token: u64,
        device: &VerbsAdapter,
        completions: &Completions<Held>,
        room: Room,
    ) -> Result<Self, LaneError> {
        let Posted { sends, receives } = Posted::of(room);
        let sizes = Sizes { sends_max: sends as u32, receives_max: receives as u32 };
        let pair = QueuePair::create(device.domain(), &completions.queue, None, sizes)?;
        // A write reads the arena itself.
        let places = receives + room.writes_per_lane + ACKNOWLEDGEMENTS;
        Ok(Self {
            token,
            stage: Stage::Offered { pair, call: None },
            remote: None,
            may_send: false,
            has_failed: false,
            outgoing: Outgoing::default(),
            places: Rc::new(Places::register(device.domain(), places)?),
            arrived: 0,
            told: None,
            acknowledgements: (0, 0),
        })
    }

    /// Posts all receives.
    pub(super) fn post_receives<S: TakesReceives>(
        &self,
        id: LaneId,
        pair: &QueuePair<Held, S>,
        room: Room,
    ) -> Result<(), LaneError> {
        (0..Posted::of(room).receives).try_for_each(|place| self.post_receive(id, pair, place))
    }

    /// Posts a receive again whose message was taken.
    pub(super) fn repost(&self, id: LaneId, place: usize) -> Result<(), LaneError> {
        match &self.stage {
            Stage::Connecting(connecting) => self.post_receive(id, connecting.queue_pair(), place),
            Stage::Connected(connection) => self.post_receive(id, connection.queue_pair(), place),
            _ => Ok(()),
        }
    }

    fn post_receive<S: TakesReceives>(
        &self,
        id: LaneId,
        pair: &QueuePair<Held, S>,
        place: usize,
    ) -> Result<(), LaneError> {
        let held = Held { lane: id, work: Work::Receive { place, places: self.places.clone() } };
        let posted = pair.post_receive(self.places.vacant(place)?, held);
        posted.map(drop).map_err(|refused| refused.error.into())
    }

    /// Posts the writes that wait, and what the other end is to be told, as far as can be.
    pub(super) fn post(&mut self, id: LaneId, device: &VerbsAdapter, room: Room) -> Result<(), LaneError> {
        let (Stage::Connected(connection), Some(remote)) = (&self.stage, &self.remote) else { return Ok(()) };
        if !self.may_send || self.has_failed {
            return Ok(());
        }
        let pair = connection.queue_pair();
        let post = |operation, segment, work| {
            let posted = pair.post(operation, segment, Held { lane: id, work });
            posted.map(drop).map_err(|refused| LaneError::from(refused.error))
        };
        let receives = Posted::of(room).receives;
        while let Some((number, write)) = self.outgoing.next() {
            let (range, segment) = device.prepare(write, &remote.arena)?;
            let (lease, written) = (write.lease.clone(), Written { tag: write.tag, length: write.length });
            let operation = Operation::Write { remote: range, immediate: None };
            post(operation, segment, Work::Write { number, _lease: lease })?;
            self.outgoing.posted();
            let place = receives + number as usize % room.writes_per_lane;
            let message = Message { arrived: self.arrived, written: Some(written) };
            post(SEND, self.places.filled(place, message)?, Work::Message { number })?;
            self.told = Some(self.arrived);
        }
        let (posted, under_way) = self.acknowledgements;
        if self.told != Some(self.arrived) && under_way < ACKNOWLEDGEMENTS {
            let place = receives + room.writes_per_lane + posted % ACKNOWLEDGEMENTS;
            let message = Message { arrived: self.arrived, written: None };
            post(SEND, self.places.filled(place, message)?, Work::Acknowledgement)?;
            self.acknowledgements = (posted.wrapping_add(1), under_way + 1);
            self.told = Some(self.arrived);
        }
        Ok(())
    }

    /// The device is done with one that follows no write.
    pub(super) fn acknowledgement_done(&mut self) {
        self.acknowledgements.1 = self.acknowledgements.1.saturating_sub(1);
    }

    /// The other end has sent something, and what it says about the writes of this one must be possible.
    pub(super) fn on_message(&mut self, message: Message) -> Result<(), LaneError> {
        // It called, if it was to be the first.
        self.may_send = true;
        self.arrived = self.arrived.wrapping_add(message.written.is_some().into());
        if self.outgoing.acknowledged(message.arrived) { Ok(()) } else { Err(LaneError::Protocol) }
    }

    /// All its writes that have no end.
    pub(super) fn take_unsent(&mut self) -> Vec<Unsent> {
        let writes = self.outgoing.take_all().into_iter();
        writes.map(|Write { tag, lease, .. }| Unsent { tag, lease }).collect()
    }
}
