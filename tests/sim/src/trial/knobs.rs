//! What can be turned in a random cluster, by name: as flags of a command line, and one by one back to what is plain.

use flow::connections::Bounds;
use flow::limits::{CONNECTIONS_ASKED_PER_SHARD, CONNECTIONS_PER_SHARD};
use flow::swarm::Uplinks;

use crate::faults::Partition;
use crate::scenario::Scenario;

/// One number of a scenario. What is off, or without end, is infinite; a switch is 0 or 1.
pub struct Knob {
    /// Its name; as a flag, after two dashes.
    pub name: &'static str,
    get: fn(&Scenario) -> f64,
    set: fn(&mut Scenario, f64),
}

/// All of them.
pub const KNOBS: [Knob; 30] = [
    Knob { name: "receivers", get: |s| s.receivers as f64, set: |s, to| s.receivers = to as usize },
    Knob {
        name: "pieces",
        get: |s| f64::from(s.pieces()),
        set: |s, to| s.size_bytes = to as u64 * u64::from(s.piece_bytes),
    },
    Knob { name: "chunks", get: |s| s.chunks as f64, set: |s, to| s.chunks = to as usize },
    Knob { name: "origins", get: |s| s.origins as f64, set: |s, to| s.origins = to as usize },
    Knob { name: "nics", get: |s| s.cluster.nics as f64, set: |s, to| s.cluster.nics = to as usize },
    Knob {
        name: "nodes-per-rack",
        get: |s| s.cluster.nodes_per_rack as f64,
        set: |s, to| s.cluster.nodes_per_rack = to as usize,
    },
    Knob {
        name: "oversubscription",
        get: |s| s.cluster.oversubscription,
        set: |s, to| s.cluster.oversubscription = to,
    },
    Knob {
        name: "scarce",
        get: |s| f64::from(u8::from(s.settings.uplinks == Uplinks::Scarce)),
        set: |s, to| s.settings.uplinks = if to > 0.0 { Uplinks::Scarce } else { Uplinks::Full },
    },
    Knob { name: "spines", get: |s| s.cluster.spines as f64, set: |s, to| s.cluster.spines = to as usize },
    Knob {
        name: "rail-optimized",
        get: |s| f64::from(u8::from(s.cluster.rail_optimized)),
        set: |s, to| s.cluster.rail_optimized = to > 0.0,
    },
    Knob { name: "gpus", get: |s| s.cluster.gpus as f64, set: |s, to| s.cluster.gpus = to as usize },
    Knob {
        name: "memory-mib",
        get: |s| match s.cluster.memory_bytes {
            u64::MAX => f64::INFINITY,
            bytes => (bytes >> 20) as f64,
        },
        set: |s, to| s.cluster.memory_bytes = (to * f64::from(1 << 20)) as u64,
    },
    Knob {
        name: "message-ns",
        get: |s| s.cluster.message_ns as f64,
        set: |s, to| s.cluster.message_ns = to as u64,
    },
    Knob {
        name: "latency-ns",
        get: |s| s.cluster.latency_ns as f64,
        set: |s, to| s.cluster.latency_ns = to as u64,
    },
    Knob {
        name: "connections",
        get: |s| s.connections.asked as f64,
        set: |s, to| s.connections = bounds(to as usize),
    },
    Knob { name: "slow", get: |s| s.faults.slow, set: |s, to| s.faults.slow = to },
    Knob { name: "slowness", get: |s| s.faults.slowness, set: |s, to| s.faults.slowness = to },
    Knob { name: "straggling", get: |s| s.faults.straggling, set: |s, to| s.faults.straggling = to },
    Knob { name: "dying", get: |s| s.faults.dying, set: |s, to| s.faults.dying = to },
    Knob { name: "late", get: |s| s.faults.late, set: |s, to| s.faults.late = to },
    Knob { name: "lossy", get: |s| s.faults.lossy, set: |s, to| s.faults.lossy = to },
    Knob { name: "one-way", get: |s| s.faults.one_way, set: |s, to| s.faults.one_way = to },
    Knob { name: "liars", get: |s| s.faults.liars as f64, set: |s, to| s.faults.liars = to as usize },
    Knob {
        name: "racks-lost",
        get: |s| s.faults.racks_lost as f64,
        set: |s, to| s.faults.racks_lost = to as usize,
    },
    Knob {
        name: "trackers-silent-at",
        get: |s| s.faults.trackers_silent_at.unwrap_or(f64::INFINITY),
        set: |s, to| s.faults.trackers_silent_at = to.is_finite().then_some(to),
    },
    Knob {
        name: "trackers-die-at",
        get: |s| s.faults.trackers_die_at.unwrap_or(f64::INFINITY),
        set: |s, to| s.faults.trackers_die_at = to.is_finite().then_some(to),
    },
    Knob {
        name: "origins-die-at",
        get: |s| s.faults.origins_die_at.unwrap_or(f64::INFINITY),
        set: |s, to| s.faults.origins_die_at = to.is_finite().then_some(to),
    },
    Knob {
        name: "partition-begins",
        get: |s| partition(s).begins,
        set: |s, to| part(s, Partition { begins: to, ..partition(s) }),
    },
    Knob {
        name: "partition-lasts",
        get: |s| partition(s).lasts,
        set: |s, to| part(s, Partition { lasts: to, ..partition(s) }),
    },
    Knob {
        name: "partition-share",
        get: |s| partition(s).share,
        set: |s, to| part(s, Partition { share: to, ..partition(s) }),
    },
];

