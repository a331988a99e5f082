//! One chunk to many nodes.

use std::rc::Rc;

use suites::Way;
use suites::network::{Host, Network};

use super::fetching::Fetching;
use super::in_turn::started;
use super::linked::{Linked, ideal};
use crate::conditions::Conditions;
use crate::failure::Failure;
use crate::interrupt;
use crate::nodes::memory_bytes;
use crate::payload::{Payload, PayloadFile};
use crate::peers::copies::{Copies, Keeping};
use crate::peers::library::{Broadcaster, Library};
use crate::peers::mpi::{Algorithm, Mpi};
use crate::scenario::{Contenders, Scenario};

const SIZE: u64 = 256 << 20;
/// What each link carries in each direction, in Mbit/s. At this rate some ten links can be full before two processors
/// are.
const LINK_MEGABITS_PER_S: u64 = 1000;

/// A chunk from one node to many at once, beside star copies, MPI and others.
pub struct Broadcast {
    /// How many nodes receive it.
    pub receivers: usize,
    /// What is between the nodes.
    pub over: Over,
}

/// What is between nodes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Over {
    /// Nothing: nodes of one host, which take the way that they find.
    Host,
    /// The loopback of one host, and TCP.
    Loopback,
    /// A link of a fixed rate for each node, and a switch.
    Links,
}

/// Hosts that reach each other through one switch, as many as asked for.
fn hosts(count: usize) -> Result<Vec<Host>, Failure> {
    let mut network = Network::shaped(LINK_MEGABITS_PER_S)?;
    let add = |_| {
        interrupt::check()?;
        Ok(network.add_host()?)
    };
    (0..count).map(add).collect()
}

impl Scenario for Broadcast {
    fn name(&self) -> String {
        match self.over {
            Over::Host => format!("broadcast-{}", self.receivers),
            Over::Loopback => format!("broadcast-tcp-{}", self.receivers),
            Over::Links => format!("broadcast-links-{}", self.receivers),
        }
    }

    fn compares(&self) -> &'static str {
        match self.over {
            Over::Host => {
                "one chunk from a node to all others on its host at once, through memory that they share; beside one \
                 process that sends the same bytes over loopback TCP to as many receivers, which keep them, and beside \
                 MPI_Bcast over TCP, as Open MPI chooses and pipelined, and as it chooses when it may share memory; \
                 beside gloo, the object store of Ray, BitTorrent by libtorrent, and Mooncake Store"
            }
            Over::Loopback => {
                "one chunk from a node to all others at once over loopback TCP; beside one process that sends the \
                 same bytes to as many receivers, which keep them, and beside MPI_Bcast over TCP, as Open MPI chooses \
                 and pipelined"
            }
            Over::Links => {
                "the same broadcast among hosts that have a link of 1 Gbit/s in each direction to one switch, as \
                 network namespaces; beside the same peers at the same hosts"
            }
        }
    }

    fn goal(&self) -> &'static str {
        match self.over {
            Over::Host => "faster than each",
            Over::Loopback => "less processor time than MPI_Bcast as Open MPI chooses",
            Over::Links => "faster than each from 8 receivers on, at least 0.85 of what the links allow",
        }
    }

    fn amount(&self, conditions: &Conditions) -> u64 {
        conditions.sized(SIZE) * self.receivers as u64
    }

    fn memory_bytes(&self, conditions: &Conditions) -> u64 {
        let (size, receivers) = (conditions.sized(SIZE), self.receivers as u64);
        let (nodes, peer) = ((1 + receivers) * memory_bytes(size), (1 + receivers) * size);
        // The bytes themselves, the nodes, and one of the peers: each gives its memory back after its turn.
        size + if conditions.in_turn { nodes.max(peer) } else { nodes + peer }
    }

    fn lays_links(&self) -> bool {
        self.over == Over::Links
    }

    fn prepare(&self, conditions: &Conditions) -> Result<Contenders, Failure> {
        let payload = Payload::new(conditions.sized(SIZE))?;
        let control = conditions.congestion_control.as_deref();
        let hosts = match self.over {
            Over::Host | Over::Loopback => vec![Host::here(); 1 + self.receivers],
            Over::Links => hosts(1 + self.receivers)?,
        };
        let (way, mpi) = match self.over {
            Over::Host => (Way::Found, &Algorithm::ALL[..]),
            Over::Loopback | Over::Links => (Way::Tcp, &Algorithm::OVER_TCP[..]),
        };
        let allowed = self.lays_links().then(|| ideal(&hosts, &payload, control)).transpose()?;
        let bytes = payload.length();
        let ours = {
            let (hosts, payload, conditions) = (hosts.clone(), payload.clone(), conditions.clone());
            move || Fetching::start(&hosts, &payload, way, &conditions)
        };
        let star = {
            let (hosts, payload, control) = (hosts.clone(), payload.clone(), control.map(str::to_owned));
            move || Copies::start("tcp-star", &hosts, &payload, Keeping::Everything, control.as_deref())
        };
        let ours = Linked::new(started("shoal", conditions, ours)?, &hosts, bytes);
        let star = Linked::new(started("tcp-star", conditions, star)?, &hosts, bytes);
        let mut contenders = Contenders::new(ours).with(star).with_ideal(allowed);
        for &algorithm in mpi {
            let mpi = Mpi::find(algorithm, &hosts, bytes, control);
            let mpi = mpi.map(|mpi| Linked::new(mpi, &hosts, bytes));
            contenders = contenders.with_if_there(algorithm.name(), mpi)?;
        }
        if self.over == Over::Host && !conditions.alone {
            contenders = self.with_libraries(contenders, &Rc::new(payload.file(conditions)?), conditions)?;
        }
        Ok(contenders)
    }
}

impl Broadcast {
    fn with_libraries(
        &self,
        mut contenders: Contenders,
        file: &Rc<PayloadFile>,
        conditions: &Conditions,
    ) -> Result<Contenders, Failure> {
        for library in Library::ALL {
            let (file, own, receivers) = (file.clone(), conditions.clone(), self.receivers);
            let find = move || Broadcaster::find(library, receivers, &file, &own);
            // One that is missing is known before the first round.
            let peer = find().and_then(|_| started(library.name(), conditions, find));
            contenders = contenders.with_if_there(library.name(), peer)?;
        }
        Ok(contenders)
    }
}
