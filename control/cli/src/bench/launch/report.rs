//! What a run tells in the end: everything that is needed to compare it with another.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use flow::chunk::Geometry;
use serde::Serialize;

use super::meeting::{Answer, Fetched, Ready, Verified};
use super::usage::{Held, Used};
use super::{Plan, Rank};
use crate::amount;
use crate::bench::BenchError;
use crate::bench::carried::Carried;
use crate::bench::summary::Summary;
use crate::failure::Failure;
use crate::processes::ProcessError;

/// Tells the report from others; a change of meaning changes it.
const FORMAT: &str = "shoal-broadcast 1";

/// A run.
#[derive(Serialize)]
pub struct Report {
    format: &'static str,
    shoal: &'static str,
    command: Vec<String>,
    /// Variables of the environment that settings may come from.
    environment: BTreeMap<String, String>,
    launcher: &'static str,
    run: Option<String>,
    /// Milliseconds since 1970.
    started_ms: u64,
    seconds: f64,
    #[serde(flatten)]
    summary: Summary,
    pieces: u64,
    /// Receivers whose bytes were right in every round.
    verified: u32,
    cost: Cost,
    /// What the network cards allow, where they tell.
    bound: Option<Bound>,
    receiver_times: Vec<ReceiverTimes>,
    tasks: Vec<Task>,
    #[serde(skip)]
    size: u64,
    #[serde(skip)]
    begun: Instant,
    #[serde(skip)]
    is_local: bool,
}

/// What the rounds took, over all tasks.
#[derive(Debug, Default, Serialize)]
struct Cost {
    /// Processor time of all tasks, origin and verification of pieces included, for each GB received, in seconds.
    processor_s_per_gb: f64,
    /// And for each receiver and round, in seconds.
    processor_s_per_receiver: f64,
    /// Resident memory of all tasks but for chunks, by receivers, in bytes; the most of all rounds.
    memory_per_receiver: u64,
    /// Resident memory of arenas, by receivers, in bytes; the most of all rounds.
    arena_per_receiver: u64,
    threads: u64,
    /// Of the task that has most of them.
    descriptors_max: u64,
    /// Data connections to other nodes at the end of a round.
    connections_mean: f64,
    connections_max: u32,
    /// Messages that receivers got over data connections, by pieces that they got.
    messages_per_piece: f64,
    pieces_from_origin: u64,
    pieces_from_peers: u64,
    pieces_sent_twice: u64,
    pieces_corrupt: u64,
    /// Fetches that were begun again because nobody helped them for 10 s.
    fetches_begun_again: u64,
}

/// The time in which the slowest card of all could take the bytes once.
#[derive(Debug, Serialize)]
struct Bound {
    megabit_per_s: u64,
    seconds: f64,
    /// Times of receivers by that.
    p50_ratio: f64,
    max_ratio: f64,
}

/// One receiver.
#[derive(Debug, Serialize)]
struct ReceiverTimes {
    name: String,
    task: usize,
    /// For each round.
    times_us: Vec<u64>,
}

/// One task.
#[derive(Serialize)]
struct Task {
    rank: usize,
    #[serde(flatten)]
    ready: Ready,
    rounds: Vec<TaskRound>,
}

/// What a task used in a round.
#[derive(Serialize)]
struct TaskRound {
    used: Used,
    held: Held,
    /// Rates of network cards, both directions, in gigabits per second: means from the order to fetch until all had
    /// everything.
    gigabit_per_s: BTreeMap<String, [f64; 2]>,
    connections_max: u32,
}

/// Sums of all rounds and tasks.
#[derive(Default)]
struct Sums {
    processor_us: u64,
    messages: u64,
    connections: u64,
    carried: Carried,
    memory: u64,
    arenas: u64,
    threads: u64,
}

