//! The fabric on libibverbs and librdmacm, for iWARP devices.
//!
//! iWARP (RFC 5040) differs from InfiniBand in three ways. Queue pairs are connected by the connection manager alone. A
//! write cannot bring a number with it, so that a message follows each on its queue pair: it is received when all that was
//! written before it is in its place (RFC 5040 section 5.5). And that a write is done here says that TCP took it, not
//! that the other end has it, so that the other end acknowledges: with its next message, or with one of its own.
//!
//! ```text
//! write, "tag 7, 4096 bytes"  ──────►  Arrived { tag: 7 }
//!        Written { tag: 7 }  ◄──────  "1 has arrived"
//! ```

mod calls; // how two ends are connected
mod lane; // one end
mod message; // what they send each other
mod outgoing; // writes that are not acknowledged: pure

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use ::verbs::{Connecting, ConnectionChannel, IdentifierNumber, Listener, Opcode, WorkError};
use flow::wire::lane::{LaneAddress, ListenerAddress};
use rustix::event::epoll;

use self::lane::{Held, Lane, Posted, Stage, Work};
use self::message::Written;
use super::adapter::{Completions, VerbsAdapter};
use super::error::LaneError;
use super::fabric::{Adapter, Completion, Fabric, Health, LaneId, Refused, Room, Unsent, Write};

/// A device as one shard uses it.
pub(crate) struct IwarpFabric {
    // Dropped in this order: queue pairs, what they complete in, where their events come from, the device.
    lanes: BTreeMap<LaneId, Lane>,
    /// Calls of lanes that were closed before their outcome was known. Their queue pairs have failed, so that nobody can
    /// write through them; to destroy them would wait for the other end.
    given_up: Vec<Connecting<Held>>,
    completions: Completions<Held>,
    listener: Listener,
    events: Arc<ConnectionChannel>,
    /// Can be read when there are events, or news of the device.
    news: OwnedFd,
    adapter: Arc<VerbsAdapter>,
    ip: IpAddr,
    room: Room,
    next_lane: u64,
    numbers: HashMap<IdentifierNumber, LaneId>,
    /// Lanes that fail when what they have done has been told.
    ending: Vec<(LaneId, LaneError)>,
    is_gone: bool,
    batch: Vec<::verbs::Completion<Held>>,
}

impl IwarpFabric {
    /// A listener at the device's address, with as much room as was asked for or the device has.
    pub(crate) fn open(adapter: &Arc<VerbsAdapter>, ip: IpAddr, wanted: Room) -> Result<Self, LaneError> {
        let device = adapter.context().attributes()?;
        let room = Posted::room(wanted, device.work_requests_max as usize);
        let per_lane = Posted::of(room).all();
        let lanes_max = (device.completions_max as usize / per_lane).min(device.queue_pairs_max as usize);
        let room = Room { lanes: wanted.lanes.clamp(1, lanes_max.max(1)), ..room };
        let events = ConnectionChannel::create()?;
        let news = epoll::create(epoll::CreateFlags::CLOEXEC).and_then(|news| {
            for (number, source) in (0..).zip([events.as_fd(), adapter.context().as_fd()]) {
                epoll::add(&news, source, epoll::EventData::new_u64(number), epoll::EventFlags::IN)?;
            }
            Ok(news)
        });
        Ok(Self {
            lanes: BTreeMap::new(),
            given_up: Vec::new(),
            completions: adapter.completions(room.lanes * per_lane)?,
            listener: calls::listen(&events, ip, room.lanes)?,
            events,
            news: news.map_err(LaneError::Watch)?,
            adapter: adapter.clone(),
            ip,
            room,
            next_lane: 0,
            numbers: HashMap::new(),
            ending: Vec::new(),
            is_gone: false,
            batch: Vec::new(),
        })
    }

    fn adapter_name(&self) -> &str {
        self.adapter.name()
    }

