//! A place for processes.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use rustix::thread::{
    CpuSet, LinkNameSpaceType, move_into_link_name_space, sched_getaffinity, sched_setaffinity,
};

use super::namespace::Namespace;
use super::{HOSTS_MAX, NetworkError, Rate, SUBNET, SUBNET_BITS, silenced};

/// The interface of every host of a network.
pub const INTERFACE: &str = "eth0";

/// A place for processes: this machine's own network, or a host of one of ours.
#[derive(Clone)]
pub struct Host {
    address: Ipv4Addr,
    link: Option<Arc<Link>>,
    /// The only processor that is used there.
    processor: Option<usize>,
}

/// What leads from a host to its switch.
struct Link {
    host: Namespace,
    switch: Arc<Namespace>,
    /// The switch's end.
    port: String,
    rate: Rate,
}

/// Whom a host reaches by its link. Nobody is told of what is lost: packets do not arrive, and that is all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// All hosts that are not cut off themselves.
    All,
    /// The hosts that are on the island too, and no others: what is left when the way to a rack is cut.
    Island,
    /// Nobody, in neither direction.
    Nobody,
    /// All are heard and none hears it.
    Hears,
    /// It is heard by all and hears none.
    Speaks,
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

    pub(super) fn linked(number: u32, switch: &Arc<Namespace>, rate: Rate) -> Result<Self, NetworkError> {
        let (host, port) = (Namespace::make()?, format!("port{number}"));
        let address = address_of(number);
        let end = format!("name {INTERFACE} address {} netns {}", station_of(number), host.path());
        let link = format!("link add {port} type veth peer {end}");
        switch.run("ip", &[&link, &format!("link set {port} master switch up")])?;
        switch.run("tc", &[&rate.at_switch(&port)])?;
        let address_add = format!("address add {address}/{SUBNET_BITS} dev {INTERFACE}");
        host.run("ip", &["link set lo up", &address_add, &format!("link set {INTERFACE} up")])?;
        let others: Vec<String> =
            (1..=HOSTS_MAX).filter(|&other| other != number).map(acquaintance).collect();
        host.run("ip", &others.iter().map(String::as_str).collect::<Vec<_>>())?;
        host.run("tc", &[&rate.at_host()])?;
        let link = Some(Arc::new(Link { host, switch: switch.clone(), port, rate }));
        Ok(Self { address, link, processor: None })
    }

    /// Changes whom it reaches, in what is under way too. Where there is no link, all stay in reach.
    pub fn set_reach(&self, reach: Reach) -> Result<(), NetworkError> {
        self.link.as_ref().map_or(Ok(()), |link| link.set_reach(reach))
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
                move_into_link_name_space(link.host.descriptor(), Some(LinkNameSpaceType::Network))?;
                task()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Bytes that its link has brought so far, headers included.
    pub fn received_bytes(&self) -> Result<u64, NetworkError> {
        let table = self.within(|| fs::read_to_string("/proc/thread-self/net/dev"));
        let failed = || NetworkError::system(format!("see what the link to {} has carried", self.address));
        received_bytes(&table.map_err(failed())?).ok_or_else(|| failed()(io::ErrorKind::InvalidData.into()))
    }
}

impl Link {
    fn set_reach(&self, reach: Reach) -> Result<(), NetworkError> {
        let bridge = if reach == Reach::Island { "island" } else { "switch" };
        self.switch.run("ip", &[&format!("link set {} master {bridge}", self.port)])?;
        let hears = matches!(reach, Reach::All | Reach::Island | Reach::Hears);
        let speaks = matches!(reach, Reach::All | Reach::Island | Reach::Speaks);
        let port = if hears { self.rate.at_switch(&self.port) } else { silenced(&self.port) };
        let host = if speaks { self.rate.at_host() } else { silenced(INTERFACE) };
        self.switch.run("tc", &[&port])?;
        self.host.run("tc", &[&host])
    }
}

/// Where the host of a number is reached.
fn address_of(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(SUBNET.to_bits() + number)
}

