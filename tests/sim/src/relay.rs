//! Runs what the swarm is compared with: nodes that pass pieces on along fixed trees, or whole copies to the next.
//!
//! It is generous to them. Whoever is below a dead node is taken on by the nearest one above that lives, as soon as the
//! death is noticed; nodes have memory without end; receivers stand in the trees by their racks; nothing needs to be
//! agreed upon before the first byte is sent.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fastrand::Rng;
use flow::bitmap::Bitmap;

use crate::cluster::time_ns;
use crate::event::{Event, Queue};
use crate::faults::{Fate, fates};
use crate::network::{Network, Piece};
use crate::node::Worker;
use crate::outcome::{Outcome, Receiver};
use crate::route::Route;
use crate::scenario::{PIECES_MAX, Scenario};
use crate::strategy::Strategy;

/// Parts that one node has under way to another, so that the way is never idle.
const UNDER_WAY: usize = 2;
/// Parts that a node has under way to all others.
const UNDER_WAY_TO_ALL: usize = 64;
/// A run that takes longer than this many times the ideal for each receiver is given up.
const GIVE_UP: u64 = 40;

/// Runs a scenario until every survivor has all, or nothing happens any more.
pub(crate) fn run(scenario: &Scenario) -> Outcome {
    let mut relay = Relay::new(scenario);
    let limit_ns = scenario.ideal_ns().saturating_mul(GIVE_UP * scenario.receivers as u64);
    while relay.unfinished > 0
        && let Some(event) = relay.queue.next_event()
        && relay.queue.now_ns() <= limit_ns
    {
        relay.happen(event);
    }
    relay.outcome()
}

struct Relay<'a> {
    scenario: &'a Scenario,
    queue: Queue,
    network: Network,
    posts: Vec<Post>,
    fates: Vec<Fate>,
    route: Route,
    parts: u32,
    part_bytes: u64,
    /// Receivers that nobody sends to so far, where whole copies are passed on.
    waiting: VecDeque<usize>,
    unfinished: usize,
    outcome: Outcome,
}

/// One node.
struct Post {
    have: Bitmap,
    alive: bool,
    /// Whether its end was noticed.
    missed: bool,
    joined: bool,
    cpu: Worker,
    landing: Worker,
    finished_ns: Option<u64>,
    /// What is to be sent to whom.
    children: BTreeMap<usize, Child>,
    /// Who has something for it that waits until it joins.
    parents: BTreeSet<usize>,
    /// Children for whom there is something, and room under way.
    ready: VecDeque<usize>,
    under_way: usize,
}

#[derive(Default)]
struct Child {
    parts: VecDeque<u32>,
    under_way: usize,
    is_ready: bool,
}

impl<'a> Relay<'a> {
    fn new(scenario: &'a Scenario) -> Self {
        let mut rng = Rng::with_seed(scenario.seed);
        let fates = fates(scenario, &mut rng);
        let racks = scenario.racks();
        let share = scenario.faults.partition.map_or(0.0, |partition| partition.share);
        let first_apart = racks.saturating_sub(((racks as f64 * share).round() as usize).min(racks - 1));
        let is_apart = |node: usize| scenario.cluster.rack(node) >= first_apart;
        let mut network = Network::new(&scenario.cluster, &fates, is_apart, rng.u64(..));
        network.tells_headers = false;
        // Who scatters cuts a chunk into a part for each receiver.
        let parts = match scenario.strategy {
            Strategy::ScatterAllgather => scenario.pieces().max(scenario.receivers as u32).min(PIECES_MAX),
            _ => scenario.pieces(),
        };
        let part_bytes = match scenario.strategy {
            Strategy::ScatterAllgather => scenario.size_bytes.div_ceil(u64::from(parts)),
            _ => u64::from(scenario.piece_bytes),
        };
        let mut relay = Self {
            scenario,
            queue: Queue::default(),
            network,
            posts: Vec::new(),
            route: Route::new(scenario.strategy, scenario.receivers, parts),
            parts,
            part_bytes,
            waiting: VecDeque::new(),
            unfinished: scenario.receivers,
            outcome: Outcome::new(scenario),
            fates,
        };
        for node in 0..relay.fates.len() {
            relay.add(node);
        }
        if let Some(partition) = scenario.faults.partition {
            let at_ns = |moment: f64| (moment * scenario.ideal_ns() as f64) as u64;
            relay.queue.plan(at_ns(partition.begins), Event::Part(true));
            relay.queue.plan(at_ns(partition.begins + partition.lasts), Event::Part(false));
        }
        relay.queue.plan(0, Event::Sample);
        for part in 0..parts {
            relay.pass_on(0, part);
        }
        relay
    }

