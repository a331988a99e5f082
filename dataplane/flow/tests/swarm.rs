//! The scheduler's state machines under any order of events.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use fastrand::Rng;
use flow::bitmap::Bitmap;
use flow::chunk::ChunkId;
use flow::limits::{PEERS_ON_ONE_HOST, PEERS_PER_RECEIVER};
use flow::swarm::fetch::{Action, Arrival, Fetch};
use flow::swarm::serve::{Holdings, Serve, Upload};
use flow::swarm::tracker::Tracker;
use flow::swarm::{Priority, Settings, Uplinks};
use flow::time::Instant;
use flow::wire::control::{Holding, NodeId, TrackerPeer};
use flow::wire::data::Want;
use proptest::prelude::*;

const CHUNK: ChunkId = ChunkId([1; 32]);
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

    #[test]
    fn a_source_answers_every_grant_once(seed: u64, uploads in 1usize..6) {
        let mut rng = Rng::with_seed(seed);
        let holdings = Everything(Bitmap::full(64));
        let mut serve = Serve::new(uploads);
        let (mut waiting, mut sending) = (BTreeSet::new(), BTreeSet::new());
        for number in 0..600u64 {
            let now = Instant::from_micros(number * 100);
            let peer = rng.u64(1..6);
            match rng.u8(0..10) {
                0..5 => {
                    let want = match rng.bool() {
                        true => Want::Piece(rng.u32(0..64)),
                        false => Want::LeastSent(holdings.0.words().to_vec()),
                    };
                    if serve.on_grant(now, peer, CHUNK, number, want).is_ok() {
                        waiting.insert((peer, number));
                    }
                }
                5 => {
                    if let Some((peer, grant)) = rng.choice(waiting.iter().copied().collect::<Vec<_>>()) {
                        serve.on_revoke(peer, grant);
                        waiting.remove(&(peer, grant));
                    }
                }
                6 if rng.bool() => {
                    if let Some(priority) = rng.choice(Priority::ALL) {
                        serve.on_preference(peer, CHUNK, priority);
                    }
                }
                6 if rng.u8(0..4) == 0 => {
                    serve.on_lost(peer);
                    waiting.retain(|(holder, _)| *holder != peer);
                    sending.retain(|(holder, _)| *holder != peer);
                }
                _ => {
                    if let Some((peer, grant)) = rng.choice(sending.iter().copied().collect::<Vec<_>>()) {
                        sending.remove(&(peer, grant));
                        serve.on_sent(peer, grant);
                    }
                }
            }
            while let Some(upload) = serve.poll(now, &holdings) {
                let (peer, grant) = match upload {
                    Upload::Send { peer, grant, piece, .. } => {
                        prop_assert!(piece < 64);
                        sending.insert((peer, grant));
                        (peer, grant)
                    }
                    Upload::Decline { peer, grant, .. } => (peer, grant),
                    Upload::Room { .. } => {
                        prop_assert!(sending.is_empty() && waiting.is_empty(), "there is no room");
                        continue;
                    }
                };
                prop_assert!(waiting.remove(&(peer, grant)), "an answer to no grant");
            }
            prop_assert!(sending.len() <= uploads + 1, "more uploads than allowed");
        }
        // Nothing waits while there is room.
        while let Some(&(peer, grant)) = sending.iter().next() {
            sending.remove(&(peer, grant));
            serve.on_sent(peer, grant);
            while let Some(upload) = serve.poll(Instant::from_micros(1_000_000), &holdings) {
                let (Upload::Send { peer, grant, .. } | Upload::Decline { peer, grant, .. }) = upload else {
                    prop_assert!(waiting.is_empty(), "there is no room");
                    continue;
                };
                prop_assert!(waiting.remove(&(peer, grant)));
                if matches!(upload, Upload::Send { .. }) {
                    sending.insert((peer, grant));
                }
            }
        }
        prop_assert!(waiting.is_empty(), "grants that nobody answers");
    }

    #[test]
    fn a_tracker_names_members_only(seed: u64) {
        let mut rng = Rng::with_seed(seed);
        let mut tracker = Tracker::new(seed);
        let mut members: BTreeMap<NodeId, bool> = BTreeMap::new();
        let now = Instant::ZERO;
        for _ in 0..300 {
            let node = rng.u64(1..60);
            let rack = format!("r{}", node % 3);
            match rng.u8(0..8) {
                0 => {
                    tracker.on_announce(now, node, &rack, CHUNK, Holding::Complete);
                    members.insert(node, true);
                }
                1 => {
                    tracker.on_announce(now, node, &rack, CHUNK, Holding::None);
                    members.remove(&node);
                }
                2 => {
                    tracker.on_node_lost(node);
                    members.remove(&node);
                }
                _ => {
                    let named = tracker.join(now, CHUNK, node, &rack, 16);
                    members.entry(node).or_insert(false);
                    let nodes: BTreeSet<NodeId> = named.iter().map(|peer| peer.node).collect();
                    prop_assert_eq!(nodes.len(), named.len(), "a peer is named twice");
                    // Names are drawn at random, and a draw may repeat one.
                    let most = 16.min(members.len() - 1);
                    prop_assert!((most.div_ceil(2)..=most).contains(&named.len()));
                    for peer in &named {
                        prop_assert_ne!(peer.node, node);
                        prop_assert_eq!(members.get(&peer.node), Some(&peer.complete));
                        prop_assert_eq!(peer.near, peer.node % 3 == node % 3);
                    }
                    let sources = members.iter().any(|(member, complete)| *complete && *member != node);
                    prop_assert_eq!(named.iter().any(|peer| peer.complete), sources);
                }
            }
        }
    }
}

