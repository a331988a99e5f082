//! What to simulate, as flags say it.

use std::thread;

use flow::swarm::{Settings, Uplinks};
use sim::{Cluster, Faults, Scenario, Strategy};

use crate::amount;
use crate::failure::Failure;

/// Nodes of a rack, unless the number of racks is given.
const NODES_PER_RACK: usize = 32;
/// The name that stands for all strategies.
const ALL: &str = "all";

/// What to simulate.
#[derive(clap::Args)]
pub struct Order {
    /// Nodes that receive; one more has the bytes
    #[arg(long, value_name = "COUNT", default_value_t = 64)]
    nodes: usize,
    /// GPUs of a node, each of which gets all bytes; without any, bytes end in the nodes' memory
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    gpus: usize,
    /// Bytes of the chunk
    #[arg(long, default_value = "2GiB", value_parser = amount::parse_size_of_data)]
    size: u64,
    /// Rate of a network card, in Gbit/s
    #[arg(long, value_name = "RATE", default_value_t = 100.0)]
    nic_gbps: f64,
    /// Network cards of a node [default: one for each GPU, at least one]
    #[arg(long, value_name = "COUNT")]
    nics: Option<usize>,
    /// Rate at which a GPU sends to the others of its node, in Gbit/s; 0 is without NVLink
    #[arg(long, value_name = "RATE", default_value_t = 3600.0)]
    nvlink_gbps: f64,
    /// Time of a message within a rack, in microseconds [default: 50, or 5 with GPUs]
    #[arg(long, value_name = "TIME")]
    latency_us: Option<u32>,
    /// Racks, over which the nodes are spread evenly [default: one for 32 nodes]
    #[arg(long, value_name = "COUNT")]
    racks: Option<usize>,
    /// How many times more the nodes of a rack send than its uplinks carry
    #[arg(long, value_name = "RATIO", default_value_t = 1.0)]
    oversubscription: f64,
    /// What nodes are told of the uplinks of their racks, as by `shoal serve --uplinks`: full or scarce
    /// [default: scarce with an oversubscription above 1]
    #[arg(long, value_name = "WORD")]
    uplinks: Option<Uplinks>,
    /// Share of the receivers that die on the way
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = parse_share)]
    fail: f64,
    /// Share of the receivers that are slow
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = parse_share)]
    slow: f64,
    /// How many times slower these are
    #[arg(long, value_name = "RATIO", default_value_t = 4.0)]
    slowness: f64,
    /// Share of the receivers that join while others have begun
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = parse_share)]
    late: f64,
    /// Who sends to whom: swarm, star, chain, tree, double-tree, binomial, scatter-allgather, doubling, or all
    #[arg(long, value_name = "NAME,…", default_value = "swarm", value_delimiter = ',')]
    strategy: Vec<String>,
    /// How many worlds, each made of a seed of its own
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    seeds: u64,
    /// The first seed
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    first_seed: u64,
    /// Worlds that are simulated at once [default: one for each processor]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
}

impl Order {
    /// The scenarios of each strategy, one for each seed.
    pub fn scenarios(&self) -> Result<Vec<Vec<Scenario>>, Failure> {
        let strategies = self.strategies()?;
        let of_strategy = |strategy| {
            let seeds = self.first_seed..self.first_seed.saturating_add(self.seeds);
            seeds.map(|seed| self.scenario(seed, strategy)).collect::<Vec<_>>()
        };
        let scenarios: Vec<Vec<Scenario>> = strategies.into_iter().map(of_strategy).collect();
        for scenario in scenarios.iter().flatten() {
            scenario.check().map_err(|refused| Failure::Usage(refused.to_string()))?;
        }
        Ok(scenarios)
    }

    /// How many worlds are simulated at once.
    pub fn jobs(&self) -> usize {
        let processors = || thread::available_parallelism().map_or(1, usize::from);
        self.jobs.map_or_else(processors, usize::from)
    }

    fn strategies(&self) -> Result<Vec<Strategy>, Failure> {
        if self.strategy.iter().any(|name| name == ALL) {
            return Ok(Strategy::ALL.to_vec());
        }
        let mut strategies = Vec::new();
        for name in &self.strategy {
            let strategy =
                name.parse().map_err(|error: sim::UnknownStrategy| Failure::Usage(error.to_string()))?;
            if !strategies.contains(&strategy) {
                strategies.push(strategy);
            }
        }
        Ok(strategies)
    }

