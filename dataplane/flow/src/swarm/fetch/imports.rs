//! What comes into this rack through this node, and what is waited for nearby, where the links between racks are too busy;
//! [`super::spine`] finds out.
//!
//! Then a piece shall cross into a rack once. Who hears first of a piece that nobody nearby has gets it from afar, and says
//! so to those nearby when it asks: *the piece is coming*. They pass that on once, because in a rack not everybody knows
//! everybody, and all of them wait for it and take it from each other. The far source queues such a grant rather than to
//! decline it, since what was said shall hold. Whoever hears that something is coming knows that links are busy, too.
//!
//! Nobody waits for ever: not for a piece that is coming for longer than pieces take, nor for one that a source nearby
//! was to send and did not. And who has room and is *hungry*, because those nearby give it too little, asks afar for pieces
//! that it should have by now. The pause before it does so becomes shorter while that helps, and longer when what comes
//! from afar is held up.

use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;

use super::asking::CHOOSING_ORIGINS;
use super::peer::Peer;
use super::{Action, Fetch, picker};
use crate::bitmap::Bitmap;
use crate::time::Instant;
use crate::wire::control::NodeId;
use crate::wire::data::Want;

/// Pieces that are under way from other racks to one node at once.
const IMPORTS_AT_ONCE: usize = 4;
/// The longest pause before a hungry fetch asks afar, in hundredths of the time that pieces take. It is the first one, too.
const PAUSE_MAX_PERCENT: u32 = 200;
/// How much shorter the pause is after each piece from afar that was not held up, how much longer after each piece from
/// nearby, and what it is at least after one that was held up.
const PAUSE_STEPS_PERCENT: [u32; 3] = [50, 5, 50];
/// A piece from afar that took so many times as long as one from nearby was held up, in hundredths.
const HELD_UP_PERCENT: u32 = 125;
/// A hungry fetch asks afar for what has been nearby for so many times as long as pieces take.
const OLD_FACTOR: u32 = 3;

/// What is said to be coming is waited for so many times as long as until a piece that arrives slowly is asked for elsewhere.
/// Who gives it up too soon gets it from afar once more.
const COMING_FACTOR: u32 = 2;
/// Whoever takes so many times as long as others for a piece is not asked for what all nearby wait for.
const SLOW_FACTOR: u32 = 2;

/// What a fetch knows of the pieces nearby.
#[derive(Debug)]
pub(super) struct Imports {
    /// How many peers nearby have each piece, origins not counted.
    holders: Vec<u8>,
    /// Pieces that some of them has, or that are coming.
    nearby: Bitmap,
    /// Since when each piece is among these.
    since: Vec<Instant>,
    /// Pieces that are coming to the rack, who said so, and until when that is believed.
    coming: BTreeMap<u32, (NodeId, Instant)>,
    /// Pieces that were to come and did not: that is not believed again.
    doubted: Bitmap,
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
    pub(super) fn new(pieces: u32, now: Instant) -> Self {
        Self {
            holders: vec![0; pieces as usize],
            nearby: Bitmap::new(pieces),
            since: vec![now; pieces as usize],
            coming: BTreeMap::new(),
            doubted: Bitmap::new(pieces),
            near_pace: None,
            fed_at: now,
            hungry_since: None,
            pause_percent: PAUSE_MAX_PERCENT,
        }
    }

    /// Whether somebody nearby has a piece, or it is coming.
    pub(super) fn is_nearby(&self, piece: u32) -> bool {
        self.nearby.contains(piece)
    }

    /// One more peer nearby has a piece.
    pub(super) fn appear(&mut self, piece: u32, now: Instant) {
        let holders = &mut self.holders[piece as usize];
        *holders = holders.saturating_add(1);
        self.coming.remove(&piece);
        self.note(piece, now);
    }

    /// One peer less nearby has a piece.
    fn disappear(&mut self, piece: u32) {
        let holders = &mut self.holders[piece as usize];
        *holders = holders.saturating_sub(1);
        self.recount(piece);
    }

