//! What a benchmark prints.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::carried::Carried;
use crate::amount;

/// Longest time that is told apart from longer ones, in microseconds: an hour.
const TIME_MAX_US: u64 = 3_600_000_000;

/// The rounds of a benchmark.
#[derive(Serialize)]
pub struct Summary {
    scenario: &'static str,
    size: u64,
    receivers: u64,
    rounds: u64,
    time_us: Percentiles,
    gigabytes_per_s: Range,
    /// How bytes came to the receivers, where nodes received any.
    #[serde(rename = "bytes_received", skip_serializing_if = "Option::is_none")]
    pub carried: Option<Carried>,
    #[serde(skip)]
    times: Histogram<u64>,
    #[serde(skip)]
    rates: Vec<f64>,
}

/// Times of single receivers.
#[derive(Default, Serialize)]
struct Percentiles {
    p50: u64,
    p90: u64,
    p99: u64,
    max: u64,
}

/// Rates of rounds, all receivers together.
#[derive(Default, Serialize)]
struct Range {
    min: f64,
    median: f64,
    max: f64,
}

impl Summary {
    /// No rounds yet, of `size` bytes to each of `receivers`.
    pub fn new(scenario: &'static str, size: u64, receivers: u64) -> Self {
        let times =
            Histogram::new_with_max(TIME_MAX_US, 3).expect("three digits and an hour are within the limits");
        let (time_us, gigabytes_per_s) = Default::default();
        let (rates, carried) = (Vec::new(), None);
        Self { scenario, size, receivers, rounds: 0, time_us, gigabytes_per_s, carried, times, rates }
    }

    /// Adds a round: how long it took as a whole, and each of its receivers.
    pub fn record(&mut self, whole: Duration, each: impl IntoIterator<Item = Duration>) {
        for time in each {
            self.times.saturating_record(time.as_micros() as u64);
        }
        self.rates.push(amount::gigabytes_per_s(self.size.saturating_mul(self.receivers), whole));
        self.rates.sort_by(f64::total_cmp);
        self.rounds += 1;
        let time = |quantile| self.times.value_at_quantile(quantile);
        self.time_us = Percentiles { p50: time(0.5), p90: time(0.9), p99: time(0.99), max: self.times.max() };
        let rate = |at: usize| self.rates.get(at).copied().unwrap_or_default();
        let last = self.rates.len() - 1;
        self.gigabytes_per_s = Range { min: rate(0), median: rate(last / 2), max: rate(last) };
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Percentiles { p50, p90, p99, max } = self.time_us;
        let [p50, p90, p99, max] = [p50, p90, p99, max].map(|time| amount::span(Duration::from_micros(time)));
        let to = if self.receivers == 1 { String::new() } else { format!(" to {} nodes", self.receivers) };
        writeln!(
            f,
            "{}: {} of {}{to}",
            self.scenario,
            amount::count(self.rounds, "round"),
            amount::size(self.size)
        )?;
        writeln!(f, "  time    p50 {p50}   p90 {p90}   p99 {p99}   max {max}")?;
        let Range { min, median, max } = self.gigabytes_per_s;
        writeln!(f, "  GB/s    min {min:.2}   median {median:.2}   max {max:.2}")?;
        match self.carried {
            Some(carried) => writeln!(f, "  by      {carried}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_summed_up() {
        let mut summary = Summary::new("broadcast", 1_000_000_000, 2);
        for seconds in [4, 1, 2] {
            let time = Duration::from_secs(seconds);
            summary.record(time, [time, time / 2]);
        }
        assert_eq!(summary.rounds, 3);
        assert_eq!(
            (summary.gigabytes_per_s.min, summary.gigabytes_per_s.median, summary.gigabytes_per_s.max),
            (0.5, 1.0, 2.0)
        );
        let text = summary.to_string();
        assert!(text.starts_with("broadcast: 3 rounds of 953.7 MiB to 2 nodes\n"), "{text}");
        assert!(text.contains("p50 1.00 s"), "{text}");
        assert!(text.ends_with("GB/s    min 0.50   median 1.00   max 2.00\n"), "{text}");
    }
}
