//! `shoal bench …`

mod broadcast;
mod carried;
mod error;
mod launch;
mod round;
mod summary;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::{Address, Client, GetOptions, Silent};
use flow::wire::control::{NodeRecord, NodeState};
use indicatif::ProgressBar;

use self::broadcast::Broadcast;
use self::carried::Carried;
pub use self::error::BenchError;
use self::round::Run;
use self::summary::Summary;
use crate::broadcast::{self as fetching, Receiver};
use crate::failure::Failure;
use crate::global::Global;
use crate::{amount, interrupt, output, progress};

/// Bytes of a round that does not count.
const WARM_UP_SIZE: u64 = 64 << 20;

/// Measure a running cluster
///
/// Every round moves fresh random bytes, which are removed afterwards; the keys lie below .bench/.
#[derive(clap::Subcommand)]
pub enum Bench {
    /// Fetch chunks from one node to another
    #[command(after_help = "\
Examples:
  shoal bench p2p
  shoal bench p2p --from n1 --to n2 --size 4GiB --rounds 20")]
    P2p {
        #[command(flatten)]
        load: Load,
        #[command(flatten)]
        pair: Pair,
    },
    /// Fetch chunks from one node to another over RDMA, and fail if another way was taken
    #[command(after_help = "\
The rate of a device is what `ib_write_bw` of perftest shows between the same two hosts.

Examples:
  shoal bench rdma
  shoal bench rdma --from n1 --to n2 --size 4GiB --rounds 20")]
    Rdma {
        #[command(flatten)]
        load: Load,
        #[command(flatten)]
        pair: Pair,
    },
    Broadcast(Box<Broadcast>),
    /// Put from this client
    #[command(after_help = "Examples:\n  shoal bench put\n  shoal bench put --volatile --size 256MiB")]
    Put {
        #[command(flatten)]
        load: Load,
        /// Do not wait for NVMe
        #[arg(long)]
        volatile: bool,
    },
    /// Get to this client, which throws the bytes away
    #[command(after_help = "Examples:\n  shoal bench get\n  shoal bench get --node 10.0.0.2:9015")]
    Get {
        #[command(flatten)]
        load: Load,
    },
}

/// Who sends to whom.
#[derive(clap::Args)]
pub struct Pair {
    /// Name of the node that has the bytes [default: the node talked to]
    #[arg(long, value_name = "NODE")]
    from: Option<String>,
    /// Name of the node that fetches them [default: the next one]
    #[arg(long, value_name = "NODE")]
    to: Option<String>,
}

/// How much is moved.
#[derive(clap::Args)]
pub struct Load {
    /// Bytes of each round
    #[arg(long, default_value = "1GiB", value_parser = amount::parse_size_of_data)]
    size: u64,
    /// How many rounds
    #[arg(long, default_value_t = 10, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rounds: u32,
}

impl Bench {
    /// Measures.
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        if let Bench::Broadcast(broadcast) = &self
            && broadcast.has_own_cluster()
        {
            return broadcast.in_own_cluster(global);
        }
        let client = global.connect()?;
        let summary = match self {
            Bench::P2p { load, pair } => {
                let [from, to] = Cluster::of(global, client)?.take_two(pair)?;
                fetches("p2p", global, &load, &from, &[to])?
            }
            Bench::Rdma { load, pair } => {
                let [from, to] = Cluster::of(global, client)?.take_two(pair)?;
                over_rdma(global, &load, &from, to)?
            }
            Bench::Broadcast(broadcast) => broadcast.in_cluster(global, client)?,
            Bench::Put { load, volatile } => puts(global, &load, &client, volatile)?,
            Bench::Get { load } => gets(global, &load, &client)?,
        };
        if global.json { output::json(&summary) } else { output::text(&summary.to_string()) }
    }
}

/// Fetches from one node to others, fresh bytes in every round.
fn fetches(
    scenario: &'static str,
    global: &Global,
    load: &Load,
    from: &Receiver,
    to: &[Receiver],
) -> Result<Summary, Failure> {
    let mut summary = Summary::new(scenario, load.size, to.len() as u64);
    let run = Run::new(global, &from.client);
    let before = Carried::by(to)?;
    rounds(global, scenario, load, |round| {
        run.put(round, load.size, true)?;
        let chunks = run.chunks(round)?;
        let (time, receptions) = fetching::fetch(to, &chunks)?;
        summary.record(time, receptions.iter().map(|reception| reception.time));
        run.remove(round, &chunks)
    })?;
    summary.carried = Some(Carried::by(to)?.since(before));
    Ok(summary)
}

/// As point to point, after a round that does not count: a lane is made when the first piece is wanted.
fn over_rdma(global: &Global, load: &Load, from: &Receiver, to: Receiver) -> Result<Summary, Failure> {
    let (from_name, to_name, to) = (from.name.clone(), to.name.clone(), [to]);
    let warm_up = Load { size: load.size.min(WARM_UP_SIZE), rounds: 2 };
    fetches("rdma", global, &warm_up, from, &to)?;
    let summary = fetches("rdma", global, load, from, &to)?;
    match summary.carried {
        Some(carried) if carried.rdma == 0 => {
            Err(BenchError::NoLane { from: from_name, to: to_name, carried }.into())
        }
        _ => Ok(summary),
    }
}

