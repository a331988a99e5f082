//! A fabric in memory, for tests: bytes move from arena to arena, in packets and one step at a time, and all that may go
//! wrong does, by a seed. Tests of lanes take the steps themselves; for whole engines a thread does.

mod device; // its devices as lanes use them

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flow::wire::lane::QueuePairAddress;
use memory::{Arena, Mapping, SharedLease};
use rustix::event::EventfdFlags;

use self::device::ModelAdapter;
pub(crate) use self::device::ModelFabric;
use super::error::LaneError;
use super::fabric::{Adapter, Completion, Health, LaneId, Room, Unsent, Write};

/// How often things go wrong, of 256 times each.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    /// The completion of a write never comes.
    pub(crate) lost: u8,
    /// The same completion comes twice.
    pub(crate) twice: u8,
    /// A queue pair fails rather than send the next packet.
    pub(crate) broken: u8,
    /// Everything stands still for a while. Only where a thread takes the steps.
    pub(crate) late: u8,
}

/// How long everything stands still when it does.
const LATE: Duration = Duration::from_millis(1);
/// How often the thread that takes the steps looks whether it is to go on.
const LOOK: Duration = Duration::from_millis(20);

/// The devices, and what connects them.
#[derive(Clone)]
pub(crate) struct Network(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// There may be something to do.
    changed: Condvar,
}

struct State {
    random: Random,
    faults: Faults,
    /// How long the fabrics say that a write may take.
    patience: Duration,
    /// Steps until the thread that takes them stops.
    steps_left: Option<u32>,
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
    completions: Arc<OwnedFd>,
    news: Arc<OwnedFd>,
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

/// A network that takes its steps by itself.
pub(crate) struct Running {
    is_over: Arc<AtomicBool>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

impl Network {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        Self::with_patience(seed, faults, Duration::from_secs(20))
    }

    /// As [`Network::new`], where writes are given up sooner.
    pub(crate) fn with_patience(seed: u64, faults: Faults, patience: Duration) -> Self {
        let (random, nodes, steps_left) = (Random(seed), Vec::new(), None);
        let state = State { random, faults, patience, steps_left, nodes, next_number: 1 };
        Self(Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() }))
    }

    /// Lets things happen by themselves from here on, until what this gives is dropped.
    pub(crate) fn run(&self) -> Running {
        let is_over = Arc::new(AtomicBool::new(false));
        let (network, over) = (self.clone(), is_over.clone());
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                if network.0.turn() {
                    std::thread::sleep(LATE);
                }
            }
        });
        Running { is_over }
    }

    /// Lets that many steps happen from here on, and nothing after them until there are more.
    pub(crate) fn halt_after(&self, steps: Option<u32>) {
        self.state().steps_left = steps;
        self.0.changed.notify_all();
    }

    /// Whether all steps that there were have been taken.
    pub(crate) fn is_halted(&self) -> bool {
        self.state().steps_left == Some(0)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state()
    }

    /// The way of a node with that arena to the network: each of its shards has a device of its own there.
    pub(crate) fn adapter(&self, arena: &Arena) -> Arc<dyn Adapter> {
        Arc::new(ModelAdapter { network: self.clone(), arena: arena.clone() })
    }

    /// Adds a device with an arena. Devices are numbered from 0.
    pub(super) fn open(&self, arena: &Arena, room: Room) -> ModelFabric {
        let mut state = self.state();
        let event =
            || Arc::new(rustix::event::eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap());
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
        self.state().step()
    }

    /// Lets everything happen that can.
    pub(super) fn settle(&self) {
        while self.step() {}
    }

    /// The process of a node is gone, with its queue pairs.
    pub(crate) fn kill(&self, node: usize) {
        let mut state = self.state();
        let node = &mut state.nodes[node];
        node.is_dead = true;
        node.queues.clear();
        node.delayed.clear();
        node.ready.clear();
    }

    pub(crate) fn set_health(&self, node: usize, health: Health) {
        let mut state = self.state();
        state.nodes[node].health = health;
        if health == Health::Gone {
            let queues: Vec<u32> = state.nodes[node].queues.keys().copied().collect();
            queues.into_iter().for_each(|number| state.fail(node, number, LaneError::Flushed));
        }
        signal(&state.nodes[node].news);
        self.0.changed.notify_all();
    }

    /// Queue pairs of the node cannot be destroyed from here on.
    pub(super) fn stick(&self, node: usize) {
        self.state().nodes[node].is_stuck = true;
    }

    /// The arena is registered anew, so that offers made before open nothing.
    pub(super) fn change_key(&self, node: usize) {
        let mut state = self.state();
        state.nodes[node].key = state.number();
    }

    /// Where others may write to a node's arena. What is written elsewhere is counted.
    pub(super) fn set_writable(&self, node: usize, ranges: Vec<(u64, u32)>) {
        self.state().nodes[node].writable = Some(ranges);
    }

    /// How many queue pairs a node has.
    pub(super) fn queue_pairs(&self, node: usize) -> usize {
        self.state().nodes[node].queues.len()
    }

    /// Packets that were written where none may be.
    pub(super) fn trespasses(&self) -> u32 {
        self.state().nodes.iter().map(|node| node.trespasses).sum()
    }
}

