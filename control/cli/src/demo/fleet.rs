//! Nodes as child processes.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use client::Client;
use tempfile::TempDir;

use crate::broadcast::Receiver;
use crate::failure::Failure;
use crate::processes::{self, Process, ProcessError};

/// How long nodes may take to become ready.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A cluster on this machine. Dropping it ends the nodes, then removes their folder.
pub struct Fleet {
    nodes: Vec<Receiver>,
    processes: Vec<Process>,
    // Last, so that no node writes there any more when it is removed.
    _folder: TempDir,
}

/// What all nodes are started with.
struct Plan<'a> {
    folder: &'a Path,
    memory_bytes: u64,
    congestion_control: Option<&'a str>,
}

impl Fleet {
    /// Starts so many nodes, the first of them the head, and waits until all are in the cluster.
    pub fn start(count: u16, memory_bytes: u64, congestion_control: Option<&str>) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("shoal-demo-").tempdir();
        let folder = folder.map_err(ProcessError::machine("make a folder for the nodes"))?;
        let plan = Plan { folder: folder.path(), memory_bytes, congestion_control };
        let deadline = Instant::now() + START_LIMIT;
        let mut processes = vec![start(&plan, 0, None)?];
        let head = processes[0].ready(deadline)?;
        let address = head_address(&mut processes[0], &head, deadline)?;
        for index in 1..count {
            processes.push(start(&plan, index, Some(&address))?);
        }
        let mut nodes = vec![Receiver { name: processes[0].name.clone(), client: head }];
        for process in &mut processes[1..] {
            nodes.push(Receiver { client: process.ready(deadline)?, name: process.name.clone() });
        }
        let fleet = Self { nodes, processes, _folder: folder };
        fleet.wait_for_all(deadline)
    }

    /// The node that has the data first; it is the head.
    pub fn first(&self) -> &Receiver {
        &self.nodes[0]
    }

    /// All other nodes.
    pub fn others(&self) -> &[Receiver] {
        &self.nodes[1..]
    }

    /// The local socket of the first node.
    pub fn first_socket(&self) -> PathBuf {
        self.processes[0].socket()
    }

    /// Waits until every node knows every other.
    fn wait_for_all(mut self, deadline: Instant) -> Result<Self, Failure> {
        let count = self.nodes.len();
        let mut each = self.processes.iter_mut().zip(&self.nodes);
        each.try_for_each(|(process, node)| process.knows(count, &node.client, deadline))?;
        Ok(self)
    }
}

/// Starts a node, the head or one that joins it.
fn start(plan: &Plan<'_>, index: u16, join: Option<&str>) -> Result<Process, Failure> {
    let name = format!("demo-{index}");
    let folder = plan.folder.join(&name);
    let mut command = processes::node(&name, &folder, "127.0.0.1:0")?;
    command.args(["--cores", "1", "--prefault", "--max-memory"]).arg(plan.memory_bytes.to_string());
    command.args(join.map(|address| ["--join", address]).into_iter().flatten());
    command.args(plan.congestion_control.map(|name| ["--congestion-control", name]).into_iter().flatten());
    Process::start(&name, &folder, command)
}

fn head_address(process: &mut Process, head: &Client, deadline: Instant) -> Result<String, Failure> {
    process.wait(deadline, "is not the head of its cluster", || {
        let nodes = head.nodes().ok()?.nodes;
        nodes.into_iter().find(|node| node.head).map(|node| node.address)
    })
}
