//! What the scheduler does in the simulated world: the published table, and clusters with liars, dead origins, silent
//! trackers and broken networks. Every run checks the invariants of the world at each event.

use flow::connections::Bounds;
use sim::{Cluster, Faults, Outcome, Partition, Scenario, simulate, trial};

/// A world that is large enough for its figures to be those of the published tables.
fn table(faults: Faults) -> Outcome {
    run(&Scenario { faults, ..Scenario::of_pieces(1, 512, 512) })
}

fn run(scenario: &Scenario) -> Outcome {
    let outcome = simulate(scenario).unwrap_or_else(|failure| panic!("{failure}: {scenario:?}"));
    assert!(outcome.is_complete(), "a survivor never got all: {scenario:?}");
    outcome
}

fn faulty(seed: u64, receivers: usize, pieces: u32, faults: Faults) -> Outcome {
    run(&Scenario { faults, ..Scenario::of_pieces(seed, receivers, pieces) })
}

#[test]
fn equal_nodes_take_little_longer_than_one_copy() {
    let longest = table(Faults::default()).longest();
    assert!(longest <= 1.10, "{longest}");
}

#[test]
fn slow_nodes_do_not_hold_the_others_up() {
    let median = table(Faults { slow: 0.05, ..Faults::default() }).median();
    assert!(median <= 1.10, "{median}");
}

#[test]
fn who_is_far_slower_than_its_sources_gets_all_in_the_end() {
    // One of them is 28 times slower, and asked all 42 sources for the five pieces again and again.
    let faults = Faults {
        slow: 0.27293483490153375,
        straggling: 0.29407865217053636,
        late: 0.1415018553824386,
        ..Faults::default()
    };
    let cluster = Cluster { nodes_per_rack: 6, ..Cluster::default() };
    run(&Scenario { faults, cluster, ..Scenario::of_pieces(0, 42, 5) });
}

#[test]
fn dying_nodes_cost_what_they_were_sending() {
    let longest = table(Faults { dying: 0.01, ..Faults::default() }).longest();
    assert!(longest < 1.10, "{longest}");
}

#[test]
fn late_nodes_are_ordinary_receivers() {
    let median = table(Faults { late: 0.3, ..Faults::default() }).median();
    assert!(median <= 1.11, "{median}");
}

#[test]
fn who_comes_when_the_others_have_finished_is_let_in() {
    let last = faulty(3, 64, 128, Faults { late: 0.3, ..Faults::default() });
    let (longest, twice) = (last.longest(), last.sum(|counters| counters.duplicate));
    assert!(longest < 1.25 && twice < 64 * 128 / 50, "{longest}, {twice} pieces sent twice");
}

#[test]
fn who_finds_no_place_at_the_origin_gets_all_from_others() {
    let connections = Bounds { all: 64, asked: 32 };
    let crowded = run(&Scenario { connections, ..Scenario::of_pieces(1, 256, 256) });
    assert!(crowded.longest() < 1.25, "{}", crowded.longest());
    let faults = Faults { slow: 0.05, dying: 0.05, late: 0.3, ..Faults::default() };
    for seed in 0..6 {
        run(&Scenario { connections, faults: faults.clone(), ..Scenario::of_pieces(seed, 120, 60) });
    }
}

#[test]
fn hardly_anything_is_sent_twice_even_when_all_is_the_end() {
    // Of four pieces some are sent twice whatever is done at the end.
    for (receivers, pieces, percent) in [(256, 4, 6), (256, 16, 2), (64, 64, 2)] {
        let outcome = faulty(1, receivers, pieces, Faults { late: 0.3, ..Faults::default() });
        let twice = outcome.sum(|counters| counters.duplicate);
        let all = receivers as u64 * u64::from(pieces);
        assert!(twice * 100 < all * percent, "{twice} of {all}, {pieces} pieces");
    }
}

