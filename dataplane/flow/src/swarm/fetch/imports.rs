//! What a fetch knows of the pieces in its rack and of those on their way to it; [`super::importing`] acts on it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::bitmap::Bitmap;
use crate::time::Instant;
use crate::wire::control::NodeId;

/// A fetch is late when it meets a neighbour that has so many pieces while it has hardly any itself.
const LATE_THEIRS: u32 = 12;
/// Fewer pieces than this are hardly any.
const LATE_OURS: u32 = 4;
/// What was to come and did not is waited for once more, until it was waited for so often in vain.
const DOUBTS_MAX: u8 = 2;
/// Who has heard of a piece waits up to this part of the time that pieces take before asking for it afar, so that of those
/// who hear of it at the same time one is first.
const FIRST_DIVISOR: u32 = 8;
/// The same of those who have waited in vain, all of them.
const AGAIN_DIVISOR: u32 = 2;
/// The longest pause before a hungry fetch asks afar, in hundredths of the time that pieces take. It is the first one, too.
const PAUSE_MAX_PERCENT: u32 = 200;
/// How much shorter the pause is after each piece from afar that was not held up.
const PAUSE_SHORTER_PERCENT: u32 = 50;
/// How much longer it is after each piece from nearby.
const PAUSE_LONGER_PERCENT: u32 = 5;
/// What it is at least after a piece from afar that was held up.
const PAUSE_HELD_UP_PERCENT: u32 = 50;
/// A piece from afar that took so many times as long as those from nearby was held up, in hundredths.
const HELD_UP_PERCENT: u32 = 125;

/// A piece that is coming to somebody nearby.
#[derive(Debug, Clone, Copy)]
pub(super) struct Coming {
    pub(super) importer: NodeId,
    pub(super) since: Instant,
    pub(super) until: Instant,
}

/// What is made of the word that a piece is coming.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// It is waited for from here on.
    News,
    /// It was coming already, to this other node.
    ComingTo(NodeId),
    /// It is here in the rack, or was waited for in vain too often.
    Nothing,
}

/// What a fetch knows of the pieces nearby.
#[derive(Debug)]
pub(super) struct Imports {
    /// This node.
    node: NodeId,
    /// Whether those nearby had begun long before.
    is_late: bool,
    /// How many peers nearby have each piece, origins not counted.
    holders: Vec<u8>,
    /// Pieces that some of them has, or that are coming.
    nearby: Bitmap,
    /// Since when each piece is among these.
    since: Vec<Instant>,
    /// Pieces that are coming to somebody nearby.
    coming: BTreeMap<u32, Coming>,
    /// How often each piece was to come and did not.
    doubts: Vec<u8>,
    /// Pieces that somebody afar was heard to have.
    heard: Bitmap,
    /// Those of them that may be asked for.
    ripe: Bitmap,
    /// Those that may be from a time on.
    ripening: BTreeSet<(Instant, u32)>,
    /// The grants for pieces from afar of which those nearby were told.
    own: BTreeMap<u32, u64>,
    /// Moving average of the time from being told of a piece to its being nearby.
    import_pace: Option<Duration>,
    /// Moving average of the time from grant to verified piece, over those that came from nearby.
    near_pace: Option<Duration>,
    /// When something last arrived that was asked for by name.
    fed_at: Instant,
    /// Since when there is room for more than those nearby give.
    hungry_since: Option<Instant>,
    /// The pause before a hungry fetch asks afar, in hundredths of the time that pieces take.
    pause_percent: u32,
}

impl Imports {
    pub(super) fn new(pieces: u32, node: NodeId, now: Instant) -> Self {
        Self {
            node,
            is_late: false,
            holders: vec![0; pieces as usize],
            nearby: Bitmap::new(pieces),
            since: vec![now; pieces as usize],
            coming: BTreeMap::new(),
            doubts: vec![0; pieces as usize],
            heard: Bitmap::new(pieces),
            ripe: Bitmap::new(pieces),
            ripening: BTreeSet::new(),
            own: BTreeMap::new(),
            import_pace: None,
            near_pace: None,
            fed_at: now,
            hungry_since: None,
            pause_percent: PAUSE_MAX_PERCENT,
        }
    }

    /// A peer nearby is met that has so many pieces, `theirs`, when `ours` are here.
    pub(super) fn meet(&mut self, ours: u32, theirs: u32) {
        self.is_late |= ours < LATE_OURS && theirs >= LATE_THEIRS;
    }

    /// Whether those nearby had begun long before.
    pub(super) fn is_late(&self) -> bool {
        self.is_late
    }

    /// Whether somebody nearby has a piece, or it is coming.
    pub(super) fn is_nearby(&self, piece: u32) -> bool {
        self.nearby.contains(piece)
    }

    /// How many peers nearby have a piece.
    pub(super) fn holders(&self, piece: u32) -> usize {
        self.holders[piece as usize].into()
    }

