//! How many connections a shard has to others, and which of them it keeps: those that somebody uses, and a few more.
//!
//! Each fetch connects to peers of its own, and some of them send it away because they have enough. What is left of that
//! serves the next fetch if it happens to have the same peers, and costs descriptors and buffers at both ends meanwhile.
//! A shard that fetches nothing is asked for connections by as many as there are: who comes when all places are taken is
//! refused, and goes elsewhere.

use std::time::Duration;

use crate::limits::{CONNECTIONS_ASKED_PER_SHARD, CONNECTIONS_PER_SHARD, PEERS_PER_RECEIVER};
use crate::time::Instant;

/// Connections up to which none is closed: those of one fetch, and some of the one before.
const KEPT: usize = PEERS_PER_RECEIVER + 8;
/// What came on a connection lately, or its making, may be the beginning of something.
const SILENT_FOR: Duration = Duration::from_secs(1);
/// The same where another connection is wanted and there is no room for it.
const SILENT_FOR_ANOTHER: Duration = Duration::from_millis(100);
/// Shortest time between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(250);

/// The most connections of one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// All of them.
    pub all: usize,
    /// So many there may be for another to be taken that a peer asks for: the rest are for fetches of this shard.
    pub asked: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { all: CONNECTIONS_PER_SHARD, asked: CONNECTIONS_ASKED_PER_SHARD }
    }
}

/// For whose sake there shall be another connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// A fetch of this shard.
    Here,
    /// A peer.
    Peer,
}

/// Why connections are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occasion {
    /// Some time has passed.
    Time,
    /// A peer asks for another one.
    Request,
}

/// How a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// When something came on it last.
    pub heard: Instant,
    /// Whether a fetch at either end needs it, as far as is known here.
    pub is_used: bool,
}

/// Looks after the connections of one shard.
#[derive(Debug, Default)]
pub struct Keeper {
    bounds: Bounds,
    looked: Option<Instant>,
}

