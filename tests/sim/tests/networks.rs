//! The simulated network shares its links as max-min fairness would, and keeps to its ceilings.

use sim::{Cluster, Scenario, Strategy, simulate};

/// A broadcast by the swarm, in the time that all bytes take through a node's cards.
fn longest(cluster: Cluster, receivers: usize, pieces: u32) -> f64 {
    let scenario = Scenario { cluster, ..Scenario::of_pieces(2, receivers, pieces) };
    simulate(&scenario).map_or(f64::INFINITY, |outcome| outcome.longest())
}

#[test]
fn two_cards_carry_twice_as_much() {
    let two = Cluster { nics: 2, ..Cluster::default() };
    let scenario = Scenario { cluster: two, ..Scenario::of_pieces(1, 1, 512) };
    let outcome = simulate(&scenario).unwrap();
    assert_eq!(outcome.ideal_ns * 2, Scenario::of_pieces(1, 1, 512).ideal_ns());
    assert!(outcome.longest() < 1.05, "{}", outcome.longest());
}

#[test]
fn a_rack_takes_as_long_as_its_uplink_needs() {
    // A chain passes from the first rack to the second once, over an uplink that carries half of what a card does.
    let cluster = Cluster { nodes_per_rack: 8, oversubscription: 16.0, ..Cluster::default() };
    let scenario = Scenario { cluster, strategy: Strategy::Chain, ..Scenario::of_pieces(2, 15, 256) };
    let outcome = simulate(&scenario).unwrap();
    assert!((2.0..2.2).contains(&outcome.longest()), "{}", outcome.longest());
    assert_eq!(outcome.copies_into_a_rack(scenario.size_bytes), 1.0);
}

#[test]
fn connections_collide_on_spines() {
    // Each of the spines carries a share, and a connection no more than its spine does.
    let cluster = |spines| Cluster { nodes_per_rack: 4, oversubscription: 2.0, spines, ..Cluster::default() };
    let chain = |spines| {
        let scenario = Scenario { cluster: cluster(spines), ..Scenario::of_pieces(2, 30, 16) };
        simulate(&Scenario { strategy: Strategy::Chain, ..scenario }).unwrap().longest()
    };
    assert!(chain(0) <= chain(4), "{} {}", chain(0), chain(4));
}

#[test]
fn memory_checksums_and_gpus_are_ceilings() {
    let plain = longest(Cluster::default(), 20, 128);
    for (what, cluster) in [
        ("memory", Cluster { memory_gbps: 10.0, ..Cluster::default() }),
        ("checksums", Cluster { checksum_gbps: 5.0, ..Cluster::default() }),
        ("PCIe", Cluster { gpus: 4, pcie_gbps: 5.0, ..Cluster::default() }),
        ("messages", Cluster { message_ns: 500_000, ..Cluster::default() }),
    ] {
        let slower = longest(cluster, 20, 128);
        assert!(slower > 1.5 * plain, "{what}: {slower} {plain}");
    }
    let gpus = Cluster { gpus: 8, pcie_gbps: 5.0, nvlink_gbps: 900.0, ..Cluster::default() };
    let over_nvlink = longest(gpus, 20, 128);
    assert!(over_nvlink < 1.1 * plain, "each GPU fetches a part over PCIe: {over_nvlink} {plain}");
}

#[test]
fn a_chunk_larger_than_memory_takes_the_time_of_the_disk() {
    // The disk is 2.5 times slower than the card; the last 64 of 256 pieces are still in their slots at the end.
    let tight = Cluster { memory_bytes: 300 << 20, nvme_write_gbps: 4.0, ..Cluster::default() };
    let time = longest(tight, 10, 256);
    assert!((2.5 * 0.75..2.8).contains(&time), "{time}");
}

#[test]
fn rails_of_a_rack_do_not_touch_each_other() {
    let cluster =
        Cluster { nics: 4, nodes_per_rack: 8, spines: 4, rail_optimized: true, ..Cluster::default() };
    let time = longest(cluster, 31, 256);
    assert!(time < 1.6, "{time}");
}