    /// For how long a piece has been nearby, if it is.
    pub(super) fn age(&self, piece: u32, now: Instant) -> Option<Duration> {
        self.is_nearby(piece).then(|| now.since(self.since[piece as usize]))
    }

    /// The pieces that may be asked for afar, word by word: those that nobody nearby has or gets, and among them `overdue`
    /// ones that the only one nearby who has them was to send and did not.
    pub(super) fn importable(&self, overdue: impl Iterator<Item = u32>) -> Vec<u64> {
        let mut nearby = self.nearby.clone();
        for piece in overdue.filter(|&piece| self.holders(piece) <= 1) {
            nearby.remove(piece);
        }
        let words = self.ripe.words().iter().zip(nearby.words());
        words.map(|(ripe, nearby)| ripe & !nearby).collect()
    }

    /// One more peer nearby has a piece.
    pub(super) fn appear(&mut self, piece: u32, now: Instant) {
        let holders = &mut self.holders[piece as usize];
        *holders = holders.saturating_add(1);
        if let Some(coming) = self.coming.remove(&piece) {
            self.imported(now.since(coming.since));
        }
        self.note(piece, now);
    }

    /// One peer less nearby has a piece.
    pub(super) fn disappear(&mut self, piece: u32) {
        let holders = &mut self.holders[piece as usize];
        *holders = holders.saturating_sub(1);
        self.recount(piece);
    }

    fn imported(&mut self, took: Duration) {
        self.import_pace = Some(self.import_pace.map_or(took, |pace| (pace * 7 + took) / 8));
    }

    fn note(&mut self, piece: u32, now: Instant) {
        if self.nearby.insert(piece) {
            self.since[piece as usize] = now;
        }
    }

    fn recount(&mut self, piece: u32) {
        if self.holders[piece as usize] == 0 && !self.coming.contains_key(&piece) {
            self.nearby.remove(piece);
            self.ripe.insert(piece);
        }
    }

    /// Somebody afar has a piece: it may be asked for in a moment. `pace` is the time that pieces take.
    pub(super) fn hear(&mut self, piece: u32, now: Instant, pace: Duration) {
        if !self.nearby.contains(piece) && self.heard.insert(piece) {
            self.ripen(piece, now, pace / FIRST_DIVISOR);
        }
    }

    fn ripen(&mut self, piece: u32, now: Instant, within: Duration) {
        self.ripe.remove(piece);
        let part = (rank(piece, self.node) >> 48) as u32;
        self.ripening.insert((now + within * part / (1 << 16), piece));
    }

    /// How long what is said to be coming usually takes.
    pub(super) fn import_pace(&self) -> Option<Duration> {
        self.import_pace
    }

    /// A piece is said to be coming.
    pub(super) fn expect(&mut self, piece: u32, coming: Coming, now: Instant) -> Word {
        if let Some(before) = self.coming.get(&piece) {
            return Word::ComingTo(before.importer);
        }
        if self.nearby.contains(piece) || !self.trusts(piece) {
            return Word::Nothing;
        }
        self.coming.insert(piece, coming);
        self.note(piece, now);
        Word::News
    }

    /// Whether word that a piece is coming is believed, though it may have been waited for in vain.
    pub(super) fn trusts(&self, piece: u32) -> bool {
        self.doubts[piece as usize] < DOUBTS_MAX
    }

    /// A piece is coming to another node than was said before.
    pub(super) fn comes_to(&mut self, piece: u32, coming: Coming) {
        self.coming.insert(piece, coming);
    }

    /// Nothing that was coming to a peer is waited for any more.
    pub(super) fn lost(&mut self, peer: NodeId) {
        self.give_up(|coming| coming.importer == peer);
    }

    /// Gives up what should have come by now; returns whether something may be asked for that might not before.
    pub(super) fn expire(&mut self, now: Instant, pace: Duration) -> bool {
        for piece in self.give_up(|coming| coming.until <= now) {
            self.doubts[piece as usize] += 1;
            self.ripen(piece, now, pace / AGAIN_DIVISOR);
        }
        let mut is_changed = false;
        while let Some(&(at, piece)) = self.ripening.first()
            && at <= now
        {
            self.ripening.pop_first();
            self.ripe.insert(piece);
            is_changed |= !self.nearby.contains(piece);
        }
        is_changed
    }

    fn give_up(&mut self, is_meant: impl Fn(&Coming) -> bool) -> Vec<u32> {
        let meant = self.coming.iter().filter(|(_, coming)| is_meant(coming));
        let meant: Vec<u32> = meant.map(|(&piece, _)| piece).collect();
        for &piece in &meant {
            self.coming.remove(&piece);
            self.recount(piece);
        }
        meant
    }

    /// When something that was to come is given up, or may be asked for.
    pub(super) fn due(&self) -> Option<Instant> {
        let coming = self.coming.values().map(|coming| coming.until).min();
        coming.into_iter().chain(self.ripening.first().map(|&(at, _)| at)).min()
    }

