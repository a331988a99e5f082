//! Prints what the simulated world says.

use std::process::ExitCode;
use std::time::Instant;

use sim::statistics::{Estimate, estimate};
use sim::{Faults, Outcome, Scenario, Strategy, simulate};

const USAGE: &str = "usage: sim table [RECEIVERS] [PIECES] [--seeds N] [--first-seed N] [--strategy NAME]";

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
    receivers: usize,
    pieces: u32,
    seeds: u64,
    first_seed: u64,
    strategy: Strategy,
}

impl Order {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Self> {
        let mut order =
            Self { receivers: 1024, pieces: 512, seeds: 1, first_seed: 1, strategy: Strategy::Swarm };
        let mut places = 0;
        (arguments.next()? == "table").then_some(())?;
        while let Some(argument) = arguments.next() {
            match (argument.as_str(), places) {
                ("--seeds", _) => order.seeds = arguments.next()?.parse().ok()?,
                ("--first-seed", _) => order.first_seed = arguments.next()?.parse().ok()?,
                ("--strategy", _) => order.strategy = arguments.next()?.parse().ok()?,
                (receivers, 0) => (order.receivers, places) = (receivers.parse().ok()?, 1),
                (pieces, 1) => (order.pieces, places) = (pieces.parse().ok()?, 2),
                _ => return None,
            }
        }
        Some(order)
    }

    fn table(&self) -> ExitCode {
        let Self { receivers, pieces, seeds, first_seed, strategy } = self;
        println!("{strategy}, {receivers} receivers, {pieces} pieces, {seeds} seeds from {first_seed}");
        println!(
            "| simulated world | p50 | p99 | max | unaffected max / bound | sent twice % | between racks % | messages a piece | run, s |"
        );
        println!("|---|---|---|---|---|---|---|---|---|");
        for (name, faults) in worlds() {
            let began = Instant::now();
            let mut outcomes = Vec::new();
            for seed in *first_seed..first_seed + seeds {
                let plain = Scenario::of_pieces(seed, *receivers, *pieces);
                match simulate(&Scenario { strategy: *strategy, faults: faults.clone(), ..plain }) {
                    Ok(outcome) => outcomes.push(outcome),
                    Err(failure) => {
                        eprintln!("{failure}");
                        return ExitCode::FAILURE;
                    }
                }
            }
            let needed = *receivers as f64 * f64::from(*pieces);
            let of = |value: &dyn Fn(&Outcome) -> f64| {
                text(estimate(&outcomes.iter().map(value).collect::<Vec<_>>()))
            };
            println!(
                "| {name} | {} | {} | {} | {} | {} | {} | {} | {:.1} |",
                of(&|outcome| outcome.percentile(0.5)),
                of(&|outcome| outcome.percentile(0.99)),
                of(&Outcome::longest),
                of(&Outcome::longest_ordinary_to_bound),
                of(&|outcome| outcome.sum(|counters| counters.duplicate) as f64 / needed * 100.0),
                of(&|outcome| {
                    let bytes: u64 = outcome.racks.iter().map(|rack| rack.bytes_in).sum();
                    bytes as f64 / (4 << 20) as f64 / needed * 100.0
                }),
                of(&|outcome| outcome.messages as f64 / needed),
                began.elapsed().as_secs_f64() / *seeds as f64,
            );
        }
        ExitCode::SUCCESS
    }
}

fn worlds() -> [(&'static str, Faults); 5] {
    let plain = Faults::default();
    [
        ("all equal", plain.clone()),
        ("5 % four times slower", Faults { slow: 0.05, ..plain.clone() }),
        ("1 % die", Faults { dying: 0.01, ..plain.clone() }),
        ("30 % join late", Faults { late: 0.3, ..plain.clone() }),
        ("all of these", Faults { slow: 0.05, dying: 0.01, late: 0.3, ..plain }),
    ]
}

fn text(estimate: Estimate) -> String {
    match estimate.margin > 0.0 {
        true => format!("{:.3} ± {:.3}", estimate.mean, estimate.margin),
        false => format!("{:.3}", estimate.mean),
    }
}
