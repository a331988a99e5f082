//! Random clusters, and the simplest one in which something that went wrong still does.

mod knobs; // what can be turned, by name

use std::panic::{AssertUnwindSafe, catch_unwind};

use fastrand::Rng;
use flow::swarm::{Settings, Uplinks};

pub use self::knobs::{Knob, flags, plain};
use crate::cluster::Cluster;
use crate::faults::{Faults, Partition};
use crate::scenario::Scenario;
use crate::{Failure, simulate};

/// A receiver so many times slower may not have all when a run is given up.
const SLOWNESS_JUDGED: f64 = 50.0;
/// Seeds with which a smaller cluster is tried, besides its own: it draws other fates than the one it came from.
const SEEDS_TRIED: u64 = 4;

/// A small cluster in which anything may go wrong, from a seed.
pub fn draw(seed: u64) -> Scenario {
    let mut rng = Rng::with_seed(seed);
    let receivers = rng.usize(1..70);
    let sized = Scenario::of_pieces(seed, receivers, rng.u32(1..120));
    let cluster = Cluster {
        nics: rng.usize(1..4),
        nodes_per_rack: rng.usize(1..20),
        oversubscription: if rng.bool() { 1.0 } else { 1.0 + rng.f64() * 7.0 },
        spines: rng.usize(0..4),
        rail_optimized: rng.bool(),
        gpus: rng.usize(0..3),
        memory_bytes: if rng.u8(..8) == 0 { 280 << 20 } else { u64::MAX },
        message_ns: rng.u64(0..50_000),
        latency_ns: rng.u64(1_000..500_000),
        ..Cluster::default()
    };
    let share = |rng: &mut Rng, most: f64| if rng.u8(..3) == 0 { rng.f64() * most } else { 0.0 };
    let faults = Faults {
        slow: share(&mut rng, 0.4),
        straggling: share(&mut rng, 0.3),
        dying: share(&mut rng, 0.4),
        late: share(&mut rng, 0.6),
        lossy: share(&mut rng, 0.2),
        one_way: share(&mut rng, 0.2),
        liars: if rng.u8(..4) == 0 { receivers / 8 } else { 0 },
        racks_lost: if rng.u8(..4) == 0 { 1 } else { 0 },
        trackers_silent_at: (rng.u8(..8) == 0).then(|| 0.2 + rng.f64()),
        trackers_die_at: (rng.u8(..8) == 0).then(|| rng.f64()),
        origins_die_at: (rng.u8(..8) == 0).then(|| 0.5 + rng.f64() * 2.0),
        partition: (rng.u8(..6) == 0).then(|| Partition {
            begins: rng.f64(),
            lasts: rng.f64() * 2.0,
            share: rng.f64(),
        }),
        ..Faults::default()
    };
    let (origins, chunks) = (rng.usize(1..3), rng.usize(1..4));
    let connections = if rng.u8(..3) == 0 { knobs::bounds(rng.usize(24..70)) } else { sized.connections };
    // Whatever racks are like: operators may be mistaken.
    let uplinks = Uplinks::ALL[rng.usize(..Uplinks::ALL.len())];
    let settings = Settings { uplinks, ..sized.settings.clone() };
    Scenario { origins, chunks, connections, cluster, faults, settings, ..sized }
}

/// What goes wrong in a scenario: a promise that is broken, a panic, or an ordinary survivor without all of it though
/// nothing that it needs was lost.
pub fn judge(scenario: &Scenario) -> Option<String> {
    let run = catch_unwind(AssertUnwindSafe(|| simulate(scenario)));
    let outcome = match run {
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            return Some(format!("a panic: {text}"));
        }
        Ok(Err(Failure::Violation(violation))) => {
            return Some(format!("node {} {}, at {} µs", violation.node, violation.what, violation.at_us));
        }
        Ok(Err(Failure::Refused(_))) => return None,
        Ok(Ok(outcome)) => outcome,
    };
    // What may take away the last copy, or the last who knows of one, is judged by the promises alone.
    let faults = &scenario.faults;
    let may_lack = faults.origins_die_at.is_some()
        || faults.trackers_silent_at.is_some()
        || faults.trackers_die_at.is_some()
        || faults.partition.is_some()
        || faults.racks_lost > 0;
    let lacks = outcome.receivers.iter().filter(|receiver| {
        !receiver.died && receiver.finished_ns.is_none() && receiver.slowness < SLOWNESS_JUDGED
    });
    match lacks.count() {
        0 => None,
        _ if may_lack => None,
        count => Some(format!("{count} receivers that live never get all")),
    }
}

/// The simplest scenario that was found, from one in which something fails, in which it still does: one knob after the
/// other is turned back, as far as it goes, until none can be.
pub fn shrink(mut scenario: Scenario, fails: impl Fn(&Scenario) -> bool) -> Scenario {
    let simpler = |scenario: &Scenario| {
        knobs::KNOBS.iter().find_map(|knob| {
            let turned = knob.simpler(scenario).into_iter().map(|to| knob.turn(scenario, to));
            let seeds = |turned: Scenario| {
                let others = if knob.changes_fates() { SEEDS_TRIED } else { 0 };
                let others = (0..others).filter(move |&seed| seed != turned.seed);
                let seeds = std::iter::once(turned.seed).chain(others);
                seeds.map(move |seed| Scenario { seed, ..turned.clone() })
            };
            turned.flat_map(seeds).find(&fails)
        })
    };
    while let Some(found) = simpler(&scenario) {
        scenario = found;
    }
    scenario
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_matter_is_shrunk_away() {
        let drawn = (0..).map(draw).find(|drawn| drawn.faults.dying > 0.0 && drawn.receivers > 20);
        let shrunk = shrink(drawn.unwrap(), |scenario| {
            scenario.faults.dying > 0.0 && scenario.receivers >= 7 && scenario.pieces() >= 3
        });
        let faults = Faults { dying: shrunk.faults.dying, ..Faults::default() };
        let simplest = Scenario { faults, ..Scenario::of_pieces(shrunk.seed, 7, 3) };
        assert_eq!(flags(&shrunk), flags(&simplest));
    }
}
