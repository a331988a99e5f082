//! The receiver of one chunk on one node: which source is asked for which piece, and when another is.
//!
//! The receiver drives. It keeps a bounded number of sources, opens *grants* towards them, each for one slot and
//! one piece, and closes every grant exactly once: verified, corrupt, declined, lost or revoked.
//!
//! - **Which source.** The one with the fewest open grants that may have more. A source begins with a small window
//!   of grants that grows with each delivery and shrinks with each deadline missed, so that a lone source gets a
//!   pipeline deep enough for a stream never to idle, and a slow one holds few pieces back.
//! - **Which piece.** An *origin*, which had the whole chunk when it was first heard of, chooses itself: it sends
//!   what it has sent least often, so that it spreads different pieces first. One grant at each origin comes before
//!   all others, because pieces enter the swarm there alone. Any other source is asked for a random one of the rarest
//!   pieces that are missing and not asked for elsewhere; a reader that goes through the chunk in order moves a
//!   window, and pieces within it come first.
//! - **Deadlines.** A grant may take three times what that source's grants took, at least a minimum, longer after
//!   each miss. Then it is revoked and the piece is asked for elsewhere. A piece whose bytes are arriving is not
//!   revoked at once: it may be asked for elsewhere beside it, and the first to be verified counts.
//! - **Duplicates.** Only when all that could be asked for is asked for and hardly anything arrives: a second grant
//!   for a piece goes to another holder, and when the header of one of them comes, the other is revoked. This is the
//!   end of a fetch, and its beginning in a swarm that has few pieces.
//! - **More peers.** The tracker is asked when there are too few peers or nothing is under way, with growing pauses.
//!   Its silence stops nothing.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use fastrand::Rng;

use super::grants::{Grant, Grants};
use super::peer::{Peer, Stage};
use super::picker;
use crate::bitmap::Bitmap;
use crate::limits::{BAD_PIECES_PER_PEER, GRANTS_PER_CHUNK, GRANTS_PER_PEER, NODES_MAX, PEERS_PER_RECEIVER};
use crate::time::Instant;
use crate::wire::control::{NodeId, TrackerPeer};
use crate::wire::data::Want;

/// How long a connection may take before the peer is given up.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// First pause between two questions to the tracker; it doubles while nothing is delivered.
const ASK_PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause between two questions to the tracker.
const ASK_PAUSE_MAX: Duration = Duration::from_secs(10);
/// A piece that arrives too slowly is given up after this many more deadlines.
const OVERDUE_FACTOR: u32 = 8;
/// Origins that choose pieces themselves; with more of them, two would often choose the same.
const CHOOSING_ORIGINS: usize = 2;

/// How a fetch behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Most sources kept at once.
    pub peers: usize,
    /// Most grants open towards one source.
    pub grants_per_peer: usize,
    /// Most grants open over all sources.
    pub grants_at_once: usize,
    /// Shortest time a grant may take before its piece is asked for elsewhere.
    pub deadline_min: Duration,
    /// Pieces may be asked for twice when fewer than this arrive.
    pub duplicates_below: u32,
    /// Pieces from the one wanted next on that come before all others.
    pub window_pieces: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            peers: PEERS_PER_RECEIVER,
            grants_per_peer: GRANTS_PER_PEER,
            grants_at_once: GRANTS_PER_CHUNK,
            deadline_min: Duration::from_millis(50),
            duplicates_below: 2,
            window_pieces: 2 * GRANTS_PER_CHUNK as u32,
        }
    }
}

/// What the caller shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Connect, say what is here and ask what is there; answered by [`Fetch::on_interest`] or [`Fetch::on_lost`].
    Connect {
        /// The peer.
        peer: NodeId,
    },
    /// The peer is of no use; all its grants have ended.
    Disconnect {
        /// The peer.
        peer: NodeId,
    },
    /// Grant the peer a slot.
    Grant {
        /// The source.
        peer: NodeId,
        /// The number of the grant.
        grant: u64,
        /// Which piece.
        want: Want,
    },
    /// The grant has ended. Where bytes of it are arriving, the slot is free only when they are through.
    Revoke {
        /// The source.
        peer: NodeId,
        /// The number of the grant.
        grant: u64,
    },
    /// Tell everybody who is interested that this piece is here.
    Announce {
        /// The piece.
        piece: u32,
    },
    /// Ask a tracker for peers; answered by [`Fetch::on_peers`], or not at all.
    AskTracker,
    /// Every piece is verified. Said once; nothing follows.
    Complete,
}

