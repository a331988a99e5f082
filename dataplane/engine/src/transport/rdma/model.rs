//! A fabric in memory, for tests: bytes move from arena to arena, in packets and one step at a time, and all that may go
//! wrong does, by a seed.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use flow::wire::lane::{LaneAddress, QueuePairAddress};
use memory::{Arena, Mapping, SharedLease};
use rustix::event::EventfdFlags;

use super::error::RdmaError;
use super::fabric::{Completion, Fabric, Health, LaneId, Refused, Room, Unsent, Write};

/// How often things go wrong, of 256 times each.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Faults {
    /// The completion of a write never comes.
    pub(super) lost: u8,
    /// The same completion comes twice.
    pub(super) twice: u8,
}

/// The devices, and what connects them.
#[derive(Clone)]
pub(super) struct Network(Rc<RefCell<State>>);

struct State {
    random: Random,
    faults: Faults,
    nodes: Vec<Node>,
    next_number: u32,
}

struct Node {
    memory: Mapping,
    length: u64,
    key: u32,
    room: Room,
    health: Health,
    /// Its process is gone.
    is_dead: bool,
    /// Queue pairs cannot be destroyed.
    is_stuck: bool,
    queues: BTreeMap<u32, Queue>,
    /// Done, and to be seen at any time.
    delayed: Vec<Completion>,
    /// To be polled.
    ready: VecDeque<Completion>,
    is_armed: bool,
    completions: Rc<OwnedFd>,
    news: Rc<OwnedFd>,
    /// Where others may write, when a test has said so.
    writable: Option<Vec<(u64, u32)>>,
    trespasses: u32,
}

struct Queue {
    lane: LaneId,
    packet_sequence_number: u32,
    peer: Option<QueuePairAddress>,
    has_failed: bool,
    receives: usize,
    posted: VecDeque<Posted>,
    /// Writes whose completion was lost.
    lost: Vec<Unsent>,
}

struct Posted {
    write: Write,
    moved: u32,
    is_told: bool,
}

/// A device of the network.
pub(super) struct ModelFabric {
    network: Network,
    node: usize,
    completions: Rc<OwnedFd>,
    news: Rc<OwnedFd>,
}

impl Network {
    pub(super) fn new(seed: u64, faults: Faults) -> Self {
        Self(Rc::new(RefCell::new(State { random: Random(seed), faults, nodes: Vec::new(), next_number: 1 })))
    }

    /// Adds a device with an arena. Devices are numbered from 0.
    pub(super) fn open(&self, arena: &Arena, room: Room) -> ModelFabric {
        let mut state = self.0.borrow_mut();
        let event =
            || Rc::new(rustix::event::eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap());
        let (completions, news) = (event(), event());
        let key = state.number();
        state.nodes.push(Node {
            memory: Mapping::map_shared(arena.read_write_fd(), arena.size(), true).unwrap(),
            length: arena.size(),
            key,
            room,
            health: Health::Up,
            is_dead: false,
            is_stuck: false,
            queues: BTreeMap::new(),
            delayed: Vec::new(),
            ready: VecDeque::new(),
            is_armed: false,
            completions: completions.clone(),
            news: news.clone(),
            writable: None,
            trespasses: 0,
        });
        ModelFabric { network: self.clone(), node: state.nodes.len() - 1, completions, news }
    }

    /// Lets one thing happen that can; false when nothing can.
    pub(super) fn step(&self) -> bool {
        self.0.borrow_mut().step()
    }

    /// Lets everything happen that can.
    pub(super) fn settle(&self) {
        while self.step() {}
    }

    /// The process of a node is gone, with its queue pairs.
    pub(super) fn kill(&self, node: usize) {
        let mut state = self.0.borrow_mut();
        let node = &mut state.nodes[node];
        node.is_dead = true;
        node.queues.clear();
        node.delayed.clear();
        node.ready.clear();
    }

    pub(super) fn set_health(&self, node: usize, health: Health) {
        let mut state = self.0.borrow_mut();
        state.nodes[node].health = health;
        if health == Health::Gone {
            let queues: Vec<u32> = state.nodes[node].queues.keys().copied().collect();
            queues.into_iter().for_each(|number| state.fail(node, number, RdmaError::Flushed));
        }
        signal(&state.nodes[node].news);
    }

