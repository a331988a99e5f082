//! Prints what the simulated world says.

mod hunt; // random clusters
mod order; // flags
mod results; // runs that have ended, and the file that keeps them
mod table; // one strategy, with all its columns
mod tables; // all strategies beside each other, as they are published
mod worlds; // what goes wrong in the worlds of the tables

use std::process::ExitCode;

const USAGE: &str = "\
usage: sim table [RECEIVERS] [PIECES] [--seeds N] [--first-seed N] [--strategy NAME] [--world NAME]
                 [--oversubscription X] [--uplinks full|scarce] [--gbps X] [--connections N]
       sim tables --results FILE [--sizes RECEIVERSxPIECES,...] [--worlds NAME,...] [--seeds N] [--jobs N]
       sim hunt [COUNT] [--first-seed N]
       sim hunt --seed N [--receivers N] [--pieces N] [--slow SHARE] ...

Without --uplinks, nodes are told that uplinks are scarce when an oversubscription above 1 is given.

worlds: equal, slow, dying, late, all; without --world and --worlds, each of them

'tables' simulates what FILE lacks, on so many processors, adds each run to it as it ends, and then prints all that
it has as Markdown. It can be ended at any time, and begun again.

'hunt' runs random clusters in which anything may go wrong until a promise is broken, and then prints the command
that runs the simplest cluster in which that happens; with --seed, it runs such a one.";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let done = match arguments.next().as_deref() {
        Some("table") => table::Order::parse(arguments).map(|order| order.print()),
        Some("hunt") => hunt::Order::parse(arguments).map(|order| order.print()),
        Some("tables") => tables::Order::parse(arguments).map(|order| order.print()),
        _ => Err(USAGE.to_owned()),
    };
    match done.and_then(|done| done) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
