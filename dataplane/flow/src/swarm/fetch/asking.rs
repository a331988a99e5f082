//! Which piece is asked for from whom, and when that is withdrawn.

use std::ops::Range;
use std::time::Duration;

use super::grants::Grant;
use super::peer::{Peer, Stage};
use super::{Action, Fetch, picker};
use crate::time::Instant;
use crate::wire::data::Want;

/// A grant of which nothing has arrived by its deadline is given up after this many more.
const OVERDUE_FACTOR: u32 = 8;
/// A piece that arrives too slowly is given up after so long: its slot is taken until then in any case.
const ARRIVING_MAX: Duration = Duration::from_secs(60);
/// An offer to an origin may wait in its queue for this many deadlines: it keeps no piece from being asked for.
const OFFER_FACTOR: u32 = 16;
/// Most pieces on the way, as a multiple of those that shall arrive at once.
const ON_THE_WAY_MAX: usize = 3;
/// Origins that choose pieces themselves; with more of them, two would often choose the same.
pub(super) const CHOOSING_ORIGINS: usize = 2;

impl Fetch {
    /// Opens the next grant, if there is a source for it.
    pub(super) fn grant(&mut self, now: Instant) -> Option<Action> {
        if self.grants.len() >= self.settings.grants_at_once {
            return None;
        }
        if self.is_at_end() {
            self.hurry(now);
        }
        let idle_origin =
            |peer: &Peer| peer.origin && peer.open == 0 && !peer.exhausted && peer.has_room(now);
        while let Some(at) = self.peers.iter().position(idle_origin) {
            if let Some(action) = self.grant_to(at, now) {
                return Some(action);
            }
        }
        let imports = self.imports();
        if self.is_busy(now) {
            let near_only = imports || self.spine_is_busy(now);
            let more = self.ask_for_more(near_only, now);
            if more.is_none() {
                self.sated();
            }
            return more;
        }
        if imports && let Some(action) = self.import(now) {
            return Some(action);
        }
        loop {
            let near_only = imports || self.spine_is_busy(now);
            let is_reached = |peer: &Peer| !near_only || !peer.is_far();
            let may = |peer: &Peer| is_reached(peer) && !peer.exhausted && peer.has_room(now);
            let Some(at) = self.best_peer(may) else { break };
            if let Some(action) = self.grant_to(at, now) {
                return Some(action);
            }
        }
        if imports && let Some(action) = self.ask_afar(now) {
            return Some(action);
        }
        if self.grants.in_time() == self.grants.undecided() {
            self.renew_offers(now);
        }
        if let Some(revoke) = self.pending.pop_front() {
            return Some(revoke);
        }
        match self.is_at_end() && self.grants.arriving().count() < self.settings.duplicates_below {
            true => self.duplicate(now),
            false => None,
        }
    }

    /// Whether there are no more pieces missing than grants open.
    fn is_at_end(&self) -> bool {
        (self.have.len() - self.have.count()) as usize <= self.grants.in_time()
    }

    /// At the end nothing else fills the link while a piece arrives slowly: it is asked for elsewhere sooner.
    fn hurry(&mut self, now: Instant) {
        for number in self.grants.numbers(|grant| grant.is_arriving() && self.hurry_at(grant) <= now) {
            self.grants.overdue(number, now + ARRIVING_MAX);
            self.reopen();
        }
    }

    fn hurry_at(&self, grant: &Grant) -> Instant {
        grant.opened + self.tempo.hurry()
    }

    /// Whether as many pieces are asked for by name as shall be: those that shall arrive at once, and twice those that
    /// could arrive in the time that a grant and the header of its piece take. While nothing comes in time, twice those
    /// that shall arrive at once, with all that are late: they may be on their way, and hold up each other. Those from slow
    /// sources fill no link and do not count, up to as many again: a source is slow whose pieces usually take so long, or whose
    /// piece does.
    pub(super) fn is_busy(&self, now: Instant) -> bool {
        let at_once = self.settings.pieces_at_once;
        let [named, in_time] =
            [self.grants.len(), self.grants.in_time()].map(|grants| grants - self.grants.undecided());
        let is_busy = match self.tempo.is_doubted() {
            true => named >= 2 * at_once,
            false => {
                let on_the_way = self.tempo.on_the_way(at_once);
                let slow = self.named_in_time().filter(|grant| self.is_slow(grant, now)).count();
                in_time - slow.min(at_once) >= at_once + on_the_way.min(ON_THE_WAY_MAX * at_once)
            }
        };
        is_busy || self.grants.len() >= self.settings.grants_at_once
    }

