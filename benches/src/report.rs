//! Medians, ratios, table and JSON.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::conditions::Conditions;
use crate::cost::Cost;
use crate::failure::Failure;
use crate::machine::{Load, Machine};
use crate::scenario::{Scenario, Unit};

/// Columns of a table.
const WIDTH: usize = 114;

/// What was measured in one call.
#[derive(Debug, Serialize)]
pub struct Report {
    machine: Machine,
    load_at_start: Load,
    congestion_control: String,
    rounds: u32,
    shrink: u64,
    scenarios: Vec<Summary>,
}

/// How a scenario went, as it was measured.
pub struct Outcome {
    /// Name of the scenario.
    pub name: String,
    /// What rates count.
    pub unit: Unit,
    /// How much of that one run did.
    pub amount: u64,
    /// Shoal, once it was ready.
    pub ours: Option<Track>,
    /// The peers that took part to the end.
    pub peers: Vec<Track>,
    /// Why Shoal failed, if it did.
    pub failed: Option<String>,
    /// Why nobody took part, if the system denies what it takes.
    pub not_run: Option<String>,
    /// The least time in which links let anybody do it, where there are links.
    pub ideal: Option<Duration>,
    /// What else contenders have to say.
    pub remarks: Vec<String>,
    compares: &'static str,
    goal: &'static str,
    load_at_start: Load,
    left_out: Vec<LeftOut>,
}

/// The runs of one contender, in the order of the rounds.
pub struct Track {
    /// Name of the contender.
    pub name: String,
    /// What each run cost.
    pub costs: Vec<Cost>,
}

/// How a scenario went, in numbers to compare.
#[derive(Debug, Serialize)]
struct Summary {
    name: String,
    compares: &'static str,
    goal: &'static str,
    /// What `amount` counts and rates are of: `GB` stands for 10^9 bytes, `1000` for as many operations.
    unit: &'static str,
    amount: u64,
    load_at_start: Load,
    failed: Option<String>,
    not_run: Option<String>,
    ideal_s: Option<f64>,
    contenders: Vec<Figures>,
    left_out: Vec<LeftOut>,
    remarks: Vec<String>,
}

/// One contender's numbers.
#[derive(Debug, Serialize)]
struct Figures {
    name: String,
    /// Units a second.
    rate: Spread,
    processor_ms_per_unit: Spread,
    /// The least time that links allow, by the time that it took.
    efficiency: Option<Spread>,
    /// Shoal against this peer, round by round.
    shoal_to_it: Option<Ratios>,
    rounds: Vec<Run>,
}

/// Shoal's number divided by the peer's of the same round.
#[derive(Debug, Serialize)]
struct Ratios {
    rate: Spread,
    processors: Spread,
}

#[derive(Debug, Serialize)]
struct Run {
    wall_s: f64,
    processors_s: f64,
}

#[derive(Debug, Serialize)]
struct LeftOut {
    name: String,
    reason: String,
}

/// The least, the middle and the most of some numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

impl Report {
    /// A report without a scenario as yet.
    pub fn new(conditions: &Conditions, rounds: u32) -> Self {
        let machine = Machine::here();
        let control = &conditions.congestion_control;
        let congestion_control = control.clone().unwrap_or_else(|| machine.system_congestion_control.clone());
        let load_at_start = crate::machine::load();
        let shrink = conditions.shrink;
        Self { machine, load_at_start, congestion_control, rounds, shrink, scenarios: Vec::new() }
    }

    /// Adds how a scenario went; gives what there is to tell of it.
    pub fn add(&mut self, outcome: Outcome) -> String {
        self.scenarios.push(Summary::of(outcome));
        self.scenarios.last().map(Summary::to_string).unwrap_or_default()
    }

    /// Whether Shoal failed anywhere.
    pub fn failed(&self) -> bool {
        self.scenarios.iter().any(|scenario| scenario.failed.is_some())
    }

    /// All of it for programs.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers and strings can always be written as JSON")
    }
}

/// The machine, for people.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { processors, processor_model, kernel, large_pages, .. } = &self.machine;
        writeln!(f, "{processors} processors ({processor_model}), {kernel}, large pages: {large_pages}")?;
        writeln!(f, "TCP congestion control: {}", self.congestion_control)?;
        match self.load_at_start {
            Some(load) => writeln!(f, "load when it began: {load:.2}"),
            None => Ok(()),
        }
    }
}