fn puts(global: &Global, load: &Load, client: &Arc<Client>, volatile: bool) -> Result<Summary, Failure> {
    let scenario = if volatile { "put, volatile" } else { "put, durable" };
    let mut summary = Summary::new(scenario, load.size, 1);
    let run = Run::new(global, client);
    rounds(global, "put", load, |round| {
        let time = run.put(round, load.size, volatile)?;
        summary.record(time, [time]);
        run.remove(round, &run.chunks(round)?)
    })?;
    Ok(summary)
}

fn gets(global: &Global, load: &Load, client: &Arc<Client>) -> Result<Summary, Failure> {
    let mut summary = Summary::new("get", load.size, 1);
    let run = Run::new(global, client);
    run.put(0, load.size, true)?;
    // The bytes are copied into memory of this process, touched before: what a program would do with them at least.
    let mut memory = vec![1; usize::try_from(load.size).map_err(io::Error::other)?];
    rounds(global, "get", load, |_| {
        let mut rest = &mut memory[..];
        let begin = Instant::now();
        client.get_to_writer(&run.key(0), &mut rest, &GetOptions::default(), &Silent)?;
        let time = begin.elapsed();
        summary.record(time, [time]);
        Ok(())
    })?;
    run.remove(0, &run.chunks(0)?)?;
    Ok(summary)
}

/// Does the rounds, with a bar that counts them.
fn rounds(
    global: &Global,
    verb: &'static str,
    load: &Load,
    mut task: impl FnMut(u32) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let progress = Progress::new(global, verb, load.rounds);
    for round in 0..load.rounds {
        interrupt::check()?;
        task(round)?;
        progress.step();
    }
    Ok(())
}

/// A bar that counts rounds, until it is dropped.
struct Progress(ProgressBar);

impl Progress {
    fn new(global: &Global, verb: &'static str, rounds: u32) -> Self {
        let bar = ProgressBar::with_draw_target(Some(rounds.into()), progress::target(global.draws()));
        bar.set_style(progress::style("{prefix} {wide_bar} round {pos} of {len}, {eta} left"));
        bar.set_prefix(verb);
        bar.enable_steady_tick(Duration::from_millis(250));
        Self(bar)
    }

    fn step(&self) {
        self.0.inc(1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// The live nodes that have no part yet; the node talked to comes first.
struct Cluster<'a> {
    global: &'a Global,
    client: Arc<Client>,
    here: String,
    nodes: Vec<NodeRecord>,
}

impl<'a> Cluster<'a> {
    fn of(global: &'a Global, client: Arc<Client>) -> Result<Self, Failure> {
        let here = client.node().to_owned();
        let mut nodes = client.nodes()?.nodes;
        nodes.retain(|node| node.state == NodeState::Alive);
        nodes.sort_by(|left, right| (left.name != here, &left.name).cmp(&(right.name != here, &right.name)));
        Ok(Self { global, client, here, nodes })
    }

    /// Two different nodes.
    fn take_two(&mut self, Pair { from, to }: Pair) -> Result<[Receiver; 2], Failure> {
        let from = self.take(from.as_deref())?;
        if to.as_ref() == Some(&from.name) {
            return Err(BenchError::SameNode { name: from.name }.into());
        }
        Ok([from, self.take(to.as_deref())?])
    }

    /// The node with this name, or the first that is left.
    fn take(&mut self, name: Option<&str>) -> Result<Receiver, Failure> {
        let at = match name {
            Some(name) => self.nodes.iter().position(|node| node.name == name),
            None => (!self.nodes.is_empty()).then_some(0),
        };
        match (at, name) {
            (Some(at), _) => self.reach(at),
            (None, Some(name)) => Err(BenchError::NoSuchNode { name: name.into() }.into()),
            (None, None) => Err(BenchError::TooFewNodes { wanted: 2, found: 1 }.into()),
        }
    }

    /// So many of the nodes that are left, or all.
    fn take_many(&mut self, count: Option<usize>) -> Result<Vec<Receiver>, Failure> {
        let wanted = count.unwrap_or(self.nodes.len()).max(1);
        if self.nodes.len() < wanted {
            return Err(BenchError::TooFewNodes { wanted: wanted + 1, found: self.nodes.len() + 1 }.into());
        }
        (0..wanted).map(|_| self.reach(0)).collect()
    }

    fn reach(&mut self, at: usize) -> Result<Receiver, Failure> {
        let node = self.nodes.remove(at);
        if node.name == self.here {
            return Ok(Receiver { name: node.name, client: self.client.clone() });
        }
        let client = self.global.connect_to(&Address::Tcp(node.address))?;
        Ok(Receiver { name: node.name, client })
    }
}
