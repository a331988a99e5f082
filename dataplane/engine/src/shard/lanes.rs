//! Lanes to other shards: how they come and go.
//!
//! A lane belongs to a connection and ends with it. It is offered when a piece is wanted from a peer that is reached in
//! no better way; until it is there, and after it broke, pieces take the connection. After a break it is offered again
//! with growing pauses. What travels on lanes is in [`super::lane_pieces`].

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use flow::backoff::Backoff;
use flow::time::Instant;
use flow::wire::lane::{LaneClosed, LaneOpen};
use futures_lite::future::{or, yield_now};
use glommio::io::PollableFd;

use super::Shard;
use super::counters::add;
use super::lane_pieces::{Granted, Placed, Writing};
use super::mesh::Connection;
use crate::notify::Notify;
use crate::transport::PeerShard;
use crate::transport::lanes::{
    Adapter, Endpoint, Fabric, Health, LaneError, LaneEvent, LaneId, LaneKind, Next, ROOM, answering_rail,
};

/// First pause after a lane broke or was refused.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long to wait for a device at most before it is looked after.
const LOOK: Duration = Duration::from_secs(1);

/// The devices of this shard, and all lanes on them.
#[derive(Default)]
pub(super) struct Rails {
    rails: Vec<Rc<Rail>>,
    pub(super) lanes: RefCell<HashMap<u64, Rc<Lane>>>,
}

/// One device as this shard uses it.
pub(super) struct Rail {
    pub(super) kind: LaneKind,
    /// Which kind it is in the order in which they are preferred.
    pub(super) rank: usize,
    pub(super) endpoint: RefCell<Endpoint<Box<dyn Fabric>>>,
    /// Something was done that the task of this rail must look after.
    pub(super) kick: Notify,
    /// The task is about to wait for the device.
    waits: Notify,
}

/// This shard's end of a lane.
pub(super) struct Lane {
    pub(super) peer: PeerShard,
    connection: Weak<Connection>,
    pub(super) rail: Rc<Rail>,
    rail_index: u16,
    pub(super) id: LaneId,
    /// The peer's number of its end, once they are connected.
    theirs: Cell<Option<u64>>,
    since: Instant,
    pub(super) next_tag: Cell<u32>,
    /// Slots of this node that the peer may write to, by tag.
    pub(super) granted: RefCell<BTreeMap<u32, Granted>>,
    /// Tags of grants that have ended, whose slots the peer may still write to, by grant.
    pub(super) revoked: RefCell<BTreeMap<u64, u32>>,
    /// Slots of the peer that nothing is written to yet, by the peer's number of the grant.
    pub(super) placed: RefCell<BTreeMap<u64, Placed>>,
    /// Pieces that are being written, by tag.
    pub(super) writing: RefCell<BTreeMap<u32, Writing>>,
}

/// When a connection may be given lanes again: at once, until one breaks or is refused.
pub(super) fn lane_backoff() -> RefCell<Backoff> {
    RefCell::new(Backoff::new(PAUSE_MIN, PAUSE_MAX))
}