struct Everything(Bitmap);

impl Holdings for Everything {
    fn pieces(&self, chunk: &ChunkId) -> Option<impl std::ops::Deref<Target = Bitmap>> {
        (*chunk == CHUNK).then_some(&self.0)
    }
}

#[test]
fn a_lone_receiver_has_all_slots_until_another_comes() {
    let holdings = Everything(Bitmap::full(64));
    let mut serve = Serve::new(3);
    let want = || Want::LeastSent(holdings.0.words().to_vec());
    let grant = |serve: &mut Serve, peer, number| {
        serve.on_grant(Instant::ZERO, peer, CHUNK, number, want()).unwrap();
    };
    let poll = |serve: &mut Serve| serve.poll(Instant::ZERO, &holdings);
    (0..6).for_each(|number| grant(&mut serve, 1, number));
    (0..4).for_each(|_| assert!(matches!(poll(&mut serve), Some(Upload::Send { peer: 1, .. }))));
    assert_eq!(poll(&mut serve), None);
    (6..9).for_each(|number| grant(&mut serve, 2, number));
    // What becomes free goes to the other until both have half, but for the one slot that only a lone receiver has.
    for (sent, expected) in [(0, Some(2)), (1, None), (2, Some(1)), (3, Some(2))] {
        serve.on_sent(1, sent);
        let next = match poll(&mut serve) {
            Some(Upload::Send { peer, .. }) => Some(peer),
            _ => None,
        };
        assert_eq!(next, expected);
        assert_eq!(poll(&mut serve), None);
    }
}

#[test]
fn who_sent_all_that_was_asked_for_says_once_that_there_is_room() {
    let holdings = Everything(Bitmap::full(64));
    let mut serve = Serve::new(2);
    let poll = |serve: &mut Serve| serve.poll(Instant::ZERO, &holdings);
    let grant = |serve: &mut Serve, number| {
        serve.on_grant(Instant::ZERO, 1, CHUNK, number, Want::Piece(number as u32)).unwrap();
        assert!(matches!(poll(serve), Some(Upload::Send { .. })));
    };
    assert_eq!(poll(&mut serve), None, "nobody knows of what");
    (0..2).for_each(|number| grant(&mut serve, number));
    serve.on_sent(1, 0);
    assert_eq!(poll(&mut serve), None, "something is under way");
    serve.on_sent(1, 1);
    assert_eq!(poll(&mut serve), Some(Upload::Room { chunk: CHUNK }));
    assert_eq!(poll(&mut serve), None);
    // What its receiver gets by itself took no room.
    grant(&mut serve, 2);
    serve.on_released(1, 2);
    assert_eq!(poll(&mut serve), None);
    // Nor is there any when something was asked for meanwhile.
    grant(&mut serve, 3);
    serve.on_sent(1, 3);
    grant(&mut serve, 4);
    assert_eq!(poll(&mut serve), None);
}

