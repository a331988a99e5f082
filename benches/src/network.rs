//! Networks of our own: hosts, each with a link to one switch.
//!
//! Each host is a network namespace, and so is the switch between them, a bridge. A link is as fast in both directions
//! at once as its rate says. The namespaces have no names: they are there as long as this process has them open or
//! something runs in them, so that nothing is left behind however it ends, and nothing of the machine's own network is
//! touched.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::thread;

use rustix::thread::{
    CpuSet, LinkNameSpaceType, move_into_link_name_space, sched_getaffinity, sched_setaffinity,
};

use crate::failure::Failure;
use crate::interrupt;

/// What each link carries in each direction, in Mbit/s. At this rate some ten links can be full before two processors
/// are.
pub const LINK_MEGABITS_PER_S: u64 = 1000;
/// How far a link may be ahead of its rate, in bytes: as much as the kernel hands over at once, twice.
const BURST_BYTES: u64 = 128 << 10;
/// Bytes that wait in the switch for one link, before more are dropped: 10 ms of it.
const SWITCH_QUEUE_BYTES: u64 = LINK_MEGABITS_PER_S * 1000 / 8 * 10;
/// Bytes that wait in a host for its link, before more are dropped. TCP keeps what waits there small by itself.
const HOST_QUEUE_BYTES: u64 = 16 << 20;
/// The interface of every host.
pub const INTERFACE: &str = "eth0";
/// All addresses.
const SUBNET: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 0);
/// Bits of an address that all hosts share.
const SUBNET_BITS: u8 = 16;

/// A place for processes: this machine's own network, or a host of one of ours.
#[derive(Clone)]
pub struct Host {
    address: Ipv4Addr,
    link: Option<Arc<Link>>,
    /// The only processor that is used there.
    processor: Option<usize>,
}

struct Link {
    host: Namespace,
    _switch: Arc<Namespace>,
}

/// Hosts that reach each other through one switch, as many as asked for.
pub fn hosts(count: usize) -> Result<Vec<Host>, Failure> {
    let switch = Arc::new(Namespace::make()?);
    switch.run("ip", &["link add switch type bridge", "link set switch up"])?;
    (1..=count as u32).map(|number| Host::linked(number, &switch)).collect()
}

/// Lets an ordinary user make networks, where the system lets users be masters of namespaces of their own: this program
/// starts again, as the master of one. Gives only why not, if it should have and could not.
pub fn take_charge() -> Result<(), Failure> {
    let mut trial = Command::new("unshare");
    trial.args(["--user", "--map-root-user", "--net", "true"]);
    trial.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if rustix::process::geteuid().is_root() || !trial.status().is_ok_and(|status| status.success()) {
        return Ok(());
    }
    let failed = || Failure::system("start again as the master of a namespace");
    let program = std::env::current_exe().map_err(failed())?;
    let mut again = Command::new("unshare");
    again.args(["--user", "--map-root-user", "--"]).arg(program).args(std::env::args_os().skip(1));
    Err(failed()(again.exec()))
}

impl Host {
    /// This machine, by way of the loopback interface.
    pub fn here() -> Self {
        Self { address: Ipv4Addr::LOCALHOST, link: None, processor: None }
    }

    /// Two halves of this machine, of one processor each, where it has two: hosts that stream to each other do not have
    /// to share one, which the scheduler would otherwise let them do in some runs and not in others.
    pub fn halves() -> Vec<Self> {
        let all = sched_getaffinity(None).unwrap_or_default();
        let mut processors = (0..CpuSet::MAX_CPU).filter(|&processor| all.is_set(processor));
        match (processors.next(), processors.next()) {
            (Some(first), Some(second)) => {
                [first, second].map(|processor| Self { processor: Some(processor), ..Self::here() }).into()
            }
            _ => vec![Self::here(); 2],
        }
    }

    fn linked(number: u32, switch: &Arc<Namespace>) -> Result<Self, Failure> {
        interrupt::check()?;
        let (host, port) = (Namespace::make()?, format!("port{number}"));
        let address = Ipv4Addr::from(SUBNET.to_bits() + number);
        let link = format!("link add {port} type veth peer name {INTERFACE} netns {}", host.path());
        switch.run("ip", &[&link, &format!("link set {port} master switch up")])?;
        switch.run("tc", &[&shaped(&port, SWITCH_QUEUE_BYTES)])?;
        let address_add = format!("address add {address}/{SUBNET_BITS} dev {INTERFACE}");
        host.run("ip", &["link set lo up", &address_add, &format!("link set {INTERFACE} up")])?;
        host.run("tc", &[&shaped(INTERFACE, HOST_QUEUE_BYTES)])?;
        let link = Some(Arc::new(Link { host, _switch: switch.clone() }));
        Ok(Self { address, link, processor: None })
    }

    /// Whether it is a host of a network of ours.
    pub fn is_linked(&self) -> bool {
        self.link.is_some()
    }