    /// The grants for pieces asked for by name that have not missed their deadlines.
    pub(super) fn named_in_time(&self) -> impl Iterator<Item = &Grant> {
        self.grants.iter().filter(|grant| grant.offered == 0 && !grant.overdue)
    }

    /// Whether a grant is one of a slow source.
    fn is_slow(&self, grant: &Grant, now: Instant) -> bool {
        let usually = self.peers.find(grant.peer).and_then(|peer| peer.service);
        self.slow_at(grant) <= now || usually.is_some_and(|usually| usually > self.tempo.slow_after())
    }

    /// When a grant has taken so long that its source is slow.
    fn slow_at(&self, grant: &Grant) -> Instant {
        grant.opened + self.tempo.slow_after()
    }

    /// Asks one peer for a piece that is missing and not asked for, or notes that it has none.
    pub(super) fn grant_to(&mut self, at: usize, now: Instant) -> Option<Action> {
        let chooses = self.peers[at].origin
            && self.peers[..at].iter().filter(|peer| peer.origin && peer.is_connected()).count()
                < CHOOSING_ORIGINS;
        let want = if chooses {
            self.choice(at, self.grants.undecided()).map(Want::LeastSent)
        } else {
            self.rarest(at).map(Want::Piece)
        };
        let Some(want) = want else {
            self.peers[at].exhausted = true;
            return None;
        };
        Some(self.open(at, want, now))
    }

    /// Asks a second source for a piece of which nothing has come from a first that takes longer than others do.
    fn duplicate(&mut self, now: Instant) -> Option<Action> {
        let is_late = |grant: &&Grant| !grant.arriving && self.slow_at(grant) <= now;
        let late = self.named_in_time().filter(is_late).filter_map(|grant| Some((grant.piece?, grant.peer)));
        let late: Vec<_> = late.filter(|(piece, _)| !self.grants.doubled().contains(*piece)).collect();
        for (piece, asked) in late {
            let may = |peer: &Peer| peer.node != asked && peer.have.contains(piece) && peer.has_room(now);
            if let Some(at) = self.best_peer(may) {
                return Some(self.open(at, Want::Piece(piece), now));
            }
        }
        None
    }

    pub(super) fn open(&mut self, at: usize, want: Want, now: Instant) -> Action {
        let (piece, offered) = match &want {
            Want::Piece(piece) => (Some(*piece), 0),
            Want::LeastSent(words) => (None, count(words)),
        };
        self.open_as(at, piece, offered, want, now).1
    }

    /// Opens a grant that stands for a piece, or for one of so many that are offered.
    pub(super) fn open_as(
        &mut self,
        at: usize,
        piece: Option<u32>,
        offered: u32,
        want: Want,
        now: Instant,
    ) -> (u64, Action) {
        let patience = self.patience(self.peers[at].node);
        let peer = &mut self.peers[at];
        peer.asked();
        let deadline = now + if piece.is_none() { patience * OFFER_FACTOR } else { patience };
        let grant = self.grants.open(peer.node, piece, offered, now, deadline);
        (grant, Action::Grant { peer: peer.node, grant, want })
    }

    /// The peer to ask next: one that keeps its deadlines, with the fewest grants, near rather than far, one that has just sent
    /// a piece rather than another.
    pub(super) fn best_peer(&mut self, may: impl Fn(&Peer) -> bool) -> Option<usize> {
        let mut best: Option<(u64, usize)> = None;
        for (at, peer) in self.peers.iter().enumerate().filter(|(_, peer)| may(peer)) {
            let [missed, held, far] = [peer.missed > 0, !peer.freed, !peer.near].map(u64::from);
            let open = peer.open as u64;
            let key = missed << 63 | open << 34 | far << 33 | held << 32 | u64::from(self.rng.u32(..));
            if best.is_none_or(|(least, _)| key < least) {
                best = Some((key, at));
            }
        }
        best.map(|(_, at)| at)
    }

