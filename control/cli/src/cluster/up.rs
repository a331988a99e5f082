//! `shoal cluster up`

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use client::Client;
use serde::Serialize;
use tempfile::TempDir;

use super::etcd;
use super::layout::Layout;
use crate::failure::Failure;
use crate::global::Global;
use crate::processes::{self, Process, ProcessError};
use crate::put::note;
use crate::{amount, interrupt, output};

/// How many nodes there are unless something else is asked for.
pub const NODES: u16 = 3;
/// Most nodes; as many members of etcd are more than it is good for.
pub const NODES_MAX: u16 = 9;
/// How long all may take to become ready.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Pause between two looks at who still runs.
const TICK: Duration = Duration::from_millis(100);
/// How long nodes may take to end.
const NODES_PATIENCE: Duration = Duration::from_secs(5);
/// How long members of etcd may take; they lose nothing when they are killed.
const ETCD_PATIENCE: Duration = Duration::from_secs(2);

/// Start a cluster on this machine, with its catalog on etcd, and run it until Ctrl-C
///
/// Every node has a member of etcd beside it. Any node may be killed, and the others go on: that is what this is for. All of it
/// listens on loopback alone. Nothing is restarted; what ends is told. When this command ends, all that it started does.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  shoal cluster up
  shoal cluster up --nodes 5 --port 9015
  shoal cluster up --data-dir ~/cluster     The same again goes on with what is there
  shoal cluster up --json | jq -r 'select(.event == \"up\") | .nodes[0].address'

It runs the program `etcd`, which Debian and Ubuntu have as `apt install etcd-server`.")]
pub struct Up {
    /// How many nodes, each with a member of etcd [default: 3, or as many as there were]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=i64::from(NODES_MAX)))]
    nodes: Option<u16>,
    /// Where everything is kept [default: a temporary directory, which is removed at the end]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Port of the first node; the others follow, and etcd is 100 and 200 above [default: free ones]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Memory of each node
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = amount::parse_size_of_data)]
    max_memory: u64,
}

/// A cluster that runs. Dropping it ends all of it.
struct Running {
    nodes: Vec<Process>,
    members: Vec<Process>,
    layout: Layout,
}

/// What happens, as `--json` prints it, a line each.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'e> {
    /// All know each other.
    Up { nodes: Vec<Shown<'e>>, etcd: Vec<Shown<'e>>, catalog: &'e str, data_dir: &'e Path },
    /// A node or a member has ended.
    Ended { name: &'e str, what: &'e str },
}

#[derive(Serialize)]
struct Shown<'e> {
    name: &'e str,
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    socket: Option<PathBuf>,
    process: u32,
}

impl Up {
    /// Runs it until a signal comes, which is how it ends and no failure.
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        etcd::find()?;
        let (folder, _temporary) = self.folder()?;
        let layout = Layout::of(&folder, self.nodes, self.port)?;
        let mut running = Running::start(&folder, layout, self.max_memory)?;
        running.tell(global, &folder)?;
        loop {
            // What ended before the signal is told too.
            let is_over = interrupt::signal().is_some();
            running.look(global)?;
            if is_over {
                break;
            }
            thread::sleep(TICK);
        }
        running.stop();
        Ok(())
    }

    /// Where everything is kept, and what removes it at the end.
    fn folder(&self) -> Result<(PathBuf, Option<TempDir>), Failure> {
        let failed = || ProcessError::machine("make a directory for the cluster");
        let Some(folder) = &self.data_dir else {
            let folder = tempfile::Builder::new().prefix("shoal-cluster-").tempdir().map_err(failed())?;
            return Ok((folder.path().into(), Some(folder)));
        };
        std::fs::create_dir_all(folder).map_err(failed())?;
        Ok((folder.canonicalize().map_err(failed())?, None))
    }
}

impl Running {
    fn start(folder: &Path, layout: Layout, memory_bytes: u64) -> Result<Self, Failure> {
        let deadline = Instant::now() + START_LIMIT;
        let members = etcd::start(folder, &layout)?;
        let mut running = Self { nodes: Vec::new(), members, layout };
        etcd::wait(&mut running.members, &running.layout, deadline)?;
        for (port, number) in running.layout.nodes.iter().zip(1..) {
            let name = format!("n{number}");
            let folder = folder.join(&name);
            let mut command = processes::node(&name, &folder, &format!("127.0.0.1:{port}"))?;
            command.args(["--catalog", &running.layout.catalog(), "--cores", "1"]);
            command.arg("--max-memory").arg(memory_bytes.to_string());
            running.nodes.push(Process::start(&name, &folder, command)?);
        }
        let ready = |node: &mut Process| node.ready(deadline);
        let clients = running.nodes.iter_mut().map(ready).collect::<Result<Vec<Arc<Client>>, _>>()?;
        let count = clients.len();
        for (node, client) in running.nodes.iter_mut().zip(&clients) {
            node.knows(count, client, deadline)?;
        }
        Ok(running)
    }

    fn tell(&self, global: &Global, folder: &Path) -> Result<(), Failure> {
        let catalog = self.layout.catalog();
        let shown = |processes: &'_ [Process], ports: &[u16], has_socket: bool| {
            let each = processes.iter().zip(ports).map(|(process, port)| {
                let socket = has_socket.then(|| process.socket());
                (process.name.clone(), format!("127.0.0.1:{port}"), socket, process.number())
            });
            each.collect::<Vec<_>>()
        };
        let nodes = shown(&self.nodes, &self.layout.nodes, true);
        let members = shown(&self.members, &self.layout.clients, false);
        if global.json {
            let [nodes, etcd] = [&nodes, &members].map(|all| all.iter().map(Shown::of).collect());
            return output::json_line(&Event::Up { nodes, etcd, catalog: &catalog, data_dir: folder });
        }
        let count = nodes.len();
        let address = |number: usize| &nodes[number % count].1;
        let mut text = String::new();
        for (name, address, _, process) in nodes.iter().chain(&members) {
            text += &format!("  {name:8} {address:16} process {process}\n");
        }
        output::text(&format!(
            "{text}They keep everything in {}, and run until Ctrl-C. In another shell:\n  \
             export SHOAL_NODE={}\n  \
             shoal node ls\n  \
             shoal kv put greeting hello\n  \
             shoal kv get greeting --node {}\n  \
             curl http://{}/v1/kv/greeting\n\
             Kill a node and do it again. Another node joins with\n  \
             shoal serve --name more --data-dir DIR --listen 127.0.0.1:0 --catalog {catalog}\n",
            folder.display(),
            address(0),
            address(1),
            address(2)
        ))
    }

    /// Tells who has ended, each once.
    fn look(&mut self, global: &Global) -> Result<(), Failure> {
        for processes in [&mut self.nodes, &mut self.members] {
            let mut at = 0;
            while let Some(process) = processes.get_mut(at) {
                let Some(what) = process.ended()? else {
                    at += 1;
                    continue;
                };
                let ended = processes.remove(at);
                match global.json {
                    true => output::json_line(&Event::Ended { name: &ended.name, what: &what })?,
                    false => note(global, format_args!("{} has ended: {what}", ended.name)),
                }
            }
        }
        Ok(())
    }

    /// Nodes first, so that they take their leave of the catalog.
    fn stop(self) {
        processes::stop(self.nodes, NODES_PATIENCE);
        processes::stop(self.members, ETCD_PATIENCE);
    }
}

impl<'e> Shown<'e> {
    fn of((name, address, socket, process): &'e (String, String, Option<PathBuf>, u32)) -> Self {
        Self { name, address: address.clone(), socket: socket.clone(), process: *process }
    }
}
