//! The fabric on libibverbs, for queue pairs that are connected by their numbers: InfiniBand and RoCE.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use ::verbs::{
    Endpoint, Gid, Initialised, Mtu, Opcode, Operation, QueuePair, Ready, Reliability, RemoteRange, Segments,
    Sizes,
};
use flow::wire::lane::{LaneAddress, QueuePairAddress};
use memory::SharedLease;

use super::adapter::{Completions, VerbsAdapter};
use super::devices::RdmaSettings;
use super::error::LaneError;
use super::fabric::{Adapter, Completion, Fabric, Health, LaneId, Refused, Room, Unsent, Write};

/// How hard queue pairs try. A peer that is gone is noticed after about a second, a port without a link by its event.
const RELIABILITY: Reliability = Reliability {
    // 67 ms, of which devices wait up to four times as long.
    acknowledgement_timeout_exponent: 14,
    // Soft-RoCE takes 7 for retries without end.
    retries_max: 6,
    // A receive is posted for every slot that is granted, so that none is missing for longer than it takes to repost one.
    receiver_not_ready_retries_max: 6,
    // 10 ms
    receiver_not_ready_timer: 20,
    reads_max: 1,
    service_level: 0,
    traffic_class: 0,
    hop_limit: 64,
};

/// A device as one shard uses it.
pub(crate) struct VerbsFabric {
    // Dropped in this order: queue pairs, what they complete in, the device.
    lanes: HashMap<LaneId, Lane>,
    completions: Completions<Held>,
    adapter: Arc<VerbsAdapter>,
    room: Room,
    next_lane: u64,
    batch: Vec<::verbs::Completion<Held>>,
}

enum Lane {
    Offered(QueuePair<Held, Initialised>),
    Connected { pair: QueuePair<Held, Ready>, remote: RemoteRange },
}

/// What a work request is, and the memory that it reads.
struct Held {
    lane: LaneId,
    write: Option<(u32, SharedLease)>,
}

impl VerbsFabric {
    /// A completion queue and its channel on an adapter, with as much room as was asked for or the device has.
    pub(crate) fn open(adapter: &Arc<VerbsAdapter>, wanted: Room) -> Result<Self, LaneError> {
        let device = adapter.context().attributes()?;
        let queue_max = device.work_requests_max as usize;
        let writes_per_lane = wanted.writes_per_lane.clamp(1, queue_max.max(1));
        let receives_per_lane = wanted.receives_per_lane.clamp(1, queue_max.max(1));
        let per_lane = writes_per_lane + receives_per_lane;
        let lanes_max = (device.completions_max as usize / per_lane).min(device.queue_pairs_max as usize);
        let room =
            Room { lanes: wanted.lanes.clamp(1, lanes_max.max(1)), writes_per_lane, receives_per_lane };
        let completions = adapter.completions(room.lanes * per_lane)?;
        let adapter = adapter.clone();
        Ok(Self { lanes: HashMap::new(), completions, adapter, room, next_lane: 0, batch: Vec::new() })
    }

    fn reliability(&self) -> Reliability {
        let RdmaSettings { service_level, traffic_class, .. } = *self.adapter.settings();
        Reliability { service_level, traffic_class, ..RELIABILITY }
    }

    /// What a completion means here. A receive that was used is posted again.
    fn completed(&self, completion: ::verbs::Completion<Held>) -> Completion {
        let ::verbs::Completion { held: Held { lane, write }, outcome, bytes, immediate, .. } = completion;
        let failed = |error, write: Option<(u32, SharedLease)>| {
            let write = write.map(|(tag, lease)| Unsent { tag, lease });
            Completion::Failed { lane, error, write }
        };
        match (outcome, write, immediate) {
            (Err(error), write, _) => failed(error.into(), write),
            (Ok(Opcode::Write), Some((tag, lease)), _) => Completion::Written { lane, tag, lease },
            (Ok(Opcode::ReceiveWrite), None, Some(tag)) => match self.repost(lane) {
                Ok(()) => Completion::Arrived { lane, tag, bytes },
                // Of the bytes the peer is told that they arrived, and here they are asked for again.
                Err(error) => failed(error, None),
            },
            (Ok(_), write, _) => failed(LaneError::Protocol, write),
        }
    }

    fn repost(&self, lane: LaneId) -> Result<(), LaneError> {
        let held = Held { lane, write: None };
        let posted = match self.lanes.get(&lane) {
            Some(Lane::Connected { pair, .. }) => pair.post_receive(Segments::none(), held),
            Some(Lane::Offered(pair)) => pair.post_receive(Segments::none(), held),
            // It was closed after it had received this.
            None => return Ok(()),
        };
        posted.map(drop).map_err(|refused| refused.error.into())
    }
}

impl Fabric for VerbsFabric {
    fn name(&self) -> &str {
        self.adapter.name()
    }

    fn room(&self) -> Room {
        self.room
    }