/// Bounds that leave a fetch as many connections of its own as it has in production.
pub(super) fn bounds(asked: usize) -> Bounds {
    let own = CONNECTIONS_PER_SHARD - CONNECTIONS_ASKED_PER_SHARD;
    Bounds { all: asked.saturating_add(own), asked }
}

/// A partition that is none.
const NEVER: Partition = Partition { begins: 0.0, lasts: 0.0, share: 0.0 };

fn partition(scenario: &Scenario) -> Partition {
    scenario.faults.partition.unwrap_or(NEVER)
}

fn part(scenario: &mut Scenario, partition: Partition) {
    scenario.faults.partition = (partition != NEVER).then_some(partition);
}

/// The scenario in which nothing is turned: one piece to one receiver.
pub fn plain(seed: u64) -> Scenario {
    Scenario::of_pieces(seed, 1, 1)
}

impl Knob {
    /// The knob of a name.
    pub fn named(name: &str) -> Option<&'static Self> {
        KNOBS.iter().find(|knob| knob.name == name)
    }

    /// The same scenario with another value.
    pub fn turn(&self, scenario: &Scenario, to: f64) -> Scenario {
        let mut turned = scenario.clone();
        (self.set)(&mut turned, to);
        turned
    }

    /// Whether another value makes other fates of the same seed.
    pub(super) fn changes_fates(&self) -> bool {
        ["receivers", "pieces"].contains(&self.name)
    }

    /// Values that make a scenario simpler, the simplest first: what is plain, and for counts half of it and one less.
    pub(super) fn simpler(&self, scenario: &Scenario) -> Vec<f64> {
        let (value, plain) = ((self.get)(scenario), (self.get)(&plain(scenario.seed)));
        let is_count = value.fract() == 0.0 && value > plain;
        let less = [((value + plain) / 2.0).floor(), value - 1.0].into_iter().filter(|_| is_count);
        let mut values: Vec<f64> = std::iter::once(plain).chain(less).filter(|&to| to != value).collect();
        values.dedup();
        values
    }
}

/// The flags that stand for a scenario which differs from the plain one in its seed and its knobs alone.
pub fn flags(scenario: &Scenario) -> String {
    let plain = plain(scenario.seed);
    let turned = KNOBS.iter().filter(|knob| (knob.get)(scenario) != (knob.get)(&plain));
    let flags = turned.map(|knob| format!(" --{} {}", knob.name, (knob.get)(scenario)));
    format!("--seed {}{}", scenario.seed, flags.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trial::draw;

    #[test]
    fn flags_stand_for_the_whole_scenario() {
        for seed in 0..200 {
            let drawn = draw(seed);
            let text = flags(&drawn);
            let words: Vec<&str> = text.split(' ').collect();
            let mut read = plain(words[1].parse().unwrap());
            for pair in words[2..].chunks(2) {
                let knob = Knob::named(&pair[0][2..]).unwrap();
                read = knob.turn(&read, pair[1].parse().unwrap());
            }
            assert_eq!(format!("{read:?}"), format!("{drawn:?}"));
        }
    }
}
