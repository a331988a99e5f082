//! The automation of the project, run as `cargo xtask <command>`.
//!
//! Everything that a check or a test run needs beyond cargo is written here in Rust, so that a fresh machine with
//! cargo and a C compiler can run all of it.

mod bench; // the benchmarks
mod cargo; // runs cargo
mod python; // the tests of the Python package
mod hw; // tests on hardware, or on what stands in for it
mod test; // every test, on a machine that has built nothing yet
mod tidy; // everything that is checked without running the code

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "The automation of the project")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check everything that can be checked without running the code
    #[command(after_help = tidy::HELP)]
    Tidy(tidy::Arguments),
    /// Build what the tests need and run every test
    #[command(after_help = test::HELP)]
    Test(test::Arguments),
    /// Run the benchmarks, in the release profile
    #[command(after_help = bench::HELP)]
    Bench(bench::Arguments),
    /// Test on hardware, or on what stands in for it
    Hw(hw::Arguments),
}

/// Why a command could not do its work, as opposed to having found something.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot run `{command}`: {source}; is cargo installed and on the PATH?")]
    Spawn { command: String, source: std::io::Error },
    #[error("`{0}` failed; its output above says why")]
    Failed(String),
    #[error("cannot read the workspace: {0}")]
    Metadata(#[from] cargo_metadata::Error),
    #[error("cannot read {path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("cannot walk the tree: {0}")]
    Walk(#[from] ignore::Error),
    #[error(transparent)]
    SoftRoce(#[from] hw::SoftRoceError),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Tidy(arguments) => tidy::run(&arguments).map(status),
        Command::Test(arguments) => test::run(&arguments).map(status),
        Command::Bench(arguments) => bench::run(&arguments).map(status),
        Command::Hw(arguments) => hw::run(&arguments),
    };
    match outcome {
        Ok(status) => status,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn status(fine: bool) -> ExitCode {
    if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