/// What to do with the bytes of a piece whose header came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Read them into the slot of the grant, check them and report.
    Accept,
    /// Drop them. If the grant was open, [`Action::Revoke`] follows.
    Discard,
}

/// What came from where, in pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// From peers that had the whole chunk when they were first heard of.
    pub from_origin: u32,
    /// From all others.
    pub from_peers: u32,
    /// With a wrong checksum.
    pub corrupt: u32,
    /// Of no use: here already, arriving already, or not wanted any more.
    pub duplicate: u32,
}

/// The state of one fetch; see the module.
#[derive(Debug)]
pub struct Fetch {
    settings: Settings,
    have: Bitmap,
    /// How many connected peers have each piece.
    holders: Vec<u8>,
    peers: Vec<Peer>,
    banned: BTreeSet<NodeId>,
    grants: Grants,
    pending: VecDeque<Action>,
    rng: Rng,
    first: Option<u32>,
    counters: Counters,
    ask_at: Instant,
    ask_pause: Duration,
    /// Nothing is due before this time.
    due: Option<Instant>,
    /// There is nothing to do until something happens.
    settled: bool,
    completed: bool,
}

impl Fetch {
    /// Begins to fetch the pieces that are not in `have`, which ranges over all pieces of the chunk. The numbers
    /// of the grants follow from `seed`: fetches of one node take different seeds.
    pub fn new(settings: Settings, have: Bitmap, seed: u64, now: Instant) -> Self {
        let pieces = have.len();
        let mut rng = Rng::with_seed(seed);
        let first_number = u64::from(rng.u32(..)) << 32;
        let settings = Settings {
            peers: settings.peers.clamp(1, u8::MAX.into()),
            ..settings
        };
        Self {
            settings,
            have,
            holders: vec![0; pieces as usize],
            peers: Vec::new(),
            banned: BTreeSet::new(),
            grants: Grants::new(pieces, first_number),
            pending: VecDeque::new(),
            rng,
            first: None,
            counters: Counters::default(),
            ask_at: now,
            ask_pause: ASK_PAUSE_MIN,
            due: Some(now),
            settled: false,
            completed: false,
        }
    }

    /// What to do next; called until there is nothing. Each [`Action::Grant`] uses one of `free_slots`.
    pub fn poll(&mut self, now: Instant, free_slots: usize) -> Option<Action> {
        if self.due.is_some_and(|due| due <= now) {
            self.expire(now);
        }
        if let Some(action) = self.pending.pop_front() {
            return Some(action);
        }
        if self.have.is_full() {
            return self.finish();
        }
        if self.settled {
            return None;
        }
        let action = self.connect(now).or_else(|| match free_slots {
            0 => None,
            _ => self.grant(now),
        });
        let action = action.or_else(|| self.ask(now));
        if action.is_none() {
            self.settled = free_slots > 0;
            self.due = self.earliest(now);
        }
        action
    }

