//! Trees, chains and whole copies take as long in the simulated network as closed forms say, and survive what the swarm
//! survives.

use sim::{Cluster, Faults, Scenario, Strategy, simulate};

/// A network in which nothing costs anything but the bytes.
fn bare() -> Cluster {
    Cluster {
        message_ns: 0,
        operation_ns: 0,
        checksum_gbps: f64::INFINITY,
        memory_gbps: f64::INFINITY,
        ..Cluster::default()
    }
}

/// How long a strategy takes, in the time that one piece takes.
fn pieces_long(strategy: Strategy, receivers: usize, pieces: u32) -> f64 {
    let scenario = Scenario::of_pieces(1, receivers, pieces);
    let outcome = simulate(&Scenario { strategy, cluster: bare(), ..scenario });
    outcome.map_or(f64::INFINITY, |outcome| outcome.longest()) * f64::from(pieces)
}

fn assert_near(measured: f64, expected: f64) {
    assert!((measured / expected - 1.0).abs() < 0.03, "{measured} where {expected} was expected");
}

#[test]
fn a_star_takes_a_copy_for_each_receiver() {
    assert_near(pieces_long(Strategy::Star, 40, 64), 40.0 * 64.0);
}

#[test]
fn a_chain_takes_a_hop_for_each_receiver() {
    for (receivers, pieces) in [(2, 512), (64, 512), (300, 100)] {
        let hop = 1.0 + 50_000.0 / 3_355_443.0;
        assert_near(
            pieces_long(Strategy::Chain, receivers, pieces),
            f64::from(pieces) + (receivers - 1) as f64 * hop,
        );
    }
}

#[test]
fn a_tree_sends_everything_twice() {
    assert_near(pieces_long(Strategy::Tree, 62, 512), 2.0 * 512.0 + 5.0 * 2.0);
}

#[test]
fn two_trees_take_little_longer_than_one_copy() {
    let pieces = pieces_long(Strategy::DoubleTree, 63, 512);
    assert!((512.0..=1.15 * 512.0).contains(&pieces), "{pieces}");
}

#[test]
fn a_binomial_tree_sends_everything_as_often_as_it_is_deep() {
    assert_near(pieces_long(Strategy::Binomial, 63, 256), 6.0 * 256.0 + 6.0);
}

#[test]
fn to_scatter_and_gather_takes_two_copies_at_most() {
    let pieces = pieces_long(Strategy::ScatterAllgather, 64, 256);
    assert!((256.0..=2.1 * 256.0).contains(&pieces), "{pieces}");
}

#[test]
fn whole_copies_double_every_time() {
    assert_near(pieces_long(Strategy::Doubling, 63, 64), 6.0 * 64.0);
}

#[test]
fn comparators_survive_what_the_swarm_survives() {
    let faults =
        Faults { slow: 0.05, dying: 0.1, late: 0.2, lossy: 0.02, racks_lost: 1, ..Faults::default() };
    for strategy in Strategy::ALL {
        for seed in 0..3 {
            let scenario = Scenario::of_pieces(seed, 70, 60);
            let outcome = simulate(&Scenario { strategy, faults: faults.clone(), ..scenario }).unwrap();
            assert!(outcome.is_complete(), "{strategy}, seed {seed}: a survivor never got all");
        }
    }
}