    /// The pieces from which an origin may choose, more than `least` of them: if it can be, pieces that nobody else
    /// nearby has.
    fn choice(&self, at: usize, least: usize) -> Option<Vec<u64>> {
        let (unasked, held) = (self.unasked(at), self.held.words());
        let ranges = self.ranges();
        let rare = ranges.iter().map(|range| (range, u64::MAX));
        let rare_first = rare.chain(ranges.iter().map(|range| (range, 0)));
        rare_first.into_iter().find_map(|(range, avoided)| {
            let word = |at: usize| unasked(at) & !(held[at] & avoided) & picker::mask(at, range);
            let words: Vec<u64> = (0..held.len()).map(word).collect();
            (count(&words) as usize > least).then_some(words)
        })
    }

    /// Revokes what origins were offered a while ago, when half of it is not wanted any more: they would choose what
    /// came from elsewhere meanwhile. A fresh offer follows. It is done only when there is nothing else to wait for,
    /// because what an origin is just sending is lost by it.
    fn renew_offers(&mut self, now: Instant) {
        let old =
            |grant: &&Grant| grant.piece.is_none() && now.since(grant.opened) >= self.settings.deadline_min;
        let stale = self.grants.iter().filter(old).filter(|grant| {
            let at = self.peers.place(grant.peer);
            let wanted = at.and_then(|at| self.choice(at, 0)).map_or(0, |words| count(&words));
            wanted > 0 && wanted * 2 < grant.offered
        });
        let stale: Vec<u64> = stale.map(|grant| grant.number).collect();
        stale.into_iter().for_each(|number| self.revoke(number));
    }

    /// One of the rarest pieces that a peer has and nobody is asked for.
    fn rarest(&mut self, at: usize) -> Option<u32> {
        let mut rng = self.rng.fork();
        let word = self.unasked(at);
        self.ranges().into_iter().find_map(|range| picker::pick(range, &self.holders, &mut rng, &word))
    }

    /// The pieces that a peer has, that are missing and not asked for, and that it did not spoil, word by word.
    pub(super) fn unasked(&self, at: usize) -> impl Fn(usize) -> u64 {
        let peer = &self.peers[at];
        let [theirs, ours, asked] = [peer.have.words(), self.have.words(), self.grants.asked().words()];
        move |at| {
            let mut word = theirs[at] & !ours[at] & !asked[at];
            for &piece in &peer.spoiled {
                // When all holders have spoiled it, any of them may do better the next time.
                let elsewhere = |other: &Peer| other.have.contains(piece) && !other.spoiled.contains(&piece);
                if piece as usize / 64 == at && self.peers.iter().any(elsewhere) {
                    word &= !(1 << (piece % 64));
                }
            }
            word
        }
    }

    /// Ranges of pieces, the most wanted first.
    pub(super) fn ranges(&self) -> [Range<u32>; 3] {
        let pieces = self.have.len();
        match self.first {
            None => [0..pieces, 0..0, 0..0],
            Some(first) => {
                let first = first.min(pieces);
                let end = first.saturating_add(self.settings.window_pieces).min(pieces);
                [first..end, end..pieces, 0..first]
            }
        }
    }

    /// Some piece may be asked for again.
    pub(super) fn reopen(&mut self) {
        self.peers.iter_mut().for_each(|peer| peer.exhausted = false);
        self.settled = false;
    }

    pub(super) fn close(&mut self, number: u64) -> Option<Grant> {
        let closed = self.grants.close(number)?;
        if let Some(peer) = self.peer_mut(closed.peer) {
            peer.open -= 1;
        }
        match (closed.piece, &mut self.imports) {
            (None, _) => self.reopen(),
            (Some(piece), Some(imports)) => imports.closed(piece, number),
            _ => {}
        }
        self.settled = false;
        Some(closed)
    }

    pub(super) fn revoke(&mut self, number: u64) {
        if let Some(closed) = self.close(number) {
            self.pending.push_back(Action::Revoke { peer: closed.peer, grant: number });
        }
    }

