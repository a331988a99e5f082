//! Real nodes, in processes of their own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use client::Client;
use suites::network::Host;
use suites::{Cluster, Node, Setup, Way};

use crate::conditions::Conditions;
use crate::failure::Failure;
use crate::interrupt::Alarm;

/// Most shards of a node that has the machine to itself: what it takes unless it is told otherwise.
const CORES_MAX: usize = 4;
/// Memory of a node beyond the bytes that it holds: slots in flight, and room for the arena to be cut. Bytes.
const SLACK_MIN: u64 = 32 << 20;
/// Least memory that a node starts with, in bytes.
const MEMORY_MIN: u64 = 64 << 20;

/// Nodes that know each other, and a client at each. A signal closes the clients. Dropping it ends the nodes and
/// removes their files.
pub struct Nodes {
    clients: Vec<Arc<Client>>,
    processes: Vec<u32>,
    _alarms: Vec<Alarm>,
    // Last, so that the clients are closed when the nodes end.
    cluster: Cluster,
}

/// Bytes of memory that a node takes to hold `bytes` of chunks.
pub fn memory_bytes(bytes: u64) -> u64 {
    (bytes + (bytes / 8).max(SLACK_MIN)).max(MEMORY_MIN)
}

impl Nodes {
    /// Starts a node of one core at each host, with room for chunks of `bytes`.
    pub fn start(hosts: &[Host], bytes: u64, way: Way, conditions: &Conditions) -> Result<Self, Failure> {
        Self::with(|| {
            let mut cluster = Cluster { nodes: Vec::new() };
            for (host, number) in hosts.iter().zip(1..) {
                let setup = at(host, adjust(Setup::named(&format!("n{number}")), bytes, conditions));
                let setup = setup.over(way);
                let setup = if cluster.nodes.is_empty() { setup } else { setup.join(cluster.head()) };
                cluster.nodes.push(setup.start());
            }
            cluster.wait_until_all_know(hosts.len());
            cluster
        })
    }

    /// Starts one node, on all cores that it would take by itself, whose files are in the conditions' folder.
    pub fn start_one(bytes: u64, conditions: &Conditions) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("shoal-bench-").tempdir_in(&conditions.folder);
        let folder = folder.map_err(Failure::system("make a folder for a node"))?;
        let cores = thread::available_parallelism().map_or(1, usize::from).min(CORES_MAX);
        let setup = adjust(Setup::named("n1"), bytes, conditions).flag("--cores", cores.to_string());
        Self::with(|| Cluster { nodes: vec![setup.start_in(folder)] })
    }

    fn with(start: impl FnOnce() -> Cluster) -> Result<Self, Failure> {
        // The harness is written for tests: it panics where something does not come up, and shows the node's log.
        let started = catch_unwind(AssertUnwindSafe(|| {
            let cluster = start();
            let clients: Vec<_> = cluster.nodes.iter().map(|node| Arc::new(node.client())).collect();
            (cluster, clients)
        }));
        let (cluster, clients) = started.map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Failure::Nodes(text.unwrap_or_else(|| "the harness failed".into()))
        })?;
        let closes = |client: &Arc<Client>| {
            let client = Arc::downgrade(client);
            Alarm::set(move || {
                if let Some(client) = client.upgrade() {
                    client.cancel();
                }
            })
        };
        let alarms = clients.iter().map(closes).collect();
        let processes = cluster.nodes.iter().map(Node::process).collect();
        Ok(Self { clients, processes, _alarms: alarms, cluster })
    }

    /// The first node's client.
    pub fn first(&self) -> &Client {
        &self.clients[0]
    }

    /// Where the first node listens.
    pub fn address(&self) -> &str {
        self.cluster.nodes[0].address()
    }

    /// Numbers of the nodes' processes.
    pub fn processes(&self) -> &[u32] {
        &self.processes
    }

    /// Does the same on all nodes but the first at once, and waits for all.
    pub fn each_other(&self, task: impl Fn(&Client) -> Result<(), Failure> + Sync) -> Result<(), Failure> {
        let task = &task;
        thread::scope(|scope| {
            let others = &self.clients[1..];
            let threads: Vec<_> = others.iter().map(|client| scope.spawn(move || task(client))).collect();
            // Joined one by one first: `collect` would stop at the first failure.
            let join = |thread: thread::ScopedJoinHandle<'_, Result<(), Failure>>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            let results: Vec<Result<(), Failure>> = threads.into_iter().map(join).collect();
            results.into_iter().collect()
        })
    }
}

fn at(host: &Host, setup: Setup) -> Setup {
    let entry = host.entry();
    let entry: Vec<&str> = entry.iter().map(String::as_str).collect();
    let setup = setup.through(&entry);
    if !host.is_linked() {
        return setup;
    }
    // A network of ours holds nobody but these nodes.
    setup.listen(&format!("{}:0", host.address())).switch("--insecure")
}

fn adjust(setup: Setup, bytes: u64, conditions: &Conditions) -> Setup {
    // A session of its own keeps Ctrl-C from the nodes: they are ended when they are dropped.
    let setup = setup.through(&["setsid"]).memory(&memory_bytes(bytes).to_string()).switch("--prefault");
    match &conditions.congestion_control {
        Some(name) => setup.flag("--congestion-control", name),
        None => setup,
    }
}