    fn add(&mut self, node: usize) {
        let is_origin = node < self.scenario.origins;
        self.posts.push(Post {
            have: if is_origin { Bitmap::full(self.parts) } else { Bitmap::new(self.parts) },
            alive: true,
            missed: false,
            joined: is_origin,
            cpu: Worker::default(),
            landing: Worker::default(),
            finished_ns: None,
            children: BTreeMap::new(),
            parents: BTreeSet::new(),
            ready: VecDeque::new(),
            under_way: 0,
        });
        let fate = &self.fates[node];
        if let Some(ends_ns) = fate.dies_ns.into_iter().chain(fate.mute_ns).min() {
            self.queue.plan(ends_ns, Event::Die(node));
        }
        if !is_origin {
            let begins_ns = fate.joins_ns + self.scenario.cluster.start_ns;
            self.queue.plan(begins_ns, Event::Join { node, chunk: 0 });
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::PortFree(port) => drop(self.network.on_port_free(&mut self.queue, port)),
            Event::Hop(slice) => self.network.advance(&mut self.queue, slice),
            Event::SliceDone(stream) => self.network.on_slice_done(&mut self.queue, stream),
            Event::Arrived(stream) => self.on_arrived(stream),
            Event::Checked(stream) => self.on_checked(stream),
            Event::Join { node, .. } => self.on_join(node),
            Event::Die(node) => self.on_die(node),
            Event::Missed(node) => self.on_missed(node),
            Event::Part(parted) => self.network.part(&mut self.queue, parted),
            Event::Sample => self.sample(),
            _ => {}
        }
    }

    /// A node has a part: it goes to those below it.
    fn pass_on(&mut self, node: usize, part: u32) {
        for child in self.heirs(part, node) {
            self.offer(node, child, part);
        }
    }

    /// Those below a node, and in the place of the dead those below them.
    fn heirs(&self, part: u32, node: usize) -> Vec<usize> {
        let mut heirs = Vec::new();
        for child in self.route.children(part, node) {
            match self.posts[child].missed {
                true => heirs.extend(self.heirs(part, child)),
                false => heirs.push(child),
            }
        }
        heirs
    }

    fn offer(&mut self, node: usize, to: usize, part: u32) {
        self.posts[node].children.entry(to).or_default().parts.push_back(part);
        if !self.posts[to].joined {
            self.posts[to].parents.insert(node);
        }
        self.make_ready(node, to);
        self.pump(node);
    }

    fn make_ready(&mut self, node: usize, to: usize) {
        let can_take = self.posts[to].joined && !self.posts[to].missed;
        let post = &mut self.posts[node];
        if let Some(child) = post.children.get_mut(&to)
            && can_take
            && !child.is_ready
            && !child.parts.is_empty()
            && child.under_way < UNDER_WAY
        {
            child.is_ready = true;
            post.ready.push_back(to);
        }
    }

    /// Sends what there is and room for, to one child after the other.
    fn pump(&mut self, node: usize) {
        while self.posts[node].alive && self.posts[node].under_way < UNDER_WAY_TO_ALL {
            let Some(to) = self.posts[node].ready.pop_front() else { return };
            let post = &mut self.posts[node];
            let Some(child) = post.children.get_mut(&to) else { continue };
            child.is_ready = false;
            let Some(part) = child.parts.pop_front() else { continue };
            child.under_way += 1;
            post.under_way += 1;
            self.send(node, to, part);
            self.make_ready(node, to);
        }
    }

    fn send(&mut self, from: usize, to: usize, part: u32) {
        let rest = self.scenario.size_bytes.saturating_sub(u64::from(part) * self.part_bytes);
        let length = self.part_bytes.min(rest);
        let racks = [from, to].map(|node| self.scenario.cluster.rack(node));
        self.outcome.carry(racks, length);
        let now_ns = self.queue.now_ns();
        self.posts[from].cpu.done_ns(now_ns, self.scenario.cluster.operation_ns);
        self.network.send(&mut self.queue, Piece { from, to, chunk: 0, grant: 0, piece: part, length });
    }

    fn on_arrived(&mut self, stream: usize) {
        let arrived = self.network.stream(stream);
        let (to, length, cluster) = (arrived.to, arrived.length, &self.scenario.cluster);
        let takes_ns = cluster.operation_ns + time_ns(length, cluster.checksum_gbps);
        let checked_ns = self.posts[to].cpu.done_ns(self.queue.now_ns(), takes_ns);
        self.queue.plan(checked_ns, Event::Checked(stream));
    }

