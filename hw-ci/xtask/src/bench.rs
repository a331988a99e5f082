//! The benchmarks.

use crate::Error;
use crate::cargo::{cargo, succeeds};

pub(crate) const HELP: &str = "\
Examples:
  cargo xtask bench                          every benchmark
  cargo xtask bench --bench checksum         one of them
  cargo xtask bench -- --save-baseline main  words after -- go to the benchmark itself

Numbers from a machine that does other work at the same time say little.";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Passed on to `cargo bench -p benches`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    passed: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<bool, Error> {
    succeeds(cargo(&["bench", "--locked", "-p", "benches"]).args(&arguments.passed))
}
