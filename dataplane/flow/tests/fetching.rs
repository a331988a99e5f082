//! A receiver under any order of events.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use fastrand::Rng;
use flow::bitmap::Bitmap;
use flow::chunk::ChunkId;
use flow::limits::{PEERS_ON_ONE_HOST, PEERS_PER_RECEIVER};
use flow::swarm::fetch::{Action, Arrival, Fetch};
use flow::swarm::tracker::Tracker;
use flow::swarm::{Settings, Uplinks};
use flow::time::Instant;
use flow::wire::control::{Holding, NodeId, TrackerPeer};
use flow::wire::data::Want;
use proptest::prelude::*;

/// The receiver.
const SELF: NodeId = 100;
/// The only source that always has everything, never lies and never dies.
const HONEST: NodeId = 1;

/// A receiver among peers that answer late, wrongly, twice or not at all.
struct Play {
    rng: Rng,
    now: Instant,
    fetch: Fetch,
    settings: Settings,
    pieces: u32,
    /// Open grants: who holds them, and what they ask for.
    open: BTreeMap<u64, (NodeId, Want)>,
    /// Grants that have ended, whose pieces may still come.
    ended: Vec<(u64, NodeId, Want)>,
    used: BTreeSet<u64>,
    verified: Bitmap,
    connected: BTreeSet<NodeId>,
    done: bool,
}

impl Play {
    fn new(seed: u64, pieces: u32, uplinks: Uplinks) -> Self {
        let settings = Settings { node: SELF, uplinks, ..Settings::default() };
        let fetch = Fetch::new(settings.clone(), Bitmap::new(pieces), seed, Instant::ZERO);
        Self {
            rng: Rng::with_seed(seed),
            now: Instant::ZERO,
            fetch,
            settings,
            pieces,
            open: BTreeMap::new(),
            ended: Vec::new(),
            used: BTreeSet::new(),
            verified: Bitmap::new(pieces),
            connected: BTreeSet::new(),
            done: false,
        }
    }

    /// Carries out what the fetch wants and checks that it may want it.
    fn carry_out(&mut self) {
        let slots = 8;
        for _ in 0..10_000 {
            let Some(action) = self.fetch.poll(self.now, slots - self.open.len().min(slots)) else { return };
            assert!(!self.done, "something follows the end: {action:?}");
            match action {
                Action::Connect { peer } => self.connect(peer),
                Action::Grant { peer, grant, want } => {
                    assert!(self.used.insert(grant), "a grant's number is used twice");
                    assert!(self.open.len() < slots, "more slots are granted than there are");
                    let towards = self.open.values().filter(|(holder, _)| *holder == peer).count();
                    assert!(towards < self.settings.grants_per_peer && self.connected.contains(&peer));
                    if let Want::Piece(piece) = want {
                        assert!(piece < self.pieces && !self.verified.contains(piece));
                    }
                    self.open.insert(grant, (peer, want));
                }
                Action::Revoke { peer, grant } => {
                    // A revocation may cross the loss of its source.
                    assert!(self.used.contains(&grant));
                    if let Some((holder, want)) = self.open.remove(&grant) {
                        assert_eq!(holder, peer);
                        self.ended.push((grant, peer, want));
                    }
                }
                Action::Announce { piece } => {
                    assert!(self.verified.contains(piece), "a piece is announced unverified")
                }
                Action::Disconnect { peer } => {
                    assert!(
                        self.open.values().all(|(holder, _)| *holder != peer),
                        "grants outlive their source"
                    );
                    self.connected.remove(&peer);
                }
                Action::Coming { peer, piece, .. } => {
                    assert!(piece < self.pieces);
                    assert!(self.connected.contains(&peer), "a stranger is told what is coming");
                }
                Action::AskTracker => self.name_peers(),
                Action::Complete => {
                    assert!(self.verified.is_full());
                    self.done = true;
                }
            }
        }
        panic!("the fetch never comes to rest");
    }

    fn name_peers(&mut self) {
        let mut peers = vec![TrackerPeer { node: HONEST, complete: true, near: true }];
        for _ in 0..self.rng.usize(0..6) {
            let node = self.rng.u64(2..12);
            peers.push(TrackerPeer { node, complete: self.rng.bool(), near: self.rng.bool() });
        }
        self.fetch.on_peers(self.now, &peers);
    }

    fn connect(&mut self, peer: NodeId) {
        if peer != HONEST && self.rng.u8(0..3) == 0 {
            return self.fetch.on_lost(self.now, peer);
        }
        let mut have = Bitmap::new(self.pieces);
        for piece in (0..self.pieces).filter(|_| peer == HONEST || self.rng.bool()) {
            have.insert(piece);
        }
        self.connected.insert(peer);
        self.fetch.on_interest(self.now, peer, self.rng.bool(), have);
    }

