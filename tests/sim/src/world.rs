//! Runs the swarm of a scenario.

mod checks; // what must hold at each event
mod ending; // who dies, falls silent, or is cut off
mod meeting; // how nodes meet, talk and part
mod receiving; // what a fetch wants done, and what arrives
mod sending; // what a source sends
mod tracking; // who is told of whom

use fastrand::Rng;
use flow::swarm::{Fetch, Serve};
use flow::time::Instant;
use flow::wire::control::NodeId;

use self::tracking::Trackers;
use crate::cluster::time_ns;
use crate::event::{Event, Queue};
use crate::faults::{Fate, fates};
use crate::network::Network;
use crate::node::{Node, Seat, Worker};
use crate::outcome::{Outcome, Receiver, Violation};
use crate::scenario::Scenario;

/// A run that takes longer than this many times the ideal, and this many seconds more, is given up.
const GIVE_UP: (u64, u64) = (40, 120);
/// What goes on after the last receiver has finished is followed for so long, in nanoseconds: grants must end.
const AFTERMATH_NS: u64 = 10_000_000_000;

/// Runs a scenario until every survivor has all, or nothing happens any more.
pub(crate) fn run(scenario: &Scenario) -> Result<Outcome, Violation> {
    let mut world = World::new(scenario);
    let ideal_ns = scenario.ideal_ns() * scenario.transfers() as u64;
    let limit_ns = ideal_ns * GIVE_UP.0 + GIVE_UP.1 * 1_000_000_000;
    while world.unfinished > 0
        && world.violation.is_none()
        && let Some(event) = world.queue.next_event()
        && world.queue.now_ns() <= limit_ns
    {
        world.happen(event);
    }
    world.outcome.ended_ns = world.queue.now_ns();
    world.outcome.events = world.queue.planned();
    let end_ns = world.queue.now_ns() + AFTERMATH_NS;
    while world.unfinished == 0
        && world.violation.is_none()
        && let Some(event) = world.queue.next_event()
        && world.queue.now_ns() <= end_ns
    {
        world.happen(event);
    }
    world.check_end();
    match world.violation.take() {
        Some(violation) => Err(violation),
        None => Ok(world.outcome()),
    }
}

pub(super) struct World<'a> {
    scenario: &'a Scenario,
    queue: Queue,
    network: Network,
    nodes: Vec<Node>,
    fates: Vec<Fate>,
    trackers: Trackers,
    /// Draws whom a node tells what.
    rng: Rng,
    /// Fetches that somebody waits for.
    unfinished: usize,
    /// When a piece was verified last, in nanoseconds.
    advanced_ns: u64,
    violation: Option<Violation>,
    outcome: Outcome,
}

/// The name of a node.
fn id(node: usize) -> NodeId {
    node as NodeId + 1
}