    /// When [`Self::poll`] wants to be called at the latest, as of the last time it had nothing to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.completed { None } else { self.due }
    }

    /// The pieces that are here and verified.
    pub fn have(&self) -> &Bitmap {
        &self.have
    }

    /// What came from where.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// A reader wants the pieces from `first` on before all others, or any order will do.
    pub fn want_next(&mut self, first: Option<u32>) {
        self.first = first;
    }

    /// The tracker named peers.
    pub fn on_peers(&mut self, _now: Instant, named: &[TrackerPeer]) {
        for peer in named {
            if let Some(known) = self.peers.iter_mut().find(|known| known.node == peer.node) {
                known.near = peer.near;
                continue;
            }
            if self.banned.contains(&peer.node) {
                continue;
            }
            if self.peers.len() >= 2 * self.settings.peers {
                self.drop_useless();
            }
            if self.peers.len() < 2 * self.settings.peers {
                self.peers
                    .push(Peer::new(peer.node, peer.near, peer.complete, self.have.len()));
            }
        }
        self.settled = false;
    }

    /// A peer is connected and said what it has, asked or unasked.
    pub fn on_interest(&mut self, _now: Instant, peer: NodeId, near: bool, have: Bitmap) {
        if have.len() != self.have.len() || self.banned.contains(&peer) {
            return;
        }
        let at = match self.peers.iter().position(|known| known.node == peer) {
            Some(at) => at,
            None if self.active() >= self.settings.peers => return,
            None => {
                self.peers.push(Peer::new(peer, near, have.is_full(), have.len()));
                self.peers.len() - 1
            }
        };
        self.count_holder(at, false);
        let known = &mut self.peers[at];
        known.near = near;
        known.have = have;
        known.stage = Stage::Connected;
        known.exhausted = false;
        self.count_holder(at, true);
        self.settled = false;
    }

    /// A peer said that it has more pieces.
    pub fn on_have(&mut self, _now: Instant, peer: NodeId, pieces: &[u32]) {
        let Some(known) = self
            .peers
            .iter_mut()
            .find(|known| known.node == peer && known.is_connected())
        else {
            return;
        };
        for &piece in pieces {
            if known.have.insert(piece) {
                let holders = &mut self.holders[piece as usize];
                *holders = holders.saturating_add(1);
                if !self.have.contains(piece) {
                    known.exhausted &= self.grants.asked().contains(piece);
                    self.settled = false;
                }
            }
        }
    }

    /// The connection failed or closed, or the peer left: its grants have ended.
    pub fn on_lost(&mut self, _now: Instant, peer: NodeId) {
        self.close_all(peer);
        self.forget(peer);
    }

    /// The source will not serve a grant, which has ended.
    pub fn on_declined(&mut self, now: Instant, peer: NodeId, grant: u64) {
        if self.grants.find(grant).is_some_and(|open| open.peer == peer) {
            self.close(grant);
            self.reopen();
            if let Some(known) = self.peer_mut(peer) {
                known.declined(now);
            }
        }
    }

    /// The header of a piece was read.
    pub fn on_arriving(&mut self, now: Instant, peer: NodeId, grant: u64, piece: u32) -> Arrival {
        let Some(open) = self
            .grants
            .find(grant)
            .filter(|open| open.peer == peer && !open.arriving)
        else {
            self.counters.duplicate += 1;
            return Arrival::Discard;
        };
        if piece >= self.have.len() || open.piece.is_some_and(|wanted| wanted != piece) {
            self.revoke(grant);
            self.reopen();
            self.blame(peer, None);
            return Arrival::Discard;
        }
        if self.have.contains(piece) || self.grants.arriving().contains(piece) {
            self.counters.duplicate += 1;
            self.revoke(grant);
            self.reopen();
            return Arrival::Discard;
        }
        let patience = self.patience(peer);
        self.grants.arrives(grant, piece, now + patience);
        self.revoke_waiting(piece);
        self.settled = false;
        Arrival::Accept
    }

    /// The piece of a grant is here and its checksum is right; the grant has ended.
    pub fn on_verified(&mut self, now: Instant, grant: u64) {
        let Some(closed) = self.close(grant) else { return };
        let window = self.settings.grants_per_peer;
        let mut origin = false;
        if let Some(known) = self.peer_mut(closed.peer) {
            known.delivered(now.since(closed.opened), window);
            origin = known.origin;
        }
        let Some(piece) = closed.piece else { return };
        if !self.take(piece) {
            self.counters.duplicate += 1;
        } else if origin {
            self.counters.from_origin += 1;
        } else {
            self.counters.from_peers += 1;
        }
    }

    /// The piece of a grant is here and its checksum is wrong; the grant has ended.
    pub fn on_corrupt(&mut self, _now: Instant, grant: u64) {
        let Some(closed) = self.close(grant) else { return };
        self.counters.corrupt += 1;
        self.reopen();
        self.blame(closed.peer, closed.piece);
    }

    /// A piece turned up by itself, verified.
    pub fn on_local(&mut self, _now: Instant, piece: u32) {
        self.take(piece);
    }

    /// The piece is had from here on; returns whether it was missing.
    fn take(&mut self, piece: u32) -> bool {
        self.settled = false;
        if !self.have.insert(piece) {
            return false;
        }
        self.ask_pause = ASK_PAUSE_MIN;
        self.revoke_waiting(piece);
        self.pending.push_back(Action::Announce { piece });
        true
    }

    fn finish(&mut self) -> Option<Action> {
        if self.completed {
            return None;
        }
        self.completed = true;
        let open: Vec<u64> = self.grants.iter().map(|grant| grant.number).collect();
        open.into_iter().for_each(|number| self.revoke(number));
        self.pending.push_back(Action::Complete);
        self.pending.pop_front()
    }
}