    /// Where it is reached by the other hosts of its network.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// A command that runs there.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut words = self.entry().into_iter().map(OsString::from).chain([program.as_ref().to_owned()]);
        let mut command = Command::new(words.next().expect("the program is always among the words"));
        command.args(words);
        command
    }

    /// What a command begins with that shall run there.
    pub fn entry(&self) -> Vec<String> {
        let pinned = |processor: usize| ["taskset".to_owned(), "-c".to_owned(), processor.to_string()];
        let link = self.link.iter().flat_map(|link| link.host.entry());
        link.chain(self.processor.into_iter().flat_map(pinned)).collect()
    }

    /// Lets the calling thread use what this host has of processors.
    pub fn settle_thread(&self) -> io::Result<()> {
        let Some(processor) = self.processor else { return Ok(()) };
        let mut only = CpuSet::new();
        only.set(processor);
        Ok(sched_setaffinity(None, &only)?)
    }

    /// Does something in a thread that is there: sockets stay where they are made.
    pub fn within<T: Send>(&self, task: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        let Some(link) = &self.link else { return task() };
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(link.host.file.as_fd(), Some(LinkNameSpaceType::Network))?;
                task()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Bytes that its link has brought so far, headers included.
    pub fn received_bytes(&self) -> Result<u64, Failure> {
        let table = self.within(|| fs::read_to_string("/proc/thread-self/net/dev"));
        let failed = || Failure::system(format!("see what the link to {} has carried", self.address));
        received_bytes(&table.map_err(failed())?).ok_or_else(|| failed()(io::ErrorKind::InvalidData.into()))
    }
}

/// What `tc` is told so that an interface sends at the rate of a link.
fn shaped(interface: &str, queue_bytes: u64) -> String {
    format!(
        "qdisc add dev {interface} root tbf rate {LINK_MEGABITS_PER_S}mbit burst {BURST_BYTES} limit {queue_bytes}"
    )
}

/// The first number behind the interface's name in the kernel's table.
fn received_bytes(table: &str) -> Option<u64> {
    let numbers = |line: &str| Some(line.trim_start().strip_prefix(INTERFACE)?.strip_prefix(':')?.to_owned());
    table.lines().find_map(numbers)?.split_ascii_whitespace().next()?.parse().ok()
}

/// A network namespace, for as long as it is open.
struct Namespace {
    file: File,
}

impl Namespace {
    fn make() -> Result<Self, Failure> {
        let mut command = Command::new("unshare");
        command.args(["--net", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let failed = |reason: String| Failure::Network { what: "make a network namespace", reason };
        let told = |error: io::Error| failed(error.to_string());
        let mut holder = command.spawn().map_err(told)?;
        // `cat` answers once it is in the namespace.
        let mut answered = || {
            holder.stdin.as_mut()?.write_all(b"\n").ok()?;
            holder.stdout.as_mut()?.read_exact(&mut [0]).ok()
        };
        let opened = answered().map(|()| File::open(format!("/proc/{}/ns/net", holder.id())));
        let output = holder.wait_with_output().map_err(told)?;
        match opened {
            Some(opened) => Ok(Self { file: opened.map_err(told)? }),
            None => Err(failed(said(&output))),
        }
    }

    /// Where other processes find it.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    fn entry(&self) -> [String; 2] {
        ["nsenter".into(), format!("--net={}", self.path())]
    }

    /// Has `ip` or `tc` obey these lines there.
    fn run(&self, program: &'static str, lines: &[&str]) -> Result<(), Failure> {
        let [enter, namespace] = self.entry();
        let mut command = Command::new(enter);
        command.args([&namespace, program, "-batch", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let failed = |reason: String| Failure::Network { what: "lay links between namespaces", reason };
        let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
        let mut input = child.stdin.take().expect("standard input was piped");
        // What fails here, the program says better.
        let _ = input.write_all((lines.join("\n") + "\n").as_bytes());
        drop(input);
        let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
        if output.status.success() { Ok(()) } else { Err(failed(said(&output))) }
    }
}

/// The first thing that a program complained about.
fn said(output: &Output) -> String {
    let complaint = String::from_utf8_lossy(&output.stderr);
    complaint.lines().find(|line| !line.is_empty()).map_or_else(|| output.status.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_interfaces_is_read() {
        let table =
            "Inter-|   Receive\n face |bytes packets\n    lo:  5 1 0\n  eth0: 1234 9 0\n eth01: 7 7 7\n";
        assert_eq!(received_bytes(table), Some(1234));
        assert_eq!(received_bytes("    lo:  5 1 0\n"), None);
    }

    #[test]
    fn a_host_here_is_the_machine_itself() {
        let here = Host::here();
        assert!(!here.is_linked() && here.address().is_loopback() && here.entry().is_empty());
        assert_eq!(here.within(|| Ok(7)).unwrap(), 7);
    }
}
