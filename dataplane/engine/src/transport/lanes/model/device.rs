//! The devices of the network as lanes use them.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use flow::wire::lane::{LaneAddress, QueuePairAddress};
use memory::Arena;

use super::{Network, Posted, Queue};
use crate::transport::lanes::error::LaneError;
use crate::transport::lanes::fabric::{
    Adapter, Completion, Fabric, Health, LaneId, Refused, Room, Unsent, Write,
};
/// A device of the network that all shards of a node use.
pub(crate) struct ModelAdapter {
    pub(super) network: Network,
    pub(super) arena: Arena,
}

/// A device of the network.
pub(crate) struct ModelFabric {
    pub(super) network: Network,
    pub(super) node: usize,
    pub(super) completions: Arc<OwnedFd>,
    pub(super) news: Arc<OwnedFd>,
}

impl Adapter for ModelAdapter {
    fn name(&self) -> &str {
        "model"
    }

    fn open(self: Arc<Self>, wanted: Room) -> Result<Box<dyn Fabric>, LaneError> {
        Ok(Box::new(self.network.open(&self.arena, wanted)))
    }
}

impl Fabric for ModelFabric {
    fn name(&self) -> &str {
        "model"
    }

    fn room(&self) -> Room {
        self.network.state().nodes[self.node].room
    }

    fn patience(&self) -> Duration {
        self.network.state().patience
    }

    fn reaches(&self, remote: &LaneAddress) -> bool {
        matches!(remote, LaneAddress::QueuePair(_))
    }

    fn open_lane(&mut self) -> Result<(LaneId, LaneAddress), LaneError> {
        let state = &mut *self.network.state();
        let (number, packet_sequence_number) = (state.number(), state.random.next() as u32 & 0xff_ffff);
        let node = &mut state.nodes[self.node];
        let lane = LaneId(number.into());
        let receives = node.room.receives_per_lane;
        let (posted, lost) = (VecDeque::new(), Vec::new());
        let queue =
            Queue { lane, packet_sequence_number, peer: None, has_failed: false, receives, posted, lost };
        node.queues.insert(number, queue);
        let gid = gid_of(self.node);
        let (queue_pair, mtu_bytes) = (number, 4096);
        let (key, length) = (node.key, node.length);
        let lid = 0;
        let base = 0;
        let address =
            QueuePairAddress { gid, lid, queue_pair, packet_sequence_number, mtu_bytes, key, base, length };
        Ok((lane, LaneAddress::QueuePair(address)))
    }

    fn connect(&mut self, lane: LaneId, remote: &LaneAddress) -> Result<(), LaneError> {
        let LaneAddress::QueuePair(remote) = remote else {
            self.close_lane(lane)?;
            return Err(LaneError::OtherKind);
        };
        let state = &mut *self.network.state();
        let queue = state.nodes[self.node].queues.get_mut(&(lane.0 as u32)).ok_or(LaneError::NoLane)?;
        queue.peer = Some(*remote);
        Ok(())
    }

    fn write(&mut self, lane: LaneId, write: Write) -> Result<(), Refused> {
        let state = &mut *self.network.state();
        let node = &mut state.nodes[self.node];
        let queue = node.queues.get_mut(&(lane.0 as u32));
        let connected = queue.and_then(|queue| queue.peer.map(|offer| (queue, offer)));
        let Some((queue, offer)) = connected else {
            return Err(Refused { error: LaneError::NoLane, write });
        };
        if let Err(error) = write.range_in(offer.length) {
            return Err(Refused { error, write });
        }
        if queue.posted.len() >= node.room.writes_per_lane {
            let error = LaneError::LaneFull { count: queue.posted.len(), what: "writes" };
            return Err(Refused { error, write });
        }
        if queue.has_failed {
            let Write { tag, lease, .. } = write;
            let (error, write) = (LaneError::Flushed, Some(Unsent { tag, lease }));
            node.delayed.push(Completion::Failed { lane, error, write });
        } else {
            queue.posted.push_back(Posted { write, moved: 0, is_told: false });
        }
        self.network.0.changed.notify_all();
        Ok(())
    }

    fn poll(&mut self, into: &mut Vec<Completion>) -> Result<usize, LaneError> {
        let state = &mut *self.network.state();
        let batch = 1 + state.random.below(8);
        let node = &mut state.nodes[self.node];
        let count = node.ready.len().min(batch);
        if count == 0 && node.health == Health::Gone {
            return Err(LaneError::DeviceGone { device: "model".to_owned() });
        }
        for completion in node.ready.drain(..count) {
            if let Completion::Arrived { lane, .. } = &completion
                && let Some(queue) = node.queues.get_mut(&(lane.0 as u32))
            {
                queue.receives = (queue.receives + 1).min(node.room.receives_per_lane);
            }
            into.push(completion);
        }
        Ok(count)
    }

    fn close_lane(&mut self, lane: LaneId) -> Result<Vec<Unsent>, LaneError> {
        let state = &mut *self.network.state();
        let node = &mut state.nodes[self.node];
        if node.is_stuck {
            return Err(LaneError::Protocol);
        }
        let Some(queue) = node.queues.remove(&(lane.0 as u32)) else { return Ok(Vec::new()) };
        let is_of_lane = |completion: &mut Completion| match completion {
            Completion::Written { lane: of, .. }
            | Completion::Arrived { lane: of, .. }
            | Completion::Failed { lane: of, .. } => *of == lane,
        };
        node.ready.extend(node.delayed.extract_if(.., is_of_lane));
        let given_up = |Posted { write: Write { tag, lease, .. }, .. }| Unsent { tag, lease };
        Ok(queue.posted.into_iter().map(given_up).chain(queue.lost).collect())
    }

    fn arm(&mut self) -> Result<(), LaneError> {
        take(&self.completions);
        self.network.state().nodes[self.node].is_armed = true;
        Ok(())
    }

    fn health(&mut self) -> Health {
        take(&self.news);
        self.network.state().nodes[self.node].health
    }

    fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.completions.as_fd(), self.news.as_fd()]
    }
}

/// The address of a device.
fn gid_of(node: usize) -> [u8; 16] {
    (node as u128).to_be_bytes()
}

fn take(event: &OwnedFd) {
    // Nothing to be read is no error here.
    let _ = rustix::io::read(event, &mut [0; 8]);
}