    /// What a completion means here.
    fn completed(&mut self, completion: ::verbs::Completion<Held>, into: &mut Vec<Completion>) {
        let ::verbs::Completion { held: Held { lane: id, work }, outcome, bytes, .. } = completion;
        let taken = match (outcome, work) {
            (Ok(Opcode::Receive), Work::Receive { place, places }) => match places.received(place, bytes) {
                Some(message) => {
                    let taken = self.on_message(id, place, message);
                    // After its receive is posted again, and also when the lane has ended meanwhile.
                    if let Some(Written { tag, length }) = message.written {
                        into.push(Completion::Arrived { lane: id, tag, bytes: length });
                    }
                    taken
                }
                None => Err(LaneError::Protocol),
            },
            (Ok(Opcode::Write), Work::Write { number, .. })
            | (Ok(Opcode::Send), Work::Message { number }) => {
                self.with_lane(id, |lane| lane.outgoing.done(number));
                Ok(())
            }
            (Ok(Opcode::Send), Work::Acknowledgement) => {
                self.with_lane(id, Lane::acknowledgement_done);
                Ok(())
            }
            // A queue pair fails with its connection. Why one was never there, an event says.
            (Err(WorkError::Flushed), _) => match self.lanes.get(&id) {
                Some(Lane { stage: Stage::Connected(_), .. }) => Err(LaneError::Disconnected),
                _ => Ok(()),
            },
            (Err(error), _) => Err(error.into()),
            (Ok(_), _) => Err(LaneError::Protocol),
        };
        let posted = taken.and_then(|()| match self.lanes.get_mut(&id) {
            Some(lane) => {
                let finished = std::iter::from_fn(|| lane.outgoing.pop_finished());
                into.extend(finished.map(|Write { tag, lease, .. }| Completion::Written {
                    lane: id,
                    tag,
                    lease,
                }));
                lane.post(id, &self.adapter, self.room)
            }
            None => Ok(()),
        });
        if let Err(error) = posted {
            self.ending.push((id, error));
        }
    }

    fn on_message(&mut self, id: LaneId, place: usize, message: message::Message) -> Result<(), LaneError> {
        let Some(lane) = self.lanes.get_mut(&id) else { return Ok(()) };
        lane.repost(id, place)?;
        lane.on_message(message)
    }

    fn with_lane(&mut self, id: LaneId, act: impl FnOnce(&mut Lane)) {
        if let Some(lane) = self.lanes.get_mut(&id) {
            act(lane);
        }
    }

    /// Tells of the failure of a lane, once.
    fn fail(&mut self, id: LaneId, error: &LaneError, into: &mut Vec<Completion>) {
        let Some(lane) = self.lanes.get_mut(&id).filter(|lane| !lane.has_failed) else { return };
        lane.has_failed = true;
        let failed = |write| Completion::Failed { lane: id, error: error.clone(), write };
        let unsent = lane.take_unsent();
        if unsent.is_empty() {
            into.push(failed(None));
        }
        into.extend(unsent.into_iter().map(Some).map(failed));
    }
}

impl Fabric for IwarpFabric {
    fn name(&self) -> &str {
        self.adapter.name()
    }

    fn room(&self) -> Room {
        self.room
    }

    fn reaches(&self, remote: &LaneAddress) -> bool {
        let LaneAddress::Listener(remote) = remote else { return false };
        let address = calls::address_of(remote);
        address.is_ipv4() == self.ip.is_ipv4() && !address.ip().is_unspecified() && address.port() != 0
    }

