//! How a piece crosses into a rack once, where the operator says that uplinks carry less than the nodes below them send.
//!
//! Who hears first of a piece that nobody nearby has asks for it afar, and says so to those nearby: *the piece is coming*. They
//! pass that on once, because in a rack not everybody knows everybody, and all of them wait for it and take it from each other.
//! The far source queues such a grant rather than to decline it, since what was said shall hold. Of two who ask at once the one
//! goes on that ranks lower for the piece, and what waits afar is withdrawn when somebody near has the piece.
//!
//! Nobody waits for ever: not for a piece that is coming for longer than such pieces take, nor for one whose importer is lost, nor
//! for one that a source nearby was to send and did not. And who has room and is *hungry*, because those nearby give it too
//! little, asks afar for pieces that it should have by now. The pause before it does so becomes shorter while that helps, and
//! longer when what comes from afar is held up.
//!
//! Who is slow, or came when its neighbours had begun, asks as if uplinks carried everything, and nobody waits for it. All of
//! this is each node's own affair: who does not take part is told in vain, and is asked and answered as ever.

use std::time::Duration;

use fastrand::Rng;

use super::asking::CHOOSING_ORIGINS;
use super::imports::{Coming, Word, rank};
use super::peer::Peer;
use super::{Action, Fetch, picker};
use crate::time::Instant;
use crate::wire::control::NodeId;
use crate::wire::data::Want;

/// Pieces that are under way from other racks to one node at once.
const FAR_AT_ONCE: usize = 4;
/// A hungry fetch asks afar for what has been nearby for so many times as long as pieces take.
const OLD_FACTOR: u32 = 3;
/// A fetch starves when nothing came for so many times as long as pieces take.
const STARVED_FACTOR: u32 = 3;
/// What is coming is waited for so many times as long as such pieces usually take.
const COMING_FACTOR: u32 = 3;
/// And at least so many times as long as pieces usually take.
const COMING_MIN_FACTOR: u32 = 6;
/// Whoever takes so many times as long as others for a piece is not asked for what all nearby wait for.
const SLOW_FACTOR: u32 = 2;
/// A fetch lags behind its neighbours when so many in a hundred of them are ahead of it.
const AHEAD_PERCENT: usize = 25;

impl Fetch {
    /// Whether this fetch gets for its rack what nobody there has, and waits for what others of its rack get.
    pub(super) fn imports(&self) -> bool {
        let shares = self.imports.as_ref().is_some_and(|imports| !imports.is_late());
        shares && self.has_neighbours() && !self.is_lagging()
    }

    /// A peer is connected, with what it has.
    pub(super) fn join_nearby(&mut self, now: Instant, at: usize) {
        let (Some(imports), known) = (&mut self.imports, &self.peers[at]) else { return };
        let pace = self.tempo.pace();
        match known.near {
            _ if known.origin => {}
            true => {
                imports.meet(self.have.count(), known.have.count());
                known.have.iter().for_each(|piece| imports.appear(piece, now));
            }
            false => known.have.iter().for_each(|piece| imports.hear(piece, now, pace)),
        }
    }

