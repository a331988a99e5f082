//! Every test, on a machine that has built nothing yet.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use crate::Error;
use crate::cargo::{built, cargo, spelled, succeeds};
use crate::python;

pub(crate) const HELP: &str = "\
The suites run the `shoal` binary that SHOAL_BINARY names, or else the one of the dev profile, which is built with the
tests. With everything, the tests of the Python package run too, where there is Python 3.11 with pip, in a folder of their
own below the target folder. The last line is the total: `N passed, N failed`.

Examples:
  cargo xtask test                       everything
  cargo xtask test --quick               without the simulated and the real clusters, and without Python
  cargo xtask test --python              those of the Python package alone
  cargo xtask test -p flow               words are passed on to `cargo test`
  cargo xtask test -p flow -- bitmap     words after -- go to the tests themselves";

/// Crates whose tests take minutes: they run whole clusters, simulated or real.
const LONG: [&str; 2] = ["sim", "suites"];
/// Crates whose tests run the `shoal` binary without being of its crate.
const RUN_NODES: [&str; 2] = ["suites", "benches"];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Leave out the suites that run whole clusters
    #[arg(long)]
    quick: bool,
    /// Run the tests of the Python package alone
    #[arg(long, conflicts_with = "quick")]
    python: bool,
    /// Passed on to `cargo test`; without any, the whole workspace is tested
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    passed: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<bool, Error> {
    let (total, fine) = match arguments.python {
        true => {
            if std::env::var_os("SHOAL_BINARY").is_none() {
                build_binary()?;
            }
            (Total::default(), true)
        }
        false => run_cargo(arguments)?,
    };
    let everything = arguments.passed.is_empty() && !arguments.quick;
    let python = if everything { python::test(&binary()?)? } else { None };
    let (passed, failed) = python.unwrap_or_default();
    let (passed, failed) = (total.passed + passed, total.failed + failed);
    let _ = writeln!(std::io::stdout(), "{passed} passed, {failed} failed");
    Ok(fine && failed == 0)
}

/// The `shoal` that is tested.
fn binary() -> Result<std::path::PathBuf, Error> {
    std::env::var_os("SHOAL_BINARY").map_or_else(|| built("debug", "shoal"), |named| Ok(named.into()))
}

/// Runs tests in Rust; how many there were, and whether all is well.
fn run_cargo(arguments: &Arguments) -> Result<(Total, bool), Error> {
    let passed = &arguments.passed;
    let whole = !passed.iter().any(|word| word == "-p" || word.starts_with("--package"));
    let mut command = cargo(&["test", "--locked", "--no-fail-fast"]);
    if whole {
        command.arg("--workspace");
        let left_out = LONG.iter().filter(|_| arguments.quick);
        command.args(left_out.flat_map(|long| ["--exclude", long]));
    }
    if std::env::var_os("SHOAL_BINARY").is_none() {
        // A run of the whole workspace builds the binary for the tests of its own crate. To build it apart would
        // build many dependencies twice, as they have fewer features without the rest of the workspace.
        if !whole && passed.iter().any(|word| RUN_NODES.contains(&word.as_str())) {
            build_binary()?;
        }
        command.env("SHOAL_BINARY", built("debug", "shoal")?);
    }
    command.args(passed);

    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|source| Error::Spawn { command: spelled(&command), source })?;
    let mut total = Total::default();
    if let Some(output) = child.stdout.take() {
        let mut terminal = std::io::stdout();
        // Test output need not be UTF-8, and tests run on when nobody reads it.
        for mut line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            total.count(&String::from_utf8_lossy(&line));
            line.push(b'\n');
            let _ = terminal.write_all(&line);
        }
    }
    let status = child.wait().map_err(|source| Error::Spawn { command: spelled(&command), source })?;
    if !status.success() && total.failed == 0 {
        return Err(Error::Failed(spelled(&command)));
    }
    Ok((total, status.success()))
}

fn build_binary() -> Result<(), Error> {
    let mut build = cargo(&["build", "--locked", "-p", "cli", "--bin", "shoal"]);
    if succeeds(&mut build)? { Ok(()) } else { Err(Error::Failed(spelled(&build))) }
}

/// Tests counted over all test binaries.
#[derive(Default, Debug, PartialEq)]
struct Total {
    passed: u64,
    failed: u64,
}

impl Total {
    /// Adds a line such as `test result: ok. 5 passed; 0 failed; 0 ignored; …`; other lines count nothing.
    fn count(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else {
            return;
        };
        let Some((_, counts)) = result.split_once(". ") else {
            return;
        };
        for count in counts.split("; ") {
            match count.split_once(' ') {
                Some((number, "passed")) => self.passed += number.parse().unwrap_or(0),
                Some((number, "failed")) => self.failed += number.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_all_binaries_add_up() {
        let mut total = Total::default();
        total.count("running 3 tests");
        total.count(
            "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        );
        total.count("test result: FAILED. 7 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out");
        assert_eq!(total, Total { passed: 9, failed: 1 });
    }
}
