//! Plain TCP from one process to others.
//!
//! The receivers are processes of their own, as nodes are, which run this same program. They are told what to do line
//! by line on standard input, answer line by line on standard output, and end when either the input or the stream of
//! bytes does.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use flow::verify::checksum_of;
use rustix::net::sockopt::set_tcp_congestion;
use rustix::process::{Signal, set_parent_process_death_signal};
use suites::network::Host;

use crate::cost::{Cost, Meter};
use crate::failure::Failure;
use crate::interrupt::{self, Alarm};
use crate::payload::{Payload, touched};
use crate::scenario::Contender;

/// Bytes that are written or read at once.
const STEP: usize = 1 << 20;
/// How long a receiver may take to connect.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// Time between two looks at whether a receiver has connected.
const TICK: Duration = Duration::from_millis(5);

/// Sends the payload to receivers at once, over one connection each.
pub struct Copies {
    name: &'static str,
    sender: Host,
    payload: Payload,
    keeping: Keeping,
    receivers: Vec<Receiver>,
}

/// What receivers do with the bytes.
#[derive(Debug, Clone, Copy, PartialEq, clap::ValueEnum)]
pub enum Keeping {
    /// They drop them, and only count.
    Nothing,
    /// They keep them in memory that was touched before.
    Everything,
}

/// What a receiving process is started with.
#[derive(Debug, clap::Args)]
pub struct Receiving {
    /// Where to connect to.
    #[arg(long)]
    from: SocketAddr,
    /// How many bytes come at once.
    #[arg(long)]
    bytes: u64,
    /// What to do with them.
    #[arg(long)]
    keeping: Keeping,
}

impl Copies {
    /// Starts a receiver at each host but the first, from where the bytes are sent.
    pub fn start(
        name: &'static str,
        hosts: &[Host],
        payload: &Payload,
        keeping: Keeping,
        congestion_control: Option<&str>,
    ) -> Result<Self, Failure> {
        let (sender, receivers) = hosts.split_first().expect("a scenario names the host of the sender");
        let listener = sender.within(|| listen(sender, congestion_control));
        let listener = listener.map_err(Failure::system("listen for receivers"))?;
        let start = |host| Receiver::start(host, &listener, payload.length(), keeping);
        let receivers = receivers.iter().map(start).collect::<Result<_, _>>()?;
        Ok(Self { name, sender: sender.clone(), payload: payload.clone(), keeping, receivers })
    }

    /// Gives all receivers an order and waits for all answers.
    fn order(&mut self, order: Order) -> Result<Vec<String>, Failure> {
        self.receivers.iter_mut().try_for_each(|receiver| receiver.tell(order))?;
        self.receivers.iter_mut().map(Receiver::answer).collect()
    }
}

impl Contender for Copies {
    fn name(&self) -> String {
        self.name.into()
    }

    fn ready(&mut self, _round: u32) -> Result<(), Failure> {
        self.order(Order::Wipe).map(drop)
    }

    fn run(&mut self) -> Result<Cost, Failure> {
        let processes: Vec<u32> = self.receivers.iter().map(|receiver| receiver.process.child.id()).collect();
        let meter = Meter::start(&processes)?;
        self.receivers.iter_mut().try_for_each(|receiver| receiver.tell(Order::Receive))?;
        let (bytes, host) = (self.payload.bytes(), &self.sender);
        thread::scope(|scope| {
            let send = |receiver: &Receiver| {
                host.settle_thread()?;
                let mut stream = &receiver.stream;
                bytes.chunks(STEP).try_for_each(|step| stream.write_all(step))
            };
            let senders: Vec<_> =
                self.receivers.iter().map(|receiver| scope.spawn(move || send(receiver))).collect();
            let join = |sender: thread::ScopedJoinHandle<'_, io::Result<()>>| {
                sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            // Joined one by one first: `collect` would stop at the first failure.
            let results: Vec<io::Result<()>> = senders.into_iter().map(join).collect();
            results.into_iter().collect::<io::Result<()>>()
        })
        .map_err(Failure::system("send to a receiver"))?;
        self.receivers.iter_mut().try_for_each(|receiver| receiver.answer().map(drop))?;
        meter.stop()
    }

    fn verify(&mut self) -> Result<(), Failure> {
        if self.keeping == Keeping::Nothing {
            return Ok(());
        }
        let right = self.payload.checksum().to_string();
        let all_right = self.order(Order::Check)?.iter().all(|checksum| *checksum == right);
        self.order(Order::Rest)?;
        if all_right { Ok(()) } else { Err(Failure::Wrong { place: "at a receiver".into() }) }
    }
}

/// What a receiver is told.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Order {
    /// Receive all bytes once.
    Receive,
    /// Say what the checksum of the memory is.
    Check,
    /// Overwrite the memory, so that the next check cannot find the bytes of an earlier run.
    Wipe,
    /// Leave the memory to others until the next wipe.
    Rest,
}

impl Order {
    fn word(self) -> &'static str {
        match self {
            Order::Receive => "receive",
            Order::Check => "check",
            Order::Wipe => "wipe",
            Order::Rest => "rest",
        }
    }

    fn of(word: &str) -> Option<Self> {
        [Order::Receive, Order::Check, Order::Wipe, Order::Rest]
            .into_iter()
            .find(|order| order.word() == word)
    }
}

/// A receiving process, seen from the sender.
struct Receiver {
    process: Process,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    stream: TcpStream,
    _alarm: Alarm,
}

