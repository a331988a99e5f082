//! How far the receivers were, over time.

use crate::scenario::Scenario;

/// Points after which every other one is dropped, and from then on every other one is left out.
const POINTS_MAX: usize = 256;
/// Points for the ideal time at the start.
const POINTS_FOR_IDEAL: u64 = 64;

/// How far the receivers were, over time: evenly spaced, at most 256 points.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// Time between two points, in nanoseconds.
    pub interval_ns: u64,
    /// The points, the first of them at the start.
    pub points: Vec<Point>,
}

/// How far the receivers that lived were at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// The moment, in nanoseconds from the start.
    pub at_ns: u64,
    /// Share of receivers that had all, from 0 to 1.
    pub finished: f64,
    /// Share of the bytes that receivers had: the least, the fifth, fiftieth and ninety-fifth percentile, and the most.
    pub shares: [f64; 5],
}

impl Progress {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        Self { interval_ns: (scenario.ideal_ns() / POINTS_FOR_IDEAL).max(1), points: Vec::new() }
    }

    /// Notes how many pieces each receiver has, and returns when the next point is due, in nanoseconds.
    pub(crate) fn note(&mut self, at_ns: u64, pieces: u32, mut counts: Vec<u32>) -> u64 {
        counts.sort_unstable();
        let share = |part: f64| {
            let at = (counts.len().saturating_sub(1) as f64 * part).round() as usize;
            f64::from(counts.get(at).copied().unwrap_or(0)) / f64::from(pieces)
        };
        let finished = counts.iter().rev().take_while(|&&count| count == pieces).count();
        self.points.push(Point {
            at_ns,
            finished: finished as f64 / counts.len().max(1) as f64,
            shares: [0.0, 0.05, 0.5, 0.95, 1.0].map(share),
        });
        if self.points.len() >= POINTS_MAX {
            let mut at = 0;
            self.points.retain(|_| {
                at += 1;
                at % 2 == 1
            });
            self.interval_ns *= 2;
        }
        self.points.len() as u64 * self.interval_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_stay_few_and_evenly_spaced() {
        let mut progress = Progress::new(&Scenario::of_pieces(1, 4, 64));
        let (mut at_ns, first_ns) = (0, progress.interval_ns);
        for step in 0..1500 {
            at_ns = progress.note(at_ns, 64, vec![step.min(64), 64]);
        }
        assert!(progress.points.len() < POINTS_MAX && progress.interval_ns > first_ns);
        let even =
            progress.points.iter().zip(0..).all(|(point, at)| point.at_ns == at * progress.interval_ns);
        assert!(even, "{:?}", progress.points);
        assert_eq!(
            (progress.points[0].finished, progress.points[0].shares),
            (0.5, [0.0, 0.0, 1.0, 1.0, 1.0])
        );
    }
}
