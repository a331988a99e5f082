//! Runs that have ended, and the file that keeps them.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sim::{Outcome, Strategy};

/// One run of the tables.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    /// Nodes that fetch.
    pub receivers: usize,
    /// Pieces of the chunk.
    pub pieces: u32,
    /// The name of the world.
    pub world: String,
    /// Who sends to whom.
    pub strategy: Strategy,
    /// The seed.
    pub seed: u64,
}

/// What came of a run: times as multiples of the ideal, infinite where somebody never got all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Times {
    /// Of the median receiver.
    pub median: f64,
    /// Of the slowest receiver that is not slow itself.
    pub last: f64,
    /// The bound.
    pub bound: f64,
}

impl Times {
    /// The times of a run.
    pub fn of(outcome: &Outcome) -> Self {
        let bound = outcome.bound_ns as f64 / outcome.ideal_ns as f64;
        Self { median: outcome.median(), last: outcome.longest_ordinary_to_bound() * bound, bound }
    }
}

/// All runs of a file, to which more are added.
pub struct Results {
    path: PathBuf,
    file: File,
    /// What is known.
    pub known: BTreeMap<Run, Times>,
}

impl Results {
    /// Reads a file, or begins one. A line that an interruption left unfinished counts for nothing.
    pub fn open(path: &Path) -> Result<Self, String> {
        let failed = |error: io::Error| format!("cannot keep results in {}: {error}", path.display());
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read.map_err(failed)?,
        };
        let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(failed)?;
        if !text.is_empty() && !text.ends_with('\n') {
            file.write_all(b"\n").map_err(failed)?;
        }
        let known = text.lines().filter_map(read).collect();
        Ok(Self { path: path.to_owned(), file, known })
    }

    /// Adds a run.
    pub fn add(&mut self, run: Run, times: Times) -> Result<(), String> {
        let written = self.file.write_all(format!("{}\n", Line(&run, &times)).as_bytes());
        written.map_err(|error| format!("cannot keep results in {}: {error}", self.path.display()))?;
        self.known.insert(run, times);
        Ok(())
    }
}

/// A run as a line of the file: words between spaces, and a full stop that tells a whole line from a broken one.
struct Line<'a>(&'a Run, &'a Times);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Line(Run { receivers, pieces, world, strategy, seed }, Times { median, last, bound }) = self;
        write!(f, "{receivers} {pieces} {world} {strategy} {seed} {median} {last} {bound} .")
    }
}

fn read(line: &str) -> Option<(Run, Times)> {
    let words: Vec<&str> = line.split(' ').collect();
    let [receivers, pieces, world, strategy, seed, median, last, bound, "."] = words[..] else { return None };
    let run = Run {
        receivers: receivers.parse().ok()?,
        pieces: pieces.parse().ok()?,
        world: world.to_owned(),
        strategy: strategy.parse().ok()?,
        seed: seed.parse().ok()?,
    };
    let times = Times { median: median.parse().ok()?, last: last.parse().ok()?, bound: bound.parse().ok()? };
    Some((run, times))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_read_back_unless_they_are_broken_off() {
        let run = Run {
            receivers: 64,
            pieces: 512,
            world: "slow".into(),
            strategy: Strategy::DoubleTree,
            seed: 20,
        };
        let times = Times { median: 1.0625, last: f64::INFINITY, bound: 1.011_7 };
        let line = Line(&run, &times).to_string();
        assert_eq!(read(&line), Some((run, times)));
        assert!((0..line.len()).all(|end| read(&line[..end]).is_none()), "{line}");
    }
}