/// The node of a name.
fn index(node: NodeId) -> usize {
    node as usize - 1
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario) -> Self {
        let mut rng = Rng::with_seed(scenario.seed);
        let fates = fates(scenario, &mut rng);
        let racks = scenario.racks() as f64;
        let partition = scenario.faults.partition;
        let apart = partition.map_or(0, |partition| (racks * partition.share).round() as usize);
        // The last racks are cut off, so that the first origin is among the others.
        let first_apart = scenario.racks().saturating_sub(apart.min(scenario.racks() - 1));
        let is_apart = |node: usize| scenario.cluster.rack(node) >= first_apart;
        let mut world = Self {
            scenario,
            queue: Queue::default(),
            network: Network::new(&scenario.cluster, &fates, is_apart, rng.u64(..)),
            nodes: Vec::new(),
            trackers: Trackers::new(scenario, rng.u64(..)),
            fates,
            rng: Rng::with_seed(rng.u64(..)),
            unfinished: scenario.receivers * scenario.transfers(),
            advanced_ns: 0,
            violation: None,
            outcome: Outcome::new(scenario),
        };
        for node in 0..world.fates.len() {
            world.add(node);
        }
        let faults = &scenario.faults;
        let at_ns = |moment: f64| (moment * scenario.ideal_ns() as f64) as u64;
        if let Some(partition) = partition {
            world.queue.plan(at_ns(partition.begins), Event::Part(true));
            world.queue.plan(at_ns(partition.begins + partition.lasts), Event::Part(false));
        }
        if let Some(moment) = faults.trackers_die_at {
            world.queue.plan(at_ns(moment), Event::TrackersDie);
        }
        world.queue.plan(0, Event::Sample);
        world
    }

    fn add(&mut self, node: usize) {
        let (scenario, fate) = (self.scenario, self.fates[node].clone());
        let is_origin = node < scenario.origins;
        let uploads = scenario.uploads_at_once * scenario.cluster.nics;
        self.nodes.push(Node {
            serve: Serve::new(uploads),
            seats: (0..scenario.transfers())
                .map(|chunk| Seat::new(scenario.pieces_of(chunk), is_origin))
                .collect(),
            cpu: Worker::default(),
            landing: Worker::default(),
            reading: Worker::default(),
            writing: Worker::default(),
            alive: true,
            heard: true,
            lies: fate.lies,
        });
        if let Some(dies_ns) = fate.dies_ns {
            self.queue.plan(dies_ns, Event::Die(node));
        }
        if let Some(mute_ns) = fate.mute_ns {
            self.queue.plan(mute_ns, Event::Mute(node));
        }
        for chunk in 0..scenario.transfers() {
            match is_origin {
                true => self.queue.plan(0, Event::Finished { node, chunk }),
                false => self.queue.plan(self.joins_ns(node, chunk), Event::Join { node, chunk }),
            }
        }
    }

    /// When a receiver begins to want a chunk, in nanoseconds.
    fn joins_ns(&self, node: usize, chunk: usize) -> u64 {
        self.fates[node].joins_ns + self.scenario.begins_ns(chunk)
    }

    fn now(&self) -> Instant {
        Instant::from_micros(self.queue.now_ns() / 1000)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::PortFree(port) => self.on_port_free(port),
            Event::Hop(slice) => self.network.advance(&mut self.queue, slice),
            Event::SliceDone(stream) => self.network.on_slice_done(&mut self.queue, stream),
            Event::Header(stream) => self.on_header(stream),
            Event::Arrived(stream) => self.on_arrived(stream),
            Event::Checked(stream) => self.on_checked(stream),
            Event::Begin(piece) => self.network.send(&mut self.queue, *piece),
            Event::Written { node, chunk } => self.on_written(node, chunk),
            Event::Message(letter) => self.on_message(letter),
            Event::News { from, chunk, upto, far } => self.on_news(from, chunk, upto, far),
            Event::Flush { node, chunk } => self.flush(node, chunk),
            Event::Connected { from, to, chunk } => self.on_connected(from, to, chunk),
            Event::Lost { at, peer } => self.on_lost(at, peer),
            Event::Asked { node, chunk, attempt } => self.on_asked(node, chunk, attempt),
            Event::Named { node, chunk, peers } => self.on_named(node, chunk, &peers),
            Event::Finished { node, chunk } => self.on_finished(node, chunk),
            Event::Missed(node) => self.on_missed(node),
            Event::Wake { node, chunk } => self.on_wake(node, chunk),
            Event::Join { node, chunk } => self.on_join(node, chunk),
            Event::Die(node) => self.on_die(node),
            Event::TrackersDie => self.on_trackers_die(),
            Event::Mute(node) => self.on_mute(node),
            Event::Part(parted) => self.on_part(parted),
            Event::Sample => self.sample(),
        }
    }

    /// Notes how far everybody is, and looks whether anything moves at all.
    fn sample(&mut self) {
        if self.unfinished == 0 {
            return;
        }
        let origins = self.scenario.origins;
        let living = self.nodes.iter().skip(origins).filter(|node| node.alive && node.heard);
        let had = living
            .flat_map(|node| node.seats.iter().take(self.scenario.chunks))
            .map(|seat| seat.verified.count())
            .collect();
        let due_ns = self.outcome.progress.note(self.queue.now_ns(), self.scenario.pieces(), had);
        self.queue.plan(due_ns, Event::Sample);
        self.check_progress();
    }

    fn outcome(self) -> Outcome {
        let mut outcome = self.outcome;
        let scenario = self.scenario;
        for (at, (node, fate)) in self.nodes.iter().zip(&self.fates).enumerate().skip(scenario.origins) {
            let rack = scenario.cluster.rack(at);
            outcome.racks[rack].receivers += 1;
            for (chunk, seat) in node.seats.iter().enumerate() {
                outcome.receivers.push(Receiver {
                    rack,
                    chunk,
                    joined_ns: fate.joins_ns + scenario.begins_ns(chunk),
                    finished_ns: seat.finished_ns,
                    died: !node.alive || !node.heard,
                    slowness: fate.slowness,
                    late: fate.late,
                    lossy: fate.lossy,
                    counters: seat.fetch.as_ref().map(Fetch::counters).unwrap_or_default(),
                });
            }
        }
        outcome.pieces_sent = self.network.sent();
        outcome
    }

    /// A node's core spends so much time, in nanoseconds; returns when it has.
    fn work(&mut self, node: usize, takes_ns: u64) -> u64 {
        let now_ns = self.queue.now_ns();
        self.nodes[node].cpu.done_ns(now_ns, takes_ns)
    }

    /// How long a node's core needs to check a piece, in nanoseconds.
    fn check_ns(&self, length: u64) -> u64 {
        self.scenario.cluster.operation_ns + time_ns(length, self.scenario.cluster.checksum_gbps)
    }

    /// Whether not all of a chunk fits into a node's memory.
    fn goes_through_disk(&self) -> bool {
        self.scenario.size_bytes > self.scenario.cluster.memory_bytes
    }
}
