//! What came of a run.

use flow::swarm::Counters;

use crate::progress::Progress;
use crate::scenario::{Refused, Scenario};
use crate::strategy::Strategy;

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// From which all that is random followed.
    pub seed: u64,
    /// Who sent to whom.
    pub strategy: Strategy,
    /// The time that all bytes take through an ordinary node's cards, in nanoseconds.
    pub ideal_ns: u64,
    /// The least time in which all can have a chunk, in nanoseconds; see [`Scenario::bound_ns`].
    pub bound_ns: u64,
    /// The receivers; with several chunks, as often as there are chunks.
    pub receivers: Vec<Receiver>,
    /// The racks, that of the first origin first.
    pub racks: Vec<Rack>,
    /// How far the receivers were, over time.
    pub progress: Progress,
    /// When the last receiver that anybody waited for had all, or the run was given up, in nanoseconds.
    pub ended_ns: u64,
    /// Events that happened.
    pub events: u64,
    /// Pieces that were sent.
    pub pieces_sent: u64,
    /// Messages that nodes sent, news of pieces not counted.
    pub messages: u64,
    /// Most connections that a receiver had at once while it fetched.
    pub degree_max: usize,
}

/// What came of one receiver.
#[derive(Debug, Clone)]
pub struct Receiver {
    /// Its rack.
    pub rack: usize,
    /// Which of the chunks, those of the flows last.
    pub chunk: usize,
    /// When it joined, in nanoseconds.
    pub joined_ns: u64,
    /// When it had all, on its GPUs where it has some, in nanoseconds.
    pub finished_ns: Option<u64>,
    /// Whether it died, or nothing that it sent arrived any more.
    pub died: bool,
    /// How many times slower than the others it was.
    pub slowness: f64,
    /// Whether it joined late.
    pub late: bool,
    /// Whether its link lost some of what it carried.
    pub lossy: bool,
    /// What it counted; nothing but for the swarm.
    pub counters: Counters,
}

/// What went through one rack, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rack {
    /// Receivers in it.
    pub receivers: usize,
    /// From other racks into this one.
    pub bytes_in: u64,
    /// From this rack to others.
    pub bytes_out: u64,
    /// From node to node within.
    pub bytes_within: u64,
}

/// Why a run has no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It cannot be simulated.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A promise was broken.
    #[error(transparent)]
    Violation(#[from] Violation),
}

/// A promise that was broken in a run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "node {node} {what}, {at_us} µs after the start of the world with seed {seed}; please report this scenario"
)]
pub struct Violation {
    /// The seed of the run.
    pub seed: u64,
    /// The node.
    pub node: usize,
    /// When, in microseconds from the start.
    pub at_us: u64,
    /// What it does.
    pub what: String,
}

impl Receiver {
    /// Whether it is an ordinary receiver: neither slow, nor with a lossy link.
    pub fn is_ordinary(&self) -> bool {
        self.slowness <= 1.0 && !self.lossy
    }
}

impl Outcome {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        Self {
            seed: scenario.seed,
            strategy: scenario.strategy,
            ideal_ns: scenario.ideal_ns(),
            bound_ns: scenario.bound_ns(),
            receivers: Vec::new(),
            racks: vec![Rack::default(); scenario.racks()],
            progress: Progress::new(scenario),
            ended_ns: 0,
            events: 0,
            pieces_sent: 0,
            messages: 0,
            degree_max: 0,
        }
    }

    /// Notes bytes that go from a node of one rack to one of another, or the same.
    pub(crate) fn carry(&mut self, [from, to]: [usize; 2], bytes: u64) {
        if from == to {
            self.racks[from].bytes_within += bytes;
        } else {
            self.racks[from].bytes_out += bytes;
            self.racks[to].bytes_in += bytes;
        }
    }

    /// How long each survivor took from joining to the last piece, as a multiple of the ideal, sorted. Infinite where
    /// it never got all.
    pub fn times(&self, of: impl Fn(&Receiver) -> bool) -> Vec<f64> {
        let survivors = self.receivers.iter().filter(|receiver| !receiver.died && of(receiver));
        let mut times: Vec<f64> = survivors
            .map(|receiver| match receiver.finished_ns {
                Some(finished) => (finished - receiver.joined_ns) as f64 / self.ideal_ns as f64,
                None => f64::INFINITY,
            })
            .collect();
        times.sort_by(f64::total_cmp);
        times
    }

    /// The time below which this share of the survivors took, as a multiple of the ideal.
    pub fn percentile(&self, share: f64) -> f64 {
        percentile(&self.times(|_| true), share)
    }

    /// The median time of all survivors, as a multiple of the ideal.
    pub fn median(&self) -> f64 {
        self.percentile(0.5)
    }

    /// The longest time of all survivors, as a multiple of the ideal.
    pub fn longest(&self) -> f64 {
        self.percentile(1.0)
    }

    /// The longest time of the survivors that were neither slow nor had lossy links, as a multiple of the bound.
    pub fn longest_ordinary_to_bound(&self) -> f64 {
        let times = self.times(Receiver::is_ordinary);
        percentile(&times, 1.0) * self.ideal_ns as f64 / self.bound_ns as f64
    }

    /// How many copies of a chunk came into a rack from others: the most over all racks but the first, which has the
    /// origin.
    pub fn copies_into_a_rack(&self, size_bytes: u64) -> f64 {
        let most = self.racks.iter().skip(1).map(|rack| rack.bytes_in).max().unwrap_or(0);
        most as f64 / size_bytes as f64
    }

    /// Whether every survivor got all.
    pub fn is_complete(&self) -> bool {
        self.longest().is_finite()
    }

    /// A counter summed over all receivers.
    pub fn sum(&self, of: impl Fn(&Counters) -> u32) -> u64 {
        self.receivers.iter().map(|receiver| u64::from(of(&receiver.counters))).sum()
    }
}

/// The value below which this share of the sorted ones lies; zero where there is none.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let at = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
    sorted.get(at).copied().unwrap_or(0.0)
}
