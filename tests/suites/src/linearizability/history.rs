//! Who called what, when, and what came of it.

use std::collections::BTreeMap;

use super::checker::{self, Violation};
use super::model::{Act, Answer};

/// A call. Moments are numbers that a counter gave, so that no two are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Which key.
    pub key: usize,
    /// What was done to it.
    pub act: Act,
    /// A moment before anything happened.
    pub begin: u64,
    /// How it ended; `None` when nobody knows whether it was carried out, or whether it still will be.
    pub ending: Option<Ending>,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// A moment after everything had happened.
    pub at: u64,
    /// What the caller was told.
    pub answer: Answer,
    /// The revision that it was told.
    pub revision: Option<u64>,
}

/// The calls of all callers, on keys that were absent, and never had a version, at the begin.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// The calls, in no particular order.
    pub calls: Vec<Call>,
}

impl History {
    /// Checks each key by itself, and the revisions of all.
    pub fn check(&self) -> Result<(), Violation> {
        let mut keys = BTreeMap::<usize, Vec<Call>>::new();
        for call in &self.calls {
            keys.entry(call.key).or_default().push(*call);
        }
        keys.values().try_for_each(|calls| checker::check(calls))?;
        self.check_revisions()
    }

    /// Checks that no revision goes back in time: who was told one, and then calls, is not told an earlier one, and a
    /// write not even the same.
    fn check_revisions(&self) -> Result<(), Violation> {
        let told = |call: &Call| Some((call.ending?.at, call.ending?.revision?, *call));
        let mut by_end: Vec<_> = self.calls.iter().filter_map(told).collect();
        let mut by_begin = by_end.clone();
        by_end.sort_unstable_by_key(|(at, ..)| *at);
        by_begin.sort_unstable_by_key(|(.., call)| call.begin);
        let mut ended = by_end.into_iter().peekable();
        let mut last: Option<(u64, Call)> = None;
        for (_, revision, call) in by_begin {
            while let Some((_, revision, earlier)) = ended.next_if(|(at, ..)| *at < call.begin) {
                last = last.filter(|(known, _)| *known >= revision).or(Some((revision, earlier)));
            }
            if let Some((known, earlier)) = last
                && (revision < known || (revision == known && call.writes()))
            {
                return Err(Violation::Revisions { calls: Box::new([earlier, call]) });
            }
        }
        Ok(())
    }

    /// How many calls were answered, and how many of them have written something.
    pub fn counts(&self) -> (usize, usize) {
        let answered = self.calls.iter().filter(|call| call.ending.is_some());
        (answered.count(), self.calls.iter().filter(|call| call.writes()).count())
    }
}

impl Call {
    /// Whether it is known to have written something.
    fn writes(&self) -> bool {
        let answer = self.ending.map(|ending| ending.answer);
        matches!(answer, Some(Answer::Put(_) | Answer::Deleted(1..)))
    }
}
