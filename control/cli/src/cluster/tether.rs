//! A program that ends with the process that wanted it, also when that is killed.

use std::ffi::OsString;
use std::os::unix::process::{CommandExt, parent_id};
use std::process::Command;

use rustix::process::{Signal, set_parent_process_death_signal};

use crate::failure::Failure;
use crate::processes::ProcessError;

/// Run a program that the kernel ends when the process that started this one does
#[derive(clap::Args)]
pub struct Tether {
    /// The number of that process
    parent: u32,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    words: Vec<OsString>,
}

impl Tether {
    /// Becomes the program.
    pub fn run(self) -> Result<(), Failure> {
        let Some((program, arguments)) = self.words.split_first() else { return Ok(()) };
        let failed = |source| ProcessError::machine(format!("run {}", program.display()))(source);
        // What is asked for here outlives the call of exec.
        set_parent_process_death_signal(Some(Signal::KILL)).map_err(|errno| failed(errno.into()))?;
        // One that went before that is not told of.
        if parent_id() != self.parent {
            return Ok(());
        }
        Err(failed(Command::new(program).args(arguments).exec()))
    }
}
