//! How much of a piece is handed to a connection at a time.
//!
//! Grants, refusals and news travel on the connections that pieces travel on, and wait for what was handed over before
//! them. A receiver that has to wait for an answer as long as a piece takes leaves its link idle meanwhile; so no
//! part shall take much longer than [`PART_TIME`]. Over a fast link that is a whole piece, which costs least.

use std::time::Duration;

/// How long the connection should be busy with one part.
pub const PART_TIME: Duration = Duration::from_millis(2);
/// Smallest part, in bytes: below it the work for each part shows.
const PART_MIN: u32 = 64 << 10;
/// Largest part, in bytes: the largest piece.
const PART_MAX: u32 = crate::limits::PIECE_SIZE_MAX;

/// The length of parts on one connection.
#[derive(Debug)]
pub struct PartLength {
    part: u32,
}

impl Default for PartLength {
    fn default() -> Self {
        Self { part: PART_MIN }
    }
}

impl PartLength {
    /// How many bytes to hand over when `rest` bytes of a piece are left. What would be left over and not be worth a part
    /// of its own goes along.
    pub fn next(&self, rest: u32) -> u32 {
        if rest <= self.part + self.part / 2 { rest } else { self.part }
    }

    /// The connection was busy with `bytes` for so long. Parts grow step by step, since a connection that was idle takes
    /// the first bytes faster than the link does.
    pub fn sent(&mut self, bytes: u32, took: Duration) {
        let fitting = u128::from(bytes) * PART_TIME.as_nanos() / took.as_nanos().max(1);
        let fitting = fitting.min(u128::from(self.part) * 2) as u32;
        self.part = fitting.clamp(PART_MIN, PART_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The longest time that a part takes, and how many a piece of `length` bytes is sent in, once settled.
    fn settle(bytes_per_ms: u32, length: u32) -> (Duration, u32) {
        let (mut length_of_parts, mut longest, mut parts) = (PartLength::default(), Duration::ZERO, 0);
        for _ in 0..8 {
            let mut rest = length;
            (longest, parts) = (Duration::ZERO, 0);
            while rest > 0 {
                let part = length_of_parts.next(rest);
                let took = Duration::from_micros(u64::from(part) * 1000 / u64::from(bytes_per_ms));
                length_of_parts.sent(part, took);
                (rest, parts, longest) = (rest - part, parts + 1, longest.max(took));
            }
        }
        (longest, parts)
    }

    #[test]
    fn parts_take_about_as_long_as_they_should() {
        for bytes_per_ms in [1 << 20, 300_000, 50_000] {
            let (longest, _) = settle(bytes_per_ms, 16 << 20);
            assert!(longest <= PART_TIME * 2, "{longest:?} at {bytes_per_ms} B/ms");
        }
    }

    #[test]
    fn a_fast_link_gets_whole_pieces() {
        assert_eq!(settle(10 << 20, 4 << 20).1, 1);
    }

    #[test]
    fn a_slow_link_gets_parts_that_are_worth_it() {
        let (_, parts) = settle(1, 1 << 20);
        assert_eq!(parts, 16);
    }

    #[test]
    fn a_time_of_zero_is_survived() {
        let mut length = PartLength::default();
        (0..40).for_each(|_| length.sent(u32::MAX, Duration::ZERO));
        assert_eq!(length.next(PART_MAX), PART_MAX);
        assert_eq!(length.next(0), 0);
    }
}
