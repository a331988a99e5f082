//! Real nodes beside the simulated ones: what a broadcast over links of a fixed rate takes, and what the simulator says that
//! it takes.
//!
//! What the simulator must know of the machine is measured here too, and nothing of it is fitted: the rate of a link by one
//! copy over it, in both directions at once; its latency by connecting; what pieces and messages cost a processor by plain
//! TCP; checksums by computing one.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use flow::verify::checksum_of;
use rustix::time::{ClockId, clock_gettime};
use sim::{Cluster, Scenario, simulate};
use suites::Way;
use suites::network::{Host, Network, take_charge};

use crate::conditions::{Conditions, congestion_control};
use crate::failure::Failure;
use crate::interrupt;
use crate::payload::{Payload, touched};
use crate::scenario::Contender;
use crate::scenarios::fetching::Fetching;
use crate::scenarios::linked::ideal;

/// Seeds of the simulated worlds.
const SEEDS: u64 = 8;
/// Connections that are made to see how far away a host is.
const CONNECTIONS: usize = 21;
/// Small messages that are sent to see what one costs.
const MESSAGES: u32 = 4000;
/// Bytes of such a message, about those of a grant.
const MESSAGE_BYTES: usize = 96;
/// Bytes of a piece that is sent to see what one costs, and how many.
const PIECE_BYTES: usize = 1 << 20;
const PIECES: u32 = 64;

/// What is measured and predicted.
#[derive(clap::Args)]
pub struct Calibration {
    /// How many nodes receive, one broadcast after the other
    #[arg(long, value_name = "COUNT,…", value_delimiter = ',', default_values_t = [4, 8, 16])]
    receivers: Vec<usize>,
    /// What each link carries in each direction, in Mbit/s; so little that the processors are not busy
    #[arg(long, value_name = "RATE", default_value_t = 200)]
    megabits: u64,
    /// Bytes of the chunk, in MiB
    #[arg(long, value_name = "SIZE", default_value_t = 64)]
    mebibytes: u64,
    /// Broadcasts of each kind, of which the median counts
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
}

/// What the machine is to the simulator, in nanoseconds and Gbit/s.
#[derive(Debug, Clone, Copy)]
struct Costs {
    message_ns: u64,
    operation_ns: u64,
    checksum_gbps: f64,
}

impl Calibration {
    /// Measures, predicts and hands each line to `print`.
    pub fn run(self, print: impl Fn(&str)) -> Result<(), Failure> {
        take_charge()?;
        interrupt::watch().map_err(Failure::system("watch for signals"))?;
        let conditions = Conditions {
            congestion_control: congestion_control(None)?,
            folder: std::env::temp_dir(),
            shrink: 1,
            alone: true,
            in_turn: false,
            peers_python: "python3".into(),
        };
        let costs = Costs::measure()?;
        print(&format!(
            "one core here: {} ns a message, {} ns and {:.0} Gbit/s of checksums a piece of 1 MiB\n\n",
            costs.message_ns, costs.operation_ns, costs.checksum_gbps
        ));
        print(
            "| receivers | link, Mbit/s | bytes, MiB | one copy, s | latency, µs | measured, s | simulated, s | error |\n",
        );
        print("|---|---|---|---|---|---|---|---|\n");
        for &receivers in &self.receivers {
            print(&self.line(receivers, costs, &conditions)?);
        }
        Ok(())
    }