    /// One thing happens.
    fn step(&mut self) {
        self.now = self.now + Duration::from_micros(self.rng.u64(0..20_000));
        let grant = self.rng.choice(self.open.keys().copied().collect::<Vec<_>>());
        match (self.rng.u8(0..20), grant) {
            (0, _) => self.lose(),
            (1, _) => {
                let pieces: Vec<u32> = (0..3).map(|_| self.rng.u32(0..self.pieces + 2)).collect();
                self.fetch.on_have(self.now, self.rng.u64(1..14), &pieces);
            }
            (2, _) => self.arrive_late(),
            (3, _) => {
                let piece = self.rng.u32(0..self.pieces);
                self.verified.insert(piece);
                self.fetch.on_local(self.now, piece);
            }
            (6, _) => {
                let (peer, piece) = (self.rng.u64(1..14), self.rng.u32(0..self.pieces + 2));
                self.fetch.on_coming(self.now, peer, piece, self.rng.u64(1..14));
                self.fetch.on_room(self.rng.u64(1..14));
            }
            (4 | 5, Some(grant)) if self.open[&grant].0 != HONEST => {
                let (peer, want) = self.open.remove(&grant).unwrap();
                self.ended.push((grant, peer, want));
                self.fetch.on_declined(self.now, peer, grant);
            }
            (_, Some(grant)) => self.deliver(grant),
            (_, None) => {}
        }
        self.carry_out();
    }

    fn lose(&mut self) {
        let peer = self.rng.u64(2..12);
        self.connected.remove(&peer);
        self.open.retain(|_, (holder, _)| *holder != peer);
        self.fetch.on_lost(self.now, peer);
    }

    /// The piece of a grant that has ended, or of none, arrives.
    fn arrive_late(&mut self) {
        let (grant, peer) = match self.rng.choice(&self.ended) {
            Some(&(grant, peer, _)) => (grant, peer),
            None => (self.rng.u64(..), self.rng.u64(1..12)),
        };
        let arrival = self.fetch.on_arriving(self.now, peer, grant, self.rng.u32(0..self.pieces));
        assert_eq!(arrival, Arrival::Discard, "a grant that has ended takes a piece");
    }

