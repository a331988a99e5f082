//! Many callers at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use fastrand::Rng;

use super::history::{Call, Ending, History};
use super::model::{Act, Answer};
use super::store::{Outcome, Seen, Store};

/// How long a caller waits after a call that was not answered, so that it does not call in vain too often.
const PAUSE: Duration = Duration::from_millis(20);
/// Time between two looks at how many calls are made.
const LOOK: Duration = Duration::from_millis(1);
/// Refusals in a row after which the store counts as gone: some minutes of them.
const REFUSALS_MAX: u32 = 10_000;

/// Random calls of a handful of keys.
#[derive(Debug, Clone, Copy)]
pub struct Workload {
    /// How many call at once.
    pub callers: u64,
    /// How many keys they share.
    pub keys: usize,
    /// How many calls each makes that are not refused.
    pub calls: u64,
    /// What makes the calls the same again.
    pub seed: u64,
}

impl Workload {
    /// What a run does unless it wants something else: four callers, three keys.
    pub fn new(calls: u64, seed: u64) -> Self {
        Self { callers: 4, keys: 3, calls, seed }
    }

    /// Makes the calls, and says what came of them. The keys begin with `prefix` and the seed, and nobody else writes them.
    pub fn record(self, prefix: &str, store: &dyn Store) -> History {
        self.record_while(prefix, store, || ())
    }

    /// As [`Workload::record`]; when about a third of the calls are made, something is done to the store.
    pub fn record_while(self, prefix: &str, store: &dyn Store, disturb: impl FnOnce()) -> History {
        let moments = AtomicU64::new(1);
        let calls = thread::scope(|scope| {
            let caller = |number| Caller {
                workload: self,
                store,
                moments: &moments,
                random: Rng::with_seed(self.seed.wrapping_mul(1_000_003).wrapping_add(number)),
                value: number << 32,
                known: vec![0; self.keys],
            };
            let running: Vec<_> =
                (0..self.callers).map(|number| scope.spawn(move || caller(number).run(prefix))).collect();
            // Each call takes two moments.
            while moments.load(Ordering::SeqCst) < self.callers * self.calls * 2 / 3 {
                thread::sleep(LOOK);
            }
            disturb();
            running.into_iter().flat_map(|caller| caller.join().expect("a caller fails no call")).collect()
        });
        History { calls }
    }
}

struct Caller<'a> {
    workload: Workload,
    store: &'a dyn Store,
    /// Counts begins and ends of all callers.
    moments: &'a AtomicU64,
    random: Rng,
    /// The last value that was put; no two callers put the same.
    value: u64,
    /// The version that each key had when it was last seen.
    known: Vec<u64>,
}

impl Caller<'_> {
    fn run(mut self, prefix: &str) -> Vec<Call> {
        let (mut calls, mut refusals) = (Vec::new(), 0);
        while (calls.len() as u64) < self.workload.calls {
            let key = self.random.usize(0..self.workload.keys);
            let act = self.choose(key);
            let begin = self.moments.fetch_add(1, Ordering::SeqCst);
            let outcome = self.store.call(&format!("{prefix}{}/{key}", self.workload.seed), act);
            let at = self.moments.fetch_add(1, Ordering::SeqCst);
            let ending = match outcome {
                Outcome::Answered(Seen { answer, revision }) => {
                    (self.known[key], refusals) = (version_of(answer), 0);
                    Some(Ending { at, answer, revision })
                }
                Outcome::Unknown => None,
                Outcome::Refused => {
                    refusals += 1;
                    assert!(refusals < REFUSALS_MAX, "the store refuses every call");
                    thread::sleep(PAUSE);
                    continue;
                }
            };
            calls.push(Call { key, act, begin, ending });
            if ending.is_none() {
                thread::sleep(PAUSE);
            }
        }
        calls
    }

    fn choose(&mut self, key: usize) -> Act {
        self.value += 1;
        match self.random.u8(0..20) {
            0..8 => Act::Get,
            8..13 => Act::Put(self.value),
            13..17 => Act::PutIf { version: self.known[key], value: self.value },
            17 => Act::PutIf { version: 0, value: self.value },
            _ => Act::Delete,
        }
    }
}

/// The version that a key has after an answer.
fn version_of(answer: Answer) -> u64 {
    match answer {
        Answer::Found(current) => current.map_or(0, |(version, _)| version),
        Answer::Put(version) | Answer::Conflict(version) => version,
        Answer::Deleted(_) => 0,
    }
}