impl Outcome {
    /// Nothing yet.
    pub fn new(scenario: &dyn Scenario, conditions: &Conditions, load_at_start: Load) -> Self {
        Self {
            name: scenario.name(),
            unit: scenario.unit(),
            amount: scenario.amount(conditions),
            ours: None,
            peers: Vec::new(),
            failed: None,
            not_run: None,
            ideal: None,
            remarks: Vec::new(),
            compares: scenario.compares(),
            goal: scenario.goal(),
            load_at_start,
            left_out: Vec::new(),
        }
    }

    /// Notes that a peer does not take part, or not to the end.
    pub fn leave_out(&mut self, name: String, failure: &Failure) {
        self.left_out.push(LeftOut { name, reason: failure.to_string() });
    }
}

impl Track {
    /// No run yet.
    pub fn new(name: String) -> Self {
        Self { name, costs: Vec::new() }
    }
}

impl Summary {
    fn of(outcome: Outcome) -> Self {
        let Outcome { name, unit, amount, ours, peers, failed, not_run, ideal, .. } = outcome;
        let Outcome { compares, goal, load_at_start, left_out, remarks, .. } = outcome;
        let units = amount as f64 / unit.scale();
        let own = ours.iter().filter_map(|ours| Figures::of(ours, units, ideal, None));
        let others = peers.iter().filter_map(|peer| Figures::of(peer, units, ideal, ours.as_ref()));
        let contenders = own.chain(others).collect();
        let ideal_s = ideal.map(|ideal| ideal.as_secs_f64());
        let unit = unit.name();
        Self {
            name,
            compares,
            goal,
            unit,
            amount,
            load_at_start,
            failed,
            not_run,
            ideal_s,
            contenders,
            left_out,
            remarks,
        }
    }
}

impl Figures {
    fn of(track: &Track, units: f64, ideal: Option<Duration>, ours: Option<&Track>) -> Option<Self> {
        let runs =
            |number: fn(&Run) -> f64| track.costs.iter().copied().map(Run::of).map(move |run| number(&run));
        let ratio = |number: fn(&Run) -> f64| {
            let pairs = ours?.costs.iter().zip(&track.costs);
            Spread::of(pairs.map(|(ours, its)| number(&Run::of(*ours)) / number(&Run::of(*its))))
        };
        let rate_ratio = ratio(|run| 1.0 / run.wall_s);
        let processor_ratio = ratio(|run| run.processors_s);
        let efficiency =
            |ideal: Duration| Spread::of(runs(|run| run.wall_s).map(|wall_s| ideal.as_secs_f64() / wall_s));
        Some(Self {
            name: track.name.clone(),
            rate: Spread::of(runs(|run| run.wall_s).map(|wall_s| units / wall_s))?,
            processor_ms_per_unit: Spread::of(
                runs(|run| run.processors_s).map(|processors_s| processors_s * 1e3 / units),
            )?,
            efficiency: ideal.and_then(efficiency),
            shoal_to_it: rate_ratio
                .zip(processor_ratio)
                .map(|(rate, processors)| Ratios { rate, processors }),
            rounds: track.costs.iter().copied().map(Run::of).collect(),
        })
    }
}

impl Run {
    fn of(cost: Cost) -> Self {
        Self { wall_s: cost.wall.as_secs_f64(), processors_s: cost.processors.as_secs_f64() }
    }
}

impl Spread {
    /// The spread of numbers, if there is a number and all are finite.
    fn of(numbers: impl Iterator<Item = f64>) -> Option<Self> {
        let mut numbers: Vec<f64> = numbers.collect();
        if !numbers.iter().all(|number| number.is_finite()) {
            return None;
        }
        numbers.sort_by(f64::total_cmp);
        let median = match numbers.len() {
            0 => return None,
            count if count % 2 == 1 => numbers[count / 2],
            count => (numbers[count / 2 - 1] + numbers[count / 2]) / 2.0,
        };
        Some(Self { min: numbers[0], median, max: numbers[numbers.len() - 1] })
    }
}