impl Receiver {
    fn start(host: &Host, listener: &TcpListener, bytes: u64, keeping: Keeping) -> Result<Self, Failure> {
        let failed = || Failure::system("start a receiver");
        let mut command = host.command(std::env::current_exe().map_err(failed())?);
        command.arg("receive").args(["--bytes", &bytes.to_string()]);
        command.arg("--from").arg(listener.local_addr().map_err(failed())?.to_string());
        command.args(["--keeping", if keeping == Keeping::Nothing { "nothing" } else { "everything" }]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process { child: command.spawn().map_err(failed())? };
        let orders = process.child.stdin.take().expect("standard input was piped");
        let answers = BufReader::new(process.child.stdout.take().expect("standard output was piped"));
        let stream = process.connection(listener)?;
        let shut = stream.try_clone().map_err(failed())?;
        // Both sides of the stream fail then, the receiver ends, and its answer is waited for no longer.
        let alarm = Alarm::set(move || drop(shut.shutdown(Shutdown::Both)));
        Ok(Self { process, orders, answers, stream, _alarm: alarm })
    }

    fn tell(&mut self, order: Order) -> Result<(), Failure> {
        writeln!(self.orders, "{}", order.word()).map_err(Failure::system("tell a receiver what to do"))
    }

    fn answer(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        let read = self.answers.read_line(&mut line).and_then(|length| match length {
            0 => Err(io::Error::new(ErrorKind::UnexpectedEof, "it has ended")),
            _ => Ok(()),
        });
        read.map_err(Failure::system("hear from a receiver"))?;
        Ok(line.trim().to_owned())
    }
}

/// A process that dropping ends.
struct Process {
    child: Child,
}

impl Process {
    /// Waits until it connects.
    fn connection(&mut self, listener: &TcpListener) -> Result<TcpStream, Failure> {
        let failed = || Failure::system("connect a receiver");
        let deadline = Instant::now() + CONNECT_LIMIT;
        loop {
            interrupt::check()?;
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).map_err(failed())?;
                    return Ok(stream);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(failed()(error)),
            }
            let problem = match self.child.try_wait().map_err(failed())? {
                Some(status) => format!("it ended: {status}"),
                None if Instant::now() > deadline => {
                    format!("it did not within {} s", CONNECT_LIMIT.as_secs())
                }
                None => {
                    thread::sleep(TICK);
                    continue;
                }
            };
            return Err(failed()(io::Error::other(problem)));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Accepted connections have the congestion control of the listener.
fn listen(host: &Host, congestion_control: Option<&str>) -> io::Result<TcpListener> {
    let listener = TcpListener::bind((host.address(), 0))?;
    if let Some(name) = congestion_control {
        set_tcp_congestion(&listener, name)?;
    }
    listener.set_nonblocking(true)?;
    Ok(listener)
}

impl Receiving {
    /// What a receiving process does until it is told nothing more.
    pub fn run(self) -> Result<(), Failure> {
        // A sender that is killed takes its network along, and then no end of the stream arrives.
        set_parent_process_death_signal(Some(Signal::TERM))
            .map_err(Failure::system("ask to be ended with the sender"))?;
        let mut stream =
            TcpStream::connect(self.from).map_err(Failure::system(format!("connect to {}", self.from)))?;
        let length = match self.keeping {
            Keeping::Nothing => STEP as u64,
            Keeping::Everything => self.bytes,
        };
        let mut memory = touched(length)?;
        for line in io::stdin().lines() {
            let line = line.map_err(Failure::system("read an order"))?;
            let answer = match Order::of(&line) {
                Some(Order::Receive) => {
                    receive(&mut stream, &mut memory, self.bytes)
                        .map_err(Failure::system("receive from the sender"))?;
                    "received".to_owned()
                }
                Some(Order::Check) => checksum_of(&memory).to_string(),
                Some(Order::Wipe) => {
                    if memory.is_empty() {
                        memory = touched(length)?;
                    } else {
                        memory.fill(1);
                    }
                    "wiped".to_owned()
                }
                Some(Order::Rest) => {
                    memory = Vec::new();
                    "rests".to_owned()
                }
                None => {
                    return Err(Failure::system("obey")(io::Error::other(format!("'{line}' is no order"))));
                }
            };
            writeln!(io::stdout(), "{answer}").map_err(Failure::system("answer"))?;
        }
        Ok(())
    }
}

/// Receives so many bytes into the memory, from its beginning again when it is full.
fn receive(stream: &mut TcpStream, memory: &mut [u8], bytes: u64) -> io::Result<()> {
    if memory.is_empty() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "there is no memory to receive into"));
    }
    let mut received = 0;
    while received < bytes {
        let at = (received % memory.len() as u64) as usize;
        let wanted = usize::try_from(bytes - received).unwrap_or(usize::MAX).min(memory.len() - at).min(STEP);
        match stream.read(&mut memory[at..at + wanted])? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            length => received += length as u64,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn bytes_are_kept_or_counted() {
        let bytes: Vec<u8> = (0..3 * STEP as u32 + 17).map(|number| (number % 251) as u8).collect();
        for keeps in [true, false] {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            let mut memory = vec![1; if keeps { bytes.len() } else { STEP }];
            thread::scope(|scope| {
                scope.spawn(|| sender.write_all(&bytes).unwrap());
                receive(&mut stream, &mut memory, bytes.len() as u64).unwrap();
            });
            assert_eq!(memory == bytes, keeps);
        }
    }

    #[test]
    fn orders_are_understood() {
        for order in [Order::Receive, Order::Check, Order::Wipe, Order::Rest] {
            assert_eq!(Order::of(order.word()), Some(order));
        }
        assert_eq!(Order::of("dance"), None);
    }
}
