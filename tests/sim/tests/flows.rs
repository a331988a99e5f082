//! Several chunks at once: what matters more comes first, and nothing waits for ever.

use flow::swarm::Priority;
use sim::{Flow, Outcome, Scenario, simulate};

/// A large chunk to 24 nodes, and beside it a small one that they begin to want when a third of it may be there.
fn run(seed: u64, priority: Priority) -> Outcome {
    let flows = vec![Flow { size_bytes: 16 << 22, begins: 0.3, priority }];
    let scenario = Scenario { flows, ..Scenario::of_pieces(seed, 24, 400) };
    simulate(&scenario).unwrap_or_else(|failure| panic!("{failure}"))
}

/// How long the slowest receiver took for a chunk, in the time that all bytes of the large one need.
fn longest(outcome: &Outcome, chunk: usize) -> f64 {
    outcome.times(|receiver| receiver.chunk == chunk).last().copied().unwrap_or(f64::INFINITY)
}

#[test]
fn a_small_urgent_chunk_is_not_stuck_behind_a_large_one() {
    for seed in 0..5 {
        let outcomes = [Priority::Normal, Priority::Critical].map(|priority| run(seed, priority));
        let small = outcomes.each_ref().map(|outcome| longest(outcome, 1));
        // The small one has 4 % of the bytes.
        assert!(small[1] < 0.6 * small[0] && small[1] < 4.0 * 0.04, "seed {seed}: {small:?}");
        let large = outcomes.each_ref().map(|outcome| longest(outcome, 0));
        assert!(large.iter().all(|time| *time < 1.25), "seed {seed}: {large:?}");
    }
}

#[test]
fn what_matters_least_goes_on_beside_what_matters_most() {
    for seed in 0..3 {
        let flow = |priority| Flow { size_bytes: 200 << 22, begins: 0.0, priority };
        let flows = vec![flow(Priority::Low), flow(Priority::Critical)];
        let outcome = simulate(&Scenario { flows, ..Scenario::of_pieces(seed, 12, 200) }).unwrap();
        assert!(outcome.is_complete(), "seed {seed}");
        let times = [0, 1, 2].map(|chunk| longest(&outcome, chunk));
        assert!(times[2] < times[0] && times[0] < times[1], "seed {seed}: {times:?}");
        // Three chunks, one after the other or all at once, take the time of three.
        assert!(times[1] < 3.6, "seed {seed}: {times:?}");
    }
}