    /// Queue pairs of the node cannot be destroyed from here on.
    pub(super) fn stick(&self, node: usize) {
        self.0.borrow_mut().nodes[node].is_stuck = true;
    }

    /// The arena is registered anew, so that offers made before open nothing.
    pub(super) fn change_key(&self, node: usize) {
        let mut state = self.0.borrow_mut();
        state.nodes[node].key = state.number();
    }

    /// Where others may write to a node's arena. What is written elsewhere is counted.
    pub(super) fn set_writable(&self, node: usize, ranges: Vec<(u64, u32)>) {
        self.0.borrow_mut().nodes[node].writable = Some(ranges);
    }

    /// Packets that were written where none may be.
    pub(super) fn trespasses(&self) -> u32 {
        self.0.borrow().nodes.iter().map(|node| node.trespasses).sum()
    }
}

impl State {
    fn number(&mut self) -> u32 {
        self.next_number += 1;
        self.next_number
    }

    fn step(&mut self) -> bool {
        let mut choices = Vec::new();
        for (at, node) in self.nodes.iter().enumerate().filter(|(_, node)| !node.is_dead) {
            let active =
                node.queues.iter().filter(|(_, queue)| !queue.has_failed && !queue.posted.is_empty());
            choices.extend(active.map(|(number, _)| (at, Some(*number))));
            choices.extend((!node.delayed.is_empty()).then_some((at, None)));
        }
        if choices.is_empty() {
            return false;
        }
        match choices[self.random.below(choices.len())] {
            (node, Some(queue)) => self.send(node, queue),
            (node, None) => {
                let at = self.random.below(self.nodes[node].delayed.len());
                let completion = self.nodes[node].delayed.swap_remove(at);
                self.nodes[node].deliver(completion);
            }
        }
        true
    }

    /// The first write of a queue goes on by one packet, by its news to the peer, or by the peer's answer.
    fn send(&mut self, node: usize, number: u32) {
        let Some((peer, peer_number)) = self.route(node, number) else {
            // Retries go on for a while.
            if self.random.below(3) == 0 {
                self.fail(node, number, RdmaError::RetriesExceeded);
            }
            return;
        };
        let Some(queue) = self.nodes[node].queues.get_mut(&number) else { return };
        let Some(key) = queue.peer.as_ref().map(|offer| offer.key) else { return };
        let Some(posted) = queue.posted.front_mut() else { return };
        let (offset, length) = (posted.write.to.offset + u64::from(posted.moved), posted.write.length);
        let left = length - posted.moved;
        if left > 0 {
            let packet = 1 + self.random.below(left as usize) as u32;
            let (from, moved) = (posted.write.lease.offset() + u64::from(posted.moved), &mut posted.moved);
            *moved += packet;
            let bytes = self.nodes[node].memory.read(from, packet as usize).unwrap().to_vec();
            // Devices look at all of the range when the first packet comes.
            let to = &mut self.nodes[peer];
            let is_within = offset.checked_add(left.into()).is_some_and(|end| end <= to.length);
            if key != to.key || !is_within || !to.receive(offset, &bytes) {
                self.fail(node, number, RdmaError::RemoteAccess);
                self.fail(peer, peer_number, RdmaError::Flushed);
            }
        } else if !posted.is_told {
            posted.is_told = true;
            let tag = posted.write.tag;
            self.tell(node, number, (peer, peer_number), tag, length);
        } else {
            let Some(Posted { write: Write { tag, lease, .. }, .. }) = queue.posted.pop_front() else {
                return;
            };
            let lane = queue.lane;
            if self.random.happens(self.faults.lost) {
                queue.lost.push(Unsent { tag, lease });
            } else {
                self.nodes[node].delayed.push(Completion::Written { lane, tag, lease });
            }
        }
    }

