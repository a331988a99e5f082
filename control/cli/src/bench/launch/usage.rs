//! What a run takes of the machine: processor time, memory, descriptors, and bytes over network cards.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::host;

/// What this process holds.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Held {
    /// Resident memory but for chunks, in bytes.
    pub memory: u64,
    /// Resident memory of arenas, which hold the chunks, in bytes.
    pub arenas: u64,
    /// Threads.
    pub threads: u64,
    /// Open descriptors.
    pub descriptors: u64,
}

impl Held {
    /// What it holds at the moment.
    pub fn here() -> Self {
        let field = |name| host::line_of("/proc/self/status", name).and_then(|line| host::number(&line));
        let bytes = |name| field(name).unwrap_or(0) * 1024;
        Self {
            memory: bytes("RssAnon"),
            arenas: bytes("RssShmem"),
            threads: field("Threads").unwrap_or(0),
            descriptors: host::entries("/proc/self/fd").len() as u64,
        }
    }
}

/// Bytes that a network card has received and sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Bytes in.
    pub received: u64,
    /// Bytes out.
    pub sent: u64,
}

/// A moment from which on use is counted.
pub struct Since {
    when: Instant,
    processor: Duration,
    traffic: BTreeMap<String, Traffic>,
}

/// What was used.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Used {
    /// How long it took, in microseconds.
    pub elapsed_us: u64,
    /// Processor time of this process, in microseconds.
    pub processor_us: u64,
    /// By network interface, and by RDMA device and port (`mlx5_0/1`), of the whole machine.
    pub traffic: BTreeMap<String, Traffic>,
}

impl Since {
    /// From here on.
    pub fn now() -> Self {
        Self { when: Instant::now(), processor: processor_time(), traffic: traffic() }
    }

    /// What was used until here.
    pub fn used(&self) -> Used {
        let since = |(name, after): (String, Traffic)| {
            let before = self.traffic.get(&name).copied().unwrap_or_default();
            let received = after.received.saturating_sub(before.received);
            (name, Traffic { received, sent: after.sent.saturating_sub(before.sent) })
        };
        Used {
            elapsed_us: self.when.elapsed().as_micros() as u64,
            processor_us: processor_time().saturating_sub(self.processor).as_micros() as u64,
            traffic: traffic().into_iter().map(since).collect(),
        }
    }
}

/// Processor time of all threads of this process, user and system.
fn processor_time() -> Duration {
    let stat = host::read("/proc/self/stat");
    // The name in parentheses may have blanks in it; user and system time are the 12th and 13th field behind it.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second().max(1) as f64)
}

fn traffic() -> BTreeMap<String, Traffic> {
    let count = |path: &Path| host::read(path).parse::<u64>().unwrap_or(0);
    let of_interface = |path: &std::path::PathBuf| {
        let statistics = path.join("statistics");
        let received = count(&statistics.join("rx_bytes"));
        (host::name_of(path), Traffic { received, sent: count(&statistics.join("tx_bytes")) })
    };
    let of_port = |path: &std::path::PathBuf| {
        let device = path.ancestors().nth(2).map(host::name_of).unwrap_or_default();
        // These count words of four bytes (InfiniBand Architecture Specification, PortCountersExtended).
        let words = |name: &str| 4 * count(&path.join("counters").join(name));
        let traffic = Traffic { received: words("port_rcv_data"), sent: words("port_xmit_data") };
        (format!("{device}/{}", host::name_of(path)), traffic)
    };
    let interfaces = host::entries("/sys/class/net");
    let interfaces = interfaces.iter().filter(|path| path.join("statistics").exists()).map(of_interface);
    interfaces.chain(host::rdma_port_folders().iter().map(of_port)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_process_uses_is_seen() {
        let since = Since::now();
        let mut sum = 0_u64;
        // Processor time is counted in hundredths of a second.
        while since.used().processor_us == 0 {
            sum = std::hint::black_box((0..1_000_000_u64).fold(sum, u64::wrapping_add));
        }
        assert!(since.used().elapsed_us > 0);
        let held = Held::here();
        assert!(held.memory > 0 && held.threads > 0 && held.descriptors > 2, "{held:?}");
    }
}