impl Rails {
    /// One rail for each adapter that lets this shard make its queues.
    pub(super) fn open(adapters: &[Arc<dyn Adapter>]) -> Self {
        let mut kinds: Vec<LaneKind> = adapters.iter().map(|adapter| adapter.kind()).collect();
        kinds.dedup();
        let open = |adapter: &Arc<dyn Adapter>| match adapter.clone().open(ROOM) {
            Ok(fabric) => Some(Rc::new(Rail {
                kind: adapter.kind(),
                rank: kinds.iter().take_while(|kind| **kind != adapter.kind()).count(),
                endpoint: RefCell::new(Endpoint::new(fabric)),
                kick: Notify::default(),
                waits: Notify::default(),
            })),
            Err(error) => {
                tracing::warn!(device = adapter.name(), over = %adapter.kind(), %error, "a shard makes no lanes");
                None
            }
        };
        Self { rails: adapters.iter().filter_map(open).collect(), lanes: RefCell::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rails.is_empty()
    }

    /// From where to answer an offer.
    fn towards(&self, offer: &LaneOpen) -> Result<(u16, &Rc<Rail>), LaneError> {
        let reaching = (0..).zip(&self.rails).filter_map(|(index, rail)| {
            let endpoint = rail.endpoint.borrow();
            endpoint.reaches(&offer.address).then(|| (index, endpoint.shares_subnet(&offer.address)))
        });
        let index = answering_rail(offer.rail, &reaching.collect::<Vec<_>>());
        let rail = index.and_then(|index| Some((index, self.rails.get(usize::from(index))?)));
        rail.ok_or_else(|| {
            LaneError::NoDevice("none of this node reaches the one that the peer offers".into())
        })
    }

    /// Lanes over which pieces may travel.
    pub(super) fn open_lanes(&self) -> usize {
        self.lanes.borrow().values().filter(|lane| lane.is_connected()).count()
    }
}

impl Lane {
    pub(super) fn is_connected(&self) -> bool {
        self.theirs.get().is_some()
    }

    /// The peer's number of its end.
    pub(super) fn theirs(&self) -> Option<u64> {
        self.theirs.get()
    }

    /// What this end is called towards the peer.
    fn number(&self) -> u64 {
        u64::from(self.rail_index) << 48 | self.id.0
    }

    /// Ends it; what was granted and written comes back to the task of its rail.
    pub(super) fn close(&self) {
        self.rail.endpoint.borrow_mut().close(self.id);
        self.rail.kick.notify();
    }
}

impl Shard {
    /// Begins to look after the devices, for as long as the tasks are kept.
    pub(super) fn start_rails(self: &Rc<Self>) -> Vec<glommio::Task<()>> {
        let mut tasks = Vec::new();
        for (index, rail) in self.rails.rails.iter().enumerate() {
            let descriptors = rail.endpoint.borrow().descriptors().map(|fd| fd.try_clone_to_owned());
            for descriptor in descriptors {
                let watched = descriptor.map_err(|error| error.to_string()).and_then(|descriptor| {
                    PollableFd::new(Descriptor(descriptor)).map_err(|error| error.to_string())
                });
                match watched {
                    Ok(watched) => tasks.push(glommio::spawn_local(watch(Rc::downgrade(rail), watched))),
                    Err(error) => {
                        tracing::warn!(error, over = %rail.kind, "lanes are looked at from time to time only")
                    }
                }
            }
            tasks.push(glommio::spawn_local(self.clone().run_rail(index as u16, rail.clone())));
        }
        tasks
    }

    /// Takes what the device has done, for as long as the shard runs.
    async fn run_rail(self: Rc<Self>, index: u16, rail: Rc<Rail>) {
        loop {
            if self.poll_rail(index, &rail) == Next::Poll {
                yield_now().await;
                continue;
            }
            if let Err(error) = rail.endpoint.borrow_mut().arm() {
                tracing::debug!(%error, over = %rail.kind, "a device does not tell of what it does");
            }
            if self.poll_rail(index, &rail) == Next::Poll {
                continue;
            }
            let deadline = rail.endpoint.borrow().deadline();
            let wait = deadline.map_or(LOOK, |deadline| deadline.since(self.now()).min(LOOK));
            rail.waits.notify();
            or(rail.kick.wait(), glommio::timer::sleep(wait)).await;
        }
    }

    fn poll_rail(self: &Rc<Self>, index: u16, rail: &Rail) -> Next {
        let (events, next) = rail.endpoint.borrow_mut().poll(self.now());
        let is_idle = events.is_empty();
        for event in events {
            self.on_lane_event(index, event);
        }
        if is_idle { next } else { Next::Poll }
    }