    /// Those nearby were told that a piece comes by a grant.
    pub(super) fn opened(&mut self, piece: u32, number: u64) {
        self.own.insert(piece, number);
    }

    /// The grant for a piece of which those nearby were told.
    pub(super) fn own(&self, piece: u32) -> Option<u64> {
        self.own.get(&piece).copied()
    }

    /// A grant for a piece has ended.
    pub(super) fn closed(&mut self, piece: u32, number: u64) {
        if self.own(piece) == Some(number) {
            self.own.remove(&piece);
        }
    }

    /// The header of a piece came that was asked for by name, or a far peer was asked in place of it.
    pub(super) fn fed(&mut self, now: Instant) {
        self.fed_at = now;
    }

    /// When something last arrived that was asked for by name.
    pub(super) fn fed_at(&self) -> Instant {
        self.fed_at
    }

    /// As much is under way as shall be.
    pub(super) fn sated(&mut self) {
        self.hungry_since = None;
    }

    /// There is room for more than those nearby give; returns since when.
    pub(super) fn hungry(&mut self, now: Instant) -> Instant {
        *self.hungry_since.get_or_insert(now)
    }

    /// A far peer was asked, since those nearby give too little.
    pub(super) fn asked_afar(&mut self, now: Instant) {
        self.hungry_since = Some(now);
    }

    /// Since when there is room for more than those nearby give.
    pub(super) fn hungry_since(&self) -> Option<Instant> {
        self.hungry_since
    }

    /// How long a fetch is hungry before it asks afar. `pace` is the time that pieces take.
    pub(super) fn pause(&self, pace: Duration) -> Duration {
        pace * self.pause_percent / 100
    }

    /// A piece came from a source nearby.
    pub(super) fn near_came(&mut self, took: Duration) {
        self.near_pace = Some(self.near_pace.map_or(took, |pace| (pace * 7 + took) / 8));
        self.pause_percent = (self.pause_percent + PAUSE_LONGER_PERCENT).min(PAUSE_MAX_PERCENT);
    }

    /// A piece came from another rack; those nearby were told of it when it `is_own`.
    pub(super) fn far_came(&mut self, is_own: bool, took: Duration) {
        if is_own {
            self.imported(took);
        }
        let is_held_up = self.near_pace.is_some_and(|pace| took * 100 > pace * HELD_UP_PERCENT);
        self.pause_percent = match is_held_up {
            true => (self.pause_percent * 2).clamp(PAUSE_HELD_UP_PERCENT, PAUSE_MAX_PERCENT),
            false => self.pause_percent.saturating_sub(PAUSE_SHORTER_PERCENT),
        };
    }
}

/// Which of those who want a piece gets it: the lower the sooner, and different for each piece.
pub(super) fn rank(piece: u32, node: NodeId) -> u64 {
    let mixed = node ^ u64::from(piece).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ mixed >> 29).wrapping_mul(0x94d0_49bb_1331_11eb) ^ mixed >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const NOW: Instant = Instant::ZERO;

    #[test]
    fn the_pause_before_asking_afar_follows_what_comes_of_it() {
        let mut imports = Imports::new(4, 1, NOW);
        imports.near_came(10 * MS);
        (0..10).for_each(|_| imports.far_came(false, 11 * MS));
        assert_eq!(imports.pause(10 * MS), Duration::ZERO);
        imports.far_came(false, 20 * MS);
        assert_eq!(imports.pause(10 * MS), 5 * MS);
        (0..10).for_each(|_| imports.far_came(false, 20 * MS));
        assert_eq!(imports.pause(10 * MS), 20 * MS);
    }

    #[test]
    fn what_never_comes_is_waited_for_twice() {
        let mut imports = Imports::new(4, 1, NOW);
        for round in 0..5 {
            let now = NOW + 100 * MS * round;
            let coming = Coming { importer: 2, since: now, until: now + 50 * MS };
            let expected = if round < 2 { Word::News } else { Word::Nothing };
            assert_eq!(imports.expect(0, coming, now), expected, "round {round}");
            imports.expire(now + 50 * MS, 10 * MS);
            assert!(!imports.is_nearby(0));
        }
    }

    #[test]
    fn a_piece_may_be_asked_for_a_moment_after_it_was_heard_of() {
        let mut imports = Imports::new(4, 1, NOW);
        imports.hear(2, NOW, 80 * MS);
        assert_eq!(imports.importable(std::iter::empty()), [0]);
        let due = imports.due().unwrap();
        assert!((NOW..=NOW + 10 * MS).contains(&due));
        assert!(imports.expire(due, 80 * MS));
        assert_eq!(imports.importable(std::iter::empty()), [0b100]);
        imports.appear(2, due);
        assert_eq!(imports.importable(std::iter::empty()), [0]);
        assert_eq!(imports.importable([2].into_iter()), [0b100], "its only holder does not send it");
    }
}