// ---- peers ---------------------------------------------------------------------------------------------

impl Fetch {
    /// Peers that are connected or being connected.
    fn active(&self) -> usize {
        self.peers
            .iter()
            .filter(|peer| peer.stage != Stage::Named)
            .count()
    }

    /// Peers that the fetch connects to by itself; it leaves room for those that come to it.
    fn outgoing(&self) -> usize {
        (self.settings.peers * 2).div_ceil(3)
    }

    fn connect(&mut self, now: Instant) -> Option<Action> {
        if self.active() >= self.outgoing() {
            return None;
        }
        let named = self.peers.iter_mut().find(|peer| peer.stage == Stage::Named)?;
        named.stage = Stage::Connecting(now + CONNECT_DEADLINE);
        Some(Action::Connect { peer: named.node })
    }

    fn ask(&mut self, now: Instant) -> Option<Action> {
        if !self.wants_peers() || now < self.ask_at {
            return None;
        }
        self.ask_at = now + self.ask_pause;
        self.ask_pause = (self.ask_pause * 2).min(ASK_PAUSE_MAX);
        Some(Action::AskTracker)
    }

    fn wants_peers(&self) -> bool {
        self.grants.len() == 0 || self.peers.len() < self.outgoing().div_ceil(2)
    }

    /// Makes room for a peer when nothing comes from those that are known.
    fn drop_useless(&mut self) {
        let useless = |peer: &&Peer| peer.open == 0 && (peer.exhausted || peer.stage == Stage::Named);
        if self.grants.len() == 0
            && let Some(node) = self.peers.iter().find(useless).map(|peer| peer.node)
        {
            self.disconnect(node);
        }
    }

    /// Ends a peer's grants one by one, and the acquaintance.
    fn disconnect(&mut self, peer: NodeId) {
        let open = self.grants.iter().filter(|grant| grant.peer == peer);
        let open: Vec<u64> = open.map(|grant| grant.number).collect();
        open.into_iter().for_each(|number| self.revoke(number));
        if self
            .peers
            .iter()
            .any(|known| known.node == peer && known.stage != Stage::Named)
        {
            self.pending.push_back(Action::Disconnect { peer });
        }
        self.forget(peer);
    }

    fn forget(&mut self, peer: NodeId) {
        if let Some(at) = self.peers.iter().position(|known| known.node == peer) {
            self.count_holder(at, false);
            self.peers.remove(at);
        }
        self.reopen();
    }

    /// Counts a bad piece against a peer.
    fn blame(&mut self, peer: NodeId, piece: Option<u32>) {
        let Some(known) = self.peer_mut(peer) else { return };
        known.bad += 1;
        known.spoiled.extend(piece);
        if known.bad >= BAD_PIECES_PER_PEER {
            if self.banned.len() < NODES_MAX {
                self.banned.insert(peer);
            }
            self.disconnect(peer);
        }
    }

    fn peer_mut(&mut self, node: NodeId) -> Option<&mut Peer> {
        self.peers.iter_mut().find(|peer| peer.node == node)
    }

    fn patience(&self, node: NodeId) -> Duration {
        let least = self.settings.deadline_min;
        self.peers
            .iter()
            .find(|peer| peer.node == node)
            .map_or(least, |peer| peer.patience(least))
    }

