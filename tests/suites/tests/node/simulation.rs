//! `shoal sim`, which talks to no node.

use suites::Shoal;

fn broadcast(words: &[&str]) -> Shoal {
    Shoal::alone().args(["sim", "broadcast", "--nodes", "40", "--size", "64MiB", "--seeds", "2"]).args(words)
}

#[test]
fn strategies_are_compared_in_the_same_worlds() {
    let folder = tempfile::tempdir().unwrap();
    let drawing = folder.path().join("progress.svg");
    let words = ["--strategy", "swarm,star", "--late", "20%", "--json", "--svg", drawing.to_str().unwrap()];
    let report = broadcast(&words).run().success().json();
    assert_eq!((&report["simulated"], &report["receivers"]), (&true.into(), &40.into()));
    assert_eq!(report["seeds"], serde_json::json!([1, 2]));
    let median = |at: usize| report["strategies"][at]["seconds"]["p50"]["mean"].as_f64().unwrap();
    assert!(median(1) > 5.0 * median(0), "{report}");
    let drawn = std::fs::read_to_string(&drawing).unwrap();
    assert!(
        drawn.starts_with("<svg") && drawn.contains("swarm, simulated") && drawn.contains("star, simulated")
    );
    // What follows from seeds comes again.
    assert_eq!(broadcast(&words).run().success().json(), report);
}

#[test]
fn people_get_a_table() {
    let words = ["--gpus", "8", "--racks", "4", "--oversubscription", "4"];
    let table = broadcast(&words).run().success().text();
    assert!(
        table.starts_with("simulated: 64.0 MiB to 40 nodes of 800 Gbit/s in 4 racks, 2 seeds\n"),
        "{table}"
    );
    assert!(table.contains("COPIES INTO A RACK"), "{table}");
}

#[test]
fn what_cannot_be_simulated_is_wrong_usage() {
    broadcast(&["--strategy", "gossip"]).run().exits(2).tells("double-tree");
    broadcast(&["--slow", "130%"]).run().exits(2).tells("write 5% or 0.05");
    broadcast(&["--nic-gbps", "0"]).run().exits(2).tells("the rate of a card");
    broadcast(&["--svg", "/nowhere/progress.svg"]).run().exits(1).tells("cannot write /nowhere/progress.svg");
}