    fn scenario(&self, seed: u64, strategy: Strategy) -> Scenario {
        let faults = Faults {
            dying: self.fail,
            slow: self.slow,
            slowness: self.slowness,
            late: self.late,
            ..Faults::default()
        };
        let (cluster, plain) = (self.cluster(), Scenario::new(seed, self.nodes, self.size));
        let uplinks = self.uplinks.unwrap_or_else(|| cluster.uplinks());
        let settings = Settings { uplinks, ..plain.settings };
        Scenario { strategy, faults, cluster, settings, ..plain }
    }

    fn cluster(&self) -> Cluster {
        let base = if self.gpus > 0 { Cluster::of_gpus() } else { Cluster::default() };
        let nics = self.nics.unwrap_or(self.gpus.max(1));
        let nodes = self.nodes.saturating_add(1);
        let nodes_per_rack = self.racks.map_or(NODES_PER_RACK, |racks| nodes.div_ceil(racks.max(1)));
        Cluster {
            gpus: self.gpus,
            nics,
            nic_gbps: self.nic_gbps,
            nvlink_gbps: self.nvlink_gbps,
            // Nodes run a shard for each core; one core for each card is what they take at least.
            checksum_gbps: Cluster::default().checksum_gbps * nics.max(1) as f64,
            latency_ns: self.latency_us.map_or(base.latency_ns, |time| u64::from(time) * 1000),
            nodes_per_rack,
            oversubscription: self.oversubscription,
            ..base
        }
    }
}

/// Reads a share: a percentage, or a fraction.
fn parse_share(text: &str) -> Result<f64, String> {
    let wrong = || format!("'{text}' is not a share of the receivers; write 5% or 0.05");
    let text = text.trim();
    let (number, whole) = match text.strip_suffix('%') {
        Some(number) => (number, 100.0),
        None => (text, 1.0),
    };
    let share = number.trim_end().parse::<f64>().map_err(|_| wrong())? / whole;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        order: Order,
    }

    fn order(words: &[&str]) -> Order {
        Line::try_parse_from(["line"].iter().chain(words)).unwrap().order
    }

    #[test]
    fn shares_are_percentages_or_fractions() {
        assert_eq!(parse_share("5%"), Ok(0.05));
        assert_eq!(parse_share("0.3"), Ok(0.3));
        for wrong in ["", "5", "-1%", "101%", "NaN", "many"] {
            assert!(parse_share(wrong).unwrap_err().contains("write 5%"), "{wrong}");
        }
    }

    #[test]
    fn flags_make_a_scenario_for_each_strategy_and_seed() {
        let order = order(&[
            "--nodes=63",
            "--racks=4",
            "--gpus=8",
            "--strategy=chain,swarm,chain",
            "--seeds=2",
            "--first-seed=7",
            "--late=30%",
            "--latency-us=9",
        ]);
        let scenarios = order.scenarios().unwrap();
        let seen: Vec<_> = scenarios.iter().flatten().map(|one| (one.strategy, one.seed)).collect();
        let (chain, swarm) = (Strategy::Chain, Strategy::Swarm);
        assert_eq!(seen, [(chain, 7), (chain, 8), (swarm, 7), (swarm, 8)]);
        let first = &scenarios[0][0];
        assert_eq!((first.receivers, first.racks(), first.cluster.nodes_per_rack), (63, 4, 16));
        assert_eq!((first.cluster.nics, first.cluster.gpus, first.cluster.latency_ns), (8, 8, 9000));
        assert_eq!(first.faults.late, 0.3);
        assert_eq!(first.settings.uplinks, Uplinks::Full);
        assert_eq!(order_of_all(), Strategy::ALL.len());
    }

    #[test]
    fn nodes_are_told_that_uplinks_are_scarce_where_they_are_unless_said_otherwise() {
        let told = |words: &[&str]| order(words).scenarios().unwrap()[0][0].settings.uplinks;
        assert_eq!(told(&["--oversubscription=4"]), Uplinks::Scarce);
        assert_eq!(told(&["--oversubscription=4", "--uplinks=full"]), Uplinks::Full);
        assert_eq!(told(&["--uplinks=scarce"]), Uplinks::Scarce);
    }

    fn order_of_all() -> usize {
        order(&["--strategy=all"]).scenarios().unwrap().len()
    }

    #[test]
    fn what_cannot_be_simulated_is_wrong_usage() {
        for words in [["--nodes=0"], ["--strategy=gossip"], ["--nic-gbps=0"], ["--oversubscription=0.5"]] {
            let refused = order(&words).scenarios();
            assert!(matches!(refused, Err(Failure::Usage(_))), "{words:?}");
        }
    }
}