    fn note(&mut self, piece: u32, now: Instant) {
        if self.nearby.insert(piece) {
            self.since[piece as usize] = now;
        }
    }

    fn recount(&mut self, piece: u32) {
        if self.holders[piece as usize] == 0 && !self.coming.contains_key(&piece) {
            self.nearby.remove(piece);
        }
    }

    /// A piece is said to be coming. Returns whether that is believed, and is news.
    fn expect(&mut self, piece: u32, peer: NodeId, until: Instant, now: Instant) -> bool {
        let is_news = !self.nearby.contains(piece) && !self.doubted.contains(piece);
        if is_news {
            self.coming.insert(piece, (peer, until));
            self.note(piece, now);
        }
        is_news
    }

    /// Nothing that a peer said to be coming is waited for any more.
    pub(super) fn lost(&mut self, peer: NodeId) {
        self.give_up(|&(teller, _)| teller == peer);
    }

    /// Gives up what should have come by now; returns whether there was something.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let late = self.give_up(|&(_, until)| until <= now);
        late.iter().for_each(|&piece| {
            self.doubted.insert(piece);
        });
        !late.is_empty()
    }

    fn give_up(&mut self, is_meant: impl Fn(&(NodeId, Instant)) -> bool) -> Vec<u32> {
        let meant = self.coming.iter().filter(|(_, coming)| is_meant(coming));
        let meant: Vec<u32> = meant.map(|(&piece, _)| piece).collect();
        for &piece in &meant {
            self.coming.remove(&piece);
            self.recount(piece);
        }
        meant
    }

    /// The header of a piece came that was asked for by name.
    pub(super) fn fed(&mut self, now: Instant) {
        self.fed_at = now;
    }

    /// As much is under way as shall be.
    pub(super) fn sated(&mut self) {
        self.hungry_since = None;
    }

    /// A piece came from a source nearby.
    pub(super) fn near_came(&mut self, took: Duration) {
        self.near_pace = Some(self.near_pace.map_or(took, |pace| (pace * 7 + took) / 8));
        self.pause_percent = (self.pause_percent + PAUSE_STEPS_PERCENT[1]).min(PAUSE_MAX_PERCENT);
    }

    /// A piece came from another rack.
    pub(super) fn far_came(&mut self, took: Duration) {
        let is_held_up = self.near_pace.is_some_and(|pace| took * 100 > pace * HELD_UP_PERCENT);
        self.pause_percent = match is_held_up {
            true => (self.pause_percent * 2).clamp(PAUSE_STEPS_PERCENT[2], PAUSE_MAX_PERCENT),
            false => self.pause_percent.saturating_sub(PAUSE_STEPS_PERCENT[0]),
        };
    }
}

impl Fetch {
    /// Counts what a peer has among what is nearby, if it is.
    pub(super) fn join_nearby(&mut self, now: Instant, at: usize) {
        let known = &self.peers[at];
        if known.near && !known.origin {
            known.have.iter().for_each(|piece| self.imports.appear(piece, now));
        }
    }

    /// Takes what a peer has out of what is nearby, if it is.
    pub(super) fn leave_nearby(&mut self, at: usize) {
        let known = &self.peers[at];
        if known.near && !known.origin {
            known.have.iter().for_each(|piece| self.imports.disappear(piece));
        }
    }

    /// A peer is nearby, or is not.
    pub(super) fn set_near(&mut self, now: Instant, at: usize, near: bool) {
        if self.peers[at].near != near {
            self.leave_nearby(at);
            self.peers[at].near = near;
            self.join_nearby(now, at);
        }
    }

    /// A peer nearby says that a piece is on its way to it from another rack, or to another one nearby of which it has
    /// heard so itself.
    pub fn on_coming(&mut self, now: Instant, peer: NodeId, piece: u32, relayed: bool) {
        let Some(known) = self.peers.find(peer).filter(|known| known.is_connected() && known.near) else {
            return;
        };
        self.spine.warn();
        if piece >= self.have.len() || self.have.contains(piece) || known.have.contains(piece) {
            return;
        }
        // What is coming to somebody else comes here by one more hop.
        let until = now + self.tempo.hurry() * COMING_FACTOR * (1 + u32::from(relayed));
        let is_news = self.imports.expect(piece, peer, until, now);
        if is_news && !relayed && !self.grants.asked().contains(piece) {
            self.tell_coming(piece, true, Some(peer));
        }
    }

