//! MPI_Bcast.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;
use tempfile::TempDir;

use super::program;
use crate::cost::Cost;
use crate::failure::Failure;
use crate::scenario::Contender;

const SOURCE: &str = include_str!("../../peers/broadcast.c");
/// What every broadcast is run with: TCP alone, as between hosts, and more processes than cores without complaint.
const SETTINGS: &str = "--allow-run-as-root --oversubscribe --bind-to none --mca pml ob1 --mca btl tcp,self \
    --mca btl_tcp_if_include lo --mca mpi_yield_when_idle 1";
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
}

/// `MPI_Bcast` of Open MPI over TCP, in a program of ours that is compiled when it is first needed.
pub struct Mpi {
    algorithm: Algorithm,
    receivers: usize,
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
        }
    }
}

impl Mpi {
    /// Finds Open MPI and compiles the program that broadcasts `bytes` to so many receivers.
    pub fn find(
        algorithm: Algorithm,
        receivers: usize,
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
        std::fs::write(&source, SOURCE).map_err(Failure::system("write the source of a program of MPI"))?;
        program::run(Command::new("mpicc").args(["-O2", "-o"]).arg(&program).arg(&source).arg("-ldl"))?;
        let congestion_control = congestion_control.unwrap_or_default().to_owned();
        Ok(Self { algorithm, receivers, bytes, congestion_control, program, folder })
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
        let mut command = Command::new("mpirun");
        // Its files go with the folder.
        command.env("TMPDIR", self.folder.path()).current_dir(self.folder.path());
        command.args(["-np", &(1 + self.receivers).to_string()]).args(SETTINGS.split_ascii_whitespace());
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
        if said.right != self.receivers {
            return Err(odd(format!("broadcast right bytes to {} of {}", said.right, self.receivers)));
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
