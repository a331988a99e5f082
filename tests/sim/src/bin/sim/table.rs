//! One strategy, with all its columns and what it took to simulate it.

use std::time::Instant;

use flow::connections::Bounds;
use flow::swarm::Uplinks;
use sim::statistics::estimate;
use sim::{Outcome, Scenario, simulate};

use crate::order::{parse, value};
use crate::worlds::World;

/// What is wanted.
pub struct Order {
    plain: Scenario,
    pieces: u32,
    seeds: u64,
    first_seed: u64,
    world: Option<World>,
}

impl Order {
    /// Reads the flags.
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut receivers, mut pieces, mut places) = (1024, 512, 0);
        let mut uplinks = None;
        let plain = Scenario::of_pieces(1, receivers, pieces);
        let mut order = Self { plain, pieces, seeds: 1, first_seed: 1, world: None };
        while let Some(argument) = arguments.next() {
            let cluster = &mut order.plain.cluster;
            let flag = argument.as_str();
            match (flag, places) {
                ("--seeds", _) => order.seeds = value(flag, &mut arguments)?,
                ("--first-seed", _) => order.first_seed = value(flag, &mut arguments)?,
                ("--strategy", _) => order.plain.strategy = value(flag, &mut arguments)?,
                ("--world", _) => {
                    order.world = Some(World::named(&value::<String>(flag, &mut arguments)?)?);
                }
                ("--oversubscription", _) => cluster.oversubscription = value(flag, &mut arguments)?,
                ("--uplinks", _) => uplinks = Some(value::<Uplinks>(flag, &mut arguments)?),
                ("--connections", _) => {
                    let asked: usize = value(flag, &mut arguments)?;
                    order.plain.connections = Bounds { all: asked.saturating_mul(2), asked };
                }
                ("--gbps", _) => cluster.nic_gbps = value(flag, &mut arguments)?,
                (count, 0) => (receivers, places) = (parse("RECEIVERS", count)?, 1),
                (count, 1) => (pieces, places) = (parse("PIECES", count)?, 2),
                _ => return Err(crate::USAGE.to_owned()),
            }
        }
        let sized = Scenario::of_pieces(1, receivers, pieces);
        order.plain = Scenario { receivers, size_bytes: sized.size_bytes, ..order.plain };
        order.pieces = pieces;
        order.plain.settings.uplinks = uplinks.unwrap_or_else(|| order.plain.cluster.uplinks());
        Ok(order)
    }

    /// Simulates and prints.
    pub fn print(&self) -> Result<(), String> {
        let Self { plain, pieces, seeds, first_seed, .. } = self;
        println!("{}, {} receivers, {pieces} pieces, {seeds} seeds", plain.strategy, plain.receivers);
        println!("| {} | run, s | events a second |", COLUMNS.map(|(name, _)| name).join(" | "));
        println!("|{}", "---|".repeat(COLUMNS.len() + 2));
        let worlds = self.world.clone().map_or_else(|| World::all().to_vec(), |world| vec![world]);
        for world in worlds {
            let began = Instant::now();
            let run = |seed| {
                let scenario = Scenario { seed, faults: world.faults.clone(), ..plain.clone() };
                simulate(&scenario).map_err(|failure| failure.to_string())
            };
            let outcomes = (*first_seed..first_seed.saturating_add(*seeds)).map(run);
            let outcomes = outcomes.collect::<Result<Vec<Outcome>, String>>()?;
            let column = |value: fn(&Outcome, &Scenario) -> f64| {
                let values: Vec<f64> = outcomes.iter().map(|outcome| value(outcome, plain)).collect();
                estimate(&values).to_string()
            };
            let figures: Vec<String> = COLUMNS[1..].iter().map(|(_, value)| column(*value)).collect();
            let seconds = began.elapsed().as_secs_f64();
            let events: u64 = outcomes.iter().map(|outcome| outcome.events).sum();
            println!(
                "| {} | {} | {:.1} | {:.0} |",
                world.title,
                figures.join(" | "),
                seconds / outcomes.len().max(1) as f64,
                events as f64 / seconds,
            );
        }
        if let Some(bytes) = memory_max_bytes() {
            println!("at most {} MiB of memory", bytes >> 20);
        }
        Ok(())
    }
}

/// What a column is called, and what stands in it.
type Column = (&'static str, fn(&Outcome, &Scenario) -> f64);

const COLUMNS: [Column; 9] = [
    ("simulated world", |_, _| 0.0),
    ("p50", |outcome, _| outcome.percentile(0.5)),
    ("p99", |outcome, _| outcome.percentile(0.99)),
    ("max", |outcome, _| outcome.longest()),
    ("max of the unaffected / bound", |outcome, _| outcome.longest_ordinary_to_bound()),
    ("sent twice %", |outcome, scenario| {
        outcome.sum(|counters| counters.duplicate) as f64 / needed(scenario) * 100.0
    }),
    ("copies into a rack", |outcome, scenario| outcome.copies_into_a_rack(scenario.size_bytes)),
    ("messages a piece", |outcome, scenario| outcome.messages as f64 / needed(scenario)),
    ("connections", |outcome, _| outcome.degree_max as f64),
];

/// Pieces that all receivers need.
fn needed(scenario: &Scenario) -> f64 {
    scenario.receivers as f64 * f64::from(scenario.pieces())
}

/// The most memory that this process has had, in bytes; see proc_pid_status(5).
fn memory_max_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}