    /// Tells those nearby, but for one who knows, that a piece is on its way here from another rack, or to one of them.
    pub(super) fn tell_coming(&mut self, piece: u32, relayed: bool, but: Option<NodeId>) {
        let lacks = |peer: &&Peer| {
            peer.is_connected() && peer.near && !peer.have.contains(piece) && Some(peer.node) != but
        };
        if !self.spine.is_scarce() {
            return;
        }
        let told = self.peers.iter().filter(lacks);
        self.pending.extend(told.map(|peer| Action::Coming { peer: peer.node, piece, relayed }));
    }

    /// Whether anybody nearby is known. Where nobody is, or racks are not known, all sources are alike.
    pub(super) fn has_neighbours(&self) -> bool {
        self.peers.iter().any(|peer| peer.near && peer.is_connected())
    }

    /// Asks afar for a piece that nobody nearby has and that is not coming, and tells those nearby.
    pub(super) fn import(&mut self, now: Instant) -> Option<Action> {
        let origins = self.peers.iter().filter(|peer| peer.near && peer.origin && peer.is_connected());
        if self.far_open() >= IMPORTS_AT_ONCE || origins.count() > CHOOSING_ORIGINS {
            return None;
        }
        let usual = self.tempo.pace() * SLOW_FACTOR;
        let is_slow = |peer: &Peer| peer.missed > 0 || peer.service.is_some_and(|service| service > usual);
        let may = |peer: &Peer| peer.is_far() && !is_slow(peer) && !peer.exhausted && peer.has_room(now);
        while let Some(at) = self.best_peer(may) {
            let Some(piece) = self.importable(at) else {
                self.peers[at].exhausted = true;
                continue;
            };
            self.tell_coming(piece, false, None);
            let mut words = vec![0; self.have.words().len()];
            words[piece as usize / 64] = 1 << (piece % 64);
            // To choose among one piece waits for its turn, while a piece that is named is declined at a busy source.
            return Some(self.open_as(at, Some(piece), 0, Want::LeastSent(words), now));
        }
        None
    }

    /// When those nearby give too little, asks afar for a piece that they have or wait for.
    pub(super) fn ask_afar(&mut self, now: Instant) -> Option<Action> {
        let is_starving = now >= self.starves_at();
        let since = *self.imports.hungry_since.get_or_insert(now);
        if self.far_open() >= IMPORTS_AT_ONCE || !(is_starving || now >= since + self.pause()) {
            return None;
        }
        self.imports.hungry_since = Some(now);
        let mut tried = Vec::new();
        while let Some(at) =
            self.best_peer(|peer| peer.is_far() && peer.has_room(now) && !tried.contains(&peer.node))
        {
            tried.push(self.peers[at].node);
            if let Some(piece) = self.overripe(at, now, is_starving) {
                self.imports.fed_at = now;
                return Some(self.open(at, Want::Piece(piece), now));
            }
        }
        None
    }

    /// When something is due that only those who have neighbours care for.
    pub(super) fn imports_due(&self, now: Instant) -> Option<Instant> {
        let coming = self.imports.coming.values().map(|&(_, until)| until).min();
        let asks = self.imports.hungry_since.map(|since| (since + self.pause()).min(self.starves_at()));
        let asks = asks.filter(|&at| at > now && self.has_neighbours());
        coming.into_iter().chain(asks).min()
    }

    fn pause(&self) -> Duration {
        self.tempo.pace() * self.imports.pause_percent / 100
    }

    fn starves_at(&self) -> Instant {
        self.imports.fed_at + self.tempo.hurry()
    }

    fn far_open(&self) -> usize {
        let far = self.peers.iter().filter(|peer| peer.is_connected() && peer.is_far());
        far.map(|peer| peer.open).sum()
    }