#[test]
fn what_is_urgent_waits_for_the_next_slot_and_what_is_not_for_its_share() {
    let holdings = Everything(Bitmap::full(64));
    let mut serve = Serve::new(2);
    let grant = |serve: &mut Serve, peer, number: u64| {
        serve.on_grant(Instant::ZERO, peer, CHUNK, number, Want::Piece(number as u32 % 64))
    };
    let poll = |serve: &mut Serve| match serve.poll(Instant::ZERO, &holdings) {
        Some(Upload::Send { peer, grant, .. }) => Some((peer, grant)),
        _ => None,
    };
    serve.on_preference(2, CHUNK, Priority::High);
    serve.on_preference(3, CHUNK, Priority::Low);
    for number in [0, 1] {
        grant(&mut serve, 1, number).unwrap();
        assert_eq!(poll(&mut serve), Some((1, number)));
    }
    // All slots are taken: what is as usual is refused, what matters more waits, and so does one that matters less.
    assert!(grant(&mut serve, 1, 2).is_err());
    grant(&mut serve, 2, 3).unwrap();
    grant(&mut serve, 3, 4).unwrap();
    assert!(grant(&mut serve, 3, 5).is_err());
    serve.on_sent(1, 0);
    assert_eq!(poll(&mut serve), Some((2, 3)));
    // Four are as usual for each that matters least, and more than twice as many matter most: not always is one of them
    // waiting when a slot is free.
    let (mut sending, mut sent) = (vec![(1, 1), (2, 3)], [0u64; 4]);
    for number in 6..2106 {
        for peer in 1..=3 {
            let _ = grant(&mut serve, peer, number * 4 + peer);
        }
        let (peer, ended) = sending.remove(0);
        serve.on_sent(peer, ended);
        let next = poll(&mut serve).unwrap();
        sending.push(next);
        sent[next.0 as usize] += 1;
    }
    assert!(sent[1].abs_diff(4 * sent[3]) < 10 && sent[2] > 2 * sent[1], "{sent:?}");
}

#[test]
fn what_waits_already_moves_when_it_matters_more() {
    let holdings = Everything(Bitmap::full(64));
    let mut serve = Serve::new(1);
    let want = || Want::LeastSent(holdings.0.words().to_vec());
    for (peer, number) in [(1, 0), (2, 1), (3, 2)] {
        serve.on_grant(Instant::ZERO, peer, CHUNK, number, want()).unwrap();
    }
    let poll = |serve: &mut Serve| match serve.poll(Instant::ZERO, &holdings) {
        Some(Upload::Send { peer, grant, .. }) => Some((peer, grant)),
        _ => None,
    };
    let first = poll(&mut serve).unwrap();
    let last = (1..=3).rfind(|peer| *peer != first.0).unwrap();
    serve.on_preference(last, CHUNK, Priority::Critical);
    serve.on_sent(first.0, first.1);
    assert_eq!(poll(&mut serve), Some((last, last - 1)));
    serve.on_lost(last);
    assert!(poll(&mut serve).is_some_and(|(peer, _)| peer != last && peer != first.0));
}

#[test]
fn what_is_asked_for_again_does_not_take_all_slots() {
    let holdings = Everything(Bitmap::full(64));
    for again in [Want::Piece(3), Want::LeastSent(vec![1 << 2 | 1 << 3])] {
        let mut serve = Serve::new(4);
        let poll = |serve: &mut Serve| serve.poll(Instant::ZERO, &holdings);
        let wants = [Want::Piece(2), Want::Piece(3), again];
        for (number, want) in (0..).zip(wants) {
            serve.on_grant(Instant::ZERO, 1, CHUNK, number, want).unwrap();
        }
        (0..2).for_each(|_| assert!(matches!(poll(&mut serve), Some(Upload::Send { .. }))));
        assert_eq!(poll(&mut serve), None);
        // The first copy may not have got there.
        serve.on_sent(1, 0);
        assert!(matches!(poll(&mut serve), Some(Upload::Send { grant: 2, .. })));
    }
}

#[test]
fn an_origin_sends_every_piece_once_before_any_twice() {
    let holdings = Everything(Bitmap::full(200));
    let mut serve = Serve::new(4);
    let mut sent = BTreeSet::new();
    for number in 0..200 {
        let (now, peer) = (Instant::from_micros(number), number % 10);
        let want = Want::LeastSent(holdings.0.words().to_vec());
        serve.on_grant(now, peer, CHUNK, number, want).unwrap();
        let Some(Upload::Send { piece, grant, .. }) = serve.poll(now, &holdings) else {
            panic!("nothing is sent")
        };
        assert!(sent.insert(piece), "piece {piece} is sent twice");
        serve.on_sent(peer, grant);
    }
    assert_eq!(sent.len(), 200);
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
