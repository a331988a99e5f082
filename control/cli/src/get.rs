//! `shoal get`

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use client::{GetOptions, GetReport, Priority};
use serde::Serialize;

use crate::failure::Failure;
use crate::global::Global;
use crate::kv::Consistency;
use crate::progress::Bar;
use crate::put::{note, parse_key};
use crate::{amount, output};

/// Write what is stored under a key to files
///
/// A file goes to PATH, or into PATH if that is a directory; a directory becomes PATH, or is merged into it, file by
/// file. Every file appears whole or not at all. Every piece is checked on the way.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  shoal get models/llama                        Into ./llama
  shoal get models/llama --dest /scratch/m
  shoal get backups/src.tar --dest - | tar x
  shoal get weights/step-100 --verify           Read everything back through BLAKE3
  shoal get weights/step-100 --priority high    Before what is fetched for others
  shoal get weights/step-100 --consistency one  Also while the head is away, if the node has read it before")]
pub struct Get {
    /// The name it is stored under
    #[arg(value_parser = parse_key)]
    key: String,
    /// Where to write; `-` is standard output [default: the last part of KEY, in the current directory]
    #[arg(long, value_name = "PATH")]
    dest: Option<PathBuf>,
    /// Check the digest of every file as well, from end to end
    #[arg(long)]
    verify: bool,
    /// How much it matters beside what else is fetched: low, normal, high or critical
    #[arg(long, value_name = "PRIORITY", default_value_t)]
    priority: Priority,
    /// How fresh the version must be
    #[arg(long, value_enum, default_value = "quorum")]
    consistency: Consistency,
}

/// What was written, as `--json` prints it.
#[derive(Serialize)]
struct Report<'a> {
    key: &'a str,
    version: u64,
    size: u64,
    files: u64,
    dest: String,
    verified: bool,
    /// Whether there may be a newer version that could not be seen.
    stale: bool,
    elapsed_us: u64,
}

impl Get {
    /// Writes the files.
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let dest = self.dest.clone().unwrap_or_else(|| default_dest(&self.key).into());
        let to_stdout = dest.as_os_str() == "-";
        let client = global.connect()?;
        client.set_priority(self.priority);
        let options = GetOptions { verify: self.verify, consistency: self.consistency.into() };
        let begin = Instant::now();
        let bar = self.bar(global, to_stdout);
        let got = if to_stdout {
            let mut stdout = Stdout { failure: None };
            let result = client.get_to_writer(&self.key, &mut stdout, &options, &bar);
            // What the writer met says more than what the client makes of it.
            if let Some(failure) = stdout.failure {
                return Err(Failure::Output(failure));
            }
            result?
        } else {
            client.get(&self.key, &dest, &options, &bar)?
        };
        drop(bar);
        self.tell(global, &got, (!to_stdout).then_some(&dest), begin)
    }

    fn bar(&self, global: &Global, to_stdout: bool) -> Bar {
        // The bar and the bytes would overwrite each other on one terminal.
        Bar::new(global.draws() && !(to_stdout && io::stdout().is_terminal()), "get")
    }

    fn tell(
        &self,
        global: &Global,
        got: &GetReport,
        dest: Option<&Path>,
        begin: Instant,
    ) -> Result<(), Failure> {
        let time = begin.elapsed();
        let text = format!(
            "{}: version {}, {}, {}, {}, {}",
            self.key,
            got.version,
            amount::count(got.files, "file"),
            amount::size(got.size),
            amount::span(time),
            amount::rate(got.size, time),
        );
        if got.stale {
            note(
                global,
                "the catalog cannot be reached: this version was read earlier, and there may be a newer one",
            );
        }
        let Some(dest) = dest else {
            if !global.json {
                note(global, text);
            }
            return Ok(());
        };
        if global.json {
            return output::json(&Report {
                key: &self.key,
                version: got.version,
                size: got.size,
                files: got.files,
                dest: dest.to_string_lossy().into_owned(),
                verified: self.verify,
                stale: got.stale,
                elapsed_us: time.as_micros() as u64,
            });
        }
        if global.quiet { Ok(()) } else { output::line(format_args!("{text}, to {}", dest.display())) }
    }
}

/// The last part of a key.
fn default_dest(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or(key)
}

/// Standard output that remembers why it failed.
struct Stdout {
    failure: Option<io::Error>,
}

impl Stdout {
    fn remember<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|error| {
            let copy = io::Error::new(error.kind(), error.to_string());
            self.failure = Some(error);
            copy
        })
    }
}

impl Write for Stdout {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        // Not through the line buffer of `io::stdout`: whole pieces come.
        let result = rustix::io::retry_on_intr(|| rustix::io::write(io::stdout(), buffer));
        self.remember(result.map_err(io::Error::from))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_destination_is_the_last_part() {
        assert_eq!(default_dest("models/llama/step-100"), "step-100");
        assert_eq!(default_dest("a"), "a");
    }
}
