//! Nodes as child processes.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use client::{Address, Client};
use flow::wire::control::NodeState;
use tempfile::TempDir;

use super::DemoError;
use crate::broadcast::Receiver;
use crate::failure::Failure;
use crate::{global, interrupt};

/// How long nodes may take to become ready.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Pause between two looks at whether a node is ready.
const START_TICK: Duration = Duration::from_millis(20);
/// Bytes from the end of a log that an error quotes.
const LOG_TAIL: u64 = 2 << 10;

/// A cluster on this machine. Dropping it ends the nodes, then removes their folder.
pub struct Fleet {
    nodes: Vec<Receiver>,
    processes: Vec<Process>,
    // Last, so that no node writes there any more when it is removed.
    _folder: TempDir,
}

struct Process {
    name: String,
    folder: PathBuf,
    child: Child,
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
        let folder = folder.map_err(DemoError::machine("make a folder for the nodes"))?;
        let plan = Plan { folder: folder.path(), memory_bytes, congestion_control };
        let deadline = Instant::now() + START_LIMIT;
        let mut processes = vec![Process::start(&plan, 0, None)?];
        let head = processes[0].ready(deadline)?;
        let address = head_address(&mut processes[0], &head, deadline)?;
        for index in 1..count {
            processes.push(Process::start(&plan, index, Some(&address))?);
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
        for at in 0..self.nodes.len() {
            let client = self.nodes[at].client.clone();
            let count = self.nodes.len();
            self.processes[at].wait(deadline, "does not know all other nodes", || {
                let alive = client.nodes().ok()?.nodes;
                let alive = alive.iter().filter(|node| node.state == NodeState::Alive).count();
                (alive == count).then_some(())
            })?;
        }
        Ok(self)
    }
}

fn head_address(process: &mut Process, head: &Client, deadline: Instant) -> Result<String, Failure> {
    process.wait(deadline, "is not the head of its cluster", || {
        let nodes = head.nodes().ok()?.nodes;
        nodes.into_iter().find(|node| node.head).map(|node| node.address)
    })
}

impl Process {
    fn start(plan: &Plan<'_>, index: u16, join: Option<&str>) -> Result<Self, Failure> {
        let name = format!("demo-{index}");
        let folder = plan.folder.join(&name);
        let failed = || DemoError::machine(format!("start node {name}"));
        std::fs::create_dir(&folder).map_err(failed())?;
        let log = File::create(log_of(&folder)).map_err(failed())?;
        let mut command = Command::new(std::env::current_exe().map_err(failed())?);
        // The settings of the user's own nodes are not for these.
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("SHOAL_") {
                command.env_remove(variable);
            }
        }
        command.args(["serve", "--listen", "127.0.0.1:0", "--cores", "1", "--name", &name]);
        // With its number the node notices even when this process is gone before the node looks.
        command.arg(format!("--exit-with-parent={}", std::process::id()));
        command.arg("--max-memory").arg(plan.memory_bytes.to_string()).arg("--prefault");
        command.arg("--data-dir").arg(&folder);
        command.args(join.map(|address| ["--join", address]).into_iter().flatten());
        command
            .args(plan.congestion_control.map(|name| ["--congestion-control", name]).into_iter().flatten());
        // A group of its own keeps Ctrl-C from it: the demonstration ends its nodes itself.
        command.process_group(0);
        command.stdin(Stdio::null()).stdout(log.try_clone().map_err(failed())?).stderr(log);
        let child = command.spawn().map_err(failed())?;
        Ok(Self { name, folder, child })
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("shoal.sock")
    }

    /// Waits until the node answers on its local socket.
    fn ready(&mut self, deadline: Instant) -> Result<std::sync::Arc<Client>, Failure> {
        let address = Address::Local(self.socket());
        self.wait(deadline, "does not answer", || global::open(&address, None).ok())
    }

    /// Asks again and again until there is an answer, the node ends, or time is up.
    fn wait<T>(
        &mut self,
        deadline: Instant,
        problem: &str,
        ask: impl Fn() -> Option<T>,
    ) -> Result<T, Failure> {
        loop {
            interrupt::check()?;
            if let Some(answer) = ask() {
                return Ok(answer);
            }
            let ended = self.child.try_wait().map_err(DemoError::machine("watch a node"))?;
            let what = match ended {
                Some(status) => format!("ended: {status}"),
                None if Instant::now() > deadline => format!("{problem} after {} s", START_LIMIT.as_secs()),
                None => {
                    thread::sleep(START_TICK);
                    continue;
                }
            };
            return Err(DemoError::Node { node: self.name.clone(), what, log: self.log_tail() }.into());
        }
    }

    /// The end of the log, indented, behind a line break.
    fn log_tail(&self) -> String {
        let mut bytes = Vec::new();
        let read = File::open(log_of(&self.folder)).and_then(|mut file| {
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
            file.read_to_end(&mut bytes)
        });
        match read {
            Ok(1..) => String::from_utf8_lossy(&bytes).lines().map(|line| format!("\n  {line}")).collect(),
            _ => String::new(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Its data is only in memory and nobody needs it; both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn log_of(folder: &Path) -> PathBuf {
    folder.join("log")
}
