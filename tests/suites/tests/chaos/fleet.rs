//! Sixteen nodes, each at its place.

use std::thread;

use client::ChunkId;
use flow::wire::control::NodeState;
use suites::network::{Host, Network, NetworkError};
use suites::{Node, Setup, holds};

use crate::plan::{HEAD, NODES};

/// What each link carries in each direction, in Mbit/s: so little that a broadcast lasts for seconds.
const LINK_MEGABITS_PER_S: u64 = 250;
/// Memory of each node for chunks, in bytes. The largest chunk of a round fits, and not two of them.
pub const MEMORY_BYTES: u64 = 160 << 20;
/// Trackers of a chunk.
const TRACKERS: usize = 2;

/// A head and its members, as many as a plan has parts.
pub struct Fleet {
    /// Where the nodes are, the head first.
    pub places: Vec<Place>,
    has_links: bool,
}

/// A host, and the node that runs there.
pub struct Place {
    /// The host.
    pub host: Host,
    /// The node; there is none between one that was retired and one that joins in its place.
    pub node: Option<Node>,
    number: usize,
    nodes_before: u32,
}

impl Fleet {
    /// Starts all nodes that a plan is about and waits until they know each other.
    pub fn start() -> Self {
        Self::of(NODES)
    }

    /// Starts so many nodes and waits until they know each other.
    pub fn of(count: usize) -> Self {
        let (hosts, has_links) = match hosts(count) {
            Ok(hosts) => (hosts, true),
            Err(error) => {
                println!("without links of our own, so that nothing is cut: {error}");
                (vec![Host::here(); count], false)
            }
        };
        let place = |(number, host)| Place { host, node: None, number, nodes_before: 0 };
        let mut fleet = Self { places: hosts.into_iter().enumerate().map(place).collect(), has_links };
        fleet.places[HEAD].start(None);
        let head = fleet.head().to_owned();
        thread::scope(|scope| {
            for place in &mut fleet.places[HEAD + 1..] {
                scope.spawn(|| place.start(Some(&head)));
            }
        });
        fleet.wait_until_all_know(count);
        fleet
    }

    /// Whether links can be cut.
    pub fn has_links(&self) -> bool {
        self.has_links
    }

    /// Where the head listens.
    pub fn head(&self) -> &str {
        self.node(HEAD).address()
    }

    /// The node at a place.
    pub fn node(&self, at: usize) -> &Node {
        self.places[at].node.as_ref().expect("a node is there")
    }

    /// The nodes that run, and their places.
    pub fn nodes(&self) -> impl Iterator<Item = (usize, &Node)> {
        let nodes = self.places.iter().enumerate();
        nodes.filter_map(|(at, place)| Some((at, place.node.as_ref().filter(|node| node.runs())?)))
    }

    /// The places of the nodes that track a chunk, the first one foremost.
    pub fn trackers(&self, chunk: &ChunkId) -> Vec<usize> {
        let ids: Vec<(usize, u64)> =
            self.nodes().map(|(at, node)| (at, node.client().status().unwrap().node.node)).collect();
        let chosen = plan::rendezvous::trackers(&chunk.0, ids.iter().map(|(_, id)| *id), TRACKERS);
        let place = |tracker: &u64| ids.iter().find(|(_, id)| id == tracker).map(|(at, _)| *at);
        chosen.iter().filter_map(place).collect()
    }

    /// Waits until each node that runs counts so many nodes alive.
    pub fn wait_until_all_know(&self, alive: usize) {
        for (_, node) in self.nodes() {
            holds(&format!("node {} knows {alive} nodes that live", node.name()), || {
                let nodes = node.try_client().and_then(|client| client.nodes().ok());
                let is_alive = |state| state == NodeState::Alive;
                nodes.is_some_and(|listing| {
                    listing.nodes.iter().filter(|node| is_alive(node.state)).count() == alive
                })
            });
        }
    }
}

impl Place {
    /// Starts a node that was not there before, and waits until it answers. The first of them is the head.
    pub fn start(&mut self, head: Option<&str>) {
        let name = format!("n{}.{}", self.number, self.nodes_before);
        self.nodes_before += 1;
        let entry = self.host.entry();
        let entry: Vec<&str> = entry.iter().map(String::as_str).collect();
        let mut setup = Setup::named(&name).memory(&MEMORY_BYTES.to_string()).through(&entry);
        if self.host.is_linked() {
            // A network of ours holds nobody but these nodes.
            setup = setup.listen(&format!("{}:0", self.host.address())).switch("--insecure");
        }
        if let Some(head) = head {
            setup = setup.flag("--join", head);
        }
        self.node = Some(setup.start());
    }

    /// Ends the node for good, with all that it has.
    pub fn retire(&mut self) {
        self.node = None;
    }
}

fn hosts(count: usize) -> Result<Vec<Host>, NetworkError> {
    let mut network = Network::shaped(LINK_MEGABITS_PER_S)?;
    (0..count).map(|_| network.add_host()).collect()
}
