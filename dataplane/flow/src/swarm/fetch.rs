//! The receiver of one chunk on one node: which source is asked for which piece, and when another is.
//!
//! The receiver drives. It keeps a bounded number of sources, opens *grants* towards them, each for one slot and
//! one piece, and closes every grant exactly once: verified, corrupt, declined, lost or revoked.
//!
//! - **Which source.** The one with the fewest open grants among those that keep their deadlines, near before far. Among
//!   equals one that has just sent a piece and has another: it has room again, where one that is tried at random may have
//!   none. A source begins with a small window of grants that grows with each delivery and shrinks with each deadline missed,
//!   so that a lone source gets a pipeline deep enough for a stream never to idle, and a slow one holds few pieces back.
//! - **Other racks.** As many grants towards them as their uplinks have room for, as long as somebody near can help: a few
//!   more while pieces from afar come about as soon as those from nearby, half as many when one does not, and always one.
//!   Where the operator says that uplinks are scarce, neighbours tell each other what is coming, so that it comes once.
//! - **How many.** As many pieces as a source sends at once, and no more. In a busy swarm each side then has as many
//!   streams as the other and all links are full; grants that wait in a queue would hold pieces back that somebody
//!   idle could send. A busy source declines, and the receiver goes elsewhere: to look for a free source costs two
//!   small messages, to wait for a busy one costs the time of a piece. A piece that takes twice as long as pieces usually
//!   do comes from a slow source and leaves room on the link: another is asked for beside it. So is another from a source that says
//!   that nobody asks it for anything.
//! - **Which piece.** An *origin*, which had the whole chunk when it was first heard of, chooses itself: it sends
//!   what it has sent least often, out of what nobody else nearby has. One grant at each origin comes before all
//!   others and waits in its queue as long as it takes, because pieces enter the swarm there alone. An offer to an
//!   origin that has grown old is renewed. Any other source is asked for one of the rarest pieces, by a random
//!   sample, that are missing and not asked for elsewhere; a reader that goes through the chunk in order moves a
//!   window, and pieces within it come first.
//! - **Deadlines.** A grant may take three times what that source's grants took or what grants take here, at least a
//!   minimum, and longer after each miss: of the source, or of all sources, since what they send to a slow receiver is
//!   late because of each other. Then its piece may be asked for elsewhere. The grant stays, and the first piece to be
//!   verified counts: the bytes may be on their way, and who would drop them and ask again and again would have nothing
//!   in the end. It is revoked when another source's bytes arrive, or much later; one whose bytes are arriving, when that
//!   takes a minute.
//! - **Duplicates.** Only at the end, when everything missing is asked for and hardly anything arrives: a second grant
//!   for a piece that takes twice as long as others did goes to another holder, and when the header of one comes, the
//!   other is revoked.
//! - **More peers.** The tracker is asked when there are too few peers or nothing is under way, with growing pauses.
//!   Its silence stops nothing. Half of the places are for peers that come by themselves, so that those who came first
//!   and those who came last are equally well connected.

mod asking; // which piece from whom
mod grants; // the open grants, and which pieces they stand for
mod importing; // how a piece crosses into a rack once
mod imports; // the pieces that are nearby, and those that are coming
mod peer; // what is known of one source
mod peers; // the sources that are known, by name
mod picker; // one piece of a set
mod room; // one piece more than usual, from a source that has room
mod settings; // how a fetch behaves
mod sources; // who is asked at all
mod spine; // how much is asked for from other racks
mod stuck; // whether anybody is left who can help
mod tempo; // how fast pieces come

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use fastrand::Rng;

use self::grants::Grants;
use self::imports::Imports;
use self::peer::{Peer, Stage};
use self::peers::Peers;
pub use self::settings::Settings;
use self::spine::Spine;
use self::tempo::Tempo;
use super::uplinks::Uplinks;
use crate::bitmap::Bitmap;
use crate::time::Instant;
use crate::wire::control::{NodeId, TrackerPeer};
use crate::wire::data::Want;

/// First pause between two questions to the tracker.
const ASK_PAUSE_MIN: Duration = Duration::from_millis(20);

