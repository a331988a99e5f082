//! `shoal bench broadcast`

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use client::Client;

use super::launch::{self, Plan, Rank};
use super::summary::Summary;
use super::{BenchError, Cluster, Load, fetches};
use crate::failure::Failure;
use crate::global::Global;
use crate::{amount, output};

/// Bytes of a round in the running cluster and under a launcher, and among receivers on this machine.
const SIZE: u64 = 1 << 30;
const SIZE_HERE: u64 = 16 << 20;
/// Rounds, likewise.
const ROUNDS: u32 = 10;
const ROUNDS_HERE: u32 = 3;

/// Fetch chunks from one node to all others at once
///
/// In the cluster that runs; with --receivers in one of its own, whose nodes are real ones that share this process and talk
/// over loopback; with --launched in one of the nodes that srun or mpirun starts, one on each task
/// (docs/cluster-validation.md).
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  shoal bench broadcast
  shoal bench broadcast --nodes 4 --size 256MiB --json
  shoal bench broadcast --receivers 1024
  srun -N 64 shoal bench broadcast --launched --interface ib0 --report report.json
  mpirun -n 8 shoal bench broadcast --launched --report report.json")]
pub struct Broadcast {
    /// Bytes of each round [default: 1GiB, with --receivers on this machine 16MiB]
    #[arg(long, value_parser = amount::parse_size_of_data)]
    size: Option<u64>,
    /// How many rounds [default: 10, with --receivers on this machine 3]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rounds: Option<u32>,
    /// Name of the node that has the bytes [default: the node talked to]
    #[arg(long, value_name = "NODE")]
    from: Option<String>,
    /// How many nodes take part, the first included [default: all]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(2..))]
    nodes: Option<u16>,
    /// So many receivers in a cluster of its own [default with --launched: one on each task but the first]
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["from", "nodes"])]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=16_383))]
    receivers: Option<u32>,
    /// Processes on this machine for the receivers [default: as few as may open the files that it takes]
    #[arg(long, value_name = "COUNT", requires = "receivers", conflicts_with = "launched")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=256))]
    processes: Option<u32>,
    /// This process is one of the tasks that srun, mpirun or flux run has started with the same flags
    #[arg(long, conflicts_with_all = ["from", "nodes"])]
    launched: bool,
    /// This process is a task on the machine of the first one
    #[arg(long, hide = true, value_name = "RANK/TASKS", value_parser = Rank::parse, conflicts_with = "launched")]
    task: Option<Rank>,
    /// File for a report that has everything needed to compare
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from", "nodes"])]
    report: Option<PathBuf>,
    /// Folder that all tasks see, where they find the first one [default: that of the report]
    #[arg(long, value_name = "DIR")]
    rendezvous: Option<PathBuf>,
    /// Network interface that the nodes use, such as ib0 [default: that of the default route; without --launched, lo]
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// What pieces go over [default: tcp; with --launched as for `shoal serve`, SHOAL_TRANSPORTS included]
    #[arg(long, value_name = "LIST")]
    transports: Option<String>,
    /// Longest time of a round
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = amount::parse_span)]
    limit: Duration,
}

impl Broadcast {
    /// Whether it starts its nodes by itself.
    pub fn has_own_cluster(&self) -> bool {
        self.receivers.is_some() || self.launched || self.task.is_some()
    }

    /// Measures the cluster that runs.
    pub fn in_cluster(self, global: &Global, client: Arc<Client>) -> Result<Summary, Failure> {
        let load = Load { size: self.size.unwrap_or(SIZE), rounds: self.rounds.unwrap_or(ROUNDS) };
        let mut cluster = Cluster::of(global, client)?;
        let from = cluster.take(self.from.as_deref())?;
        let receivers = cluster.take_many(self.nodes.map(|nodes| usize::from(nodes) - 1))?;
        fetches("broadcast", global, &load, &from, &receivers)
    }

    /// Measures a cluster of its own.
    pub fn in_own_cluster(&self, global: &Global) -> Result<(), Failure> {
        if self.is_local() && self.task.is_none() {
            launch::check_memory(self.size.unwrap_or(SIZE_HERE), self.receivers.unwrap_or(1))?;
        }
        let rank = self.rank()?;
        let processes = if self.is_local() { rank.tasks } else { 1 };
        let plan = self.plan(&rank)?;
        let Some(report) = launch::run(global, plan, rank, processes)? else { return Ok(()) };
        if let Some(path) = &self.report {
            report.write(path)?;
        }
        if global.json { output::json(&report) } else { output::text(&report.to_string()) }
    }

    fn is_local(&self) -> bool {
        !self.launched
    }

    fn rank(&self) -> Result<Rank, BenchError> {
        if self.launched {
            return Rank::of_environment(|name| std::env::var(name).ok());
        }
        if let Some(rank) = &self.task {
            return Ok(rank.clone());
        }
        let tasks = self.processes.map_or_else(|| launch::processes_for(self.receivers.unwrap_or(1)), Ok)?;
        Ok(Rank { tasks, ..Rank::alone() })
    }

    fn plan(&self, rank: &Rank) -> Result<Plan, BenchError> {
        let is_local = self.is_local();
        let receivers = self.receivers.unwrap_or(rank.tasks.saturating_sub(1));
        if receivers < rank.tasks.saturating_sub(1).max(1) {
            return Err(BenchError::Idle { tasks: rank.tasks, receivers });
        }
        let or_here =
            |text: &Option<String>, here: &str| text.clone().or_else(|| is_local.then(|| here.to_owned()));
        let beside = || launch::folder_of(self.report.as_deref());
        Ok(Plan {
            size: self.size.unwrap_or(if is_local { SIZE_HERE } else { SIZE }),
            rounds: self.rounds.unwrap_or(if is_local { ROUNDS_HERE } else { ROUNDS }),
            receivers,
            limit: self.limit,
            transports: or_here(&self.transports, "tcp"),
            interface: or_here(&self.interface, "lo"),
            rendezvous: self.rendezvous.clone().unwrap_or_else(beside),
            is_local,
        })
    }
}