    fn on_checked(&mut self, stream: usize) {
        let arrived = self.network.stream(stream).clone();
        self.network.end(stream);
        let (from, to, part) = (arrived.from, arrived.to, arrived.piece);
        let sender = &mut self.posts[from];
        if let Some(child) = sender.children.get_mut(&to) {
            child.under_way = child.under_way.saturating_sub(1);
            sender.under_way = sender.under_way.saturating_sub(1);
        }
        self.make_ready(from, to);
        self.pump(from);
        let (now_ns, cluster) = (self.queue.now_ns(), &self.scenario.cluster);
        let post = &mut self.posts[to];
        if post.alive && post.have.insert(part) {
            let lands_ns = if cluster.gpus > 0 { time_ns(arrived.length, cluster.landing_gbps()) } else { 0 };
            let landed_ns = post.landing.done_ns(now_ns, lands_ns);
            if post.have.is_full() {
                post.finished_ns = Some(landed_ns);
                self.unfinished -= 1;
                self.lead(to);
                self.lead(from);
            }
            self.pass_on(to, part);
        }
    }

    /// Where whole copies are passed on: a node that has all takes the next that waits.
    fn lead(&mut self, node: usize) {
        let is_free = self.posts[node].alive && self.posts[node].have.is_full();
        if self.scenario.strategy != Strategy::Doubling || !is_free {
            return;
        }
        let is_busy = self.posts[node].children.values().any(|child| child.under_way > 0 || child.is_ready);
        if is_busy {
            return;
        }
        if let Some(next) = self.waiting.pop_front() {
            (0..self.parts).for_each(|part| self.offer(node, next, part));
        }
    }

    fn on_join(&mut self, node: usize) {
        if !self.posts[node].alive {
            return;
        }
        self.posts[node].joined = true;
        if self.scenario.strategy == Strategy::Doubling {
            self.waiting.push_back(node);
            return (0..self.posts.len()).for_each(|leader| self.lead(leader));
        }
        for parent in std::mem::take(&mut self.posts[node].parents) {
            self.make_ready(parent, node);
            self.pump(parent);
        }
    }

    fn on_die(&mut self, node: usize) {
        if !self.posts[node].alive {
            return;
        }
        let post = &mut self.posts[node];
        post.alive = false;
        if node >= self.scenario.origins && post.finished_ns.is_none() {
            self.unfinished -= 1;
        }
        self.network.cut(node);
        let missed_ns = self.queue.now_ns() + self.scenario.faults.detection_ns;
        self.queue.plan(missed_ns, Event::Missed(node));
    }

    /// The end of a node is noticed: others take on what it passed on.
    fn on_missed(&mut self, node: usize) {
        self.posts[node].missed = true;
        self.waiting.retain(|&waiting| waiting != node);
        for parent in 0..self.posts.len() {
            if let Some(child) = self.posts[parent].children.remove(&node) {
                self.posts[parent].under_way -= child.under_way;
                self.posts[parent].ready.retain(|&ready| ready != node);
                self.network.forget(&mut self.queue, parent, node);
                self.lead(parent);
                self.pump(parent);
            }
        }
        if self.scenario.strategy == Strategy::Doubling {
            let orphans = std::mem::take(&mut self.posts[node].children);
            let orphans = orphans
                .into_iter()
                .filter(|(orphan, _)| self.posts[*orphan].alive && self.posts[*orphan].finished_ns.is_none());
            orphans.for_each(|(orphan, _)| self.waiting.push_front(orphan));
            return (0..self.posts.len()).for_each(|leader| self.lead(leader));
        }
        if node == 0 {
            return;
        }
        for part in 0..self.parts {
            let mut above = self.route.parent(part, node);
            while self.posts[above].missed && above != 0 {
                above = self.route.parent(part, above);
            }
            if self.posts[above].have.contains(part) {
                for orphan in self.heirs(part, node) {
                    if !self.posts[orphan].have.contains(part) {
                        self.offer(above, orphan, part);
                    }
                }
            }
        }
    }

    fn sample(&mut self) {
        let living = self.posts.iter().skip(self.scenario.origins).filter(|post| post.alive);
        let had = living.map(|post| post.have.count()).collect();
        let due_ns = self.outcome.progress.note(self.queue.now_ns(), self.parts, had);
        self.queue.plan(due_ns, Event::Sample);
    }

    fn outcome(self) -> Outcome {
        let (mut outcome, scenario) = (self.outcome, self.scenario);
        for (at, (post, fate)) in self.posts.iter().zip(&self.fates).enumerate().skip(scenario.origins) {
            let rack = scenario.cluster.rack(at);
            outcome.racks[rack].receivers += 1;
            outcome.degree_max = outcome.degree_max.max(post.children.len() + 1);
            outcome.receivers.push(Receiver {
                rack,
                chunk: 0,
                joined_ns: fate.joins_ns,
                finished_ns: post.finished_ns,
                died: !post.alive,
                slowness: fate.slowness,
                late: fate.late,
                lossy: fate.lossy,
                counters: Default::default(),
            });
        }
        outcome.ended_ns = self.queue.now_ns();
        outcome.events = self.queue.planned();
        outcome.pieces_sent = self.network.sent();
        outcome
    }
}