/// What the caller shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Connect unless that is done, say what is here and ask what is there; answered by [`Fetch::on_interest`] or [`Fetch::on_lost`].
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
    /// Tell a peer nearby that a piece is on its way from another rack; for [`Fetch::on_coming`] there.
    Coming {
        /// The peer.
        peer: NodeId,
        /// The piece.
        piece: u32,
        /// Who gets it: this node, or another one nearby that has told this node so.
        importer: NodeId,
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
    /// How many connected peers have each piece, origins not counted.
    holders: Vec<u8>,
    /// Pieces that some connected peer has, origins not counted.
    held: Bitmap,
    peers: Peers,
    banned: BTreeSet<NodeId>,
    /// Peers that were lost before they delivered anything, and until when they are not tried again.
    avoided: BTreeMap<NodeId, Instant>,
    grants: Grants,
    pending: VecDeque<Action>,
    rng: Rng,
    first: Option<u32>,
    counters: Counters,
    tempo: Tempo,
    spine: Spine,
    /// What is known of the pieces nearby; nothing where uplinks carry enough.
    imports: Option<Imports>,
    began: Instant,
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
        let settings = Settings { peers: settings.peers.clamp(1, u8::MAX.into()), ..settings };
        let is_scarce = settings.uplinks == Uplinks::Scarce;
        Self {
            imports: is_scarce.then(|| Imports::new(pieces, settings.node, now)),
            settings,
            have,
            holders: vec![0; pieces as usize],
            held: Bitmap::new(pieces),
            peers: Peers::default(),
            banned: BTreeSet::new(),
            avoided: BTreeMap::new(),
            grants: Grants::new(pieces, first_number),
            pending: VecDeque::new(),
            rng,
            first: None,
            counters: Counters::default(),
            tempo: Tempo::new(),
            spine: Spine::new(),
            began: now,
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
        let mut action = self.connect(now);
        if action.is_none() && free_slots > 0 {
            action = self.grant(now);
        }
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

    /// So many pieces shall be asked for by name at once from here on.
    pub fn set_pieces_at_once(&mut self, pieces_at_once: usize) {
        let before = std::mem::replace(&mut self.settings.pieces_at_once, pieces_at_once);
        self.settled &= pieces_at_once == before;
    }

    /// A reader wants the pieces from `first` on before all others, or any order will do.
    pub fn want_next(&mut self, first: Option<u32>) {
        self.first = first;
    }

    /// The tracker named peers.
    pub fn on_peers(&mut self, now: Instant, named: &[TrackerPeer]) {
        for peer in named {
            if let Some(at) = self.peers.place(peer.node) {
                self.set_near(now, at, peer.near);
                continue;
            }
            let avoided = self.avoided.get(&peer.node).is_some_and(|&until| until > now);
            if avoided || self.banned.contains(&peer.node) {
                continue;
            }
            if self.peers.len() >= 2 * self.settings.peers {
                self.drop_useless();
            }
            if self.peers.len() < 2 * self.settings.peers {
                self.peers.push(Peer::new(peer.node, peer.near, peer.complete, self.have.len()));
                self.ask_pause = ASK_PAUSE_MIN;
            }
        }
        self.settled = false;
    }

    /// Peers are known when the fetch begins. If one of them has everything, the tracker is asked only when the fetch takes a while.
    pub fn begin_with(&mut self, now: Instant, known: &[TrackerPeer]) {
        if known.iter().any(|peer| peer.complete) {
            self.ask_at = now + ASK_PAUSE_MIN;
        }
        self.on_peers(now, known);
    }

    /// A peer is connected and said what it has, asked or unasked. One that comes unasked when all places for such are
    /// taken is sent away by [`Action::Disconnect`]. Who has everything wants nothing of others and lets them stay.
    ///
    /// Returns whether the peer may stay. One that may not must not be told what is here: it would grant slots at once, and
    /// what is sent into them comes after they are gone.
    pub fn on_interest(&mut self, now: Instant, peer: NodeId, near: bool, have: Bitmap) -> bool {
        if self.have.is_full() {
            return true;
        }
        let fits = have.len() == self.have.len() && !self.banned.contains(&peer);
        let place = if fits { self.place_for(peer, near, have.is_full()) } else { None };
        let Some(at) = place else {
            self.turn_away(peer);
            return false;
        };
        self.count_holder(at, false);
        self.leave_nearby(at);
        self.peers.enter(at, Stage::Connected);
        let known = &mut self.peers[at];
        known.near = near;
        known.have = have;
        known.exhausted = false;
        self.count_holder(at, true);
        self.join_nearby(now, at);
        self.settled = false;
        true
    }

    /// [`Action::Connect`] was carried out over a connection that is there, and what is granted from here on comes after it. A
    /// peer that has everything, as the tracker says, is taken at its word, so that the first pieces are asked for along with
    /// what it has: its own answer counts as soon as it comes, and what it does not have it declines.
    pub fn on_greeted(&mut self, peer: NodeId) {
        let Some(at) = self.peers.place(peer) else { return };
        if !self.peers[at].origin || !matches!(self.peers[at].stage, Stage::Connecting(_)) {
            return;
        }
        self.peers.enter(at, Stage::Connected);
        self.peers[at].have = Bitmap::full(self.have.len());
        if self.peers.len() == 1 {
            // There is nobody else to ask, and a stream that waits after the first pieces is no stream.
            self.peers[at].window = self.settings.grants_per_peer;
        }
        self.settled = false;
    }

    /// A peer said that it has more pieces.
    pub fn on_have(&mut self, now: Instant, peer: NodeId, pieces: &[u32]) {
        let Some(at) = self.peers.place(peer).filter(|&at| self.peers[at].is_connected()) else {
            return;
        };
        let mut useful = false;
        for &piece in pieces {
            if !self.peers[at].have.insert(piece) {
                continue;
            }
            self.note_nearby(now, at, piece);
            let known = &mut self.peers[at];
            if !known.origin {
                self.holders[piece as usize] = self.holders[piece as usize].saturating_add(1);
                self.held.insert(piece);
            }
            if !self.have.contains(piece) {
                known.exhausted &= self.grants.asked().contains(piece);
                useful = true;
            }
        }
        if useful && !self.is_busy(now) {
            self.settled = false;
        }
    }

    /// The connection failed or closed, or the peer left: its grants have ended.
    pub fn on_lost(&mut self, now: Instant, peer: NodeId) {
        if self.peers.find(peer).is_some_and(Peer::has_delivered) {
            self.ask_pause = ASK_PAUSE_MIN;
            self.ask_at = self.ask_at.min(now + ASK_PAUSE_MIN);
        } else {
            self.avoid(now, peer);
        }
        for number in self.grants.numbers(|grant| grant.peer == peer) {
            self.close(number);
        }
        self.forget(peer);
    }

    /// The source will not serve a grant, which has ended.
    pub fn on_declined(&mut self, now: Instant, peer: NodeId, grant: u64) {
        if self.grants.find(grant).is_none_or(|open| open.peer != peer) {
            return;
        }
        self.close(grant);
        self.reopen();
        let rest = self.tempo.rest();
        if self.peer_mut(peer).is_some_and(|known| known.declined(now, rest)) {
            self.pending.push_back(Action::Connect { peer });
        }
    }

    /// The header of a piece was read.
    pub fn on_arriving(&mut self, now: Instant, peer: NodeId, grant: u64, piece: u32) -> Arrival {
        let Some(open) = self.grants.find(grant).filter(|open| open.peer == peer && !open.arriving) else {
            self.counters.duplicate += 1;
            return Arrival::Discard;
        };
        let (chosen, took) = (open.piece.is_none(), now.since(open.opened));
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
        self.note_arriving(now, piece, chosen);
        let patience = self.patience(peer);
        self.grants.arrives(grant, piece, now + patience);
        self.revoke_waiting(piece);
        if chosen {
            self.reopen();
        } else {
            self.tempo.header_came(took);
        }
        self.settled = false;
        Arrival::Accept
    }

    /// The piece of a grant is here and its checksum is right; the grant has ended.
    pub fn on_verified(&mut self, now: Instant, grant: u64) {
        let is_own = self.is_own(grant);
        let Some(closed) = self.close(grant) else { return };
        let took = now.since(closed.opened);
        self.tempo.verified(took, closed.offered == 0, self.settings.deadline_min);
        let window = self.settings.grants_per_peer;
        let mut origin = false;
        if let Some(known) = self.peer_mut(closed.peer) {
            known.delivered(took, window);
            origin = known.origin;
            let near = known.near;
            if !origin && closed.offered == 0 {
                self.spine.came(near, took);
                self.note_came(near, is_own, took);
            }
        }
        self.tempo.sources_take(self.peers.iter().filter_map(|peer| peer.service).collect());
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
        self.revoke_waiting(piece);
        self.pending.push_back(Action::Announce { piece });
        true
    }

    fn finish(&mut self) -> Option<Action> {
        if self.completed {
            return None;
        }
        self.completed = true;
        self.due = None;
        for number in self.grants.numbers(|_| true) {
            self.revoke(number);
        }
        self.pending.push_back(Action::Complete);
        self.pending.pop_front()
    }
}