    /// One of the rarest pieces that a far peer has and that nobody nearby has, is getting, or sends in time.
    fn importable(&mut self, at: usize) -> Option<u32> {
        let mut nearby = self.imports.nearby.clone();
        for piece in self.grants.iter().filter(|grant| grant.overdue).filter_map(|grant| grant.piece) {
            nearby.remove(piece);
        }
        let mut rng = self.rng.fork();
        self.pick_afar(at, &mut rng, |at, word| word & !nearby.words()[at])
    }

    /// One of the rarest pieces that a far peer has, and that should have come from nearby by now: most there have it, or
    /// some have had it for long. Any piece will do for a fetch that gets nothing.
    fn overripe(&mut self, at: usize, now: Instant, is_starving: bool) -> Option<u32> {
        let near = self.peers.iter().filter(|peer| peer.near && peer.is_connected() && !peer.origin).count();
        let old = self.tempo.pace() * OLD_FACTOR;
        let mut rng = self.rng.fork();
        let Imports { holders, since, .. } = &self.imports;
        let is_ripe = |piece: usize| {
            is_starving || usize::from(holders[piece]) * 2 >= near || now.since(since[piece]) >= old
        };
        self.pick_afar(at, &mut rng, |at, word| {
            let bits = (0..64).filter(|bit| word >> bit & 1 == 1 && is_ripe(at * 64 + bit));
            bits.fold(0, |word, bit| word | 1 << bit)
        })
    }