    /// The peer hears that a write is there, for which it must have a receive.
    fn tell(&mut self, node: usize, number: u32, (peer, peer_number): (usize, u32), tag: u32, bytes: u32) {
        let twice = self.random.happens(self.faults.twice);
        let Some(queue) = self.nodes[peer].queues.get_mut(&peer_number) else { return };
        if queue.receives == 0 {
            return self.fail(node, number, RdmaError::ReceiverNotReady);
        }
        queue.receives -= 1;
        let lane = queue.lane;
        for _ in 0..1 + usize::from(twice) {
            self.nodes[peer].delayed.push(Completion::Arrived { lane, tag, bytes });
        }
    }

    /// The queue pair that a queue is connected to, if packets get there and it is connected back.
    fn route(&self, node: usize, number: u32) -> Option<(usize, u32)> {
        let from = &self.nodes[node];
        let queue = from.queues.get(&number)?;
        let offer = queue.peer.as_ref()?;
        let peer = usize::from(offer.gid[15]);
        let to = self.nodes.get(peer)?;
        let back = to.queues.get(&offer.queue_pair).filter(|back| !back.has_failed)?;
        let expected = back.peer.as_ref()?;
        let is_connected = expected.queue_pair == number
            && usize::from(expected.gid[15]) == node
            && expected.packet_sequence_number == queue.packet_sequence_number
            && back.packet_sequence_number == offer.packet_sequence_number;
        let carries = |node: &Node| node.health == Health::Up && !node.is_dead;
        (is_connected && carries(from) && carries(to)).then_some((peer, offer.queue_pair))
    }

    /// A queue enters the error state: everything posted comes back, the first write with the reason.
    fn fail(&mut self, node: usize, number: u32, error: RdmaError) {
        let twice = self.random.happens(self.faults.twice);
        let node = &mut self.nodes[node];
        let Some(queue) = node.queues.get_mut(&number).filter(|queue| !queue.has_failed) else { return };
        queue.has_failed = true;
        let lane = queue.lane;
        let mut reason = Some(error);
        for Posted { write: Write { tag, lease, .. }, .. } in queue.posted.drain(..) {
            let error = reason.take().unwrap_or(RdmaError::Flushed);
            node.delayed.push(Completion::Failed { lane, error, write: Some(Unsent { tag, lease }) });
        }
        for _ in 0..queue.receives.min(1 + usize::from(twice)) {
            node.delayed.push(Completion::Failed { lane, error: RdmaError::Flushed, write: None });
        }
    }
}

impl Node {
    /// Writes a packet into the arena, if it is within.
    fn receive(&mut self, offset: u64, bytes: &[u8]) -> bool {
        let end = offset + bytes.len() as u64;
        let is_within = |(start, length): &(u64, u32)| *start <= offset && end <= start + u64::from(*length);
        let Some(mut writer) = self.memory.writer(offset, bytes.len()) else { return false };
        if self.writable.as_ref().is_some_and(|ranges| !ranges.iter().any(is_within)) {
            self.trespasses += 1;
        }
        writer.copy_from_slice(bytes);
        true
    }

    fn deliver(&mut self, completion: Completion) {
        self.ready.push_back(completion);
        if std::mem::take(&mut self.is_armed) {
            signal(&self.completions);
        }
    }
}

impl Fabric for ModelFabric {
    fn name(&self) -> &str {
        "model"
    }

    fn room(&self) -> Room {
        self.network.0.borrow().nodes[self.node].room
    }

    fn reaches(&self, remote: &LaneAddress) -> bool {
        matches!(remote, LaneAddress::QueuePair(_))
    }

    fn open_lane(&mut self) -> Result<(LaneId, LaneAddress), RdmaError> {
        let state = &mut *self.network.0.borrow_mut();
        let (number, packet_sequence_number) = (state.number(), state.random.next() as u32 & 0xff_ffff);
        let node = &mut state.nodes[self.node];
        let lane = LaneId(number.into());
        let receives = node.room.receives_per_lane;
        let (posted, lost) = (VecDeque::new(), Vec::new());
        let queue =
            Queue { lane, packet_sequence_number, peer: None, has_failed: false, receives, posted, lost };
        node.queues.insert(number, queue);
        let mut gid = [0; 16];
        gid[15] = self.node as u8;
        let (queue_pair, mtu_bytes) = (number, 4096);
        let (key, length) = (node.key, node.length);
        let lid = 0;
        let base = 0;
        let address =
            QueuePairAddress { gid, lid, queue_pair, packet_sequence_number, mtu_bytes, key, base, length };
        Ok((lane, LaneAddress::QueuePair(address)))
    }