    fn reaches(&self, remote: &LaneAddress) -> bool {
        // Where the device does not tell its place, the attempt will.
        matches!(remote, LaneAddress::QueuePair(remote) if self.adapter.place().is_none_or(|place| place.reaches(remote)))
    }

    fn shares_subnet(&self, remote: &LaneAddress) -> bool {
        let LaneAddress::QueuePair(remote) = remote else { return false };
        self.adapter.place().is_some_and(|place| place.shares_subnet(remote))
    }

    fn open_lane(&mut self) -> Result<(LaneId, LaneAddress), LaneError> {
        let attachment = self.adapter.attachment()?;
        let arena = self.adapter.arena()?;
        let Room { writes_per_lane, receives_per_lane, .. } = self.room;
        let sizes = Sizes { sends_max: writes_per_lane as u32, receives_max: receives_per_lane as u32 };
        let pair = QueuePair::create(self.adapter.domain(), &self.completions.queue, None, sizes)?;
        // Any number does that differs from those of earlier connections.
        let packet_sequence_number = RandomState::new().build_hasher().finish() as u32;
        let pair = pair.initialise(attachment, packet_sequence_number)?;
        let lane = LaneId(self.next_lane);
        self.next_lane += 1;
        for _ in 0..receives_per_lane {
            let held = Held { lane, write: None };
            pair.post_receive(Segments::none(), held).map_err(|refused| refused.error)?;
        }
        let Endpoint { lid, gid, queue_pair_number, packet_sequence_number, mtu } = pair.endpoint();
        self.lanes.insert(lane, Lane::Offered(pair));
        let address = QueuePairAddress {
            gid: gid.0,
            lid,
            queue_pair: queue_pair_number,
            packet_sequence_number,
            mtu_bytes: mtu.bytes(),
            key: arena.key,
            base: arena.address,
            length: arena.length,
        };
        Ok((lane, LaneAddress::QueuePair(address)))
    }

    fn connect(&mut self, lane: LaneId, remote: &LaneAddress) -> Result<(), LaneError> {
        let LaneAddress::QueuePair(remote) = remote else {
            self.close_lane(lane)?;
            return Err(LaneError::OtherKind);
        };
        let pair = match self.lanes.remove(&lane) {
            Some(Lane::Offered(pair)) => pair,
            Some(connected) => {
                self.lanes.insert(lane, connected);
                return Err(LaneError::NoLane);
            }
            None => return Err(LaneError::NoLane),
        };
        let endpoint = Endpoint {
            lid: remote.lid,
            gid: Gid(remote.gid),
            queue_pair_number: remote.queue_pair,
            packet_sequence_number: remote.packet_sequence_number,
            // An unknown size is that of a peer with another idea of packets; the smallest passes everywhere.
            mtu: Mtu::from_bytes(remote.mtu_bytes).unwrap_or(Mtu::Bytes256),
        };
        let pair = pair.receive_from(&endpoint, self.reliability())?.make_ready()?;
        let remote = RemoteRange { address: remote.base, length: remote.length, key: remote.key };
        self.lanes.insert(lane, Lane::Connected { pair, remote });
        Ok(())
    }

    fn write(&mut self, lane: LaneId, write: Write) -> Result<(), Refused> {
        let Some(Lane::Connected { pair, remote }) = self.lanes.get(&lane) else {
            return Err(Refused { error: LaneError::NoLane, write });
        };
        let (remote, segment) = match self.adapter.prepare(&write, remote) {
            Ok(prepared) => prepared,
            Err(error) => return Err(Refused { error, write }),
        };
        let Write { lease, length, to, tag } = write;
        let operation = Operation::Write { remote, immediate: Some(tag) };
        let posted = pair.post(operation, segment, Held { lane, write: Some((tag, lease)) });
        posted.map(drop).map_err(|refused| {
            let (tag, lease) = refused.held.write.expect("a refused request gives back what was posted");
            Refused { error: refused.error.into(), write: Write { lease, length, to, tag } }
        })
    }

    fn poll(&mut self, into: &mut Vec<Completion>) -> Result<usize, LaneError> {
        let before = into.len();
        let mut batch = std::mem::take(&mut self.batch);
        let polled = self.completions.queue.poll(&mut batch);
        into.extend(batch.drain(..).map(|completion| self.completed(completion)));
        self.batch = batch;
        polled?;
        Ok(into.len() - before)
    }

    fn close_lane(&mut self, lane: LaneId) -> Result<Vec<Unsent>, LaneError> {
        let given_up = match self.lanes.remove(&lane) {
            Some(Lane::Offered(pair)) => pair.close()?,
            Some(Lane::Connected { pair, .. }) => pair.close()?,
            None => return Ok(Vec::new()),
        };
        let writes = given_up.into_iter().filter_map(|held| held.write);
        Ok(writes.map(|(tag, lease)| Unsent { tag, lease }).collect())
    }

    fn arm(&mut self) -> Result<(), LaneError> {
        self.completions.arm()
    }

    fn health(&mut self) -> Health {
        self.adapter.health()
    }

    fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.completions.channel.as_fd(), self.adapter.context().as_fd()]
    }
}
