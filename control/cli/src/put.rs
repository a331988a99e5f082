//! `shoal put`

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::Instant;

use client::{PutOptions, Source};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use crate::failure::Failure;
use crate::global::Global;
use crate::progress::Bar;
use crate::{amount, interrupt, output};

/// Store files, directories or standard input under a key
///
/// The key gets a fresh version when everything is stored; until then, and if anything fails, readers see the
/// version before. Without --volatile the bytes are on NVMe when this returns. Data that the node has already is
/// not stored twice.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  shoal put models/llama --src ./llama            A directory
  shoal put logs/today --src a.log b.log          Several files: a directory with both
  tar c src | shoal put backups/src.tar --src -   Standard input
  shoal put weights/step-100 --src w.bin --volatile")]
pub struct Put {
    /// The name to store under, such as models/llama/step-100
    #[arg(value_parser = parse_key)]
    key: String,
    /// What to store; `-` is standard input
    #[arg(long, value_name = "PATH", num_args = 1.., required = true)]
    src: Vec<PathBuf>,
    /// Keep the bytes in memory only: faster, and gone when the last node that has them stops
    #[arg(long)]
    volatile: bool,
}

/// What was stored, as `--json` prints it.
#[derive(Serialize)]
struct Report<'a> {
    key: &'a str,
    version: u64,
    size: u64,
    files: u64,
    chunks: u64,
    new_bytes: u64,
    elapsed_us: u64,
}

impl Put {
    /// Stores.
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let source = self.source()?;
        let client = global.connect()?;
        let begin = Instant::now();
        let bar = Bar::new(global.draws(), "put");
        let put = client.put(
            &self.key,
            source,
            &PutOptions { volatile: self.volatile, ..PutOptions::default() },
            &bar,
        )?;
        drop(bar);
        let time = begin.elapsed();
        if global.json {
            return output::json(&Report {
                key: &self.key,
                version: put.version,
                size: put.size,
                files: put.files,
                chunks: put.chunks,
                new_bytes: put.new_bytes,
                elapsed_us: time.as_micros() as u64,
            });
        }
        if global.quiet {
            return Ok(());
        }
        output::line(format_args!(
            "{}: version {}, {}, {} in {} ({} new), {}, {}",
            self.key,
            put.version,
            amount::count(put.files, "file"),
            amount::size(put.size),
            amount::count(put.chunks, "chunk"),
            amount::size(put.new_bytes),
            amount::span(time),
            amount::rate(put.size, time),
        ))
    }

    fn source(&self) -> Result<Source, Failure> {
        let dash = |path: &PathBuf| path.as_os_str() == "-";
        match self.src.as_slice() {
            [path] if dash(path) => Ok(Source::Reader(Box::new(Input))),
            [path] => Ok(Source::Path(path.clone())),
            paths if paths.iter().any(dash) => {
                Err(Failure::Usage("standard input (-) cannot be stored together with other sources".into()))
            }
            paths => Ok(Source::Paths(paths.to_vec())),
        }
    }
}

/// Accepts what can be a key.
pub fn parse_key(text: &str) -> Result<String, String> {
    plan::key::check_key(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

/// Standard input that a signal ends, even while nothing comes.
pub struct Input;

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let stdin = io::stdin();
        let tick = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        loop {
            if interrupt::signal().is_some() {
                return Err(io::Error::other("interrupted"));
            }
            match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&tick)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(rustix::io::read(&stdin, &mut *buffer)?),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Tells on standard error what is neither a result nor an error.
pub fn note(global: &Global, text: impl std::fmt::Display) {
    if !global.quiet {
        // Nobody is there to be told that nobody is there.
        let _ = writeln!(io::stderr(), "{text}");
    }
}
