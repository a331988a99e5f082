//! How fast pieces come to this node, whoever sends them.

use std::time::Duration;

use crate::time::Instant;

/// Time from grant to verified piece before any was measured.
const PACE_START: Duration = Duration::from_millis(12);
/// A source that declines rests for this part of the pace.
const REST_DIVISOR: u32 = 12;
/// Shortest rest of a source that declines.
const REST_MIN: Duration = Duration::from_micros(50);
/// Longest first rest of a source that declines.
const REST_MAX: Duration = Duration::from_millis(20);
/// How often the time that grants may take doubles while all of them miss it.
const DOUBLINGS_MAX: u32 = 10;
/// Longest that it becomes by that.
const PATIENCE_MAX: Duration = Duration::from_secs(60);
/// Longest that it becomes because one source misses its deadlines.
const PATIENCE_WITH_ONE_MAX: Duration = Duration::from_secs(5);
/// How often a source that misses its deadlines makes it double.
const MISSED_MAX: u32 = 6;

/// What a fetch has learned from its own grants.
#[derive(Debug)]
pub(super) struct Tempo {
    /// Moving average of the time from grant to verified piece, over pieces asked for by name.
    pace: Duration,
    /// The median over the sources of how long theirs take. Slow sources are asked more than their number says, as they
    /// have room when others do not, so that the average is theirs where there are a few.
    typical: Duration,
    /// Shortest time from grant to header of late, over the pieces asked for by name.
    delay: Duration,
    /// How often deadlines were missed one after the other, since a piece came as soon as pieces usually do.
    doublings: u32,
    missed_at: Instant,
}

impl Tempo {
    pub(super) fn new() -> Self {
        Self {
            pace: PACE_START,
            typical: PACE_START,
            delay: Duration::ZERO,
            doublings: 0,
            missed_at: Instant::ZERO,
        }
    }

    /// The header of a piece that was asked for by name came.
    pub(super) fn header_came(&mut self, took: Duration) {
        self.delay = if self.delay.is_zero() { took } else { took.min(self.delay * 513 / 512) };
    }

    /// A piece was verified. `least` is the shortest time that grants may always take.
    pub(super) fn verified(&mut self, took: Duration, named: bool, least: Duration) {
        // What came only because all grants may take longer says that they must still.
        if took <= self.usual(None, least) {
            self.doublings = 0;
        }
        if named {
            self.pace = (self.pace * 7 + took) / 8;
        }
    }

    /// A grant opened at `opened` missed its deadline. Grants that were open at the same time count as one.
    pub(super) fn missed_deadline(&mut self, opened: Instant, now: Instant) {
        if opened >= self.missed_at {
            self.missed_at = now;
            self.doublings = (self.doublings + 1).min(DOUBLINGS_MAX);
        }
    }

    /// Whether deadlines were missed since a piece came in time.
    pub(super) fn is_doubted(&self) -> bool {
        self.doublings > 0
    }

    /// How long a grant may take: three times what grants take, of this source or of all. Twice as long after each deadline
    /// that the source has `missed`, and twice as long whenever a round of deadlines passes that all sources miss:
    /// then it is this node's own link that is slow, and to ask elsewhere makes it slower.
    pub(super) fn patience(&self, service: Option<Duration>, missed: u32, least: Duration) -> Duration {
        let usual = self.usual(service, least);
        let with_one = (usual * (1 << missed.min(MISSED_MAX))).min(PATIENCE_WITH_ONE_MAX);
        let with_all = (usual * (1 << self.doublings)).min(PATIENCE_MAX);
        with_one.max(with_all).max(usual)
    }

    fn usual(&self, service: Option<Duration>, least: Duration) -> Duration {
        (service.unwrap_or_default().max(self.pace) * 3).max(least)
    }

    /// After how long a piece that is still arriving is asked for elsewhere, when nothing else is to be asked for.
    pub(super) fn hurry(&self) -> Duration {
        self.pace * 3 * (1 << self.doublings)
    }

    /// Pieces of the sources that have sent some take so long, in any order.
    pub(super) fn sources_take(&mut self, mut services: Vec<Duration>) {
        let middle = services.len() / 2;
        if middle < services.len() {
            self.typical = *services.select_nth_unstable(middle).1;
        }
    }

    /// The median over the sources of how long their pieces take.
    pub(super) fn typical(&self) -> Duration {
        self.typical
    }

    /// After how long a grant has taken so much longer than others here that it is its source that is slow.
    pub(super) fn slow_after(&self) -> Duration {
        self.typical * 2
    }

    /// How long pieces take that are asked for by name, from grant to verified piece.
    pub(super) fn pace(&self) -> Duration {
        self.pace
    }

    /// How long a source that declines is left alone.
    pub(super) fn rest(&self) -> Duration {
        (self.pace / REST_DIVISOR).clamp(REST_MIN, REST_MAX)
    }

    /// How many times as many pieces could arrive in the time that a grant and the header of its piece take as do at once.
    pub(super) fn on_the_way(&self, at_once: usize) -> usize {
        let (delay, pace) = (self.delay.as_micros() as usize, self.pace.as_micros() as usize);
        2 * at_once * delay / pace.saturating_sub(delay).max(1)
    }
}
