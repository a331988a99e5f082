//! How long a fetch goes on while nothing is under way.

use std::time::Duration;

use crate::time::Instant;

/// First time without anything under way after which it is asked who has the chunk at all.
const ASK_AFTER_MIN: Duration = Duration::from_millis(100);
/// Longest pause between two such questions.
const ASK_AFTER_MAX: Duration = Duration::from_secs(1);
/// A fetch is given up after so long, whoever may have the chunk: somebody may come back until then.
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);

/// What to do about a fetch for which nothing is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Wait,
    /// Ask nodes what they have of the chunk; see [`super::Fetch::is_stuck`].
    Ask,
    /// End it.
    GiveUp,
}

/// How long one fetch has had nothing under way.
#[derive(Debug)]
pub struct Patience {
    idle_since: Instant,
    ask_at: Instant,
    pause: Duration,
    questions: u32,
}

impl Patience {
    /// A fetch begins.
    pub fn new(now: Instant) -> Self {
        Self { idle_since: now, ask_at: now + ASK_AFTER_MIN, pause: ASK_AFTER_MIN, questions: 0 }
    }

    /// How many times [`Verdict::Ask`] was given since something was under way.
    pub fn questions(&self) -> u32 {
        self.questions
    }

    /// Looks at the fetch; `busy` is whether anything is under way. It is called more often than the shortest pause.
    pub fn look(&mut self, now: Instant, busy: bool) -> Verdict {
        if busy {
            *self = Self::new(now);
        } else if now.since(self.idle_since) > GIVE_UP_AFTER {
            return Verdict::GiveUp;
        } else if now >= self.ask_at {
            self.pause = (self.pause * 2).min(ASK_AFTER_MAX);
            self.ask_at = now + self.pause;
            self.questions = self.questions.saturating_add(1);
            return Verdict::Ask;
        }
        Verdict::Wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Instant {
        Instant::from_micros(millis * 1000)
    }

    #[test]
    fn questions_come_soon_and_then_more_rarely_until_the_end() {
        let mut patience = Patience::new(at(0));
        let verdicts = (0..).step_by(10).map(|millis| (millis, patience.look(at(millis), false)));
        let mut told: Vec<_> = verdicts.filter(|(_, verdict)| *verdict != Verdict::Wait).take(13).collect();
        assert_eq!(told.pop(), Some((10_010, Verdict::GiveUp)));
        let asked: Vec<u64> = told.iter().map(|(millis, _)| *millis).collect();
        assert_eq!(asked[..6], [100, 300, 700, 1500, 2500, 3500]);
        assert!(told.iter().all(|(_, verdict)| *verdict == Verdict::Ask));
    }

    #[test]
    fn whatever_is_under_way_begins_the_time_anew() {
        let mut patience = Patience::new(at(0));
        assert_eq!(patience.look(at(100), false), Verdict::Ask);
        assert_eq!(patience.questions(), 1);
        assert_eq!(patience.look(at(9_000), true), Verdict::Wait);
        assert_eq!(patience.questions(), 0);
        assert_eq!(patience.look(at(9_090), false), Verdict::Wait);
        assert_eq!(patience.look(at(9_100), false), Verdict::Ask);
        assert_eq!(patience.look(at(19_000), false), Verdict::Ask);
        assert_eq!(patience.look(at(19_001), false), Verdict::GiveUp);
    }
}