    /// Takes what a peer has out of what is nearby, if it is.
    pub(super) fn leave_nearby(&mut self, at: usize) {
        let (Some(imports), known) = (&mut self.imports, &self.peers[at]) else { return };
        if known.near && !known.origin {
            known.have.iter().for_each(|piece| imports.disappear(piece));
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

    /// A peer has another piece.
    pub(super) fn note_nearby(&mut self, now: Instant, at: usize, piece: u32) {
        let (Some(imports), known) = (&mut self.imports, &self.peers[at]) else { return };
        match known.near {
            _ if known.origin => {}
            true => {
                imports.appear(piece, now);
                self.withdraw_import(piece);
            }
            false => imports.hear(piece, now, self.tempo.pace()),
        }
    }

    /// Somebody nearby has a piece: what was asked afar for it and has brought nothing is withdrawn.
    fn withdraw_import(&mut self, piece: u32) {
        let own = self.imports.as_ref().and_then(|imports| imports.own(piece));
        if let Some(own) = own.filter(|&own| self.grants.find(own).is_some_and(|grant| !grant.arriving)) {
            self.revoke(own);
            self.reopen();
        }
    }

    /// A peer nearby says that a piece is on its way to `importer` from another rack: to itself, or to another one nearby of
    /// which it has heard so.
    pub fn on_coming(&mut self, now: Instant, peer: NodeId, piece: u32, importer: NodeId) {
        if !self.believes(peer, piece, importer) || !self.gives_way(piece, importer) {
            return;
        }
        let relayed = importer != peer;
        let pace = self.tempo.pace();
        let Some(imports) = &mut self.imports else { return };
        let usual = imports.import_pace().unwrap_or(pace) * COMING_FACTOR;
        let hops = 1 + u32::from(relayed);
        let until = now + usual.max(pace * COMING_MIN_FACTOR) * hops;
        let coming = Coming { importer, since: now, until };
        match imports.expect(piece, coming, now) {
            Word::News if !relayed && !self.grants.asked().contains(piece) => {
                self.tell_coming(piece, importer);
            }
            Word::ComingTo(before) if before != importer => {
                let is_first = rank(piece, importer) < rank(piece, before);
                let [winner, loser] = if is_first { [importer, before] } else { [before, importer] };
                if is_first {
                    imports.comes_to(piece, coming);
                }
                let is_known = self.peers.find(loser).is_some_and(|peer| peer.near && peer.is_connected());
                if !relayed && is_known {
                    self.pending.push_back(Action::Coming { peer: loser, piece, importer: winner });
                }
            }
            _ => {}
        }
    }

    /// Whether word of a peer counts that a piece is coming.
    fn believes(&self, peer: NodeId, piece: u32, importer: NodeId) -> bool {
        let Some(imports) = &self.imports else { return false };
        let known = self.peers.find(peer).filter(|known| known.is_connected() && known.near);
        let lags =
            |importer: &Peer| importer.is_connected() && is_behind(importer.have.count(), self.have.count());
        !imports.is_late()
            && piece < self.have.len()
            && !self.have.contains(piece)
            && known.is_some_and(|known| !known.have.contains(piece))
            && !self.peers.find(importer).is_some_and(lags)
    }

    /// Whether a piece may come by way of another node: if this one has asked for it as well, the one that ranks lower goes on.
    fn gives_way(&mut self, piece: u32, importer: NodeId) -> bool {
        let Some(imports) = &self.imports else { return false };
        let Some(own) = imports.own(piece) else { return true };
        let arrives = self.grants.find(own).is_some_and(|grant| grant.arriving);
        // Who gave way to what is not believed would ask at once again, and so for ever.
        if arrives || !imports.trusts(piece) || rank(piece, importer) > rank(piece, self.settings.node) {
            return false;
        }
        self.revoke(own);
        true
    }

    /// Whether those nearby were told of a grant.
    pub(super) fn is_own(&self, number: u64) -> bool {
        self.imports.as_ref().is_some_and(|imports| {
            let piece = self.grants.find(number).and_then(|grant| grant.piece);
            piece.is_some_and(|piece| imports.own(piece) == Some(number))
        })
    }

    /// Tells those nearby that a piece is on its way from another rack, here or to one of them.
    fn tell_coming(&mut self, piece: u32, importer: NodeId) {
        let lacks = |peer: &&Peer| {
            peer.is_connected() && peer.near && !peer.have.contains(piece) && peer.node != importer
        };
        let told = self.peers.iter().filter(lacks);
        self.pending.extend(told.map(|peer| Action::Coming { peer: peer.node, piece, importer }));
    }

    /// The header of a piece came, `chosen` by its source or asked for by name.
    pub(super) fn note_arriving(&mut self, now: Instant, piece: u32, chosen: bool) {
        let Some(imports) = &mut self.imports else { return };
        if !chosen {
            imports.fed(now);
        } else if !imports.is_late() && !imports.is_nearby(piece) {
            self.tell_coming(piece, self.settings.node);
        }
    }

    /// A piece that was asked for by name came, from nearby or not.
    pub(super) fn note_came(&mut self, near: bool, is_own: bool, took: Duration) {
        let Some(imports) = &mut self.imports else { return };
        match near {
            true => imports.near_came(took),
            false => imports.far_came(is_own, took),
        }
    }

    /// Whether anybody nearby is known. Where nobody is, or racks are not known, all sources are alike.
    fn has_neighbours(&self) -> bool {
        self.peers.iter().any(|peer| peer.near && peer.is_connected())
    }

    /// Whether those nearby have so much more than this node that it must be slow, or late.
    fn is_lagging(&self) -> bool {
        let ours = self.have.count();
        let near = || self.peers.iter().filter(|peer| peer.is_connected() && peer.near);
        let ahead = near().filter(|peer| is_behind(ours, peer.have.count())).count();
        ahead > 0 && ahead * 100 >= near().count() * AHEAD_PERCENT
    }

    /// As much is under way as shall be.
    pub(super) fn sated(&mut self) {
        if let Some(imports) = &mut self.imports {
            imports.sated();
        }
    }

    /// Asks afar for a piece that nobody nearby has and that is not coming, and tells those nearby.
    pub(super) fn import(&mut self, now: Instant) -> Option<Action> {
        let origins = self.peers.iter().filter(|peer| peer.near && peer.origin && peer.is_connected());
        if self.far_open() >= FAR_AT_ONCE || origins.count() > CHOOSING_ORIGINS {
            return None;
        }
        let overdue = self.grants.iter().filter(|grant| grant.overdue).filter_map(|grant| grant.piece);
        let importable = self.imports.as_ref()?.importable(overdue);
        let usual = self.tempo.pace() * SLOW_FACTOR;
        let is_slow = |peer: &Peer| peer.missed > 0 || peer.service.is_some_and(|service| service > usual);
        let may = |peer: &Peer| peer.is_far() && !is_slow(peer) && !peer.exhausted && peer.has_room(now);
        while let Some(at) = self.best_peer(may) {
            let mut rng = self.rng.fork();
            let Some(piece) = self.pick_afar(at, &mut rng, |at, word| word & importable[at]) else {
                self.peers[at].exhausted = true;
                continue;
            };
            self.tell_coming(piece, self.settings.node);
            let mut words = vec![0; importable.len()];
            words[piece as usize / 64] = 1 << (piece % 64);
            // To choose among one piece waits for its turn, while a piece that is named is declined at a busy source.
            let (grant, action) = self.open_as(at, Some(piece), 0, Want::LeastSent(words), now);
            if let Some(imports) = &mut self.imports {
                imports.opened(piece, grant);
            }
            return Some(action);
        }
        None
    }

    /// When those nearby give too little, asks afar for a piece that they have or wait for.
    pub(super) fn ask_afar(&mut self, now: Instant) -> Option<Action> {
        let far_open = self.far_open();
        let starves_at = self.starves_at()?;
        let pause = self.pause();
        let imports = self.imports.as_mut()?;
        let since = imports.hungry(now);
        let is_starving = now >= starves_at;
        if far_open >= FAR_AT_ONCE || !(is_starving || now >= since + pause) {
            return None;
        }
        imports.asked_afar(now);
        let mut tried = Vec::new();
        while let Some(at) =
            self.best_peer(|peer| peer.is_far() && peer.has_room(now) && !tried.contains(&peer.node))
        {
            tried.push(self.peers[at].node);
            if let Some(piece) = self.overripe(at, now, is_starving) {
                if let Some(imports) = &mut self.imports {
                    imports.fed(now);
                }
                return Some(self.open(at, Want::Piece(piece), now));
            }
        }
        None
    }

    /// When something is due that only those who have neighbours care for.
    pub(super) fn imports_due(&self, now: Instant) -> Option<Instant> {
        let imports = self.imports.as_ref()?;
        let hungry = imports.hungry_since().filter(|_| self.has_neighbours());
        let asks = hungry.and_then(|since| Some((since + self.pause()).min(self.starves_at()?)));
        imports.due().into_iter().chain(asks.filter(|&at| at > now)).min()
    }

    /// Gives up what should have come by now; returns whether something may be asked for that might not before.
    pub(super) fn expire_imports(&mut self, now: Instant) -> bool {
        let pace = self.tempo.pace();
        self.imports.as_mut().is_some_and(|imports| imports.expire(now, pace))
    }

    fn pause(&self) -> Duration {
        let pace = self.tempo.pace();
        self.imports.as_ref().map_or(pace, |imports| imports.pause(pace))
    }

    fn starves_at(&self) -> Option<Instant> {
        Some(self.imports.as_ref()?.fed_at() + self.tempo.pace() * STARVED_FACTOR)
    }

    fn far_open(&self) -> usize {
        let far = self.peers.iter().filter(|peer| peer.is_connected() && peer.is_far());
        far.map(|peer| peer.open).sum()
    }

    /// One of the rarest pieces that a far peer has, and that should have come from nearby by now: most there have it, or
    /// some have had it for long. Any piece will do for a fetch that gets nothing.
    fn overripe(&mut self, at: usize, now: Instant, is_starving: bool) -> Option<u32> {
        let near = self.peers.iter().filter(|peer| peer.near && peer.is_connected() && !peer.origin).count();
        let old = self.tempo.pace() * OLD_FACTOR;
        let mut rng = self.rng.fork();
        let imports = self.imports.as_ref()?;
        let is_ripe = |piece: u32| {
            is_starving
                || imports.holders(piece) * 2 >= near
                || imports.age(piece, now).is_some_and(|age| age >= old)
        };
        self.pick_afar(at, &mut rng, |at, word| {
            let bits = (0..64).filter(|bit| word >> bit & 1 == 1 && is_ripe(at as u32 * 64 + bit));
            bits.fold(0, |word, bit| word | 1 << bit)
        })
    }

    /// One of the rarest pieces that a far peer has and that is not asked for, of those that `among` leaves of a word.
    fn pick_afar(&self, at: usize, rng: &mut Rng, among: impl Fn(usize, u64) -> u64) -> Option<u32> {
        let unasked = self.unasked(at);
        let word = |at: usize| among(at, unasked(at));
        self.ranges().into_iter().find_map(|range| picker::pick(range, &self.holders, rng, word))
    }
}

/// Whether who has so many pieces, `ours`, has so much less than somebody else that it must be slow, or late.
fn is_behind(ours: u32, theirs: u32) -> bool {
    u64::from(theirs) > u64::from(ours) * 4 / 3 + 8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bitmap::Bitmap;
    use crate::swarm::{Settings, Uplinks};

    const MS: Duration = Duration::from_millis(1);
    const NOW: Instant = Instant::ZERO;
    const PIECES: u32 = 4;

    /// A fetch of node 100 with peers: their names, whether they are near, and what they have.
    fn fetch_told(uplinks: Uplinks, peers: &[(NodeId, bool, &[u32])]) -> Fetch {
        let settings = Settings { node: 100, uplinks, ..Settings::default() };
        let mut fetch = Fetch::new(settings, Bitmap::new(PIECES), 1, NOW);
        for &(peer, near, pieces) in peers {
            let mut have = Bitmap::new(PIECES);
            pieces.iter().for_each(|&piece| assert!(have.insert(piece)));
            fetch.on_interest(NOW, peer, near, have);
        }
        fetch
    }

    /// The same where uplinks are scarce.
    fn fetch(peers: &[(NodeId, bool, &[u32])]) -> Fetch {
        fetch_told(Uplinks::Scarce, peers)
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

    fn told(actions: &[Action]) -> Vec<(NodeId, u32, NodeId)> {
        let word = |action: &Action| match action {
            Action::Coming { peer, piece, importer } => Some((*peer, *piece, *importer)),
            _ => None,
        };
        actions.iter().filter_map(word).collect()
    }

    /// A moment later: what was heard of may be asked for.
    const SOON: Instant = Instant::from_micros(3_000);

    #[test]
    fn what_nobody_nearby_has_is_got_from_afar_and_those_nearby_are_told() {
        let mut fetch = fetch(&[(1, true, &[]), (2, true, &[3]), (7, false, &[0, 3])]);
        let done = actions(&mut fetch, SOON);
        let granted = granted(&done);
        assert!(granted.contains(&(7, Want::LeastSent(vec![0b1]))), "{done:?}");
        assert!(granted.contains(&(2, Want::Piece(3))) && granted.len() == 2, "{done:?}");
        assert_eq!(told(&done), [(1, 0, 100), (2, 0, 100)]);
    }

    #[test]
    fn where_uplinks_are_full_nobody_is_told_or_believed() {
        let mut fetch = fetch_told(Uplinks::Full, &[(1, true, &[]), (7, false, &[0])]);
        fetch.on_coming(NOW, 1, 0, 1);
        let done = actions(&mut fetch, NOW);
        assert_eq!((granted(&done), told(&done)), (vec![(7, Want::Piece(0))], vec![]));
    }

    #[test]
    fn what_is_coming_is_passed_on_once_and_waited_for_only_for_a_while() {
        let mut fetch = fetch(&[(1, true, &[]), (2, true, &[]), (7, false, &[0])]);
        fetch.on_coming(NOW, 1, 0, 1);
        fetch.on_coming(NOW, 1, 0, 1);
        fetch.on_coming(NOW, 2, 1, 3);
        fetch.on_coming(NOW, 7, 2, 7);
        fetch.on_coming(NOW, 1, PIECES, 1);
        let done = actions(&mut fetch, SOON);
        assert_eq!(told(&done), [(2, 0, 1)], "what was passed on is not passed on again");
        assert!(granted(&done).is_empty(), "{done:?}");
        let mut now = SOON;
        while granted(&actions(&mut fetch, now)).is_empty() {
            now = fetch.next_deadline().unwrap().max(now + MS / 8);
            assert!(now < NOW + 1000 * MS, "whoever does not get it is waited for for ever");
        }
    }

    #[test]
    fn what_comes_to_a_node_that_is_lost_is_asked_for_at_once() {
        let mut fetch = fetch(&[(1, true, &[]), (2, true, &[]), (7, false, &[0])]);
        fetch.on_coming(NOW, 1, 0, 1);
        assert!(granted(&actions(&mut fetch, SOON)).is_empty());
        fetch.on_lost(SOON, 1);
        assert_eq!(granted(&actions(&mut fetch, SOON)), [(7, Want::LeastSent(vec![0b1]))]);
    }

    #[test]
    fn of_two_that_ask_at_once_one_gives_way() {
        for importer in 1..40 {
            let mut fetch = fetch(&[(importer, true, &[]), (77, false, &[0])]);
            assert_eq!(told(&actions(&mut fetch, SOON)), [(importer, 0, 100)]);
            fetch.on_coming(SOON, importer, 0, importer);
            let done = actions(&mut fetch, SOON);
            let gave_way = done.iter().any(|action| matches!(action, Action::Revoke { peer: 77, .. }));
            assert_eq!(gave_way, rank(0, importer) < rank(0, 100));
            assert!(granted(&done).is_empty(), "{done:?}");
        }
    }

    #[test]
    fn who_gives_way_again_and_again_in_vain_does_so_no_more() {
        let importer = (1..).find(|&node| rank(0, node) < rank(0, 100)).unwrap();
        let mut fetch = fetch(&[(importer, true, &[]), (7, false, &[0])]);
        let (mut now, mut revoked) = (SOON, 0);
        for _ in 0..2000 {
            for action in actions(&mut fetch, now) {
                match action {
                    Action::Coming { .. } => fetch.on_coming(now, importer, 0, importer),
                    Action::Revoke { peer: 7, .. } => revoked += 1,
                    _ => {}
                }
            }
            now = now + MS / 4;
        }
        assert!((1..=2).contains(&revoked), "{revoked} times");
    }

    #[test]
    fn what_waits_afar_is_withdrawn_when_somebody_near_has_it() {
        let mut fetch = fetch(&[(1, true, &[]), (7, false, &[0])]);
        actions(&mut fetch, SOON);
        fetch.on_have(SOON, 1, &[0]);
        let done = actions(&mut fetch, SOON);
        assert!(matches!(done[0], Action::Revoke { peer: 7, .. }), "{done:?}");
        assert_eq!(granted(&done), [(1, Want::Piece(0))]);
    }

    #[test]
    fn without_racks_pieces_are_asked_for_by_name_and_nobody_is_told() {
        let mut fetch = fetch(&[(7, false, &[0, 1]), (8, false, &[])]);
        fetch.on_coming(NOW, 8, 0, 8);
        let done = actions(&mut fetch, SOON);
        assert_eq!((granted(&done).len(), told(&done).len()), (2, 0), "{done:?}");
        assert!(granted(&done).iter().all(|(_, want)| matches!(want, Want::Piece(_))), "{done:?}");
    }

    #[test]
    fn who_comes_late_asks_anybody_and_waits_for_nobody() {
        let all: Vec<u32> = (0..32).collect();
        let mut fetch = Fetch::new(
            Settings { node: 100, uplinks: Uplinks::Scarce, ..Settings::default() },
            Bitmap::new(64),
            1,
            NOW,
        );
        for (peer, near) in [(1, true), (7, false)] {
            let mut have = Bitmap::new(64);
            all.iter().for_each(|&piece| assert!(have.insert(piece)));
            fetch.on_interest(NOW, peer, near, have);
        }
        fetch.on_coming(NOW, 1, 40, 1);
        fetch.on_have(NOW, 7, &[40]);
        let done = actions(&mut fetch, SOON);
        assert!(told(&done).is_empty(), "{done:?}");
        assert!(granted(&done).iter().any(|(peer, _)| *peer == 7), "{done:?}");
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
            now = fetch.next_deadline().unwrap().max(now + MS / 8);
        }
        panic!("whoever is far is never asked");
    }
}
