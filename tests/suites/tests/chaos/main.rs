//! Chaos: broadcasts among real nodes, some of which are killed, frozen, cut off or join meanwhile.
//!
//! Each round follows from a seed. `SHOAL_CHAOS_ROUNDS` says how many there are, and `SHOAL_CHAOS_SEED` the first of their
//! seeds; that alone runs one round, as to repeat one that failed: a failure prints its seed and what was done when.
//! Nodes have hosts of their own, namespaces with links of a fixed rate, where the system lets a process make any;
//! elsewhere they share the loopback interface, nothing is cut, and the test says so.
#![allow(clippy::unwrap_used)]

mod fleet; // sixteen nodes, each at its place
mod part; // what one node does in a round
mod plan; // what happens in a round, from its seed
mod round; // one round
mod silence; // a node that is cut off for long
mod verdict; // what each get ended with, and whether it may

use crate::fleet::Fleet;
use crate::verdict::Tally;

/// Rounds of an ordinary run.
const ROUNDS: u64 = 3;
/// Rounds after which all nodes are started afresh.
const ROUNDS_PER_FLEET: u64 = 20;

#[test]
fn every_live_receiver_ends_with_the_right_bytes() {
    let (first, count) = seeds(number("SHOAL_CHAOS_SEED"), number("SHOAL_CHAOS_ROUNDS"));
    let mut total = Tally::default();
    let mut fleet = None;
    for seed in first..first + count {
        if (seed - first).is_multiple_of(ROUNDS_PER_FLEET) {
            drop(fleet.take());
        }
        let fleet = fleet.get_or_insert_with(Fleet::start);
        let tally = round::play(fleet, seed);
        println!("seed {seed}: {tally}");
        total += tally;
    }
    println!("{count} rounds: {total}");
}

/// The first seed, and how many rounds there are.
fn seeds(seed: Option<u64>, rounds: Option<u64>) -> (u64, u64) {
    (seed.unwrap_or(1), rounds.unwrap_or(if seed.is_some() { 1 } else { ROUNDS }))
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} must be a number, not '{text}'")))
}

#[test]
fn a_seed_alone_is_one_round() {
    assert_eq!(seeds(None, None), (1, ROUNDS));
    assert_eq!(seeds(Some(17), None), (17, 1));
    assert_eq!(seeds(None, Some(200)), (1, 200));
    assert_eq!(seeds(Some(101), Some(50)), (101, 50));
}
