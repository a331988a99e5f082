//! Prints what the simulated world says.

use std::process::ExitCode;
use std::time::Instant;

use sim::{Scenario, world};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, or: u64| arguments.get(at).map_or(Ok(or), |text| text.parse::<u64>());
    let (Ok(receivers), Ok(pieces), Ok(seed)) = (number(1, 1024), number(2, 512), number(3, 1)) else {
        eprintln!("usage: sim table [RECEIVERS] [PIECES] [SEED]");
        return ExitCode::FAILURE;
    };
    if arguments.first().is_none_or(|verb| verb != "table") {
        eprintln!("usage: sim table [RECEIVERS] [PIECES] [SEED]");
        return ExitCode::FAILURE;
    }
    table(receivers as usize, pieces as u32, seed);
    ExitCode::SUCCESS
}

fn table(receivers: usize, pieces: u32, seed: u64) {
    let plain = Scenario::new(seed, receivers, pieces);
    let rows = [
        ("all equal", plain.clone()),
        ("5 % four times slower", Scenario { slow: 0.05, ..plain.clone() }),
        ("1 % die", Scenario { dying: 0.01, ..plain.clone() }),
        ("30 % join late", Scenario { late: 0.3, ..plain.clone() }),
        ("all of these", Scenario { slow: 0.05, dying: 0.01, late: 0.3, ..plain }),
    ];
    println!("{receivers} receivers, {pieces} pieces, seed {seed}; time / (size / bandwidth)");
    println!(
        "| world | p50 | p99 | max | pieces sent twice % | between racks % | messages per piece | run, s |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (name, scenario) in rows {
        let began = Instant::now();
        let outcome = world::run(&scenario);
        let times = outcome.times(|_| true);
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        let needed = receivers as f64 * f64::from(pieces);
        println!(
            "| {name} | {:.3} | {:.3} | {:.3} | {:.2} | {:.1} | {:.1} | {:.1} |",
            at(0.5),
            at(0.99),
            at(1.0),
            outcome.sum(|counters| counters.duplicate) as f64 / needed * 100.0,
            outcome.pieces_between_racks as f64 / needed * 100.0,
            outcome.messages as f64 / needed,
            began.elapsed().as_secs_f64(),
        );
    }
}