    fn count_holder(&mut self, at: usize, present: bool) {
        let known = &self.peers[at];
        for piece in known.have.iter() {
            let holders = &mut self.holders[piece as usize];
            *holders = if present {
                holders.saturating_add(1)
            } else {
                holders.saturating_sub(1)
            };
        }
    }
}

// ---- grants --------------------------------------------------------------------------------------------

impl Fetch {
    /// Opens the next grant, if there is a source for it.
    fn grant(&mut self, now: Instant) -> Option<Action> {
        if self.grants.len() >= self.settings.grants_at_once {
            return None;
        }
        let idle_origin =
            |peer: &Peer| peer.origin && peer.open == 0 && !peer.exhausted && peer.has_room(now);
        while let Some(at) = self.peers.iter().position(idle_origin) {
            if let Some(action) = self.grant_to(at, now) {
                return Some(action);
            }
        }
        while let Some(at) = self.best_peer(|peer| !peer.exhausted && peer.has_room(now)) {
            if let Some(action) = self.grant_to(at, now) {
                return Some(action);
            }
        }
        if self.grants.arriving().count() >= self.settings.duplicates_below {
            return None;
        }
        self.duplicate(now)
    }

    /// Asks one peer for a piece that is missing and not asked for, or notes that it has none.
    fn grant_to(&mut self, at: usize, now: Instant) -> Option<Action> {
        let chooses = self.peers[at].origin
            && self.peers[..at]
                .iter()
                .filter(|peer| peer.origin && peer.is_connected())
                .count()
                < CHOOSING_ORIGINS;
        let want = if chooses {
            self.choice(at).map(Want::LeastSent)
        } else {
            self.rarest(at).map(Want::Piece)
        };
        let Some(want) = want else {
            self.peers[at].exhausted = true;
            return None;
        };
        Some(self.open(at, want, now))
    }

    /// Asks for a piece at a second source that is as yet waited for at a first.
    fn duplicate(&mut self, now: Instant) -> Option<Action> {
        let mut tried = Vec::new();
        while let Some(at) = self.best_peer(|peer| peer.has_room(now) && !tried.contains(&peer.node)) {
            let peer = &self.peers[at];
            tried.push(peer.node);
            let [theirs, ours] = [peer.have.words(), self.have.words()];
            let [asked, doubled] = [self.grants.asked().words(), self.grants.doubled().words()];
            let arriving = self.grants.arriving().words();
            let word = |at: usize| theirs[at] & !ours[at] & asked[at] & !doubled[at] & !arriving[at];
            let piece = picker::pick(0..self.have.len(), &self.holders, &mut self.rng, word);
            let node = peer.node;
            if let Some(piece) = piece
                && !self
                    .grants
                    .iter()
                    .any(|grant| grant.peer == node && grant.piece == Some(piece))
            {
                return Some(self.open(at, Want::Piece(piece), now));
            }
        }
        None
    }

    fn open(&mut self, at: usize, want: Want, now: Instant) -> Action {
        let piece = match &want {
            Want::Piece(piece) => Some(*piece),
            Want::LeastSent(_) => None,
        };
        let peer = &mut self.peers[at];
        peer.open += 1;
        let deadline = now + peer.patience(self.settings.deadline_min);
        let grant = self.grants.open(peer.node, piece, now, deadline);
        Action::Grant {
            peer: peer.node,
            grant,
            want,
        }
    }

    /// The peer to ask next: one that keeps its deadlines, with the fewest grants, near rather than far.
    fn best_peer(&mut self, may: impl Fn(&Peer) -> bool) -> Option<usize> {
        let rng = &mut self.rng;
        let candidates = self.peers.iter().enumerate().filter(|(_, peer)| may(peer));
        let key = |peer: &Peer, rng: &mut Rng| (peer.missed > 0, peer.open, !peer.near, rng.u32(..));
        candidates
            .map(|(at, peer)| (key(peer, rng), at))
            .min()
            .map(|(_, at)| at)
    }

