//! How long a fetch goes on while nothing is under way.

use std::time::Duration;

use crate::time::Instant;

/// First time without anything under way after which it is asked who has the chunk at all.
const ASK_AFTER_MIN: Duration = Duration::from_millis(100);
/// Longest pause between two such questions.
const ASK_AFTER_MAX: Duration = Duration::from_secs(1);
/// A fetch is given up after so long, whoever may have the chunk: somebody may come back until then.
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);

/// Nodes that are asked who has a chunk, the first time and at the most. It doubles each time, because all receivers of a
/// broadcast may want to know at once: each would open a connection to each.
const ASKED_FIRST: usize = 16;
const ASKED_MAX: usize = 1024;
/// So many times nobody is asked while connections are being made, for 2.5 s: when many fetches begin at once, connecting takes a while,
/// and questions would make it longer for all.
const QUESTIONS_SPARED: u32 = 4;

/// What goes on for a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// Something is under way.
    Busy,
    /// Nothing is, and connections to peers are being made, which end by themselves.
    Connecting,
    /// Nothing is.
    Idle,
}

/// What to do about a fetch for which nothing is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Wait,
    /// Ask nodes what they have of the chunk; see [`super::Fetch::is_stuck`].
    Ask {
        /// How many of them at most.
        nodes: usize,
    },
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
    spared: u32,
}

impl Patience {
    /// A fetch begins.
    pub fn new(now: Instant) -> Self {
        Self { idle_since: now, ask_at: now + ASK_AFTER_MIN, pause: ASK_AFTER_MIN, questions: 0, spared: 0 }
    }

    /// Looks at the fetch. It is called more often than the shortest pause.
    pub fn look(&mut self, now: Instant, activity: Activity) -> Verdict {
        let is_connecting = activity == Activity::Connecting;
        if activity == Activity::Busy {
            *self = Self::new(now);
        } else if now.since(self.idle_since) > GIVE_UP_AFTER {
            // Who is reached at last may have everything.
            return if is_connecting { Verdict::Wait } else { Verdict::GiveUp };
        } else if now >= self.ask_at {
            self.pause = (self.pause * 2).min(ASK_AFTER_MAX);
            self.ask_at = now + self.pause;
            if is_connecting && self.spared < QUESTIONS_SPARED {
                self.spared += 1;
                return Verdict::Wait;
            }
            self.questions = self.questions.saturating_add(1);
            return Verdict::Ask { nodes: asked(self.questions) };
        }
        Verdict::Wait
    }
}

/// How many nodes are asked by the question of this number, from 1.
fn asked(question: u32) -> usize {
    let factor = 2_usize.saturating_pow(question.saturating_sub(1));
    ASKED_FIRST.saturating_mul(factor).min(ASKED_MAX)
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
        let verdicts = (0..).step_by(10).map(|millis| (millis, patience.look(at(millis), Activity::Idle)));
        let mut told: Vec<_> = verdicts.filter(|(_, verdict)| *verdict != Verdict::Wait).take(13).collect();
        assert_eq!(told.pop(), Some((10_010, Verdict::GiveUp)));
        let asked: Vec<u64> = told.iter().map(|(millis, _)| *millis).collect();
        assert_eq!(asked[..6], [100, 300, 700, 1500, 2500, 3500]);
        assert!(told.iter().all(|(_, verdict)| matches!(verdict, Verdict::Ask { .. })));
    }

    #[test]
    fn ever_more_nodes_are_asked_up_to_a_bound() {
        assert_eq!([1, 2, 3, 7, 8, u32::MAX].map(asked), [16, 32, 64, 1024, 1024, 1024]);
    }

    #[test]
    fn whatever_is_under_way_begins_the_time_anew() {
        let mut patience = Patience::new(at(0));
        assert_eq!(patience.look(at(100), Activity::Idle), Verdict::Ask { nodes: 16 });
        assert_eq!(patience.look(at(9_000), Activity::Busy), Verdict::Wait);
        assert_eq!(patience.look(at(9_090), Activity::Idle), Verdict::Wait);
        assert_eq!(patience.look(at(9_100), Activity::Idle), Verdict::Ask { nodes: 16 });
        assert_eq!(patience.look(at(19_000), Activity::Idle), Verdict::Ask { nodes: 32 });
        assert_eq!(patience.look(at(19_001), Activity::Idle), Verdict::GiveUp);
    }

    #[test]
    fn connections_that_are_being_made_are_waited_for() {
        let mut patience = Patience::new(at(0));
        let verdicts =
            [100, 300, 700, 1500, 2500].map(|millis| patience.look(at(millis), Activity::Connecting));
        let [spared @ .., asked] = verdicts;
        assert_eq!((spared, asked), ([Verdict::Wait; 4], Verdict::Ask { nodes: 16 }));
        assert_eq!(patience.look(at(10_001), Activity::Connecting), Verdict::Wait);
        assert_eq!(patience.look(at(10_002), Activity::Idle), Verdict::GiveUp);
    }
}
