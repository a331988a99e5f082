//! What came of the runs, for people and programs.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use sim::statistics::{Estimate, estimate};
use sim::{Outcome, Scenario};

use crate::amount;
use crate::table::Table;

/// All strategies beside each other.
#[derive(Serialize)]
pub struct Report {
    /// Nothing of it was measured.
    simulated: bool,
    size_bytes: u64,
    piece_bytes: u32,
    receivers: usize,
    racks: usize,
    node_gigabits_per_s: f64,
    /// The time that all bytes take through a node's cards.
    ideal_s: f64,
    /// The least time in which all can have them.
    bound_s: f64,
    seeds: Vec<u64>,
    /// In the order in which they were asked for.
    pub strategies: Vec<Figures>,
}

/// What came of one strategy.
#[derive(Serialize)]
pub struct Figures {
    /// Its name.
    pub strategy: &'static str,
    seconds: Percentiles,
    /// The longest time of receivers that are not slow, divided by the bound.
    longest_ordinary_to_bound: Shown,
    /// How many copies came into a rack from others; the most of all racks but the first. Nothing with one rack.
    copies_into_a_rack: Option<Shown>,
    /// Receivers that live and never got everything.
    incomplete: Shown,
    /// Most connections that a receiver had at once, over all runs.
    connections_max: usize,
    /// Of the first seed: the racks, that of the first origin first.
    pub rack_copies: Vec<RackCopies>,
    /// Of the first seed: how far the receivers were.
    pub progress: Vec<Moment>,
}

/// Times from joining until everything was there.
#[derive(Serialize)]
struct Percentiles {
    p50: Shown,
    p95: Shown,
    p99: Shown,
    max: Shown,
}

/// A mean and its 95 % confidence interval. A mean that is not finite is null in JSON.
#[derive(Serialize, Clone, Copy)]
struct Shown {
    mean: f64,
    margin: f64,
}

/// What went through one rack, in copies of the chunk.
#[derive(Serialize, Clone, Copy)]
pub struct RackCopies {
    /// From other racks.
    pub from_others: f64,
    /// From node to node within.
    pub within: f64,
}

/// How far the receivers were at one moment.
#[derive(Serialize, Clone, Copy)]
pub struct Moment {
    /// Seconds from the start.
    pub at_s: f64,
    /// Share of the receivers that had everything.
    pub finished: f64,
    /// Share of the bytes that receivers had: the least, the fifth, fiftieth and ninety-fifth percentile, and the most.
    pub shares: [f64; 5],
}

impl Report {
    /// The report of runs, at least one of each strategy.
    pub fn new(scenarios: &[Vec<Scenario>], outcomes: &[Vec<Outcome>]) -> Self {
        let first = &scenarios[0][0];
        let strategies =
            scenarios.iter().zip(outcomes).map(|(scenarios, outcomes)| Figures::new(&scenarios[0], outcomes));
        Self {
            simulated: true,
            size_bytes: first.size_bytes,
            piece_bytes: first.piece_bytes,
            receivers: first.receivers,
            racks: first.racks(),
            node_gigabits_per_s: first.cluster.node_gbps(),
            ideal_s: first.ideal_ns() as f64 / 1e9,
            bound_s: first.bound_ns() as f64 / 1e9,
            seeds: scenarios[0].iter().map(|scenario| scenario.seed).collect(),
            strategies: strategies.collect(),
        }
    }
}

impl Figures {
    fn new(scenario: &Scenario, outcomes: &[Outcome]) -> Self {
        let over = |value: &dyn Fn(&Outcome) -> f64| {
            Shown::from(estimate(&outcomes.iter().map(value).collect::<Vec<f64>>()))
        };
        let ideal_s = scenario.ideal_ns() as f64 / 1e9;
        let at = |share: f64| over(&|outcome| outcome.percentile(share) * ideal_s);
        let copies = |bytes: u64| bytes as f64 / scenario.size_bytes as f64;
        let unfinished = |outcome: &Outcome| {
            outcome
                .receivers
                .iter()
                .filter(|receiver| !receiver.died && receiver.finished_ns.is_none())
                .count()
        };
        let first = outcomes.first();
        let racks = first.iter().flat_map(|outcome| &outcome.racks);
        let points = first.iter().flat_map(|outcome| &outcome.progress.points);
        // The last point lies before the end.
        let end = first.filter(|outcome| outcome.is_complete()).map(|outcome| Moment {
            at_s: outcome.ended_ns as f64 / 1e9,
            finished: 1.0,
            shares: [1.0; 5],
        });
        Self {
            strategy: scenario.strategy.name(),
            seconds: Percentiles { p50: at(0.5), p95: at(0.95), p99: at(0.99), max: at(1.0) },
            longest_ordinary_to_bound: over(&Outcome::longest_ordinary_to_bound),
            copies_into_a_rack: (scenario.racks() > 1)
                .then(|| over(&|outcome| outcome.copies_into_a_rack(scenario.size_bytes))),
            incomplete: over(&|outcome| unfinished(outcome) as f64),
            connections_max: outcomes.iter().map(|outcome| outcome.degree_max).max().unwrap_or(0),
            rack_copies: racks
                .map(|rack| RackCopies {
                    from_others: copies(rack.bytes_in),
                    within: copies(rack.bytes_within),
                })
                .collect(),
            progress: points
                .map(|point| Moment {
                    at_s: point.at_ns as f64 / 1e9,
                    finished: point.finished,
                    shares: point.shares,
                })
                .chain(end)
                .collect(),
        }
    }
}

