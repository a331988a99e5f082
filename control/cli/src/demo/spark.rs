//! A curve in one line of text.

use std::time::Duration;

const LEVELS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// How much of `total` bytes was there as time went from zero to `end`, in `width` characters. `progress` holds bytes
/// at points in time, ascending.
pub fn line(progress: &[(Duration, u64)], total: u64, end: Duration, width: usize) -> String {
    let level = |column: usize| {
        let until = end.mul_f64((column + 1) as f64 / width as f64);
        let seen = progress.partition_point(|&(time, _)| time <= until);
        let bytes = seen.checked_sub(1).map_or(0, |last| progress[last].1).min(total);
        // Rounded down, so that only what is complete looks so.
        (bytes as u128 * 8 / u128::from(total.max(1))) as usize
    };
    (0..width).map(|column| LEVELS[level(column)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_rises_to_the_end() {
        let at = Duration::from_millis;
        let progress: Vec<(Duration, u64)> = (1..=8).map(|step| (at(step * 100), step * 10)).collect();
        assert_eq!(line(&progress, 80, at(800), 8), "▁▂▃▄▅▆▇█");
        assert_eq!(line(&progress, 80, at(1600), 8), "▂▄▆█████");
        assert_eq!(line(&[], 80, at(800), 3), "   ");
        assert_eq!(line(&[(at(1), 79)], 80, at(2), 2), "▇▇");
    }
}