    fn open_lane(&mut self) -> Result<(LaneId, LaneAddress), LaneError> {
        if self.lanes.len() + self.given_up.len() >= self.room.lanes {
            return Err(LaneError::TooManyLanes { lanes: self.room.lanes });
        }
        let arena = self.adapter.arena()?;
        let listening = self.listener.address().ok_or(LaneError::NoLane)?;
        // Nobody can guess it who was not told.
        let token = RandomState::new().build_hasher().finish();
        let lane = Lane::open(token, &self.adapter, &self.completions, self.room)?;
        let id = LaneId(self.next_lane);
        self.next_lane += 1;
        self.lanes.insert(id, lane);
        let ip = match self.ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        };
        let (key, base, length) = (arena.key, arena.address, arena.length);
        let address = ListenerAddress { ip, port: listening.port(), token, key, base, length };
        Ok((id, LaneAddress::Listener(address)))
    }

    fn connect(&mut self, lane: LaneId, remote: &LaneAddress) -> Result<(), LaneError> {
        let begun = match remote {
            LaneAddress::Listener(listener) if self.reaches(remote) => self.begin(lane, listener),
            _ => Err(LaneError::OtherKind),
        };
        if let Err(error) = begun {
            self.close_lane(lane)?;
            return Err(error);
        }
        Ok(())
    }

    fn write(&mut self, id: LaneId, write: Write) -> Result<(), Refused> {
        let room = self.room;
        let refusal = match self.lanes.get(&id) {
            Some(Lane { has_failed: true, .. }) => Some(LaneError::Disconnected),
            Some(Lane { remote: Some(remote), outgoing, .. }) if outgoing.len() < room.writes_per_lane => {
                self.adapter.prepare(&write, &remote.arena).err()
            }
            Some(Lane { remote: Some(_), outgoing, .. }) => {
                Some(LaneError::LaneFull { count: outgoing.len(), what: "writes" })
            }
            _ => Some(LaneError::NoLane),
        };
        if let Some(error) = refusal {
            return Err(Refused { error, write });
        }
        // It waits while the lane is not connected.
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.outgoing.push(write);
            if let Err(error) = lane.post(id, &self.adapter, room) {
                // The next poll tells it of all writes.
                self.ending.push((id, error));
            }
        }
        Ok(())
    }

    fn poll(&mut self, into: &mut Vec<Completion>) -> Result<usize, LaneError> {
        let before = into.len();
        let mut batch = std::mem::take(&mut self.batch);
        // Completions may mean nothing but that more can be posted.
        let polled = loop {
            let polled = self.completions.queue.poll(&mut batch);
            batch.drain(..).for_each(|completion| self.completed(completion, into));
            match polled {
                Ok(1..) if into.len() == before => {}
                polled => break polled,
            }
        };
        self.batch = batch;
        if polled? == 0 {
            for (id, error) in std::mem::take(&mut self.ending) {
                self.fail(id, &error, into);
            }
        }
        Ok(into.len() - before)
    }

    fn close_lane(&mut self, id: LaneId) -> Result<Vec<Unsent>, LaneError> {
        let Some(mut lane) = self.lanes.remove(&id) else { return Ok(Vec::new()) };
        self.numbers.retain(|_, of| *of != id);
        let unsent = lane.take_unsent();
        match lane.stage {
            Stage::Connected(connection) => drop(connection.close()?),
            Stage::Connecting(connecting) => {
                let failed = connecting.queue_pair().fail();
                self.given_up.push(connecting);
                failed?;
            }
            // Nobody knows its queue pair.
            _ => {}
        }
        Ok(unsent)
    }

    fn arm(&mut self) -> Result<(), LaneError> {
        self.completions.arm()
    }

    fn health(&mut self) -> Health {
        self.take_news();
        if self.is_gone { Health::Gone } else { self.adapter.health() }
    }

    fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.completions.channel.as_fd(), self.news.as_fd()]
    }
}

impl Drop for IwarpFabric {
    fn drop(&mut self) {
        let lanes: Vec<LaneId> = self.lanes.keys().copied().collect();
        for lane in lanes {
            if let Err(error) = self.close_lane(lane) {
                tracing::error!(%error, "a queue pair cannot be closed");
            }
        }
        // The kernel takes them when the process ends. Whoever drops the fabric is not to wait for the network.
        self.given_up.drain(..).for_each(std::mem::forget);
    }
}
