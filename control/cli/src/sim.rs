//! `shoal sim …`

mod chart;
mod figures;
mod order;
mod runs;

use std::path::PathBuf;

use self::figures::Report;
use self::order::Order;
use crate::failure::Failure;
use crate::global::Global;
use crate::output;

/// Ask a simulated cluster what a real one would do
///
/// No node is talked to: the scheduler that nodes run is run in a world made of a seed. docs/simulation.md says what that
/// world knows of the real one, and what not.
#[derive(clap::Subcommand)]
pub enum Sim {
    /// Broadcast a chunk to many simulated nodes
    #[command(after_help = "\
Shares are percentages (5%) or fractions (0.05) of the receivers. Times are from when a receiver joined until it had
everything; with several seeds they are means with 95 % confidence intervals.

Examples:
  shoal sim broadcast --nodes 1024 --size 140GiB --gpus 8 --nic-gbps 400
  shoal sim broadcast --nodes 256 --racks 8 --oversubscription 4 --svg progress.svg
  shoal sim broadcast --nodes 512 --fail 1% --slow 5% --late 30% --seeds 20
  shoal sim broadcast --nodes 64 --strategy swarm,chain,double-tree --json")]
    Broadcast(Box<Broadcast>),
}

/// What is simulated, and where it is drawn.
#[derive(clap::Args)]
pub struct Broadcast {
    #[command(flatten)]
    order: Order,
    /// Draw the progress and the bytes of each rack into this file, for the first seed
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

impl Sim {
    /// Simulates.
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let Sim::Broadcast(broadcast) = self;
        let scenarios = broadcast.order.scenarios()?;
        let outcomes = runs::simulate_all(&scenarios, broadcast.order.jobs(), global.draws())?;
        let report = Report::new(&scenarios, &outcomes);
        if let Some(path) = &broadcast.svg {
            let drawing = chart::draw(&report).map_err(|error| Failure::Chart(error.to_string()))?;
            let failed = |source| Failure::WriteFile { path: path.clone(), source };
            std::fs::write(path, drawing).map_err(failed)?;
        }
        if global.json { output::json(&report) } else { output::text(&report.to_string()) }
    }
}
