//! What several runs with different seeds say together.

use std::fmt;

/// A mean with its 95 % confidence interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Half of the width of the interval: the mean of all possible runs is within it in 95 of 100 cases, as far as runs
    /// are distributed normally. Zero for one run, of which nothing is known.
    pub margin: f64,
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.mean.is_finite(), self.margin > 0.0) {
            (false, _) => f.write_str("never"),
            (true, true) => write!(f, "{:.3} ± {:.3}", self.mean, self.margin),
            (true, false) => write!(f, "{:.3}", self.mean),
        }
    }
}

/// Estimates the mean of all possible runs from some, by Student's distribution.
pub fn estimate(values: &[f64]) -> Estimate {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count.max(1.0);
    if values.len() < 2 {
        return Estimate { mean, margin: 0.0 };
    }
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
    Estimate { mean, margin: student(values.len() - 1) * (variance / count).sqrt() }
}

/// The 97.5 % quantile of Student's distribution with so many degrees of freedom.
fn student(degrees: usize) -> f64 {
    const FIRST: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145,
        2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048,
        2.045, 2.042,
    ];
    match FIRST.get(degrees.wrapping_sub(1)) {
        Some(quantile) => *quantile,
        // Within 0.001 from there on.
        None => 1.96 + 2.45 / degrees as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_follow_from_the_spread() {
        let Estimate { mean, margin } = estimate(&[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(mean, 2.5);
        assert!((margin - 3.182 * (5.0f64 / 3.0 / 4.0).sqrt()).abs() < 1e-9, "{margin}");
        assert_eq!(Estimate { mean, margin }.to_string(), "2.500 ± 2.054");
        assert_eq!(estimate(&[7.0]), Estimate { mean: 7.0, margin: 0.0 });
        assert_eq!(estimate(&[f64::INFINITY, 1.0]).to_string(), "never");
        assert_eq!(estimate(&[3.0; 40]), Estimate { mean: 3.0, margin: 0.0 });
    }
}