impl Report {
    /// No rounds yet.
    pub fn new(plan: &Plan, rank: &Rank, answers: Vec<Answer>) -> Self {
        let ready = answers.into_iter().filter_map(|answer| match answer {
            Answer::Ready(ready) => Some(*ready),
            _ => None,
        });
        let tasks: Vec<Task> =
            ready.enumerate().map(|(rank, ready)| Task { rank, ready, rounds: Vec::new() }).collect();
        let of_task = |task: &Task| vec![task.rank; task.ready.receivers as usize];
        let hosts = tasks.iter().flat_map(of_task);
        let receiver =
            |(number, task)| ReceiverTimes { name: format!("r{number}"), task, times_us: Vec::new() };
        let is_setting = |name: &str| name.starts_with("SHOAL_") || name.starts_with("UCX_");
        let environment = std::env::vars_os()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()));
        Self {
            format: FORMAT,
            shoal: env!("CARGO_PKG_VERSION"),
            command: std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect(),
            environment: environment.filter(|(name, _)| is_setting(name)).collect(),
            launcher: rank.launcher,
            run: rank.run.clone(),
            started_ms: amount::now_ms(),
            seconds: 0.0,
            summary: Summary::new("broadcast", plan.size, plan.receivers.into()),
            pieces: Geometry::of(plan.size).map_or(0, |geometry| geometry.pieces().into()),
            verified: plan.receivers,
            cost: Cost::default(),
            bound: None,
            receiver_times: hosts.enumerate().map(receiver).collect(),
            tasks,
            size: plan.size,
            begun: Instant::now(),
            is_local: plan.is_local,
        }
    }

    /// Adds a round; fails when a receiver does not have the right bytes.
    pub fn add(&mut self, fetched: Vec<Answer>, verified: Vec<Answer>) -> Result<(), Failure> {
        let fetched: Vec<Fetched> = fetched
            .into_iter()
            .filter_map(|answer| match answer {
                Answer::Fetched(fetched) => Some(fetched),
                _ => None,
            })
            .collect();
        let verified: Vec<Verified> = verified
            .into_iter()
            .filter_map(|answer| match answer {
                Answer::Verified(verified) => Some(verified),
                _ => None,
            })
            .collect();
        if let Some(name) = verified.iter().flat_map(|task| &task.wrong).next() {
            return Err(BenchError::Wrong { name: name.clone() }.into());
        }
        let right: u32 = verified.iter().map(|task| task.verified).sum();
        let times: Vec<u64> = fetched.iter().flat_map(|task| task.times_us.iter().copied()).collect();
        if right as usize != self.receiver_times.len() || times.len() != self.receiver_times.len() {
            return Err(
                BenchError::Incomplete { verified: right, receivers: self.receiver_times.len() }.into()
            );
        }
        self.receiver_times.iter_mut().zip(&times).for_each(|(receiver, &time)| receiver.times_us.push(time));
        let spans = times.iter().map(|&time| Duration::from_micros(time));
        self.summary.record(spans.clone().max().unwrap_or_default(), spans);
        for task in &fetched {
            self.cost.pieces_from_origin += task.pieces_from_origin;
            self.cost.pieces_from_peers += task.pieces_from_peers;
            self.cost.pieces_sent_twice += task.pieces_duplicate;
            self.cost.pieces_corrupt += task.pieces_corrupt;
            self.cost.fetches_begun_again += task.begun_again;
        }
        self.add_use(verified);
        Ok(())
    }

    fn add_use(&mut self, verified: Vec<Verified>) {
        let mut sums = Sums::default();
        for (task, Verified { connections, messages, carried, used, held, .. }) in
            self.tasks.iter_mut().zip(verified)
        {
            sums.processor_us += used.processor_us;
            sums.messages += messages;
            sums.connections += connections.iter().copied().map(u64::from).sum::<u64>();
            sums.carried = sums.carried.and(carried);
            sums.memory += held.memory;
            sums.arenas += held.arenas;
            sums.threads += held.threads;
            let connections_max = connections.into_iter().max().unwrap_or(0);
            self.cost.connections_max = self.cost.connections_max.max(connections_max);
            self.cost.descriptors_max = self.cost.descriptors_max.max(held.descriptors);
            let gigabit_per_s = rates(&used);
            task.rounds.push(TaskRound { used, held, gigabit_per_s, connections_max });
        }
        let receivers = self.receiver_times.len().max(1) as u64;
        let rounds = self.receiver_times.first().map_or(1, |receiver| receiver.times_us.len().max(1)) as f64;
        // Each figure becomes the mean of the rounds so far.
        let mean = |before: f64, now: f64| before + (now - before) / rounds;
        let (cost, processor_s) = (&mut self.cost, sums.processor_us as f64 / 1e6);
        let gigabytes = (self.size * receivers) as f64 / 1e9;
        cost.processor_s_per_gb = mean(cost.processor_s_per_gb, processor_s / gigabytes);
        cost.processor_s_per_receiver = mean(cost.processor_s_per_receiver, processor_s / receivers as f64);
        cost.connections_mean = mean(cost.connections_mean, sums.connections as f64 / receivers as f64);
        let pieces = (self.pieces * receivers).max(1) as f64;
        cost.messages_per_piece = mean(cost.messages_per_piece, sums.messages as f64 / pieces);
        cost.memory_per_receiver = cost.memory_per_receiver.max(sums.memory / receivers);
        cost.arena_per_receiver = cost.arena_per_receiver.max(sums.arenas / receivers);
        cost.threads = cost.threads.max(sums.threads);
        self.summary.carried = Some(self.summary.carried.unwrap_or_default().and(sums.carried));
    }

    /// No more rounds come.
    pub fn finish(&mut self) {
        self.seconds = self.begun.elapsed().as_secs_f64();
        let rates = self.tasks.iter().map(|task| {
            let named = |interface: &&crate::host::Interface| interface.name == task.ready.interface;
            task.ready.host.network.iter().find(named)?.megabit_per_s
        });
        // One card that does not tell, and there is no bound.
        let Some(megabit_per_s) =
            rates.collect::<Option<Vec<u64>>>().and_then(|rates| rates.into_iter().min())
        else {
            return;
        };
        let seconds = (self.size * 8) as f64 / (megabit_per_s as f64 * 1e6);
        let mut times: Vec<u64> =
            self.receiver_times.iter().flat_map(|receiver| receiver.times_us.iter().copied()).collect();
        times.sort_unstable();
        let ratio = |time: Option<&u64>| time.map_or(0.0, |&time| time as f64 / 1e6 / seconds);
        let (p50_ratio, max_ratio) = (ratio(times.get(times.len() / 2)), ratio(times.last()));
        self.bound = Some(Bound { megabit_per_s, seconds, p50_ratio, max_ratio });
    }

    /// Writes it to a file, whole or not at all.
    pub fn write(&self, path: &Path) -> Result<(), Failure> {
        let failed = || ProcessError::machine(format!("write {}", path.display()));
        let text = serde_json::to_string_pretty(self).map_err(std::io::Error::from).map_err(failed())?;
        let draft = path.with_extension("draft");
        fs::write(&draft, text + "\n").and_then(|()| fs::rename(&draft, path)).map_err(failed())
    }
}