impl Shared {
    /// A test that failed elsewhere leaves a state that is as good as any.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a step, or waits for one to take. Whether nothing is to happen for a while.
    fn turn(&self) -> bool {
        let mut state = self.state();
        if state.steps_left == Some(0) || !state.step() {
            drop(self.changed.wait_timeout(state, LOOK));
            return false;
        }
        if let Some(left) = &mut state.steps_left {
            *left -= 1;
        }
        let late = state.faults.late;
        state.random.happens(late)
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
                self.fail(node, number, LaneError::RetriesExceeded);
            }
            return;
        };
        if self.random.happens(self.faults.broken) {
            return self.fail(node, number, LaneError::RetriesExceeded);
        }
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
                self.fail(node, number, LaneError::RemoteAccess);
                self.fail(peer, peer_number, LaneError::Flushed);
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
            return self.fail(node, number, LaneError::ReceiverNotReady);
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
        let peer = node_of(&offer.gid);
        let to = self.nodes.get(peer)?;
        let back = to.queues.get(&offer.queue_pair).filter(|back| !back.has_failed)?;
        let expected = back.peer.as_ref()?;
        let is_connected = expected.queue_pair == number
            && node_of(&expected.gid) == node
            && expected.packet_sequence_number == queue.packet_sequence_number
            && back.packet_sequence_number == offer.packet_sequence_number;
        let carries = |node: &Node| node.health == Health::Up && !node.is_dead;
        (is_connected && carries(from) && carries(to)).then_some((peer, offer.queue_pair))
    }

    /// A queue enters the error state: everything posted comes back, the first write with the reason.
    fn fail(&mut self, node: usize, number: u32, error: LaneError) {
        let twice = self.random.happens(self.faults.twice);
        let node = &mut self.nodes[node];
        let Some(queue) = node.queues.get_mut(&number).filter(|queue| !queue.has_failed) else { return };
        queue.has_failed = true;
        let lane = queue.lane;
        let mut reason = Some(error);
        for Posted { write: Write { tag, lease, .. }, .. } in queue.posted.drain(..) {
            let error = reason.take().unwrap_or(LaneError::Flushed);
            node.delayed.push(Completion::Failed { lane, error, write: Some(Unsent { tag, lease }) });
        }
        for _ in 0..queue.receives.min(1 + usize::from(twice)) {
            node.delayed.push(Completion::Failed { lane, error: LaneError::Flushed, write: None });
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

/// A lease of the node's with bytes that its tag decides.
pub(super) fn patterned(arena: &Arena, length: u32, tag: u32) -> SharedLease {
    let mut lease = arena.lease(0, length).unwrap();
    lease.as_mut_slice().copy_from_slice(&pattern(length, tag));
    SharedLease::new(lease)
}

/// The bytes that a tag decides.
pub(super) fn pattern(length: u32, tag: u32) -> Vec<u8> {
    let mut bytes = vec![0; length as usize];
    blake3::Hasher::new().update(&tag.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn node_of(gid: &[u8; 16]) -> usize {
    usize::try_from(u128::from_be_bytes(*gid)).unwrap_or(usize::MAX)
}

fn signal(event: &OwnedFd) {
    rustix::io::write(event, &1_u64.to_ne_bytes()).unwrap();
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
