//! Whether to poll again or to wait.
//!
//! To sleep and be woken costs tens of microseconds, to poll a fraction of one. Where completions follow each other
//! faster than a sleep is worth, the shard polls on; where they do not, it arms the channel and waits.

use std::time::Duration;

use flow::time::Instant;

/// Longest time without completions for which is polled on. About what a sleep and a wake-up cost together.
const PATIENCE_MAX: Duration = Duration::from_micros(50);

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Poll again, after others had their turn.
    Poll,
    /// Arm, poll once more, and wait for the descriptors.
    Wait,
}

/// How fast completions have been coming.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Polling {
    last_found: Option<Instant>,
    /// Time between polls that found something: an average in which the last has a quarter of the weight.
    gap: Duration,
}

impl Polling {
    /// A poll has found something, or nothing, while something was `awaited` or nothing was.
    pub(crate) fn polled(&mut self, now: Instant, found: bool, awaited: bool) -> Next {
        if found {
            // One long pause says that there was nothing to do, not that completions are slow.
            let gap = self.last_found.map_or(Duration::ZERO, |last| now.since(last)).min(2 * PATIENCE_MAX);
            self.gap = (3 * self.gap + gap) / 4;
            self.last_found = Some(now);
        }
        let is_fast = self.gap <= PATIENCE_MAX;
        let is_soon =
            self.last_found.is_some_and(|last| now.since(last) <= 2 * self.gap.min(PATIENCE_MAX / 2));
        match awaited && is_fast && (found || is_soon) {
            true => Next::Poll,
            false => Next::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Instant {
        Instant::from_micros(micros)
    }

    #[test]
    fn with_nothing_to_come_it_waits() {
        let mut polling = Polling::default();
        assert_eq!(polling.polled(at(0), false, true), Next::Wait, "nothing has come yet");
        assert_eq!(polling.polled(at(1), true, false), Next::Wait, "nothing is awaited");
    }

    #[test]
    fn it_polls_on_while_completions_are_fast_and_no_longer_than_a_sleep_takes() {
        let mut polling = Polling::default();
        (0..20).for_each(|turn| assert_eq!(polling.polled(at(turn * 10), true, true), Next::Poll));
        assert_eq!(polling.polled(at(200), false, true), Next::Poll, "about when the next is due");
        assert_eq!(polling.polled(at(190 + 51), false, true), Next::Wait);
    }

    #[test]
    fn slow_completions_are_waited_for() {
        let mut polling = Polling::default();
        let last = (0..20).map(|turn| polling.polled(at(turn * 1_000), true, true)).last();
        assert_eq!(last, Some(Next::Wait));
        let turns = (0..20).map(|turn| polling.polled(at(20_000 + turn), true, true));
        assert_eq!(turns.last(), Some(Next::Poll), "they became fast");
    }
}