    fn line(&self, receivers: usize, costs: Costs, conditions: &Conditions) -> Result<String, Failure> {
        let mut network = Network::shaped(self.megabits)?;
        let hosts = (0..=receivers).map(|_| network.add_host()).collect::<Result<Vec<Host>, _>>()?;
        let payload = Payload::new(self.mebibytes << 20)?;
        let copy = ideal(&hosts, &payload, conditions.congestion_control.as_deref())?;
        let latency = latency(&hosts).map_err(Failure::system("connect from one host to another"))?;
        let measured = self.measure(&hosts, &payload, conditions)?;
        let cluster = Cluster {
            nic_gbps: payload.length() as f64 * 8.0 / copy.as_nanos() as f64,
            latency_ns: latency.as_nanos() as u64,
            memory_gbps: f64::INFINITY,
            checksum_gbps: costs.checksum_gbps,
            message_ns: costs.message_ns,
            operation_ns: costs.operation_ns,
            nodes_per_rack: receivers + 1,
            ..Cluster::default()
        };
        let mut simulated = 0.0;
        for seed in 1..=SEEDS {
            let scenario =
                Scenario { cluster: cluster.clone(), ..Scenario::new(seed, receivers, payload.length()) };
            let outcome = simulate(&scenario).map_err(|failure| Failure::Simulated(failure.to_string()))?;
            simulated += outcome.longest() * outcome.ideal_ns as f64 / 1e9 / SEEDS as f64;
        }
        let measured = measured.as_secs_f64();
        Ok(format!(
            "| {receivers} | {} | {} | {:.3} | {} | {measured:.3} | {simulated:.3} | {:+.1} % |\n",
            self.megabits,
            self.mebibytes,
            copy.as_secs_f64(),
            latency.as_micros(),
            (simulated / measured - 1.0) * 100.0,
        ))
    }

    fn measure(
        &self,
        hosts: &[Host],
        payload: &Payload,
        conditions: &Conditions,
    ) -> Result<Duration, Failure> {
        let mut nodes = Fetching::start(hosts, payload, Way::Tcp, conditions)?;
        let mut times = Vec::new();
        // The first makes the connections that later ones find, as in a cluster that has been up for a while.
        for round in 0..=self.rounds {
            nodes.ready(round)?;
            let cost = nodes.run()?;
            nodes.verify()?;
            times.extend((round > 0).then_some(cost.wall));
        }
        times.sort_unstable();
        Ok(times[times.len() / 2])
    }
}

/// How long a message takes from one host to another: half the time in which a connection is made.
fn latency(hosts: &[Host]) -> io::Result<Duration> {
    let listener = hosts[0].within(|| TcpListener::bind((hosts[0].address(), 0)))?;
    let address = listener.local_addr()?;
    hosts[1].within(move || {
        let mut times = Vec::with_capacity(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            let begin = Instant::now();
            let _connection = TcpStream::connect(address)?;
            times.push(begin.elapsed() / 2);
            drop(listener.accept()?);
        }
        times.sort_unstable();
        Ok(times[CONNECTIONS / 2])
    })
}

impl Costs {
    fn measure() -> Result<Self, Failure> {
        let piece = touched(PIECE_BYTES as u64)?;
        let measured = || -> io::Result<(Duration, Duration)> {
            let message = ping_pong(&[1; MESSAGE_BYTES], MESSAGES)?;
            Ok((message, ping_pong(&piece, PIECES)?))
        };
        let (message, both) = measured().map_err(Failure::system("send over the loopback interface"))?;
        let begin = processor_time();
        let sum = (0..PIECES).map(|_| checksum_of(std::hint::black_box(&piece))).fold(0, u64::wrapping_add);
        let checksums = processor_time().saturating_sub(begin);
        std::hint::black_box(sum);
        Ok(Self {
            message_ns: message.as_nanos() as u64,
            operation_ns: both.as_nanos() as u64,
            checksum_gbps: f64::from(PIECES) * PIECE_BYTES as f64 * 8.0 / checksums.as_nanos().max(1) as f64,
        })
    }
}

/// Processor time that one thread spends on sending bytes over loopback TCP or on receiving them, which costs about the
/// same, since both are done as often.
fn ping_pong(bytes: &[u8], times: u32) -> io::Result<Duration> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut there = TcpStream::connect(listener.local_addr()?)?;
    let (mut back, _) = listener.accept()?;
    there.set_nodelay(true)?;
    back.set_nodelay(true)?;
    let length = bytes.len();
    std::thread::scope(|scope| {
        scope.spawn(move || -> io::Result<()> {
            let mut received = vec![0; length];
            for _ in 0..times {
                back.read_exact(&mut received)?;
                back.write_all(&received)?;
            }
            Ok(())
        });
        let mut received = vec![0; length];
        let begin = processor_time();
        for _ in 0..times {
            there.write_all(bytes)?;
            there.read_exact(&mut received)?;
        }
        Ok(processor_time().saturating_sub(begin) / (2 * times))
    })
}

/// What this thread has used of a processor.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}
