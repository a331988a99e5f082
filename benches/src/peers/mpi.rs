//! MPI_Bcast.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;
use suites::network::{Host, INTERFACE};
use tempfile::TempDir;

use super::program;
use crate::cost::Cost;
use crate::failure::Failure;
use crate::scenario::Contender;

const SOURCE: &str = include_str!("../../peers/broadcast.c");
/// Gives its sockets the congestion control of all.
const CONGESTION: &str = include_str!("../../peers/congestion.c");
/// What every broadcast is run with: more processes than cores without complaint.
const SETTINGS: &str =
    "--allow-run-as-root --oversubscribe --bind-to none --mca pml ob1 --mca mpi_yield_when_idle 1";
/// TCP alone, as between hosts.
const TCP_ALONE: &str = "--mca btl tcp,self";
/// What lets its own daemons meet in a network of ours, one at each host, all of them started by the first.
const BETWEEN_HOSTS: &str = "--hostfile hosts --map-by node --leave-session-attached --mca plm rsh \
    --mca plm_rsh_no_tree_spawn 1";
/// The algorithm that long messages want: a chain, in segments of 1 MiB.
const PIPELINE: &str = "--mca coll_tuned_use_dynamic_rules 1 --mca coll_tuned_bcast_algorithm 3 \
    --mca coll_tuned_bcast_algorithm_segmentsize 1048576";

/// How Open MPI broadcasts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Algorithm {
    /// As it chooses itself.
    Chosen,
    /// In a pipelined chain.
    Pipeline,
    /// As it chooses itself, and through memory that the processes share.
    SharedMemory,
}

/// `MPI_Bcast` of Open MPI, in a program of ours that is compiled when it is first needed.
pub struct Mpi {
    algorithm: Algorithm,
    hosts: Vec<Host>,
    bytes: u64,
    congestion_control: String,
    program: PathBuf,
    folder: TempDir,
}

/// What the program says.
#[derive(Deserialize)]
struct Said {
    wall_s: f64,
    processors_s: f64,
    right: usize,
}

impl Algorithm {
    /// What the contender is called.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Chosen => "mpi-bcast",
            Algorithm::Pipeline => "mpi-pipeline",
            Algorithm::SharedMemory => "mpi-shm",
        }
    }

    /// Those that send over TCP.
    pub const OVER_TCP: [Algorithm; 2] = [Algorithm::Chosen, Algorithm::Pipeline];
    /// All of them.
    pub const ALL: [Algorithm; 3] = [Algorithm::Chosen, Algorithm::Pipeline, Algorithm::SharedMemory];
}

impl Mpi {
    /// Finds Open MPI and compiles the program that broadcasts `bytes` from the first host to the others.
    pub fn find(
        algorithm: Algorithm,
        hosts: &[Host],
        bytes: u64,
        congestion_control: Option<&str>,
    ) -> Result<Self, Failure> {
        let missing = || Failure::Missing {
            program: "Open MPI",
            remedy: "install it, on Debian with `apt-get install openmpi-bin libopenmpi-dev`",
        };
        let version = program::run(Command::new("mpirun").arg("--version")).map_err(|_| missing())?;
        program::run(Command::new("mpicc").arg("--version")).map_err(|_| missing())?;
        if !version.contains("Open MPI") {
            return Err(missing());
        }
        let folder = tempfile::Builder::new().prefix("shoal-bench-").tempdir();
        let folder = folder.map_err(Failure::system("make a folder for a program of MPI"))?;
        let (source, program) = (folder.path().join("broadcast.c"), folder.path().join("broadcast"));
        let congestion = folder.path().join("congestion.c");
        for (path, text) in [(&source, SOURCE), (&congestion, CONGESTION)] {
            fs::write(path, text).map_err(Failure::system("write the source of a program of MPI"))?;
        }
        let sources = [&source, &congestion];
        program::run(Command::new("mpicc").args(["-O2", "-o"]).arg(&program).args(sources).arg("-ldl"))?;
        write_hosts(folder.path(), hosts).map_err(Failure::system("tell Open MPI where its hosts are"))?;
        let congestion_control = congestion_control.unwrap_or_default().to_owned();
        Ok(Self { algorithm, hosts: hosts.to_vec(), bytes, congestion_control, program, folder })
    }
}

impl Contender for Mpi {
    fn name(&self) -> String {
        self.algorithm.name().into()
    }

    fn ready(&mut self, _round: u32) -> Result<(), Failure> {
        Ok(())
    }

    /// Starts the processes, which broadcast once before they measure, check what they received, and end: processes of
    /// MPI that wait would keep the machine busy while others run.
    fn run(&mut self) -> Result<Cost, Failure> {
        let mut command = self.hosts[0].command("mpirun");
        // Its files go with the folder.
        command.env("TMPDIR", self.folder.path()).current_dir(self.folder.path());
        command.args(["-np", &self.hosts.len().to_string()]).args(SETTINGS.split_ascii_whitespace());
        if self.algorithm != Algorithm::SharedMemory {
            command.args(TCP_ALONE.split_ascii_whitespace());
        }
        if self.hosts[0].is_linked() {
            command.args(BETWEEN_HOSTS.split_ascii_whitespace());
            command.args(["--mca", "plm_rsh_agent"]).arg(self.folder.path().join("agent"));
            command.args([
                "--mca",
                "btl_tcp_if_include",
                INTERFACE,
                "--mca",
                "oob_tcp_if_include",
                INTERFACE,
            ]);
        } else {
            command.args(["--mca", "btl_tcp_if_include", "lo"]);
        }
        if self.algorithm == Algorithm::Pipeline {
            command.args(PIPELINE.split_ascii_whitespace());
        }
        command.arg(&self.program).arg(self.bytes.to_string()).arg(&self.congestion_control);
        let text = program::run(&mut command)?;
        let odd =
            |what: String| Failure::Peer { program: "mpirun".into(), what, output: program::tail(&text) };
        let line = text.lines().find(|line| line.starts_with('{')).unwrap_or_default();
        let said: Said =
            serde_json::from_str(line).map_err(|error| odd(format!("says something unexpected: {error}")))?;
        let receivers = self.hosts.len() - 1;
        if said.right != receivers {
            return Err(odd(format!("broadcast right bytes to {} of {receivers}", said.right)));
        }
        let seconds = |number: f64| {
            Duration::try_from_secs_f64(number).map_err(|error| odd(format!("counts time oddly: {error}")))
        };
        Ok(Cost { wall: seconds(said.wall_s)?, processors: seconds(said.processors_s)? })
    }

    fn verify(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}

/// Writes the list of hosts, and what starts a command at one of them: it is called with the address of the host and
/// the words of the command, as ssh would be. Each host has a folder for the files of its daemon.
fn write_hosts(folder: &Path, hosts: &[Host]) -> io::Result<()> {
    let list: String = hosts.iter().map(|host| format!("{} slots=1\n", host.address())).collect();
    fs::write(folder.join("hosts"), list)?;
    let mut agent = "#!/bin/sh\nhost=$1\nshift\ncase $host in\n".to_owned();
    for host in hosts.iter().filter(|host| host.is_linked()) {
        let (address, entry) = (host.address(), host.entry().join(" "));
        let files = folder.join(address.to_string());
        fs::create_dir(&files)?;
        agent += &format!("{address}) TMPDIR='{}' exec {entry} sh -c \"$*\" ;;\n", files.display());
    }
    agent += "*) echo \"there is no host $host\" >&2; exit 1 ;;\nesac\n";
    fs::write(folder.join("agent"), agent)?;
    fs::set_permissions(folder.join("agent"), Permissions::from_mode(0o755))
}
