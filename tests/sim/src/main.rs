//! Prints what the simulated world says.

use std::process::ExitCode;
use std::time::Instant;

use sim::statistics::{Estimate, estimate};
use sim::{Faults, Outcome, Scenario, simulate};

const USAGE: &str = "\
usage: sim table [RECEIVERS] [PIECES] [--seeds N] [--first-seed N] [--strategy NAME] [--world NAME]
                 [--oversubscription X] [--gbps X]

worlds: equal, slow, dying, late, all; without --world, each of them";

fn main() -> ExitCode {
    match Order::parse(std::env::args().skip(1)) {
        Some(order) => order.table(),
        None => {
            eprintln!("{USAGE}");
            ExitCode::FAILURE
        }
    }
}

/// What is wanted.
struct Order {
    plain: Scenario,
    pieces: u32,
    seeds: u64,
    first_seed: u64,
    world: Option<String>,
}

impl Order {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Self> {
        let (mut receivers, mut pieces, mut places) = (1024, 512, 0);
        let mut order = Self {
            plain: Scenario::of_pieces(1, receivers, pieces),
            pieces,
            seeds: 1,
            first_seed: 1,
            world: None,
        };
        (arguments.next()? == "table").then_some(())?;
        while let Some(argument) = arguments.next() {
            let cluster = &mut order.plain.cluster;
            match (argument.as_str(), places) {
                ("--seeds", _) => order.seeds = arguments.next()?.parse().ok()?,
                ("--first-seed", _) => order.first_seed = arguments.next()?.parse().ok()?,
                ("--strategy", _) => order.plain.strategy = arguments.next()?.parse().ok()?,
                ("--world", _) => order.world = Some(arguments.next()?),
                ("--oversubscription", _) => cluster.oversubscription = arguments.next()?.parse().ok()?,
                ("--gbps", _) => cluster.nic_gbps = arguments.next()?.parse().ok()?,
                (count, 0) => (receivers, places) = (count.parse().ok()?, 1),
                (count, 1) => (pieces, places) = (count.parse().ok()?, 2),
                _ => return None,
            }
        }
        let sized = Scenario::of_pieces(1, receivers, pieces);
        order.plain = Scenario { receivers, size_bytes: sized.size_bytes, ..order.plain };
        order.pieces = pieces;
        Some(order)
    }

    fn table(&self) -> ExitCode {
        let Self { plain, pieces, seeds, first_seed, .. } = self;
        println!("{}, {} receivers, {pieces} pieces, {seeds} seeds", plain.strategy, plain.receivers);
        println!("| {} | run, s |", COLUMNS.map(|(name, _)| name).join(" | "));
        println!("|{}", "---|".repeat(COLUMNS.len() + 1));
        for (name, title, faults) in worlds() {
            if self.world.as_ref().is_some_and(|world| world != name) {
                continue;
            }
            let began = Instant::now();
            let mut outcomes = Vec::new();
            for seed in *first_seed..first_seed + seeds {
                match simulate(&Scenario { seed, faults: faults.clone(), ..plain.clone() }) {
                    Ok(outcome) => outcomes.push(outcome),
                    Err(failure) => {
                        eprintln!("{failure}");
                        return ExitCode::FAILURE;
                    }
                }
            }
            let column = |value: fn(&Outcome, &Scenario) -> f64| {
                text(estimate(&outcomes.iter().map(|outcome| value(outcome, plain)).collect::<Vec<_>>()))
            };
            let figures = COLUMNS[1..].iter().map(|(_, value)| column(*value));
            let seconds = began.elapsed().as_secs_f64() / *seeds as f64;
            println!("| {title} | {} | {seconds:.1} |", figures.collect::<Vec<_>>().join(" | "));
        }
        ExitCode::SUCCESS
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

fn worlds() -> [(&'static str, &'static str, Faults); 5] {
    let plain = Faults::default();
    [
        ("equal", "all equal", plain.clone()),
        ("slow", "5 % four times slower", Faults { slow: 0.05, ..plain.clone() }),
        ("dying", "1 % die", Faults { dying: 0.01, ..plain.clone() }),
        ("late", "30 % join late", Faults { late: 0.3, ..plain.clone() }),
        ("all", "all of these", Faults { slow: 0.05, dying: 0.01, late: 0.3, ..plain }),
    ]
}

fn text(estimate: Estimate) -> String {
    match estimate.margin > 0.0 {
        true => format!("{:.3} ± {:.3}", estimate.mean, estimate.margin),
        false => format!("{:.3}", estimate.mean),
    }
}
