//! Flags, and the way through one call.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use suites::network;

use crate::calibration::Calibration;
use crate::conditions::{Conditions, congestion_control};
use crate::failure::Failure;
use crate::peers::copies::Receiving;
use crate::report::Report;
use crate::{interrupt, runner, scenarios};

/// Runs Shoal and its peers, one after another in every round
///
/// The nodes are processes of the `shoal` binary that SHOAL_BINARY names, or else of the one beside this program. A
/// peer that is not installed is named and left out. Nothing asserts a time.
#[derive(Parser)]
#[command(name = "scenarios", args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(flatten)]
    call: Call,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(clap::Args)]
struct Call {
    /// Which scenarios, by name or by the part of it before a `-` [default: all]
    scenarios: Vec<String>,
    /// How many rounds count; one more is run before them
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Write all figures into this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// TCP congestion control of all contenders alike [default: cubic where there is one, else the system's]
    #[arg(long, value_name = "NAME")]
    congestion_control: Option<String>,
    /// Where files go that a disk takes part in [default: the system's temporary folder]
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// Move one in so many bytes, to see that everything runs
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    shrink: u64,
    /// Run Shoal without its peers, to see what a change of Shoal does
    #[arg(long)]
    alone: bool,
    /// Start each contender of a broadcast for its turn and end it afterwards, where all of them do not fit into memory at once
    #[arg(long)]
    in_turn: bool,
    /// The Python of peers that are libraries for it: torch, ray, libtorrent, mooncake
    /// [env: SHOAL_PEERS_PYTHON] [default: python3]
    #[arg(long, value_name = "PATH")]
    peers_python: Option<PathBuf>,
    /// Print the names of the scenarios and what they compare
    #[arg(long)]
    list: bool,
}

/// What processes do that a scenario starts.
#[derive(Subcommand)]
enum Part {
    /// Receive plain TCP
    #[command(hide = true)]
    Receive(Receiving),
    /// Set the simulator beside real nodes over links of a fixed rate, and say how far it is off
    Calibrate(Calibration),
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.part {
        Some(Part::Receive(receiving)) => receiving.run().map(|()| ExitCode::SUCCESS),
        Some(Part::Calibrate(calibration)) => calibration.run(print).map(|()| ExitCode::SUCCESS),
        None => arguments.call.run(),
    };
    done.unwrap_or_else(|failure| {
        // Nobody has to listen.
        let _ = writeln!(std::io::stderr(), "error: {failure}");
        match (interrupt::signal(), failure) {
            (Some(number), _) => ExitCode::from(128 + number),
            (None, Failure::Unknown { .. } | Failure::CongestionControl { .. }) => ExitCode::from(2),
            (None, _) => ExitCode::FAILURE,
        }
    })
}

impl Call {
    fn run(self) -> Result<ExitCode, Failure> {
        let chosen = scenarios::named(&self.scenarios)?;
        if self.list {
            chosen
                .iter()
                .for_each(|scenario| print(&format!("{}: {}\n", scenario.name(), scenario.compares())));
            return Ok(ExitCode::SUCCESS);
        }
        let conditions = Conditions {
            congestion_control: congestion_control(self.congestion_control)?,
            folder: self.folder.unwrap_or_else(std::env::temp_dir),
            shrink: self.shrink,
            alone: self.alone,
            in_turn: self.in_turn,
            peers_python: peers_python(self.peers_python, std::env::var_os("SHOAL_PEERS_PYTHON")),
        };
        if chosen.iter().any(|scenario| scenario.lays_links()) {
            network::take_charge()?;
        }
        // Before anything is measured: a file that cannot be written is best known at once.
        self.json.as_deref().map_or(Ok(()), |path| write(path, ""))?;
        interrupt::watch().map_err(Failure::system("watch for signals"))?;
        let mut report = Report::new(&conditions, self.rounds);
        print(&report.to_string());
        for scenario in chosen {
            let outcome = runner::run(&*scenario, &conditions, self.rounds)?;
            print(&format!("\n{}", report.add(outcome)));
            // After each, so that an end before the last loses only what is not done.
            self.json.as_deref().map_or(Ok(()), |path| write(path, &(report.to_json() + "\n")))?;
        }
        Ok(if report.failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

/// What the flag says, else the variable, which counts as unset when it is empty.
fn peers_python(flag: Option<PathBuf>, variable: Option<OsString>) -> PathBuf {
    let variable = variable.filter(|path| !path.is_empty()).map(PathBuf::from);
    flag.or(variable).unwrap_or_else(|| "python3".into())
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|source| Failure::Results { path: path.to_owned(), source })
}

fn print(text: &str) {
    // A closed pipe is the only way this fails, and then there is nobody to tell.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn an_empty_variable_is_none() {
        let python = |flag: Option<&str>, variable: Option<&str>| {
            peers_python(flag.map(PathBuf::from), variable.map(OsString::from))
        };
        assert_eq!(python(None, None), PathBuf::from("python3"));
        assert_eq!(python(None, Some("")), PathBuf::from("python3"));
        assert_eq!(python(None, Some("/a")), PathBuf::from("/a"));
        assert_eq!(python(Some("/b"), Some("/a")), PathBuf::from("/b"));
    }
}