    fn on_lane_event(self: &Rc<Self>, rail: u16, event: LaneEvent) {
        let lane = |id: LaneId| self.rails.lanes.borrow().get(&(u64::from(rail) << 48 | id.0)).cloned();
        match event {
            LaneEvent::Sent { lane: id, tag, lease } => {
                // Its replica may hold it still.
                drop(lease);
                if let Some(lane) = lane(id) {
                    self.on_lane_sent(&lane, tag);
                }
            }
            LaneEvent::Arrived { lane: id, tag, bytes, lease, was_revoked } => match lane(id) {
                Some(lane) if was_revoked => self.on_lane_arrived_late(&lane, tag),
                Some(lane) => self.on_lane_arrived(&lane, tag, lease, bytes),
                None => {}
            },
            LaneEvent::Broken { lane: id, error, unsent, slots } => {
                tracing::debug!(unsent = unsent.len(), slots = slots.len(), %error, "a lane ended");
                // Nobody can touch the memory of either any more.
                unsent.into_iter().for_each(|unsent| drop(unsent.lease));
                drop(slots);
                if let Some(lane) = lane(id) {
                    self.on_lane_broken(&lane, &error);
                }
            }
        }
    }

    /// Offers a lane on each device that this connection has none on.
    pub(super) fn offer_lanes(self: &Rc<Self>, connection: &Rc<Connection>) {
        if !connection.lane_backoff.borrow().is_due(self.now()) {
            return;
        }
        for (index, rail) in (0..).zip(&self.rails.rails) {
            let is_there = connection.lanes.borrow().iter().any(|lane| lane.rail_index == index);
            if is_there || rail.endpoint.borrow().health() == Health::Gone {
                continue;
            }
            let offered = rail.endpoint.borrow_mut().offer(self.now());
            rail.kick.notify();
            match offered {
                Ok((id, address)) => {
                    let lane = self.add_lane(connection, index, rail, id, None).number();
                    connection.writer.message(LaneOpen { lane, answers: None, rail: index, address });
                }
                Err(error) => self.note_refusal(connection, &error),
            }
        }
    }

    pub(super) fn on_lane_offer(self: &Rc<Self>, connection: &Rc<Connection>, offer: &LaneOpen) {
        let taken = match offer.answers {
            Some(ours) => self.on_lane_answer(connection, ours, offer),
            None => self.answer_lane(connection, offer),
        };
        if let Err(error) = taken {
            connection.writer.message(LaneClosed { lane: offer.lane });
            self.note_refusal(connection, &error);
        }
    }

    fn on_lane_answer(
        &self,
        connection: &Rc<Connection>,
        ours: u64,
        offer: &LaneOpen,
    ) -> Result<(), LaneError> {
        let lane = self.lane_of(connection.peer, ours).filter(|lane| !lane.is_connected());
        let lane = lane.ok_or(LaneError::NoLane)?;
        let accepted = lane.rail.endpoint.borrow_mut().accept(lane.id, &offer.address, self.now());
        match &accepted {
            Ok(()) => self.on_lane_connected(&lane, offer.lane),
            Err(_) => self.remove_lane(&lane),
        }
        accepted
    }

    fn answer_lane(self: &Rc<Self>, connection: &Rc<Connection>, offer: &LaneOpen) -> Result<(), LaneError> {
        let (index, rail) = self.rails.towards(offer)?;
        let present = connection.lanes.borrow().iter().find(|lane| lane.rail_index == index).cloned();
        if let Some(present) = present {
            if !present.is_connected() && self.config.node < connection.peer.node {
                // Both have offered at the same time, and this node's offer is the one that counts.
                return Ok(());
            }
            // Whoever offers anew has lost its end.
            self.remove_lane(&present);
            present.close();
            self.give_up_lane(&present);
        }
        let (id, address) = rail.endpoint.borrow_mut().offer(self.now())?;
        rail.kick.notify();
        rail.endpoint.borrow_mut().accept(id, &offer.address, self.now())?;
        let lane = self.add_lane(connection, index, rail, id, Some(offer.lane));
        self.on_lane_connected(&lane, offer.lane);
        let (lane, answers) = (lane.number(), Some(offer.lane));
        connection.writer.message(LaneOpen { lane, answers, rail: index, address });
        Ok(())
    }

