//! When something that failed is tried again.

use std::time::Duration;

use crate::time::Instant;

/// Growing pauses between attempts: each is twice as long as the one before, up to a longest.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    pause: Duration,
    until: Instant,
}

impl Backoff {
    /// Nothing has failed yet: the first attempt may begin at once.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, pause: Duration::ZERO, until: Instant::ZERO }
    }

    /// Whether it may be tried.
    pub fn is_due(&self, now: Instant) -> bool {
        self.until <= now
    }

    /// It failed, after it had worked for `lasted`. What lasted as long as the longest pause was good, and the pauses begin
    /// anew.
    pub fn failed(&mut self, now: Instant, lasted: Duration) {
        if lasted >= self.longest {
            self.pause = Duration::ZERO;
        }
        self.pause = (self.pause * 2).clamp(self.first, self.longest);
        self.until = now + self.pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Instant {
        Instant::from_micros(millis * 1000)
    }

    #[test]
    fn pauses_grow_up_to_the_longest_and_begin_anew_after_a_good_time() {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(2));
        assert!(backoff.is_due(at(0)));
        for pause_ms in [500, 1000, 2000, 2000] {
            backoff.failed(at(0), Duration::from_millis(10));
            assert!(!backoff.is_due(at(pause_ms - 1)) && backoff.is_due(at(pause_ms)), "{pause_ms}");
        }
        backoff.failed(at(0), Duration::from_secs(2));
        assert!(backoff.is_due(at(500)));
    }
}
