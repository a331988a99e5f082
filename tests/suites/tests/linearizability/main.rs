//! What concurrent callers of the catalog see is what they would see one after another.
//!
//! `SHOAL_HISTORY_RUNS` says how many histories each test records; without it they are few.
#![allow(clippy::unwrap_used)]

mod embedded; // the engine in this process, whole and broken
mod etcd; // leaders that are killed and frozen
mod node; // a node that is killed

use suites::linearizability::History;

/// Calls of each caller in one history.
const CALLS: u64 = 60;

/// What was checked, over all histories of a test.
#[derive(Debug, Default)]
struct Tally {
    histories: u64,
    answered: usize,
    written: usize,
    unknown: usize,
}

impl Tally {
    /// Checks one more history.
    #[track_caller]
    fn check(&mut self, seed: u64, history: &History) {
        history.check().unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        let (answered, written) = history.counts();
        self.histories += 1;
        self.answered += answered;
        self.written += written;
        self.unknown += history.calls.len() - answered;
    }
}
