//! Networks of our own: hosts, each with a link to one switch.
//!
//! Each host is a network namespace, and so is the switch between them, a bridge. A link is as fast in both directions
//! at once as its rate says, and it can be cut and healed while it is in use: what is cut loses packets without a word,
//! as a switch that fails does. The namespaces have no names: they are there as long as this process has them open or
//! something runs in them, so that nothing is left behind however it ends, and nothing of the machine's own network is
//! touched.

mod host; // a place for processes
mod namespace; // one network namespace

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

pub use host::{Host, INTERFACE, Reach};
pub use namespace::take_charge;

use namespace::Namespace;

/// How far a link may be ahead of its rate, in bytes: as much as the kernel hands over at once, twice.
const BURST_BYTES: u64 = 128 << 10;
/// Bytes that wait in a host for its link, before more are dropped. TCP keeps what waits there small by itself.
const HOST_QUEUE_BYTES: u64 = 16 << 20;
/// Packets that wait for a link without a rate, before more are dropped.
const QUEUE_PACKETS: u64 = 10_000;
/// All addresses.
const SUBNET: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 0);
/// Bits of an address that all hosts share.
const SUBNET_BITS: u8 = 16;
/// Most hosts of one network, each of which knows where all others are.
const HOSTS_MAX: u32 = 256;

/// Why there is no network, or why it cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The system does not let this process have networks.
    #[error(
        "cannot {what}: {reason}; it takes root or the right to make user namespaces, iproute2 (`ip`, `tc`) and \
         util-linux (`unshare`, `nsenter`)"
    )]
    Denied {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        reason: String,
    },
    /// There are as many hosts as there may be.
    #[error("a network of {HOSTS_MAX} hosts has no place for another")]
    Full,
    /// A call to the system failed.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl NetworkError {
    /// The failure of a call to the system, for `map_err`.
    fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { what: what.into(), source }
    }
}

/// A switch, to which hosts are linked one by one. It is there as long as it or one of its hosts.
pub struct Network {
    switch: Arc<Namespace>,
    rate: Rate,
    hosts: u32,
}

impl Network {
    /// A switch whose links are as fast as the machine makes them.
    pub fn new() -> Result<Self, NetworkError> {
        Self::with(Rate(None))
    }

    /// A switch whose links carry so many Mbit/s in each direction.
    pub fn shaped(megabits_per_s: u64) -> Result<Self, NetworkError> {
        Self::with(Rate(Some(megabits_per_s)))
    }

    fn with(rate: Rate) -> Result<Self, NetworkError> {
        let switch = Arc::new(Namespace::make()?);
        switch.run(
            "ip",
            &[
                "link add switch type bridge",
                "link set switch up",
                "link add island type bridge",
                "link set island up",
            ],
        )?;
        Ok(Self { switch, rate, hosts: 0 })
    }

    /// One more host, which reaches all others.
    pub fn add_host(&mut self) -> Result<Host, NetworkError> {
        if self.hosts == HOSTS_MAX {
            return Err(NetworkError::Full);
        }
        self.hosts += 1;
        Host::linked(self.hosts, &self.switch, self.rate)
    }
}

/// How fast each link of a network is.
#[derive(Debug, Clone, Copy)]
struct Rate(
    /// What it carries in each direction, in Mbit/s; all that the machine can without.
    Option<u64>,
);

impl Rate {
    /// What `tc` is told so that the switch sends at this rate; 10 ms of it may wait, before more is dropped.
    fn at_switch(self, port: &str) -> String {
        self.line(port, |megabits_per_s| megabits_per_s * 1000 / 8 * 10)
    }

    /// What `tc` is told so that a host sends at this rate.
    fn at_host(self) -> String {
        self.line(INTERFACE, |_| HOST_QUEUE_BYTES)
    }

    fn line(self, interface: &str, queue_bytes: impl Fn(u64) -> u64) -> String {
        let queue = match self.0 {
            Some(rate) => {
                // A queue that does not hold a burst would never let a large packet pass.
                let limit = queue_bytes(rate).max(2 * BURST_BYTES);
                format!("tbf rate {rate}mbit burst {BURST_BYTES} limit {limit}")
            }
            None => format!("pfifo limit {QUEUE_PACKETS}"),
        };
        format!("qdisc replace dev {interface} root {queue}")
    }
}

/// What `tc` is told so that an interface loses all that it should send.
fn silenced(interface: &str) -> String {
    format!("qdisc replace dev {interface} root blackhole")
}
