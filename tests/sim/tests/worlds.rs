//! What the scheduler does in the simulated world: the published table, the closed forms of its comparators, and
//! clusters with liars, dead origins and silent trackers. Every run checks the invariants of the world at each event.

use sim::{Outcome, Scenario, comparator, world};

/// The world of the table: 1,024 receivers and 512 pieces.
fn table(seed: u64) -> Scenario {
    Scenario::new(seed, 1024, 512)
}

fn run(scenario: &Scenario) -> Outcome {
    let outcome = world::run(scenario);
    assert!(outcome.is_complete(), "a survivor never got all: {scenario:?}");
    outcome
}

#[test]
fn equal_nodes_take_little_longer_than_one_copy() {
    let longest = run(&table(1)).longest();
    assert!(longest <= 1.10, "{longest}");
}

#[test]
fn slow_nodes_do_not_hold_the_others_up() {
    let median = run(&Scenario { slow: 0.05, ..table(1) }).median();
    assert!(median <= 1.10, "{median}");
}

#[test]
fn dying_nodes_cost_what_they_were_sending() {
    let longest = run(&Scenario { dying: 0.01, ..table(1) }).longest();
    assert!(longest < 1.095, "{longest}");
}

#[test]
fn late_nodes_are_ordinary_receivers() {
    let median = run(&Scenario { late: 0.3, ..table(1) }).median();
    assert!(median <= 1.11, "{median}");
}

#[test]
fn a_star_takes_a_copy_for_each_receiver() {
    let scenario = Scenario::new(1, 40, 64);
    let expected = (40 * 64 * scenario.piece_ns) as f64;
    let measured = comparator::star(&scenario) as f64;
    assert!((measured / expected - 1.0).abs() < 0.02, "{measured} where {expected} was expected");
}

#[test]
fn a_chain_takes_a_hop_for_each_receiver() {
    for (receivers, pieces) in [(2, 512), (64, 512), (300, 100)] {
        let scenario = Scenario::new(1, receivers, pieces);
        let hops = u64::from(pieces) + receivers as u64 - 1;
        let expected = (hops * (scenario.piece_ns + scenario.latency_ns)) as f64;
        let measured = comparator::chain(&scenario) as f64;
        assert!((measured / expected - 1.0).abs() < 0.02, "{measured} where {expected} was expected");
    }
}

#[test]
fn the_smallest_swarms_work() {
    for (receivers, pieces) in [(1, 1), (1, 300), (2, 1), (3, 2), (30, 1), (100, 3)] {
        for seed in 0..5 {
            run(&Scenario::new(seed, receivers, pieces));
        }
    }
}

#[test]
fn two_nodes_keep_the_link_full() {
    let longest = run(&Scenario::new(3, 1, 1000)).longest();
    assert!(longest < 1.02, "{longest}");
}

#[test]
fn liars_are_found_out() {
    for seed in 0..5 {
        let outcome = run(&Scenario { liars: 3, ..Scenario::new(seed, 50, 100) });
        assert!(outcome.sum(|counters| counters.corrupt) > 0, "nobody asked a liar, seed {seed}");
    }
}

#[test]
fn the_origin_may_die_when_everything_was_sent_once() {
    for seed in 0..5 {
        run(&Scenario { origins_die_at: Some(130), ..Scenario::new(seed, 50, 100) });
    }
}

#[test]
fn a_silent_tracker_stops_nothing() {
    for seed in 0..5 {
        run(&Scenario { tracker_silent_at: Some(20), dying: 0.1, slow: 0.1, ..Scenario::new(seed, 80, 150) });
    }
}

#[test]
fn random_worlds_keep_every_invariant() {
    for seed in 0..30 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut scenario = Scenario::new(seed, rng.usize(1..80), rng.u32(1..150));
        scenario.slow = rng.f64() * 0.3;
        scenario.late = rng.f64() * 0.5;
        scenario.dying = rng.f64() * 0.3;
        scenario.liars = rng.usize(0..3).min(scenario.receivers.saturating_sub(1) / 4);
        run(&scenario);
    }
}

#[test]
fn the_same_seed_gives_the_same_world() {
    let scenario = Scenario { slow: 0.1, dying: 0.05, late: 0.2, ..Scenario::new(9, 60, 80) };
    let (first, second) = (world::run(&scenario), world::run(&scenario));
    assert_eq!(
        (first.events, first.messages, first.times(|_| true)),
        (second.events, second.messages, second.times(|_| true))
    );
}