    fn on_lane_connected(&self, lane: &Lane, theirs: u64) {
        lane.theirs.set(Some(theirs));
        add(&self.counters.lanes_opened, 1);
        tracing::debug!(peer = format_args!("{:016x}", lane.peer.node), over = %lane.rail.kind, "pieces take a lane");
    }

    /// The peer's end of a lane is gone.
    pub(super) fn on_lane_closed(&self, connection: &Rc<Connection>, ours: u64) {
        if let Some(lane) = self.lane_of(connection.peer, ours) {
            connection.lane_backoff.borrow_mut().failed(self.now(), self.now().since(lane.since));
            lane.close();
        }
    }

    /// Ends all lanes of a connection.
    pub(super) fn close_lanes(&self, connection: &Connection) {
        let lanes: Vec<_> = connection.lanes.borrow().clone();
        lanes.iter().for_each(|lane| lane.close());
    }

    /// A lane of that number, if it is one to this peer.
    pub(super) fn lane_of(&self, peer: PeerShard, number: u64) -> Option<Rc<Lane>> {
        self.rails.lanes.borrow().get(&number).filter(|lane| lane.peer == peer).cloned()
    }

    fn add_lane(
        &self,
        connection: &Rc<Connection>,
        rail_index: u16,
        rail: &Rc<Rail>,
        id: LaneId,
        theirs: Option<u64>,
    ) -> Rc<Lane> {
        let lane = Rc::new(Lane {
            peer: connection.peer,
            connection: Rc::downgrade(connection),
            rail: rail.clone(),
            rail_index,
            id,
            theirs: Cell::new(theirs),
            since: self.now(),
            next_tag: Cell::new(0),
            granted: RefCell::default(),
            revoked: RefCell::default(),
            placed: RefCell::default(),
            writing: RefCell::default(),
        });
        self.rails.lanes.borrow_mut().insert(lane.number(), lane.clone());
        connection.lanes.borrow_mut().push(lane.clone());
        lane
    }

    fn remove_lane(&self, lane: &Rc<Lane>) {
        self.rails.lanes.borrow_mut().remove(&lane.number());
        if let Some(connection) = lane.connection.upgrade() {
            connection.lanes.borrow_mut().retain(|other| !Rc::ptr_eq(other, lane));
        }
    }

    /// A lane is gone, and with it what was on its way.
    fn on_lane_broken(self: &Rc<Self>, lane: &Rc<Lane>, error: &LaneError) {
        self.remove_lane(lane);
        let is_planned = matches!(error, LaneError::Closed | LaneError::Reclaimed);
        if lane.is_connected() && !is_planned {
            add(&self.counters.lanes_broken, 1);
            let name = self.mesh.borrow().name(lane.peer.node).map(str::to_owned).unwrap_or_default();
            tracing::warn!(peer = name, over = %lane.rail.kind, %error, "a lane broke; pieces take TCP until there is another");
        }
        if let Some(connection) = lane.connection.upgrade() {
            if let Some(theirs) = lane.theirs() {
                connection.writer.message(LaneClosed { lane: theirs });
            }
            if !matches!(error, LaneError::Reclaimed) {
                connection.lane_backoff.borrow_mut().failed(self.now(), self.now().since(lane.since));
            }
        }
        self.give_up_lane(lane);
    }

    fn note_refusal(&self, connection: &Connection, error: &LaneError) {
        connection.lane_backoff.borrow_mut().failed(self.now(), Duration::ZERO);
        tracing::debug!(peer = format_args!("{:016x}", connection.peer.node), %error, "there is no lane");
    }
}

/// Wakes the task of a rail when a descriptor becomes readable while it waits.
async fn watch(rail: Weak<Rail>, descriptor: PollableFd<Descriptor>) {
    loop {
        let Some(round) = rail.upgrade().map(|rail| rail.waits.round()) else { return };
        if descriptor.readable().await.is_err() {
            return;
        }
        let Some(rail) = rail.upgrade() else { return };
        rail.kick.notify();
        rail.waits.after(round).await;
    }
}

/// A descriptor of a device.
struct Descriptor(OwnedFd);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}