    /// Revokes the grants for a piece that have brought nothing yet.
    pub(super) fn revoke_waiting(&mut self, piece: u32) {
        for number in self.grants.numbers(|grant| grant.piece == Some(piece) && !grant.arriving) {
            self.revoke(number);
        }
    }

    /// Acts on every deadline that has passed.
    pub(super) fn expire(&mut self, now: Instant) {
        self.settled = false;
        if self.expire_imports(now) {
            self.reopen();
        }
        let late: Vec<Grant> = self.grants.iter().filter(|grant| grant.deadline <= now).cloned().collect();
        for grant in late {
            let patience = self.patience(grant.peer);
            if grant.is_arriving() {
                self.grants.overdue(grant.number, now + ARRIVING_MAX);
            } else if grant.piece.is_some() && !grant.overdue {
                self.grants.overdue(grant.number, now + patience * OVERDUE_FACTOR);
            } else {
                self.revoke(grant.number);
            }
            self.tempo.missed_deadline(grant.opened, now);
            if let Some(peer) = self.peer_mut(grant.peer) {
                peer.missed_deadline(grant.opened, now);
            }
            self.reopen();
        }
        self.give_up_silent(now);
        self.due = self.earliest(now);
    }

    /// When something is due next.
    pub(super) fn earliest(&self, now: Instant) -> Option<Instant> {
        let grants = self.grants.iter().map(|grant| grant.deadline);
        let peers = self.peers.iter().filter_map(|peer| match peer.stage {
            Stage::Connecting(until) => Some(until),
            _ => (peer.rest_until > now).then_some(peer.rest_until),
        });
        let ask = (self.wants_peers() && self.ask_at > now).then_some(self.ask_at);
        let last = self.grants.iter().filter(|grant| grant.is_arriving() && self.is_at_end());
        let hurry = last.map(|grant| self.hurry_at(grant)).filter(|&at| at > now);
        let slow = self.named_in_time().map(|grant| self.slow_at(grant)).filter(|&at| at > now);
        grants.chain(peers).chain(ask).chain(hurry).chain(slow).chain(self.imports_due(now)).min()
    }
}

/// How many pieces the words of a set hold.
fn count(words: &[u64]) -> u32 {
    words.iter().map(|word| word.count_ones()).sum()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::bitmap::Bitmap;
    use crate::swarm::{Action, Arrival, Fetch, Settings};
    use crate::time::Instant;
    use crate::wire::control::NodeId;
    use crate::wire::data::Want;

    const PIECES: u32 = 64;

    /// A fetch that asks for a piece at a time, and knows one peer afar and others nearby that have all pieces but one.
    fn fetch() -> Fetch {
        let settings = Settings { pieces_at_once: 1, ..Settings::default() };
        let mut fetch = Fetch::new(settings, Bitmap::new(PIECES), 1, Instant::ZERO);
        for peer in 1..=8 {
            let mut have = Bitmap::full(PIECES);
            have.remove(PIECES - 1);
            assert!(fetch.on_interest(Instant::ZERO, peer, peer != 1, have));
        }
        fetch
    }

    fn next_grant(fetch: &mut Fetch, now: Instant) -> (NodeId, u64, u32) {
        loop {
            match fetch.poll(now, 1) {
                Some(Action::Grant { peer, grant, want: Want::Piece(piece) }) => return (peer, grant, piece),
                Some(_) => {}
                None => panic!("nothing is asked for"),
            }
        }
    }

    #[test]
    fn who_has_just_sent_a_piece_is_asked_for_the_next_until_it_declines() {
        let (mut fetch, mut now) = (fetch(), Instant::ZERO);
        let (first, mut grant, mut piece) = next_grant(&mut fetch, now);
        assert_ne!(first, 1, "those nearby come first");
        for _ in 0..8 {
            now = now + Duration::from_millis(10);
            assert_eq!(fetch.on_arriving(now, first, grant, piece), Arrival::Accept);
            fetch.on_verified(now, grant);
            let next = next_grant(&mut fetch, now);
            assert_eq!(next.0, first);
            (grant, piece) = (next.1, next.2);
        }
        fetch.on_declined(now, first, grant);
        let (second, ..) = next_grant(&mut fetch, now);
        assert!(second != first && second != 1);
    }
}