    fn deliver(&mut self, grant: u64) {
        let (peer, want) = self.open[&grant].clone();
        let piece = match want {
            Want::Piece(piece) => piece,
            Want::LeastSent(words) => {
                let wanted = Bitmap::from_words(self.pieces, words).expect("a want fits the chunk");
                match self.rng.choice(wanted.iter().collect::<Vec<_>>()) {
                    Some(piece) => piece,
                    None => return,
                }
            }
        };
        let lies = peer != HONEST && self.rng.u8(0..4) == 0;
        match self.fetch.on_arriving(self.now, peer, grant, piece) {
            // The engine reads past it; a revocation of the grant follows.
            Arrival::Discard => {}
            Arrival::Accept => {
                self.open.remove(&grant);
                if lies {
                    self.fetch.on_corrupt(self.now, grant);
                } else {
                    self.verified.insert(piece);
                    self.fetch.on_verified(self.now, grant);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn a_fetch_ends_well_while_one_source_is_true(seed: u64, pieces in 1u32..150, scarce: bool) {
        let mut play = Play::new(seed, pieces, if scarce { Uplinks::Scarce } else { Uplinks::Full });
        play.carry_out();
        for _ in 0..60 * pieces + 4_000 {
            if play.done {
                break;
            }
            play.step();
            prop_assert!(play.fetch.have().iter().all(|piece| play.verified.contains(piece)));
        }
        prop_assert!(play.done, "{} of {pieces} pieces after {:?}", play.fetch.have().count(), play.now);
        prop_assert_eq!(play.fetch.next_deadline(), None);
    }
}

/// One piece on its way over a link that its receiver shares among all that is sent to it.
struct Stream {
    peer: NodeId,
    grant: u64,
    piece: u32,
    quarters_left: u32,
    taken: bool,
}

#[test]
fn who_has_no_place_for_a_peer_says_so_and_who_has_everything_has_place_for_all() {
    let settings = Settings::default();
    let mut fetch = Fetch::new(settings.clone(), Bitmap::new(4), 1, Instant::ZERO);
    let mut peers = 10..;
    let mut come = |fetch: &mut Fetch| {
        let peer = peers.next().unwrap();
        let stays = fetch.on_interest(Instant::ZERO, peer, true, Bitmap::new(4));
        let actions = std::iter::from_fn(|| fetch.poll(Instant::ZERO, 0));
        let sends_away = actions.filter(|action| *action == Action::Disconnect { peer }).count() == 1;
        assert_ne!(stays, sends_away);
        stays
    };
    let stayed = (0..settings.peers).filter(|_| come(&mut fetch)).count();
    assert_eq!(stayed, settings.peers / 2, "half of the places are for who comes by itself");
    (0..4).for_each(|piece| fetch.on_local(Instant::ZERO, piece));
    assert!((0..settings.peers).all(|_| come(&mut fetch)));
    assert_eq!(fetch.next_deadline(), None);
}

#[test]
fn on_one_host_fewer_peers_are_kept() {
    let named: Vec<TrackerPeer> =
        (1..=100).map(|node| TrackerPeer { node, complete: false, near: true }).collect();
    for (settings, most) in
        [(Settings::on_one_host(), PEERS_ON_ONE_HOST), (Settings::default(), PEERS_PER_RECEIVER)]
    {
        let mut fetch = Fetch::new(settings, Bitmap::new(4), 1, Instant::ZERO);
        fetch.on_peers(Instant::ZERO, &named);
        let mut asked = Vec::new();
        while let Some(action) = fetch.poll(Instant::ZERO, 0) {
            if let Action::Connect { peer } = action {
                asked.push(peer);
            }
        }
        assert_eq!(asked.len(), most / 2);
        asked.iter().for_each(|&peer| assert!(fetch.on_interest(Instant::ZERO, peer, true, Bitmap::new(4))));
        let come =
            (1001..).take(100).filter(|&peer| fetch.on_interest(Instant::ZERO, peer, true, Bitmap::new(4)));
        assert_eq!(come.count(), most / 2);
    }
}

#[test]
fn who_has_everything_as_the_tracker_says_is_granted_slots_along_with_the_greeting() {
    let named = |complete| [TrackerPeer { node: 7, complete, near: true }];
    let granted = |fetch: &mut Fetch| {
        let actions = std::iter::from_fn(|| fetch.poll(Instant::ZERO, 64));
        actions.filter(|action| matches!(action, Action::Grant { peer: 7, .. })).count()
    };
    for complete in [true, false] {
        let mut fetch = Fetch::new(Settings::default(), Bitmap::new(4), 1, Instant::ZERO);
        fetch.on_greeted(7);
        fetch.on_peers(Instant::ZERO, &named(complete));
        fetch.on_greeted(7);
        assert_eq!(granted(&mut fetch), 0, "it was not greeted yet");
        fetch.on_greeted(7);
        assert_eq!(granted(&mut fetch) > 0, complete);
        // What it says itself counts.
        let mut have = Bitmap::new(4);
        have.insert(2);
        assert!(fetch.on_interest(Instant::ZERO, 7, true, have));
        fetch.on_greeted(7);
        for piece in [0, 1, 3] {
            fetch.on_local(Instant::ZERO, piece);
        }
        granted(&mut fetch);
        fetch.on_lost(Instant::ZERO, 7);
        assert!(!fetch.have().contains(2));
    }
}

#[test]
fn a_fetch_that_begins_with_a_holder_of_everything_asks_the_tracker_when_it_takes_a_while() {
    for complete in [true, false] {
        let mut fetch = Fetch::new(Settings::default(), Bitmap::new(8), 1, Instant::ZERO);
        fetch.begin_with(Instant::ZERO, &[TrackerPeer { node: 7, complete, near: true }]);
        let asks = |fetch: &mut Fetch, now| {
            let actions = std::iter::from_fn(|| fetch.poll(now, 64));
            actions.filter(|action| *action == Action::AskTracker).count() == 1
        };
        assert_eq!(asks(&mut fetch, Instant::ZERO), !complete);
        let due = fetch.next_deadline().unwrap();
        assert!(due < Instant::ZERO + Duration::from_millis(100) && asks(&mut fetch, due));
    }
    let mut tracker = Tracker::new(1);
    let chunk = ChunkId([1; 32]);
    for (node, rack, holding) in
        [(1, "a", Holding::Complete), (2, "b", Holding::Complete), (3, "a", Holding::Partial)]
    {
        tracker.on_announce(Instant::ZERO, node, rack, chunk, holding);
    }
    let peer = |node, near| TrackerPeer { node, complete: true, near };
    assert_eq!(tracker.complete(&chunk, "a", 9), [peer(1, true), peer(2, false)]);
    assert_eq!(tracker.complete(&chunk, "", 1), [peer(1, false)]);
    assert_eq!(tracker.complete(&ChunkId([2; 32]), "a", 9), []);
}

#[test]
fn what_comes_from_slow_sources_leaves_room_for_as_much_again() {
    let settings = Settings { deadline_min: Duration::from_secs(60), ..Settings::default() };
    let at_once = settings.pieces_at_once;
    let mut fetch = Fetch::new(settings, Bitmap::new(100), 1, Instant::ZERO);
    let mut have = Bitmap::full(100);
    have.remove(0);
    (1..=8).for_each(|peer| assert!(fetch.on_interest(Instant::ZERO, peer, true, have.clone())));
    let mut granted = |now| {
        let actions = std::iter::from_fn(|| fetch.poll(now, 64));
        let grants = actions.filter(|action| matches!(action, Action::Grant { .. })).count();
        (grants, fetch.next_deadline().unwrap())
    };
    let (grants, due) = granted(Instant::ZERO);
    assert_eq!(grants, at_once);
    let mut due = due;
    let mut more = 0;
    while more == 0 && due < Instant::ZERO + Duration::from_secs(10) {
        let at = due;
        (more, due) = granted(at);
    }
    assert_eq!(more, at_once, "it wakes by itself when the first of them turn out to be slow");
    assert_eq!(granted(Instant::ZERO + Duration::from_secs(50)).0, 0);
}

#[test]
fn the_last_piece_is_asked_for_twice_only_when_it_takes_longer_than_others_did() {
    let settings = Settings { deadline_min: Duration::from_secs(60), ..Settings::default() };
    let [mut here, mut have] = [Bitmap::new(2), Bitmap::new(2)];
    here.insert(0);
    have.insert(1);
    let mut fetch = Fetch::new(settings, here, 1, Instant::ZERO);
    (1..=3).for_each(|peer| assert!(fetch.on_interest(Instant::ZERO, peer, true, have.clone())));
    let mut granted = |now| {
        let actions = std::iter::from_fn(|| fetch.poll(now, 64));
        let grants = actions.filter_map(|action| match action {
            Action::Grant { peer, want: Want::Piece(piece), .. } => Some((peer, piece)),
            _ => None,
        });
        (grants.collect::<Vec<_>>(), fetch.next_deadline().unwrap())
    };
    let (first, mut due) = granted(Instant::ZERO);
    assert!(matches!(first[..], [(_, 1)]), "{first:?}");
    let mut second = Vec::new();
    while second.is_empty() && due < Instant::ZERO + Duration::from_secs(10) {
        let at = due;
        (second, due) = granted(at);
        assert!(second.is_empty() || at > Instant::ZERO + Duration::from_millis(10), "at {at:?}");
    }
    assert!(matches!(second[..], [(peer, 1)] if peer != first[0].0), "{second:?}");
}

#[test]
fn a_slow_receiver_does_not_revoke_for_ever_what_is_on_its_way_to_it() {
    const QUARTER: Duration = Duration::from_millis(100);
    let pieces = 5;
    for seed in 0..20 {
        let mut now = Instant::ZERO;
        let mut fetch = Fetch::new(Settings::default(), Bitmap::new(pieces), seed, now);
        let mut streams: VecDeque<Stream> = VecDeque::new();
        let mut sent = 0;
        while !fetch.have().is_full() {
            assert!(now < Instant::ZERO + QUARTER * 4 * pieces * 6, "seed {seed}: {:?}", fetch.have());
            while let Some(action) = fetch.poll(now, 64 - streams.len().min(64)) {
                match action {
                    Action::AskTracker => {
                        let peer = |node| TrackerPeer { node, complete: false, near: true };
                        fetch.on_peers(now, &(1..=24).map(peer).collect::<Vec<_>>());
                    }
                    Action::Connect { peer } => {
                        fetch.on_interest(now, peer, true, Bitmap::full(pieces));
                    }
                    Action::Grant { peer, grant, want: Want::Piece(piece) } => {
                        sent += 1;
                        streams.push_back(Stream { peer, grant, piece, quarters_left: 4, taken: false });
                    }
                    // The source has sent it all: the bytes come, and are of no use.
                    Action::Revoke { grant, .. } => {
                        streams
                            .iter_mut()
                            .filter(|stream| stream.grant == grant)
                            .for_each(|it| it.taken = false);
                    }
                    _ => {}
                }
            }
            let Some(mut stream) = streams.pop_front() else {
                now = fetch.next_deadline().unwrap();
                continue;
            };
            if stream.quarters_left == 4 {
                let arrival = fetch.on_arriving(now, stream.peer, stream.grant, stream.piece);
                stream.taken = arrival == Arrival::Accept;
            }
            now = now + QUARTER;
            stream.quarters_left -= 1;
            match stream.quarters_left {
                0 if stream.taken => fetch.on_verified(now, stream.grant),
                0 => {}
                _ => streams.push_back(stream),
            }
        }
        assert!(sent <= 6 * pieces, "seed {seed}: {sent} pieces were sent for {pieces}");
    }
}
