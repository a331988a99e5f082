//! A source under any order of events.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use fastrand::Rng;
use flow::bitmap::Bitmap;
use flow::chunk::ChunkId;
use flow::swarm::Priority;
use flow::swarm::serve::{Holdings, Serve, Upload};
use flow::time::Instant;
use flow::wire::data::Want;
use proptest::prelude::*;

const CHUNK: ChunkId = ChunkId([1; 32]);

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

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
