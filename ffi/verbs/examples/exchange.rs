//! Writes with immediates between two processes, as fast as this crate carries them: what `ib_write_lat` and
//! `ib_write_bw` of perftest measure without it. `hw-ci/soft-roce/point-to-point` runs both.
//!
//! ```text
//! exchange DEVICE latency BYTES ROUNDS             half of a round trip in µs: median and average
//! exchange DEVICE bandwidth BYTES WRITES AT_ONCE   GB/s
//! ```
//!
//! Both ends are on one device, and poll; only who receives a bandwidth waits for events, as with perftest it waits for
//! nothing. The program starts the other end itself.

use std::error::Error;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use verbs::{
    Access, Attachment, Completion, CompletionChannel, CompletionQueue, Context, Endpoint, Gid, Mapping,
    MemoryRegion, Mtu, Opcode, Operation, PortState, ProtectionDomain, QueuePair, Reliability, RemoteRange,
    Segments, Sizes,
};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Where the process listens that started this one; only the other end has it.
const PORT: &str = "EXCHANGE_PORT";
/// Receives of an end. A lane of the engine has as many.
const RECEIVES: u32 = 32;
/// Round trips between two looks at the clock, which is a call of the kernel under User Mode Linux.
const BATCH: usize = 8;
const USAGE: &str =
    "usage: exchange DEVICE latency BYTES ROUNDS | exchange DEVICE bandwidth BYTES WRITES AT_ONCE";

/// What is measured.
enum Measure {
    Latency { rounds: usize },
    Bandwidth { writes: usize, at_once: usize },
}

fn main() -> Outcome<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (device, what, bytes, numbers) = match words.as_slice() {
        [device, what, bytes, numbers @ ..] => (device, what.as_str(), bytes.parse::<u32>()?, numbers),
        _ => return Err(USAGE.into()),
    };
    let numbers = numbers.iter().map(|word| word.parse()).collect::<Result<Vec<usize>, _>>()?;
    let measure = match (what, numbers.as_slice()) {
        ("latency", &[rounds]) if rounds > 0 => Measure::Latency { rounds },
        ("bandwidth", &[writes, at_once]) if writes > 0 && at_once > 0 => {
            Measure::Bandwidth { writes, at_once }
        }
        _ => return Err(USAGE.into()),
    };
    if let Ok(port) = std::env::var(PORT) {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port.parse()?))?;
        return answer(&mut End::connect(device, bytes, &measure, stream)?, &measure);
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut other = Command::new(std::env::current_exe()?);
    let mut other = other.args(&words).env(PORT, listener.local_addr()?.port().to_string()).spawn()?;
    let outcome = listener
        .accept()
        .map_err(Into::into)
        .and_then(|(stream, _)| call(&mut End::connect(device, bytes, &measure, stream)?, &measure));
    if outcome.is_err() {
        other.kill()?;
    }
    other.wait()?;
    println!("{}", outcome?);
    Ok(())
}

/// Measures; the figures.
fn call(end: &mut End, measure: &Measure) -> Outcome<String> {
    let figures = match *measure {
        Measure::Latency { rounds } => {
            let mut halves = Vec::new();
            for _ in 0..rounds.div_ceil(BATCH) {
                let started = Instant::now();
                for _ in 0..BATCH {
                    end.write()?;
                    end.await_writes_of_other(1)?;
                }
                halves.push(started.elapsed().as_secs_f64() * 1e6 / (2 * BATCH) as f64);
            }
            let average = halves.iter().sum::<f64>() / halves.len() as f64;
            halves.sort_by(f64::total_cmp);
            format!("{:.2} {average:.2}", halves[halves.len() / 2])
        }
        Measure::Bandwidth { writes, at_once } => {
            let started = Instant::now();
            for written in 0..writes {
                end.await_own_writes(written.saturating_sub(at_once - 1))?;
                end.write()?;
            }
            end.await_own_writes(writes)?;
            let bytes = f64::from(end.bytes) * writes as f64;
            format!("{:.4}", bytes / started.elapsed().as_secs_f64() / 1e9)
        }
    };
    end.part()?;
    Ok(figures)
}

/// Does what the caller's measure needs of this end.
fn answer(end: &mut End, measure: &Measure) -> Outcome<()> {
    match *measure {
        Measure::Latency { rounds } => {
            for _ in 0..rounds.div_ceil(BATCH) * BATCH {
                end.await_writes_of_other(1)?;
                end.write()?;
            }
        }
        Measure::Bandwidth { writes, .. } => {
            while end.others < writes {
                end.sleep()?;
                end.take()?;
            }
        }
    }
    end.part()
}

/// One of two connected ends.
struct End {
    // Dropped in this order: the queue pair before what it completes in.
    pair: QueuePair<()>,
    region: Arc<MemoryRegion>,
    completions: Rc<CompletionQueue<()>>,
    channel: Rc<CompletionChannel>,
    remote: RemoteRange,
    stream: TcpStream,
    bytes: u32,
    /// Writes of this end that are done, and those of the other that came and were not waited for yet.
    own: usize,
    others: usize,
    batch: Vec<Completion<()>>,
}