    fn connect(&mut self, lane: LaneId, remote: &LaneAddress) -> Result<(), RdmaError> {
        let LaneAddress::QueuePair(remote) = remote else {
            self.close_lane(lane)?;
            return Err(RdmaError::OtherKind);
        };
        let state = &mut *self.network.0.borrow_mut();
        let queue = state.nodes[self.node].queues.get_mut(&(lane.0 as u32)).ok_or(RdmaError::NoLane)?;
        queue.peer = Some(*remote);
        Ok(())
    }

    fn write(&mut self, lane: LaneId, write: Write) -> Result<(), Refused> {
        let state = &mut *self.network.0.borrow_mut();
        let node = &mut state.nodes[self.node];
        let queue = node.queues.get_mut(&(lane.0 as u32));
        let connected = queue.and_then(|queue| queue.peer.map(|offer| (queue, offer)));
        let Some((queue, offer)) = connected else {
            return Err(Refused { error: RdmaError::NoLane, write });
        };
        if let Err(error) = write.range_in(offer.length) {
            return Err(Refused { error, write });
        }
        if queue.posted.len() >= node.room.writes_per_lane {
            let error = RdmaError::LaneFull { count: queue.posted.len(), what: "writes" };
            return Err(Refused { error, write });
        }
        if queue.has_failed {
            let Write { tag, lease, .. } = write;
            let (error, write) = (RdmaError::Flushed, Some(Unsent { tag, lease }));
            node.delayed.push(Completion::Failed { lane, error, write });
        } else {
            queue.posted.push_back(Posted { write, moved: 0, is_told: false });
        }
        Ok(())
    }

    fn poll(&mut self, into: &mut Vec<Completion>) -> Result<usize, RdmaError> {
        let state = &mut *self.network.0.borrow_mut();
        let batch = 1 + state.random.below(8);
        let node = &mut state.nodes[self.node];
        let count = node.ready.len().min(batch);
        if count == 0 && node.health == Health::Gone {
            return Err(RdmaError::DeviceGone { device: "model".to_owned() });
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

    fn close_lane(&mut self, lane: LaneId) -> Result<Vec<Unsent>, RdmaError> {
        let state = &mut *self.network.0.borrow_mut();
        let node = &mut state.nodes[self.node];
        if node.is_stuck {
            return Err(RdmaError::Protocol);
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

    fn arm(&mut self) -> Result<(), RdmaError> {
        take(&self.completions);
        self.network.0.borrow_mut().nodes[self.node].is_armed = true;
        Ok(())
    }

    fn health(&mut self) -> Health {
        take(&self.news);
        self.network.0.borrow().nodes[self.node].health
    }

    fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.completions.as_fd(), self.news.as_fd()]
    }
}

/// A lease of the node's with bytes that its tag decides.
pub(super) fn patterned(arena: &Arena, length: u32, tag: u32) -> SharedLease {
    let mut lease = arena.lease(0, length).unwrap();
    lease.as_mut_slice().copy_from_slice(&pattern(length, tag));
    SharedLease::new(lease)
}

/// The bytes that a tag decides.
pub(super) fn pattern(length: u32, tag: u32) -> Vec<u8> {
    (0..length).map(|at| (at.wrapping_mul(31) ^ tag.wrapping_mul(0x9e37_79b9) >> 7 ^ at >> 8) as u8).collect()
}

fn signal(event: &OwnedFd) {
    rustix::io::write(event, &1_u64.to_ne_bytes()).unwrap();
}

fn take(event: &OwnedFd) {
    // Nothing to be read is no error here.
    let _ = rustix::io::read(event, &mut [0; 8]);
}

/// Numbers that look random and are the same for the same seed.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Below `limit`, which is not zero.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// So often of 256 times.
    fn happens(&mut self, of_256: u8) -> bool {
        self.next() % 256 < of_256.into()
    }
}
