//! Further tasks on this machine, for more nodes than one process may have.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::Plan;
use crate::failure::Failure;
use crate::processes::{self, Process, ProcessError};

/// Processes that are tasks of the run. Dropping it ends them.
pub struct Mates {
    processes: Vec<Process>,
}

impl Mates {
    /// Starts all tasks but the first of so many; the folder is for what they print.
    pub fn start(folder: &Path, plan: &Plan, tasks: u32) -> Result<Self, Failure> {
        let start = |rank| {
            let (name, folder) = (format!("task {rank}"), folder.join(format!("task-{rank}")));
            let mut command = command(plan, rank, tasks)?;
            // What it leaves behind when it is killed goes with the folder.
            command.env("TMPDIR", &folder);
            Process::start(&name, &folder, command)
        };
        Ok(Self { processes: (1..tasks).map(start).collect::<Result<_, _>>()? })
    }

    /// Fails when one has ended.
    pub fn check(&mut self) -> Result<(), Failure> {
        self.processes.iter_mut().try_for_each(Process::must_run)
    }

    /// Waits for them to end by themselves, so long at most, then ends them.
    pub fn wait(self, patience: Duration) {
        processes::wait_for(self.processes, patience);
    }

    /// Ends them.
    pub fn stop(self, patience: Duration) {
        processes::stop(self.processes, patience);
    }
}

fn command(plan: &Plan, rank: u32, tasks: u32) -> Result<Command, Failure> {
    let program = std::env::current_exe().map_err(ProcessError::machine("find this program"))?;
    let mut command = Command::new(program);
    command.args(["bench", "broadcast", "--quiet", "--task", &format!("{rank}/{tasks}")]);
    command.args(["--receivers", &plan.receivers.to_string(), "--size", &plan.size.to_string()]);
    command.args(["--rounds", &plan.rounds.to_string()]).arg("--rendezvous").arg(&plan.rendezvous);
    command.args(plan.transports.iter().flat_map(|transports| ["--transports", transports]));
    command.args(plan.interface.iter().flat_map(|interface| ["--interface", interface]));
    Ok(command)
}
