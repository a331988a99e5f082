//! What came of a run.

use flow::swarm::Counters;

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// From which all that is random followed.
    pub seed: u64,
    /// The time that all pieces take on an ordinary link, in nanoseconds.
    pub ideal_ns: u64,
    /// The receivers.
    pub receivers: Vec<Receiver>,
    /// Events that happened.
    pub events: u64,
    /// Pieces that were sent.
    pub pieces_sent: usize,
    /// Pieces that were sent from one rack to another.
    pub pieces_between_racks: u64,
    /// Messages that the scheduler sent, announcements not counted.
    pub messages: u64,
}

/// What came of one receiver.
#[derive(Debug, Clone)]
pub struct Receiver {
    /// When it joined, in nanoseconds.
    pub joined_ns: u64,
    /// When it had all, in nanoseconds.
    pub finished_ns: Option<u64>,
    /// Whether it died.
    pub died: bool,
    /// Whether it was slow.
    pub slow: bool,
    /// Whether it joined late.
    pub late: bool,
    /// What it counted.
    pub counters: Counters,
}

impl Outcome {
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

    /// The median time of all survivors.
    pub fn median(&self) -> f64 {
        let times = self.times(|_| true);
        times.get(times.len() / 2).copied().unwrap_or(0.0)
    }

    /// The longest time of all survivors.
    pub fn longest(&self) -> f64 {
        self.times(|_| true).last().copied().unwrap_or(0.0)
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
