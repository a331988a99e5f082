//! `shoal demo`

mod fleet;
mod plain_tcp;
mod report;
mod spark;

use std::thread;
use std::time::Duration;

use client::{Client, PutOptions, Source};
use flow::wire::session::ChunkReference;

use self::fleet::Fleet;
use self::report::Report;
use crate::failure::Failure;
use crate::global::Global;
use crate::noise::{self, Noise};
use crate::progress::{self, Bar};
use crate::put::note;
use crate::{amount, broadcast, host, interrupt, output};

/// The key that the data is put under.
const KEY: &str = "demo";
/// Memory that a node gets beyond the data: slots in flight, and room for the arena to be cut. Bytes.
const SLACK_MIN: u64 = 64 << 20;

/// Show a broadcast: start nodes on this machine, give the first data, and bring it to all others
///
/// The nodes are real ones that talk TCP over loopback. Nothing is left behind: at the end, on an error and on Ctrl-C
/// they are stopped and their folder is removed.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  shoal demo
  shoal demo --nodes 16 --size 256MiB
  shoal demo --keep            Leaves the nodes running until Ctrl-C, to look around
  shoal demo --json | jq .broadcast.gigabytes_per_s")]
pub struct Demo {
    /// How many nodes, the first one included
    #[arg(long, default_value_t = 8, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(2..=256))]
    nodes: u16,
    /// How much data
    #[arg(long, default_value = "1GiB", value_parser = amount::parse_size_of_data)]
    size: u64,
    /// TCP congestion control of nodes and plain copies alike [default: cubic where there is one, else the system's]
    #[arg(long, value_name = "NAME")]
    congestion_control: Option<String>,
    /// Leave the nodes running until Ctrl-C
    #[arg(long)]
    keep: bool,
}

/// Why the demonstration failed.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The nodes would not fit.
    #[error(
        "{nodes} nodes with {} each need {} of memory, and {} are available",
        amount::size(*.size), amount::size(*.needed), amount::size(*.available)
    )]
    Memory {
        /// How many nodes.
        nodes: u16,
        /// Bytes of data.
        size: u64,
        /// Bytes for all.
        needed: u64,
        /// Bytes that the machine has left.
        available: u64,
    },
}

impl DemoError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            DemoError::Memory { .. } => "use fewer --nodes or a smaller --size",
        }
    }
}

impl Demo {
    /// Runs the demonstration.
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let memory_per_node = self.size + (self.size / 8).max(SLACK_MIN);
        self.check_memory(memory_per_node)?;
        let stage = |text: String| {
            if !global.json {
                note(global, text);
            }
        };
        let congestion_control = self.congestion_control.clone().or_else(cubic);
        let congestion_control = congestion_control.as_deref();
        let size = amount::size(self.size);
        let others = amount::count(u64::from(self.nodes - 1), "receiver");
        stage(format!("copying {size} to {others} over plain TCP, for comparison"));
        let plain = plain_tcp::copy(self.size, self.nodes - 1, congestion_control)?;
        stage(format!("starting {} nodes", self.nodes));
        let fleet = Fleet::start(self.nodes, memory_per_node, congestion_control)?;
        stage(format!("putting {size} of random bytes on {}", fleet.first().name));
        let bar = Bar::new(global.draws(), "put");
        let noise = Source::Reader(Box::new(Noise::new(noise::fresh_seed(), self.size)));
        fleet.first().client.put(
            KEY,
            noise,
            &PutOptions { volatile: true, ..PutOptions::default() },
            &bar,
        )?;
        drop(bar);
        let chunks = fleet.first().client.info(KEY)?.references()?;
        stage(format!("broadcasting to {others}"));
        let total = self.size * u64::from(self.nodes - 1);
        let (time, receptions) = progress::watch(
            global.draws(),
            "broadcast",
            total,
            || Some(arrived(&fleet.first().client, &chunks).ok()?.saturating_sub(self.size)),
            || broadcast::fetch(fleet.others(), &chunks),
        )?;
        stage("reading everything back to compare digests".into());
        broadcast::verify(fleet.others(), &chunks)?;
        let report = Report::new(self.size, self.nodes, time, &receptions, &plain);
        if global.json {
            output::json(&report)?
        } else {
            output::text(&report.to_string())?
        }
        if self.keep { keep(global, &fleet) } else { Ok(()) }
    }

    fn check_memory(&self, memory_per_node: u64) -> Result<(), Failure> {
        let needed = memory_per_node.saturating_mul(self.nodes.into());
        let available = host::available_memory_bytes();
        if needed <= available {
            return Ok(());
        }
        Err(DemoError::Memory { nodes: self.nodes, size: self.size, needed, available }.into())
    }
}

/// The name of the congestion control that suits loopback, where nothing is gained by pacing: BBR moves 4.8 GB/s there
/// and cubic 6.8.
fn cubic() -> Option<String> {
    let offered = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control").ok()?;
    offered.split_whitespace().find(|name| *name == "cubic").map(str::to_owned)
}

/// Verified bytes of the chunks in the memory of all nodes together.
fn arrived(client: &Client, chunks: &[ChunkReference]) -> Result<u64, Failure> {
    let mut bytes = 0;
    for chunk in chunks {
        for replica in client.replicas(Some(chunk.id))?.replicas {
            let verified = u64::from(replica.dram_pieces) * u64::from(chunk.geometry.piece_size());
            bytes += verified.min(chunk.geometry.size());
        }
    }
    Ok(bytes)
}

/// Waits for Ctrl-C, which is how this ends and no failure.
fn keep(global: &Global, fleet: &Fleet) -> Result<(), Failure> {
    note(global, "\nThe nodes run until Ctrl-C. In another shell:");
    note(global, format_args!("  export SHOAL_NODE={}", fleet.first_socket().display()));
    note(global, "  shoal node ls; shoal chunk ls; shoal info demo");
    while interrupt::signal().is_none() {
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused() {
        let demo = Demo { nodes: 256, size: 1 << 50, congestion_control: None, keep: false };
        let failure = demo.check_memory(demo.size).unwrap_err();
        assert!(failure.to_string().starts_with("256 nodes with 1.0 PiB each need 256.0 PiB"), "{failure}");
    }
}