/// The same on the wire: an address of those that everybody may give out, with the number at its end.
fn station_of(number: u32) -> String {
    let [.., third, second, first] = number.to_be_bytes();
    format!("02:00:00:{third:02x}:{second:02x}:{first:02x}")
}

/// What `ip` is told so that a host knows where another one is, or will be. Otherwise it would have to ask, and of
/// answers the kernel remembers some 1,024 (`gc_thresh3`) over all namespaces together: with more pairs of hosts that talk,
/// those that it has no room for lose what they send. What it is told does not count.
fn acquaintance(number: u32) -> String {
    format!(
        "neighbour add {} lladdr {} dev {INTERFACE} nud permanent",
        address_of(number),
        station_of(number)
    )
}

/// The first number behind the interface's name in the kernel's table.
fn received_bytes(table: &str) -> Option<u64> {
    let numbers = |line: &str| Some(line.trim_start().strip_prefix(INTERFACE)?.strip_prefix(':')?.to_owned());
    table.lines().find_map(numbers)?.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;
    use crate::network::Network;
    use crate::wait::until;

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
        here.set_reach(Reach::Nobody).unwrap();
    }

    #[test]
    fn a_link_loses_what_it_is_told_to_lose() {
        let mut network = match Network::shaped(1000) {
            Ok(network) => network,
            Err(error) => return println!("skipped: {error}"),
        };
        let hosts: Vec<Host> = (0..2).map(|_| network.add_host().unwrap()).collect();
        let [one, other] = [&hosts[0], &hosts[1]].map(socket);
        let cases = [
            ([Reach::All, Reach::All], [true, true]),
            ([Reach::All, Reach::Nobody], [false, false]),
            ([Reach::All, Reach::Hears], [true, false]),
            ([Reach::All, Reach::Speaks], [false, true]),
            ([Reach::All, Reach::Island], [false, false]),
            ([Reach::Island, Reach::Island], [true, true]),
            ([Reach::All, Reach::All], [true, true]),
        ];
        for (reaches, expected) in cases {
            let set = |reaches: [Reach; 2]| {
                hosts.iter().zip(reaches).for_each(|(host, reach)| host.set_reach(reach).unwrap());
            };
            let arrived = [(&one, &other), (&other, &one)].map(|(from, to)| {
                set(reaches);
                pass(from, to, || set([Reach::All; 2]))
            });
            assert_eq!(arrived, expected, "{reaches:?}");
        }
    }

    #[test]
    fn more_pairs_of_hosts_talk_than_the_kernel_would_learn() {
        let mut network = match Network::new() {
            Ok(network) => network,
            Err(error) => return println!("skipped: {error}"),
        };
        let sockets: Vec<UdpSocket> = (0..36).map(|_| socket(&network.add_host().unwrap())).collect();
        let addresses: Vec<_> = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
        for (from, speaker) in sockets.iter().zip(&addresses) {
            addresses.iter().for_each(|to| assert_eq!(from.send_to(b"hello", to).unwrap(), 5));
            for to in &sockets {
                let heard = until("each host hears each other", || to.recv_from(&mut [0; 8]).ok());
                assert_eq!(heard.1, *speaker);
            }
        }
    }

    fn socket(host: &Host) -> UdpSocket {
        let socket = host.within(|| UdpSocket::bind((host.address(), 0))).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        socket
    }

    /// Whether a datagram arrives that is sent before `heal`. It is known to be lost when a later one is there.
    fn pass(from: &UdpSocket, to: &UdpSocket, heal: impl FnOnce()) -> bool {
        let address = to.local_addr().unwrap();
        from.send_to(b"early", address).unwrap();
        heal();
        let mut has_passed = false;
        until("a datagram arrives over a link that is whole", || {
            from.send_to(b"late", address).unwrap();
            let mut bytes = [0; 8];
            let length = to.recv(&mut bytes).ok()?;
            has_passed |= &bytes[..length] == b"early";
            (&bytes[..length] == b"late").then_some(())
        });
        // What was sent in vain while it waited must not be taken for the next answer.
        to.set_nonblocking(true).unwrap();
        while to.recv(&mut [0; 8]).is_ok() {}
        to.set_nonblocking(false).unwrap();
        has_passed
    }
}
