//! Finds an order in which it can have happened.
//!
//! It is the search of Wing and Gong ("Testing and Verifying Concurrent Objects", 1993) as Lowe improved it ("Testing for
//! Linearizability", 2017): what was reached before, the same calls done and the same key left, is not searched again.
//! A call whose outcome nobody knows may come at any moment after its begin, or never.

use std::collections::HashSet;
use std::fmt;

use super::history::Call;
use super::model::{Act, Key};

/// Steps after which a search is given up. Histories that are valid take about one for each call.
const STEPS_MAX: usize = 20_000_000;
/// Calls of an order that an error shows, from its end.
const SHOWN: usize = 8;

/// Why a history cannot be, or may not be, what a linearizable store has done.
#[derive(Debug, Clone)]
pub enum Violation {
    /// There is no order of the calls.
    NoOrder {
        /// The longest order that was found.
        order: Vec<Call>,
        /// The call that must come next and cannot.
        stuck: Call,
    },
    /// A call was told an earlier revision than one that had ended before.
    Revisions {
        /// The one that had ended, and the one that came after it.
        calls: Box<[Call; 2]>,
    },
    /// The search takes too long.
    Undecided {
        /// How many calls there are.
        calls: usize,
    },
}

/// Checks the calls of one key.
pub fn check(calls: &[Call]) -> Result<(), Violation> {
    // A call that has changed nothing and whose answer nobody knows says nothing.
    let told = |call: &&Call| call.ending.is_some() || call.act != Act::Get;
    Search::new(calls.iter().filter(told).copied().collect()).run()
}

/// Where the begin or the end of a call stands among all begins and ends that are not placed yet.
#[derive(Debug, Clone, Copy)]
struct Event {
    call: usize,
    is_begin: bool,
    next: usize,
    previous: usize,
}

/// The begins and ends as a ring, in the order of time. The first element is where it closes, and no event.
struct Search {
    calls: Vec<Call>,
    events: Vec<Event>,
    /// The events of each call: its begin, and its end if it has one.
    places: Vec<(usize, Option<usize>)>,
    /// The calls that were placed, a bit each.
    done: Vec<u64>,
    /// The calls that were placed, in their order, and the key before each.
    order: Vec<(usize, Key)>,
    key: Key,
    /// How many calls that have ended are not placed yet.
    left: usize,
    known: HashSet<(Box<[u64]>, Key)>,
    longest: Option<(Vec<usize>, usize)>,
}

impl Search {
    fn new(calls: Vec<Call>) -> Self {
        let begins = calls.iter().enumerate().map(|(at, call)| (call.begin, at, true));
        let ends =
            calls.iter().enumerate().filter_map(|(at, call)| call.ending.map(|end| (end.at, at, false)));
        let mut moments: Vec<_> = begins.chain(ends).collect();
        moments.sort_unstable();
        let count = moments.len() + 1;
        let mut places = vec![(0, None); calls.len()];
        let mut events = vec![Event { call: 0, is_begin: false, next: 1 % count, previous: count - 1 }];
        for (at, (_, call, is_begin)) in (1..).zip(moments) {
            events.push(Event { call, is_begin, next: (at + 1) % count, previous: at - 1 });
            match is_begin {
                true => places[call].0 = at,
                false => places[call].1 = Some(at),
            }
        }
        Self {
            done: vec![0; calls.len().div_ceil(64)],
            left: calls.iter().filter(|call| call.ending.is_some()).count(),
            order: Vec::new(),
            key: Key::default(),
            known: HashSet::new(),
            longest: None,
            calls,
            events,
            places,
        }
    }

    fn run(mut self) -> Result<(), Violation> {
        let mut at = self.events[0].next;
        for _ in 0..STEPS_MAX {
            if self.left == 0 {
                return Ok(());
            }
            let Event { call, is_begin, next, .. } = self.events[at];
            at = if at != 0 && is_begin {
                match self.place(call) {
                    true => self.events[0].next,
                    false => next,
                }
            } else {
                if at != 0 && self.longest.as_ref().is_none_or(|(order, _)| order.len() <= self.order.len()) {
                    self.longest = Some((self.order.iter().map(|(call, _)| *call).collect(), call));
                }
                match self.take_back() {
                    Some(after) => after,
                    None => return Err(self.violation()),
                }
            };
        }
        Err(Violation::Undecided { calls: self.calls.len() })
    }

    /// Places a call next, if it can have had its outcome there and that was not tried before.
    fn place(&mut self, call: usize) -> bool {
        let Call { act, ending, .. } = self.calls[call];
        let (after, answer) = self.key.after(act);
        let fits = match ending {
            Some(ending) => ending.answer == answer,
            None => after != self.key,
        };
        if !fits {
            return false;
        }
        self.flip(call);
        if !self.known.insert((self.done.clone().into(), after)) {
            self.flip(call);
            return false;
        }
        self.order.push((call, self.key));
        self.key = after;
        let (begin, end) = self.places[call];
        self.unlink(begin);
        if let Some(end) = end {
            self.unlink(end);
            self.left -= 1;
        }
        true
    }

    /// Takes the last call back; the event after its begin, where the search goes on.
    fn take_back(&mut self) -> Option<usize> {
        let (call, before) = self.order.pop()?;
        self.key = before;
        self.flip(call);
        let (begin, end) = self.places[call];
        // In the opposite order of unlinking, so that each finds its neighbours as they were.
        if let Some(end) = end {
            self.link(end);
            self.left += 1;
        }
        self.link(begin);
        Some(self.events[begin].next)
    }

    fn flip(&mut self, call: usize) {
        self.done[call / 64] ^= 1 << (call % 64);
    }

    fn unlink(&mut self, event: usize) {
        let Event { next, previous, .. } = self.events[event];
        self.events[previous].next = next;
        self.events[next].previous = previous;
    }

    fn link(&mut self, event: usize) {
        let Event { next, previous, .. } = self.events[event];
        self.events[previous].next = event;
        self.events[next].previous = event;
    }

    fn violation(self) -> Violation {
        match self.longest {
            Some((order, stuck)) => Violation::NoOrder {
                order: order.into_iter().map(|call| self.calls[call]).collect(),
                stuck: self.calls[stuck],
            },
            None => Violation::Undecided { calls: self.calls.len() },
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::NoOrder { order, stuck } => {
                writeln!(
                    f,
                    "no order of the calls explains their answers; the longest has {}:",
                    order.len()
                )?;
                for call in order.iter().skip(order.len().saturating_sub(SHOWN)) {
                    writeln!(f, "  {call:?}")?;
                }
                write!(f, "which leaves no place for\n  {stuck:?}")
            }
            Violation::Revisions { calls } => {
                let [earlier, later] = &**calls;
                write!(f, "revisions go back in time:\n  {earlier:?}\n  {later:?}")
            }
            Violation::Undecided { calls } => {
                write!(f, "the search for an order of {calls} calls takes too long; record a shorter history")
            }
        }
    }
}
