//! The benchmarks.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use crate::Error;
use crate::cargo::{built, cargo, spelled, succeeds};
use crate::python;

pub(crate) const HELP: &str = "\
docs/benchmarks.md says what each scenario compares. A peer that is not installed is named and left out.

Examples:
  cargo xtask bench                               every scenario: Shoal and its peers, round by round
  cargo xtask bench stream broadcast --rounds 3   some of them; `broadcast` is all whose names begin so
  cargo xtask bench --json results.json           all figures in a file too
  cargo xtask bench -- --shrink 64                words after -- go to the program; `-- --help` lists them
  cargo xtask bench --micro                       the small steps that every piece takes, with criterion
  cargo xtask bench --micro -- checksum           words after -- go to criterion
  cargo xtask bench --python                      arrays put and got from Python, beside copies, Redis and TCP

Numbers from a machine that does other work at the same time say little.";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Which scenarios [default: all]
    scenarios: Vec<String>,
    /// How many rounds count [default: 7]
    #[arg(long, value_name = "COUNT")]
    rounds: Option<u32>,
    /// Write all figures into this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Run the micro-benchmarks in place of the scenarios
    #[arg(long, conflicts_with_all = ["scenarios", "rounds", "json"])]
    micro: bool,
    /// Run the benchmarks of the Python package in place of the scenarios
    #[arg(long, conflicts_with_all = ["scenarios", "rounds", "json", "micro"])]
    python: bool,
    /// Passed on
    #[arg(last = true)]
    passed: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<bool, Error> {
    if arguments.micro {
        let mut command = cargo(&["bench", "--locked", "-p", "benches", "--bench", "micro", "--"]);
        return succeeds(command.args(&arguments.passed));
    }
    if arguments.python {
        let mut build = cargo(&["build", "--locked", "--release", "-p", "cli", "--bin", "shoal"]);
        if !succeeds(&mut build)? {
            return Err(Error::Failed(spelled(&build)));
        }
        let mut command = python::bench(&built("release", "shoal")?)?;
        command.args(&arguments.passed);
        let source = command.exec();
        return Err(Error::Spawn { command: format!("{command:?}"), source });
    }
    // One call builds both, so that they share what they are built of; the program finds the binary beside itself.
    let packages = ["-p", "cli", "--bin", "shoal", "-p", "benches", "--bin", "scenarios"];
    let mut build = cargo(&["build", "--locked", "--release"]);
    if !succeeds(build.args(packages))? {
        return Err(Error::Failed(spelled(&build)));
    }
    let program = built("release", "scenarios")?;
    let mut command = Command::new(&program);
    command.args(&arguments.scenarios).args(&arguments.passed);
    command.args(arguments.rounds.map(|rounds| format!("--rounds={rounds}")));
    if let Some(path) = &arguments.json {
        command.arg("--json").arg(path);
    }
    // In place of this process, so that Ctrl-C is over when the program has cleaned up. It returns only when it fails.
    let source = command.exec();
    Err(Error::Spawn { command: program.display().to_string(), source })
}