impl End {
    fn connect(device: &str, bytes: u32, measure: &Measure, mut stream: TcpStream) -> Outcome<Self> {
        let sends_max = match *measure {
            Measure::Latency { .. } => RECEIVES,
            Measure::Bandwidth { at_once, .. } => u32::try_from(at_once)?,
        };
        let devices = verbs::devices()?;
        let device = devices.iter().find(|found| found.name() == device).ok_or("there is no such device")?;
        let context = Context::open(device)?;
        let ports = context.ports()?;
        let port = ports.iter().find(|port| port.state == PortState::Active).ok_or("no port is active")?;
        let gids = context.gids(port)?;
        let gid = verbs::choose_gid(&gids).ok_or("the port has no address")?;
        let domain = ProtectionDomain::allocate(&context)?;
        let memory = Arc::new(Mapping::anonymous(bytes as usize)?);
        let region = MemoryRegion::register(&domain, memory, Access::FULL)?;
        let channel = CompletionChannel::create(&context)?;
        let completions = CompletionQueue::create(&context, Some(&channel), sends_max + RECEIVES)?;
        let sizes = Sizes { sends_max, receives_max: RECEIVES };
        let pair = QueuePair::create(&domain, &completions, None, sizes)?;
        let pair = pair.initialise(Attachment::new(port, gid), 1)?;
        for _ in 0..RECEIVES {
            pair.post_receive(Segments::none(), ()).map_err(|refused| refused.error)?;
        }
        stream.set_nodelay(true)?;
        stream.write_all(&told(&pair.endpoint(), &region.remote(0, bytes.into())?))?;
        let (endpoint, remote) = heard(&mut stream)?;
        let pair = pair.receive_from(&endpoint, Reliability::default())?.make_ready()?;
        let (own, others, batch) = Default::default();
        let end = Self { pair, region, completions, channel, remote, stream, bytes, own, others, batch };
        end.meet()?;
        Ok(end)
    }

    /// Writes all bytes to the other end.
    fn write(&self) -> Outcome<()> {
        let operation = Operation::Write { remote: self.remote, immediate: Some(1) };
        let segment = self.region.segment(0, self.bytes)?;
        self.pair.post(operation, segment, ()).map_err(|refused| refused.error)?;
        Ok(())
    }

    /// Polls until so many writes of this end are done, counted from the first.
    fn await_own_writes(&mut self, count: usize) -> Outcome<()> {
        while self.own < count {
            self.take()?;
        }
        Ok(())
    }

    /// Polls until so many more writes of the other end have come.
    fn await_writes_of_other(&mut self, count: usize) -> Outcome<()> {
        while self.others < count {
            self.take()?;
        }
        self.others -= count;
        Ok(())
    }

    /// Waits for a completion that has not been taken.
    fn sleep(&mut self) -> Outcome<()> {
        let before = self.own + self.others;
        self.completions.arm()?;
        self.take()?;
        if self.own + self.others == before {
            poll(&mut [PollFd::new(&*self.channel, PollFlags::IN)], None)?;
            while self.channel.take_event()? {}
        }
        Ok(())
    }

    /// Polls once.
    fn take(&mut self) -> Outcome<()> {
        self.completions.poll(&mut self.batch)?;
        for completion in self.batch.drain(..) {
            match completion.outcome? {
                Opcode::ReceiveWrite => {
                    self.others += 1;
                    self.pair.post_receive(Segments::none(), ()).map_err(|refused| refused.error)?;
                }
                _ => self.own += 1,
            }
        }
        Ok(())
    }

    /// Returns when the other end is here too.
    fn meet(&self) -> Outcome<()> {
        (&self.stream).write_all(&[1])?;
        Ok((&self.stream).read_exact(&mut [0])?)
    }

    /// Stays until the other end is done too, so that what it waits for is still answered.
    fn part(&self) -> Outcome<()> {
        self.meet()
    }
}

/// Bytes of what an end tells the other.
const TOLD: usize = 50;

fn told(endpoint: &Endpoint, memory: &RemoteRange) -> Vec<u8> {
    let Endpoint { lid, gid, queue_pair_number, packet_sequence_number, mtu } = endpoint;
    let mut bytes = gid.0.to_vec();
    bytes.extend(lid.to_le_bytes());
    for number in [*queue_pair_number, *packet_sequence_number, mtu.bytes(), memory.key] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(memory.address.to_le_bytes());
    bytes.extend(memory.length.to_le_bytes());
    bytes
}

fn heard(stream: &mut TcpStream) -> Outcome<(Endpoint, RemoteRange)> {
    let mut bytes = [0; TOLD];
    stream.read_exact(&mut bytes)?;
    let number = |at: usize| -> Outcome<u32> { Ok(u32::from_le_bytes(bytes[at..at + 4].try_into()?)) };
    let long = |at: usize| -> Outcome<u64> { Ok(u64::from_le_bytes(bytes[at..at + 8].try_into()?)) };
    let endpoint = Endpoint {
        gid: Gid(bytes[..16].try_into()?),
        lid: u16::from_le_bytes(bytes[16..18].try_into()?),
        queue_pair_number: number(18)?,
        packet_sequence_number: number(22)?,
        mtu: Mtu::from_bytes(number(26)?).ok_or("the other end has an unknown size of packets")?,
    };
    let memory = RemoteRange { key: number(30)?, address: long(34)?, length: long(42)? };
    Ok((endpoint, memory))
}