/// Three columns, with as many decimals as the format asks for.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = f.precision().unwrap_or(2);
        write!(f, "{:>7.decimals$} {:>7.decimals$} {:>7.decimals$}", self.min, self.median, self.max)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", wrapped(&format!("{}: {}", self.name, self.compares)))?;
        writeln!(f, "goal: {}", self.goal)?;
        if let Some(reason) = &self.failed {
            writeln!(f, "FAILED: {reason}")?;
        }
        if let Some(reason) = &self.not_run {
            writeln!(f, "NOT RUN: {reason}")?;
        }
        if !self.contenders.is_empty() {
            let columns = "    min  median     max";
            writeln!(
                f,
                "{:14}  {:^23}  {:^23}  {:^23}  {:^23}",
                "",
                format!("{}/s", self.unit),
                format!("CPU ms per {}", self.unit),
                format!("shoal/it {}/s", self.unit),
                "shoal/it CPU"
            )?;
            writeln!(f, "{:14}  {columns}  {columns}  {columns}  {columns}", "")?;
        }
        for Figures { name, rate, processor_ms_per_unit, shoal_to_it, .. } in &self.contenders {
            write!(f, "{name:14}  {rate:.2}  {processor_ms_per_unit:.0}")?;
            match shoal_to_it {
                Some(Ratios { rate, processors }) => writeln!(f, "  {rate:.2}  {processors:.2}")?,
                None => writeln!(f)?,
            }
        }
        if let Some(ideal_s) = self.ideal_s {
            write!(
                f,
                "the links allow {:.2} GB/s in {ideal_s:.3} s; of that, medians:",
                self.amount as f64 / Unit::Byte.scale() / ideal_s
            )?;
            for Figures { name, efficiency, .. } in &self.contenders {
                efficiency
                    .iter()
                    .try_for_each(|efficiency| write!(f, "  {name} {:.2}", efficiency.median))?;
            }
            writeln!(f)?;
        }
        self.remarks.iter().try_for_each(|remark| writeln!(f, "{}", wrapped(remark)))?;
        for LeftOut { name, reason } in &self.left_out {
            writeln!(f, "{name} took no part: {reason}")?;
        }
        Ok(())
    }
}

/// Breaks text into lines that fit the table.
fn wrapped(text: &str) -> String {
    let (mut wrapped, mut width) = (String::new(), 0);
    for word in text.split(' ') {
        let long = width + word.len() >= WIDTH;
        wrapped += if long {
            "\n"
        } else if width > 0 {
            " "
        } else {
            ""
        };
        wrapped += word;
        width = if long { word.len() } else { width + 1 + word.len() };
    }
    wrapped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn track(name: &str, milliseconds: &[(u64, u64)]) -> Track {
        let cost = |&(wall, processors): &(u64, u64)| Cost {
            wall: Duration::from_millis(wall),
            processors: Duration::from_millis(processors),
        };
        Track { name: name.into(), costs: milliseconds.iter().map(cost).collect() }
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let ours = track("shoal", &[(100, 50), (400, 80), (200, 60)]);
        let peer = track("peer", &[(200, 25), (200, 80), (100, 30)]);
        let figures = Figures::of(&peer, 2.0, Some(Duration::from_millis(50)), Some(&ours)).unwrap();
        assert_eq!(figures.efficiency, Some(Spread { min: 0.25, median: 0.25, max: 0.5 }));
        assert_eq!(figures.rate, Spread { min: 10.0, median: 10.0, max: 20.0 });
        assert_eq!(figures.processor_ms_per_unit, Spread { min: 12.5, median: 15.0, max: 40.0 });
        let ratios = figures.shoal_to_it.unwrap();
        assert_eq!(ratios.rate, Spread { min: 0.5, median: 0.5, max: 2.0 });
        assert_eq!(ratios.processors, Spread { min: 1.0, median: 2.0, max: 2.0 });
        assert!(Figures::of(&ours, 1.0, None, None).unwrap().shoal_to_it.is_none());
        assert!(Figures::of(&track("none", &[]), 1.0, None, Some(&ours)).is_none());
    }

    #[test]
    fn a_run_that_cost_no_processor_time_has_rates_still() {
        let ours = track("shoal", &[(100, 50)]);
        let figures = Figures::of(&track("peer", &[(100, 0)]), 1.0, None, Some(&ours)).unwrap();
        assert_eq!(figures.rate.median, 10.0);
        assert!(figures.shoal_to_it.is_none());
    }

    #[test]
    fn long_text_is_broken_between_words() {
        let text = "word ".repeat(60);
        let wrapped = wrapped(text.trim());
        assert!(wrapped.lines().all(|line| line.len() <= WIDTH) && wrapped.lines().count() == 3);
        assert_eq!(wrapped.replace('\n', " "), text.trim());
    }

    proptest! {
        #[test]
        fn the_median_is_between(numbers in prop::collection::vec(-1e9f64..1e9, 1..20)) {
            let spread = Spread::of(numbers.iter().copied()).unwrap();
            prop_assert!(spread.min <= spread.median && spread.median <= spread.max);
            let below = numbers.iter().filter(|&&number| number < spread.median).count();
            prop_assert!(below * 2 <= numbers.len());
        }
    }
}