    /// The pieces from which an origin may choose, unless each is as good as asked for.
    fn choice(&self, at: usize) -> Option<Vec<u64>> {
        self.ranges().into_iter().find_map(|range| {
            let word = self.unasked(at);
            let words: Vec<u64> = (0..self.have.words().len())
                .map(|at| word(at) & picker::mask(at, &range))
                .collect();
            let count: usize = words.iter().map(|word| word.count_ones() as usize).sum();
            (count > self.grants.undecided()).then_some(words)
        })
    }

    /// One of the rarest pieces that a peer has and nobody is asked for.
    fn rarest(&mut self, at: usize) -> Option<u32> {
        let mut rng = self.rng.fork();
        let word = self.unasked(at);
        self.ranges()
            .into_iter()
            .find_map(|range| picker::pick(range, &self.holders, &mut rng, &word))
    }

    /// The pieces that a peer has, that are missing and not asked for, and that it did not spoil, word by word.
    fn unasked(&self, at: usize) -> impl Fn(usize) -> u64 {
        let peer = &self.peers[at];
        let [theirs, ours, asked] = [peer.have.words(), self.have.words(), self.grants.asked().words()];
        move |at| {
            let mut word = theirs[at] & !ours[at] & !asked[at];
            for &piece in &peer.spoiled {
                if piece as usize / 64 == at && self.holders[piece as usize] > 1 {
                    word &= !(1 << (piece % 64));
                }
            }
            word
        }
    }

    /// Ranges of pieces, the most wanted first.
    fn ranges(&self) -> [std::ops::Range<u32>; 3] {
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
    fn reopen(&mut self) {
        self.peers.iter_mut().for_each(|peer| peer.exhausted = false);
        self.settled = false;
    }

    fn close(&mut self, number: u64) -> Option<Grant> {
        let closed = self.grants.close(number)?;
        if let Some(peer) = self.peer_mut(closed.peer) {
            peer.open -= 1;
        }
        self.settled = false;
        Some(closed)
    }

    fn close_all(&mut self, peer: NodeId) {
        let open = self.grants.iter().filter(|grant| grant.peer == peer);
        let open: Vec<u64> = open.map(|grant| grant.number).collect();
        open.into_iter().for_each(|number| {
            self.close(number);
        });
    }

    fn revoke(&mut self, number: u64) {
        if let Some(closed) = self.close(number) {
            self.pending.push_back(Action::Revoke {
                peer: closed.peer,
                grant: number,
            });
        }
    }

    /// Revokes the grants for a piece that have brought nothing yet.
    fn revoke_waiting(&mut self, piece: u32) {
        let waiting = self
            .grants
            .iter()
            .filter(|grant| grant.piece == Some(piece) && !grant.arriving);
        let waiting: Vec<u64> = waiting.map(|grant| grant.number).collect();
        waiting.into_iter().for_each(|number| self.revoke(number));
    }

    /// Acts on every deadline that has passed.
    fn expire(&mut self, now: Instant) {
        self.settled = false;
        let late = self.grants.iter().filter(|grant| grant.deadline <= now).cloned();
        let late: Vec<Grant> = late.collect();
        for grant in late {
            let patience = self.patience(grant.peer);
            if grant.arriving && !grant.overdue {
                self.grants.overdue(grant.number, now + patience * OVERDUE_FACTOR);
            } else {
                self.revoke(grant.number);
            }
            if let Some(peer) = self.peer_mut(grant.peer) {
                peer.missed_deadline(grant.opened, now);
            }
            self.reopen();
        }
        let silent = |peer: &&Peer| matches!(peer.stage, Stage::Connecting(until) if until <= now);
        let silent: Vec<NodeId> = self.peers.iter().filter(silent).map(|peer| peer.node).collect();
        silent.into_iter().for_each(|peer| self.disconnect(peer));
        self.due = self.earliest(now);
    }

    /// When something is due next.
    fn earliest(&self, now: Instant) -> Option<Instant> {
        let grants = self.grants.iter().map(|grant| grant.deadline);
        let peers = self.peers.iter().filter_map(|peer| match peer.stage {
            Stage::Connecting(until) => Some(until),
            _ => (peer.rest_until > now).then_some(peer.rest_until),
        });
        let ask = (self.wants_peers() && self.ask_at > now).then_some(self.ask_at);
        grants.chain(peers).chain(ask).min()
    }
}