#[test]
fn the_smallest_swarms_work() {
    for (receivers, pieces) in [(1, 1), (1, 300), (2, 1), (3, 2), (30, 1), (100, 3)] {
        for seed in 0..5 {
            run(&Scenario::of_pieces(seed, receivers, pieces));
        }
    }
}

#[test]
fn two_nodes_keep_the_link_full() {
    let longest = run(&Scenario::of_pieces(3, 1, 1000)).longest();
    assert!(longest < 1.02, "{longest}");
}

#[test]
fn liars_are_found_out() {
    for seed in 0..5 {
        let outcome = faulty(seed, 50, 100, Faults { liars: 3, ..Faults::default() });
        assert!(outcome.sum(|counters| counters.corrupt) > 0, "nobody asked a liar, seed {seed}");
    }
}

#[test]
fn the_origin_may_die_when_everything_was_sent_once() {
    for seed in 0..5 {
        faulty(seed, 50, 100, Faults { origins_die_at: Some(1.3), ..Faults::default() });
    }
}

#[test]
fn silent_trackers_stop_nothing() {
    for seed in 0..5 {
        let faults = Faults { trackers_silent_at: Some(0.15), dying: 0.1, slow: 0.1, ..Faults::default() };
        faulty(seed, 80, 150, faults);
    }
}

#[test]
fn others_track_when_the_trackers_die() {
    for seed in 0..5 {
        let faults = Faults { trackers_die_at: Some(0.3), late: 0.5, ..Faults::default() };
        faulty(seed, 80, 150, faults);
    }
}

#[test]
fn a_network_that_fell_apart_makes_whole_what_lay_apart() {
    for (seed, lasts) in [(1, 0.02), (2, 0.5), (3, 3.0)] {
        let partition = Some(Partition { begins: 0.4, lasts, share: 0.5 });
        let scenario = Scenario::of_pieces(seed, 60, 150);
        let cluster = Cluster { nodes_per_rack: 8, ..Cluster::default() };
        let outcome =
            run(&Scenario { faults: Faults { partition, ..Faults::default() }, cluster, ..scenario });
        assert!(outcome.longest() < 1.5 + lasts + 15.0, "{}", outcome.longest());
    }
}

#[test]
fn a_rack_may_die_at_once() {
    for seed in 0..5 {
        let faults = Faults { racks_lost: 2, late: 0.2, ..Faults::default() };
        let cluster = Cluster { nodes_per_rack: 10, ..Cluster::default() };
        let outcome = run(&Scenario { faults, cluster, ..Scenario::of_pieces(seed, 100, 100) });
        assert!(outcome.receivers.iter().filter(|receiver| receiver.died).count() >= 10);
    }
}

#[test]
fn who_is_not_heard_any_more_holds_up_nobody_else() {
    for seed in 0..5 {
        let faults = Faults { one_way: 0.1, ..Faults::default() };
        let longest = faulty(seed, 100, 200, faults).longest();
        assert!(longest < 2.0, "{longest}");
    }
}

#[test]
fn versions_that_come_one_after_the_other_all_arrive() {
    let faults = Faults { slow: 0.1, dying: 0.05, ..Faults::default() };
    let outcome = run(&Scenario { chunks: 3, faults, ..Scenario::of_pieces(4, 50, 100) });
    assert_eq!(outcome.receivers.len(), 150);
}

#[test]
fn random_clusters_keep_every_promise() {
    for seed in 0..100 {
        let judged = trial::judge(&trial::draw(seed));
        assert_eq!(judged, None, "`sim hunt 1 --first-seed {seed}` shows the simplest cluster that fails");
    }
}

#[test]
fn the_same_seed_gives_the_same_world() {
    let faults =
        Faults { slow: 0.1, dying: 0.05, late: 0.2, lossy: 0.1, straggling: 0.2, ..Faults::default() };
    let [first, second] = [0, 1].map(|_| faulty(9, 60, 80, faults.clone()));
    assert_eq!((first.events, first.times(|_| true)), (second.events, second.times(|_| true)));
    assert_eq!((first.racks, first.progress), (second.racks, second.progress));
}