fn rates(used: &Used) -> BTreeMap<String, [f64; 2]> {
    let rate =
        |bytes: u64| if used.elapsed_us == 0 { 0.0 } else { bytes as f64 * 8e-3 / used.elapsed_us as f64 };
    used.traffic
        .iter()
        .map(|(name, traffic)| (name.clone(), [rate(traffic.received), rate(traffic.sent)]))
        .collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.summary)?;
        let Cost {
            processor_s_per_gb,
            processor_s_per_receiver,
            memory_per_receiver,
            arena_per_receiver,
            threads,
            descriptors_max,
            connections_mean,
            connections_max,
            messages_per_piece,
            pieces_from_origin,
            pieces_from_peers,
            pieces_sent_twice,
            fetches_begun_again,
            ..
        } = &self.cost;
        let pieces = pieces_from_origin + pieces_from_peers;
        let of_receiver = Duration::from_secs_f64(*processor_s_per_receiver);
        writeln!(
            f,
            "  cpu     {processor_s_per_gb:.2} s per GB   {} per receiver",
            amount::span(of_receiver)
        )?;
        writeln!(
            f,
            "  memory  {} per receiver, and {} of arena",
            amount::size(*memory_per_receiver),
            amount::size(*arena_per_receiver)
        )?;
        writeln!(f, "  links   {connections_mean:.1} per receiver, at most {connections_max}")?;
        writeln!(
            f,
            "  pieces  {pieces}, {pieces_from_origin} of them from the origin, {pieces_sent_twice} sent twice; \
             {messages_per_piece:.1} messages each"
        )?;
        if *fetches_begun_again > 0 {
            writeln!(f, "  again   {fetches_begun_again} fetches, which nobody helped for 10 s")?;
        }
        if let Some(Bound { megabit_per_s, seconds, p50_ratio, max_ratio }) = &self.bound {
            let bound = amount::span(Duration::from_secs_f64(*seconds));
            writeln!(
                f,
                "  bound   {bound} at {megabit_per_s} Mbit/s; p50 {p50_ratio:.2} and max {max_ratio:.2} times that"
            )?;
        }
        let place = if self.is_local { "on this machine" } else { "by its launcher" };
        let processes = self.tasks.len();
        let processes =
            if processes == 1 { "1 process".to_owned() } else { format!("{processes} processes") };
        writeln!(
            f,
            "  in      {processes} {place}, {threads} threads, at most {descriptors_max} descriptors in one"
        )?;
        writeln!(f, "  right   the bytes of all {} receivers in every round", self.verified)
    }
}
