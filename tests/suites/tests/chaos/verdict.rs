//! What each get ended with, and whether it may.

use std::fmt;
use std::ops::AddAssign;
use std::time::Duration;

use crate::part::Ended;
use crate::plan::Plan;

/// Exit code of a command for which nobody was there.
const UNAVAILABLE: i32 = 4;

/// What happened in some rounds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    /// Gets that ended with the right bytes.
    pub right: u32,
    /// Gets that said that they cannot go on, where they may.
    pub refused: u32,
    /// The longest of all gets.
    pub slowest: Duration,
    /// Longest until all nodes knew each other again, once nothing hurt any more.
    pub slowest_return: Duration,
    /// Most memory that a node has had, in bytes.
    pub memory_bytes: u64,
}

impl Tally {
    /// Judges a get on a node and counts it. Gives whether it has brought the right bytes.
    pub fn judge(&mut self, plan: &Plan, node: usize, digest: &[u8; 32], ended: &Ended) -> bool {
        self.slowest = self.slowest.max(ended.took);
        let (outcome, part) = (&ended.outcome, &plan.parts[node]);
        if outcome.code == Some(0) {
            assert_eq!(ended.digest.as_ref(), Some(digest), "node {node} got other bytes");
            self.right += 1;
            return true;
        }
        let may_fail = part.suffers() || plan.head_suffers();
        let error = outcome.error();
        assert!(
            may_fail,
            "nothing happened to node {node}, and its get failed with {:?}: {error}",
            outcome.code
        );
        assert_eq!(outcome.code, Some(UNAVAILABLE), "the get on node {node} failed otherwise: {error}");
        assert!(error.contains("error:") && ended.digest.is_none(), "node {node} left something: {error}");
        println!(
            "  node {node}, after {:.1} s: {}",
            ended.took.as_secs_f64(),
            error.trim().replace('\n', " | ")
        );
        self.refused += 1;
        false
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.right += other.right;
        self.refused += other.refused;
        self.slowest = self.slowest.max(other.slowest);
        self.slowest_return = self.slowest_return.max(other.slowest_return);
        self.memory_bytes = self.memory_bytes.max(other.memory_bytes);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} gets brought the right bytes, {} were refused and asked again; the slowest took {:.1} s, all nodes \
             knew each other after {:.1} s, none had more than {} MiB",
            self.right,
            self.refused,
            self.slowest.as_secs_f64(),
            self.slowest_return.as_secs_f64(),
            self.memory_bytes >> 20
        )
    }
}
