//! What the demonstration prints.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::plain_tcp::Copies;
use super::spark;
use crate::amount;
use crate::broadcast::Reception;
use crate::table::Table;

/// Characters of a curve.
const CURVE_WIDTH: usize = 32;

/// The result of a demonstration.
#[derive(Serialize)]
pub struct Report {
    nodes: u16,
    size: u64,
    congestion_control: String,
    broadcast: Whole,
    plain_tcp: Whole,
    /// Time of the plain copies ÷ time of the broadcast: above one, the broadcast was faster.
    speedup: f64,
    receivers: Vec<Line>,
}

/// One way to bring the data to all receivers.
#[derive(Serialize)]
struct Whole {
    elapsed_us: u64,
    /// All receivers together.
    gigabytes_per_s: f64,
}

/// One receiver.
#[derive(Serialize)]
struct Line {
    node: String,
    elapsed_us: u64,
    gigabytes_per_s: f64,
    pieces_from_origin: u64,
    pieces_from_peers: u64,
    pieces_corrupt: u64,
    pieces_duplicate: u64,
    /// Whether the digest of what is there was compared.
    verified: bool,
    /// (microseconds since the start, bytes verified).
    progress: Vec<(u64, u64)>,
    #[serde(skip)]
    curve: String,
}

impl Report {
    /// The result of bringing `size` bytes from the first of `nodes` nodes to all others, whose digests are compared.
    pub fn new(size: u64, nodes: u16, time: Duration, receptions: &[Reception], plain: &Copies) -> Self {
        let total = size * u64::from(nodes - 1);
        let whole = |time: Duration| Whole {
            elapsed_us: time.as_micros() as u64,
            gigabytes_per_s: amount::gigabytes_per_s(total, time),
        };
        let line = |reception: &Reception| Line {
            node: reception.node.clone(),
            elapsed_us: reception.time.as_micros() as u64,
            gigabytes_per_s: amount::gigabytes_per_s(size, reception.time),
            pieces_from_origin: reception.pieces_from_origin,
            pieces_from_peers: reception.pieces_from_peers,
            pieces_corrupt: reception.pieces_corrupt,
            pieces_duplicate: reception.pieces_duplicate,
            verified: true,
            progress: reception.progress.iter().map(|&(at, bytes)| (at.as_micros() as u64, bytes)).collect(),
            curve: spark::line(&reception.progress, size, time, CURVE_WIDTH),
        };
        Self {
            nodes,
            size,
            congestion_control: plain.congestion_control.clone(),
            broadcast: whole(time),
            plain_tcp: whole(plain.time),
            speedup: plain.time.as_secs_f64() / time.as_secs_f64().max(1e-9),
            receivers: receptions.iter().map(line).collect(),
        }
    }

    fn table(&self) -> Table {
        let mut table = Table::new([
            "NODE",
            ">TIME",
            ">GB/s",
            ">FROM ORIGIN",
            ">FROM PEERS",
            "DIGEST",
            "ARRIVED OVER TIME",
        ]);
        for line in &self.receivers {
            table.row([
                line.node.clone(),
                amount::span(Duration::from_micros(line.elapsed_us)),
                format!("{:.2}", line.gigabytes_per_s),
                line.pieces_from_origin.to_string(),
                line.pieces_from_peers.to_string(),
                "right".into(),
                format!("|{}|", line.curve),
            ]);
        }
        table
    }
}

impl Whole {
    fn told(&self) -> String {
        let time = amount::span(Duration::from_micros(self.elapsed_us));
        format!("{time:>8}, {:.2} GB/s into all receivers together", self.gigabytes_per_s)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let receivers = u64::from(self.nodes - 1);
        let size = amount::size(self.size);
        let from_peers: u64 = self.receivers.iter().map(|line| line.pieces_from_peers).sum();
        let from_origin: u64 = self.receivers.iter().map(|line| line.pieces_from_origin).sum();
        let share = 100 * from_peers / (from_peers + from_origin).max(1);
        writeln!(
            f,
            "{size} of random bytes from the memory of one node into that of {}:\n",
            amount::count(receivers, "other")
        )?;
        writeln!(f, "{}", self.table())?;
        writeln!(f, "shoal      {}", self.broadcast.told())?;
        writeln!(f, "plain TCP  {}", self.plain_tcp.told())?;
        let (factor, word) =
            if self.speedup >= 1.0 { (self.speedup, "shorter") } else { (1.0 / self.speedup, "longer") };
        writeln!(
            f,
            "\nShoal took {factor:.2} times {word}, and {share} % of the pieces came from other receivers.\n"
        )?;
        let (nodes, threads) =
            (amount::count(receivers, "node"), amount::count(receivers, "receiving thread"));
        writeln!(
            f,
            "Compared are, in this run and on this machine, over loopback with congestion control {}:\n\
             - shoal: {nodes}, each a process, fetching at once, from the first request until the last piece is in memory\n  \
             and checked by CRC-64; digests are compared afterwards, outside the time;\n\
             - plain TCP: one process that sends the same to {threads} at once, one connection each, from memory\n  \
             to memory, without any checksum.\n\
             Both write to memory whose pages were there before.\n\
             All nodes share this machine's processors and memory, which set the pace; between machines, one sender's\n\
             network link would hold the plain copies back, and a swarm has the links of all nodes.",
            self.congestion_control
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_comparison_is_told_either_way() {
        let reception = Reception {
            node: "demo-1".into(),
            time: Duration::from_secs(2),
            pieces_from_origin: 1,
            pieces_from_peers: 3,
            progress: vec![(Duration::from_secs(1), 2 << 20), (Duration::from_secs(2), 4 << 20)],
            ..Reception::default()
        };
        let copies =
            |seconds| Copies { time: Duration::from_secs(seconds), congestion_control: "cubic".into() };
        let told = |seconds| {
            let time = Duration::from_secs(2);
            Report::new(4 << 20, 2, time, std::slice::from_ref(&reception), &copies(seconds)).to_string()
        };
        assert!(told(3).contains("1.50 times shorter, and 75 %"), "{}", told(3));
        assert!(told(1).contains("2.00 times longer"), "{}", told(1));
        assert!(told(1).contains("demo-1  2.00 s  0.00            1           3  right   |"), "{}", told(1));
    }
}