impl Keeper {
    /// Keeps within these bounds.
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, looked: None }
    }

    /// Whether there may be another connection beside the `open` ones.
    pub fn has_room(&self, open: usize, asker: Asker) -> bool {
        match asker {
            Asker::Here => open < self.bounds.all,
            Asker::Peer => open < self.bounds.asked.min(self.bounds.all),
        }
    }

    /// Whether some of the `open` ones may have to close, and that was not looked at just before.
    pub fn shall_look(&mut self, now: Instant, open: usize, occasion: Occasion) -> bool {
        let is_due = self.looked.is_none_or(|looked| now.since(looked) >= LOOK_PAUSE);
        let looks = is_due && (open > KEPT || self.in_the_way(open, occasion) > 0);
        if looks {
            self.looked = Some(now);
        }
        looks
    }

    /// How many of the `open` ones would have to close for another that is asked for.
    fn in_the_way(&self, open: usize, occasion: Occasion) -> usize {
        match occasion {
            Occasion::Time => 0,
            Occasion::Request => (open + 1).saturating_sub(self.bounds.asked.min(self.bounds.all)),
        }
    }

    /// Which connections close: of those that nobody uses the longest silent, as long as there are more than are kept, or
    /// than leave room for another that is asked for.
    pub fn surplus<C>(
        &self,
        now: Instant,
        occasion: Occasion,
        open: impl IntoIterator<Item = (C, Standing)>,
    ) -> Vec<C> {
        let open: Vec<(C, Standing)> = open.into_iter().collect();
        let all = open.len();
        let mut unused: Vec<(C, Standing)> =
            open.into_iter().filter(|(_, standing)| !standing.is_used).collect();
        unused.sort_by_key(|(_, standing)| standing.heard);
        let silent = |span: Duration| {
            unused.iter().take_while(|(_, standing)| now.since(standing.heard) >= span).count()
        };
        let too_many = silent(SILENT_FOR).min(all.saturating_sub(KEPT));
        let in_the_way = silent(SILENT_FOR_ANOTHER).min(self.in_the_way(all, occasion));
        unused.truncate(too_many.max(in_the_way));
        unused.into_iter().map(|(connection, _)| connection).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn at(millis: u64) -> Instant {
        Instant::from_micros(millis * 1000)
    }

    fn standing(heard_ms: u64, is_used: bool) -> Standing {
        Standing { heard: at(heard_ms), is_used }
    }

    #[test]
    fn the_longest_silent_close_until_few_are_left() {
        let keeper = Keeper::default();
        let open = (0..KEPT as u64 + 2).map(|number| (number, standing(1000 - number, false)));
        assert_eq!(keeper.surplus(at(5000), Occasion::Time, open), [KEPT as u64 + 1, KEPT as u64]);
    }

    #[test]
    fn what_is_used_or_was_heard_lately_stays() {
        let keeper = Keeper::default();
        let used = (0..KEPT).map(|number| (number, standing(0, true)));
        let lately = (KEPT..2 * KEPT).map(|number| (number, standing(4500, false)));
        assert!(keeper.surplus(at(5000), Occasion::Request, used.chain(lately)).is_empty());
    }

    #[test]
    fn what_was_heard_lately_makes_way_for_one_that_is_asked_for() {
        let keeper = Keeper::new(Bounds { all: 8, asked: 4 });
        let open = [standing(109, false), standing(8, false), standing(0, true), standing(7, false)];
        let surplus = |occasion, open| keeper.surplus(at(110), occasion, (0..).zip(open));
        assert_eq!(surplus(Occasion::Request, open), [3]);
        assert!(surplus(Occasion::Time, open).is_empty());
        assert!(surplus(Occasion::Request, [standing(11, false); 4]).is_empty(), "it may be about to begin");
        assert!(surplus(Occasion::Request, [standing(0, true); 4]).is_empty());
    }

    #[test]
    fn the_last_places_are_for_fetches_of_this_shard() {
        let keeper = Keeper::new(Bounds { all: 8, asked: 4 });
        let room = |open| [Asker::Here, Asker::Peer].map(|asker| keeper.has_room(open, asker));
        assert_eq!(
            [0, 3, 4, 7, 8].map(room),
            [[true; 2], [true; 2], [true, false], [true, false], [false; 2]]
        );
    }

    #[test]
    fn it_is_not_looked_all_the_time_nor_at_few() {
        let mut keeper = Keeper::new(Bounds { all: 100, asked: 50 });
        let mut look = |millis, open| keeper.shall_look(at(millis), open, Occasion::Time);
        assert_eq!(
            [look(0, KEPT), look(0, KEPT + 1), look(249, 50), look(250, 50)],
            [false, true, false, true]
        );
        let mut full = Keeper::new(Bounds { all: 2, asked: 2 });
        assert!(!full.shall_look(at(0), 2, Occasion::Time));
        assert!(full.shall_look(at(0), 2, Occasion::Request));
    }

    proptest! {
        /// As peers and fetches come, are used, fall silent and go, the bounds hold, nothing that is used closes, and room
        /// is refused only where all are used or it was looked just before.
        #[test]
        fn bounds_hold_whatever_comes(
            all in 1..60_usize,
            asked in 1..60_usize,
            steps in prop::collection::vec((0..700_u64, any::<bool>(), any::<bool>()), 1..300),
        ) {
            let bounds = Bounds { all, asked };
            let mut keeper = Keeper::new(bounds);
            let (mut open, mut now): (Vec<Standing>, _) = (Vec::new(), at(0));
            for (pause_ms, is_asked, is_used) in steps {
                now = now + Duration::from_millis(pause_ms);
                let occasion = if is_asked { Occasion::Request } else { Occasion::Time };
                let looks = keeper.shall_look(now, open.len(), occasion);
                if looks {
                    let mut closing = keeper.surplus(now, occasion, open.iter().copied().enumerate());
                    closing.sort_unstable();
                    for at in closing.into_iter().rev() {
                        prop_assert!(!open.remove(at).is_used);
                    }
                }
                let asker = if is_asked { Asker::Peer } else { Asker::Here };
                if keeper.has_room(open.len(), asker) {
                    open.push(Standing { heard: now, is_used });
                } else if is_asked && looks {
                    let is_needed =
                        |standing: &Standing| standing.is_used || now.since(standing.heard) < SILENT_FOR_ANOTHER;
                    // Those that this shard has made beyond what it takes go one by one.
                    prop_assert!(open.len() > bounds.asked || open.iter().all(is_needed));
                }
                prop_assert!(open.len() <= all);
                if let Some(first) = open.first_mut() {
                    first.is_used = !first.is_used;
                }
            }
        }
    }
}