impl From<Estimate> for Shown {
    fn from(Estimate { mean, margin }: Estimate) -> Self {
        // The spread of times that never come is no number.
        Self { mean, margin: if margin.is_finite() { margin } else { 0.0 } }
    }
}

impl Shown {
    fn time(self) -> String {
        if !self.mean.is_finite() {
            return "never".into();
        }
        let span = |seconds: f64| amount::span(Duration::from_secs_f64(seconds.max(0.0)));
        if self.margin > 0.0 {
            format!("{} ± {}", span(self.mean), span(self.margin))
        } else {
            span(self.mean)
        }
    }

    fn number(self, digits: usize) -> String {
        match (self.mean.is_finite(), self.margin > 0.0) {
            (false, _) => "-".into(),
            (true, true) => format!("{:.digits$} ± {:.digits$}", self.mean, self.margin),
            (true, false) => format!("{:.digits$}", self.mean),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = |seconds: f64| amount::span(Duration::from_secs_f64(seconds));
        writeln!(
            f,
            "simulated: {} to {} of {:.0} Gbit/s in {}, {}",
            amount::size(self.size_bytes),
            amount::count(self.receivers as u64, "node"),
            self.node_gigabits_per_s,
            amount::count(self.racks as u64, "rack"),
            amount::count(self.seeds.len() as u64, "seed"),
        )?;
        writeln!(f, "ideal {}, bound {}\n", span(self.ideal_s), span(self.bound_s))?;
        let mut table = Table::new([
            "STRATEGY",
            ">P50",
            ">P99",
            ">MAX",
            ">MAX/BOUND",
            ">COPIES INTO A RACK",
            ">INCOMPLETE",
        ]);
        for figures in &self.strategies {
            table.row([
                figures.strategy.into(),
                figures.seconds.p50.time(),
                figures.seconds.p99.time(),
                figures.seconds.max.time(),
                figures.longest_ordinary_to_bound.number(3),
                figures.copies_into_a_rack.map_or_else(|| "-".into(), |copies| copies.number(2)),
                figures.incomplete.number(1),
            ]);
        }
        write!(f, "{table}")
    }
}

#[cfg(test)]
mod tests {
    use sim::{Strategy, simulate};

    use super::*;

    #[test]
    fn strategies_stand_beside_each_other() {
        let of = |strategy| {
            let scenario = |seed| Scenario { strategy, ..Scenario::new(seed, 40, 64 << 20) };
            vec![scenario(1), scenario(2)]
        };
        let scenarios = [of(Strategy::Swarm), of(Strategy::Star)];
        let run = |scenarios: &Vec<Scenario>| scenarios.iter().map(|one| simulate(one).unwrap()).collect();
        let outcomes: Vec<Vec<Outcome>> = scenarios.iter().map(run).collect();
        let report = Report::new(&scenarios, &outcomes);
        let text = report.to_string();
        assert!(
            text.starts_with("simulated: 64.0 MiB to 40 nodes of 10 Gbit/s in 2 racks, 2 seeds\n"),
            "{text}"
        );
        let value = serde_json::to_value(&report).unwrap();
        let [swarm, star] = [0, 1].map(|at| &value["strategies"][at]);
        let median = |of: &serde_json::Value| of["seconds"]["p50"]["mean"].as_f64().unwrap();
        assert!(median(star) > 5.0 * median(swarm), "{value}");
        // The star sends to each of the nodes of the second rack.
        assert!(star["copies_into_a_rack"]["mean"].as_f64().unwrap() > 8.0);
        let ends = swarm["progress"].as_array().unwrap().last().unwrap();
        assert_eq!(ends["finished"], 1.0);
    }

    #[test]
    fn what_never_comes_is_told_so() {
        let never = Shown::from(estimate(&[f64::INFINITY, 1.0]));
        assert_eq!((never.time(), never.number(2)), ("never".into(), "-".into()));
        assert_eq!(Shown { mean: 2.5, margin: 0.25 }.time(), "2.50 s ± 250 ms");
    }
}