    fn pick_afar(&self, at: usize, rng: &mut Rng, among: impl Fn(usize, u64) -> u64) -> Option<u32> {
        let unasked = self.unasked(at);
        let word = |at: usize| among(at, unasked(at));
        self.ranges().into_iter().find_map(|range| picker::pick(range, &self.holders, rng, word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swarm::Settings;

    const MS: Duration = Duration::from_millis(1);
    const NOW: Instant = Instant::ZERO;
    const PIECES: u32 = 4;

    /// A fetch with peers: their names, whether they are near, and what they have.
    fn fetch(peers: &[(NodeId, bool, &[u32])]) -> Fetch {
        let mut fetch = Fetch::new(Settings::default(), Bitmap::new(PIECES), 1, NOW);
        for &(peer, near, pieces) in peers {
            let mut have = Bitmap::new(PIECES);
            pieces.iter().for_each(|&piece| assert!(have.insert(piece)));
            fetch.on_interest(NOW, peer, near, have);
        }
        fetch.spine.warn();
        fetch
    }

    /// What a fetch wants done, but for the tracker's part.
    fn actions(fetch: &mut Fetch, now: Instant) -> Vec<Action> {
        let polled = std::iter::from_fn(|| fetch.poll(now, 64));
        polled.filter(|action| *action != Action::AskTracker).collect()
    }

    fn granted(actions: &[Action]) -> Vec<(NodeId, Want)> {
        let grant = |action: &Action| match action {
            Action::Grant { peer, want, .. } => Some((*peer, want.clone())),
            _ => None,
        };
        actions.iter().filter_map(grant).collect()
    }

    #[test]
    fn what_nobody_nearby_has_is_got_from_afar_and_those_nearby_are_told() {
        let mut fetch = fetch(&[(1, true, &[]), (2, true, &[3]), (7, false, &[0, 3])]);
        let done = actions(&mut fetch, NOW);
        let granted = granted(&done);
        assert!(granted.contains(&(7, Want::LeastSent(vec![0b1]))), "{done:?}");
        assert!(granted.contains(&(2, Want::Piece(3))) && granted.len() == 2, "{done:?}");
        for peer in [1, 2] {
            assert!(done.contains(&Action::Coming { peer, piece: 0, relayed: false }), "{done:?}");
        }
    }

    #[test]
    fn what_is_coming_is_passed_on_once_and_waited_for_only_for_a_while() {
        let mut fetch = fetch(&[(1, true, &[]), (2, true, &[]), (7, false, &[])]);
        fetch.on_coming(NOW, 1, 0, false);
        fetch.on_coming(NOW, 1, 0, false);
        fetch.on_coming(NOW, 2, 1, true);
        fetch.on_coming(NOW, 7, 2, false);
        fetch.on_coming(NOW, 1, PIECES, false);
        fetch.on_have(NOW, 7, &[0, 1, 2]);
        let done = actions(&mut fetch, NOW);
        assert_eq!(granted(&done), [(7, Want::LeastSent(vec![0b100]))], "who is far has no say");
        let told: Vec<&Action> =
            done.iter().filter(|action| matches!(action, Action::Coming { relayed: true, .. })).collect();
        let passed_on = Action::Coming { peer: 2, piece: 0, relayed: true };
        assert_eq!(told, [&passed_on], "what was passed on is not passed on again");
        for action in &done {
            if let Action::Grant { peer, grant, .. } = action {
                fetch.on_declined(NOW, *peer, *grant);
            }
        }
        assert!(granted(&actions(&mut fetch, NOW)).is_empty());
        let due = fetch.next_deadline().unwrap();
        assert!(due > NOW);
        let done = actions(&mut fetch, NOW + 1000 * MS);
        let wants: Vec<Want> = granted(&done).into_iter().map(|(_, want)| want).collect();
        assert!(wants.contains(&Want::LeastSent(vec![0b1])), "{done:?}");
    }

    #[test]
    fn without_racks_pieces_are_asked_for_by_name_and_nobody_is_told() {
        let mut fetch = fetch(&[(7, false, &[0, 1]), (8, false, &[])]);
        fetch.on_coming(NOW, 8, 0, false);
        let done = actions(&mut fetch, NOW);
        assert_eq!(granted(&done).len(), 2);
        assert!(
            done.iter().all(|action| matches!(action, Action::Grant { want: Want::Piece(_), .. })),
            "{done:?}"
        );
    }

    #[test]
    fn who_gets_too_little_nearby_asks_afar() {
        let mut fetch = fetch(&[(1, true, &[0, 1, 2]), (7, false, &[0, 1, 2])]);
        let mut now = NOW;
        for _ in 0..10_000 {
            for action in actions(&mut fetch, now) {
                match action {
                    Action::Grant { peer: 1, grant, .. } => fetch.on_declined(now, 1, grant),
                    Action::Grant { peer: 7, .. } => return assert!(now > NOW, "it is not asked at once"),
                    _ => {}
                }
            }
            now = fetch.next_deadline().unwrap().max(now + MS);
        }
        panic!("whoever is far is never asked");
    }

    #[test]
    fn a_node_that_is_lost_brings_nothing() {
        let mut fetch = fetch(&[(1, true, &[1]), (2, true, &[]), (7, false, &[0, 1])]);
        fetch.on_coming(NOW, 1, 0, false);
        assert_eq!(granted(&actions(&mut fetch, NOW)), [(1, Want::Piece(1))]);
        fetch.on_lost(NOW, 1);
        let wants: Vec<Want> = granted(&actions(&mut fetch, NOW)).into_iter().map(|(_, want)| want).collect();
        assert!(wants.contains(&Want::LeastSent(vec![0b1])) && wants.contains(&Want::LeastSent(vec![0b10])));
    }

    #[test]
    fn the_pause_before_asking_afar_follows_what_comes_of_it() {
        let mut imports = Imports::new(PIECES, NOW);
        imports.near_came(10 * MS);
        (0..10).for_each(|_| imports.far_came(11 * MS));
        assert_eq!(imports.pause_percent, 0);
        imports.far_came(20 * MS);
        assert_eq!(imports.pause_percent, PAUSE_STEPS_PERCENT[2]);
        (0..10).for_each(|_| imports.far_came(20 * MS));
        assert_eq!(imports.pause_percent, PAUSE_MAX_PERCENT);
        imports.far_came(10 * MS);
        (0..1000).for_each(|_| imports.near_came(10 * MS));
        assert_eq!(imports.pause_percent, PAUSE_MAX_PERCENT);
    }
}
