//! Benchmarks of a running cluster: what they print, and that they leave nothing behind.

use serde_json::Value;
use suites::{Cluster, Node, Shoal, Signal, Way, holds, shoal};

#[test]
fn benchmarks_measure_and_clean_up() {
    let cluster = Cluster::start_with(3, |setup| setup.memory("160MB"));
    let scenarios: [(&[&str], &str, u64); 6] = [
        (&["p2p"], "p2p", 1),
        (&["p2p", "--from", "n3", "--to", "n1"], "p2p", 1),
        (&["broadcast"], "broadcast", 2),
        (&["put"], "put, durable", 1),
        (&["put", "--volatile"], "put, volatile", 1),
        (&["get"], "get", 1),
    ];
    for (words, scenario, receivers) in scenarios {
        let words = [&["--json", "bench"], words, &["--size", "8MiB", "--rounds", "3"]].concat();
        let summary = shoal(&cluster.nodes[1], words).success().json();
        assert_eq!(summary["scenario"], scenario);
        assert_eq!((&summary["size"], &summary["rounds"]), (&Value::from(8 << 20), &Value::from(3)));
        assert_eq!(summary["receivers"], receivers);
        assert_ascend(&summary["time_us"], &["p50", "p90", "p99", "max"]);
        assert_ascend(&summary["gigabytes_per_s"], &["min", "median", "max"]);
        if ["p2p", "broadcast"].contains(&scenario) {
            assert_came_by("tcp", &summary, receivers * 3 * (8 << 20));
        } else {
            assert_eq!(summary["bytes_received"], Value::Null);
        }
        assert_nothing_left(&cluster.nodes[0]);
    }
    let text = shoal(&cluster.nodes[0], ["bench", "p2p", "--size", "1MiB", "--rounds", "2"]).success().text();
    assert!(text.starts_with("p2p: 2 rounds of 1.0 MiB"), "{text}");
}

#[test]
fn rdma_is_measured_where_there_is_a_device() {
    if !Way::Rdma.is_there() {
        return;
    }
    let cluster = Cluster::start_with(2, |setup| setup.over(Way::Rdma).memory("160MB"));
    let words = ["--json", "bench", "rdma", "--size", "16MiB", "--rounds", "3"];
    let summary = shoal(&cluster.nodes[0], words).success().json();
    assert_came_by("rdma", &summary, 3 * (16 << 20));
    assert_nothing_left(&cluster.nodes[0]);
}

/// All bytes came by one way, a few of them perhaps twice: what takes long is asked for again.
fn assert_came_by(way: &str, summary: &Value, bytes: u64) {
    let received = summary["bytes_received"].as_object().expect("bytes are told by the way they came");
    let mut ways: Vec<&str> = received.keys().map(String::as_str).collect();
    ways.sort_unstable();
    assert_eq!(ways, ["rdma", "shm", "tcp", "ucx"]);
    for (known, came) in received {
        let came = came.as_u64().unwrap();
        let is_right = if known == way { (bytes..2 * bytes).contains(&came) } else { came == 0 };
        assert!(is_right, "{bytes} bytes were to come by {way}: {received:?}");
    }
}

#[test]
fn benchmarks_that_cannot_run_say_why() {
    let cluster = Cluster::start_with(2, |setup| setup.memory("64MB"));
    let bench = |words: &[&str]| shoal(&cluster.nodes[0], [&["bench"], words].concat());
    bench(&["broadcast", "--nodes", "3"]).exits(4).tells("this needs 3 live nodes, and there are 2");
    bench(&["p2p", "--from", "n9"]).exits(3).tells("n9");
    bench(&["p2p", "--from", "n2", "--to", "n2"]).exits(1).tells("cannot fetch from itself");
    bench(&["get", "--size", "0"]).exits(2);
    let rdma = bench(&["rdma", "--size", "1MiB", "--rounds", "1"]).exits(4);
    rdma.tells("n1 wrote nothing into the memory of n2 over RDMA; it came by tcp 100.0 %").tells("doctor");
    bench(&["put", "--volatile", "--size", "1GiB", "--rounds", "1"]).exits(1).tells("memory");
    assert_nothing_left(&cluster.nodes[0]);
}

#[test]
fn an_interrupted_benchmark_leaves_nothing() {
    let cluster = Cluster::start_with(3, |setup| setup.memory("256MB"));
    let words = ["bench", "broadcast", "--size", "96MiB", "--rounds", "1000"];
    let bench = Shoal::at(&cluster.nodes[0]).args(words).start();
    holds("the benchmark has begun", || {
        let replicas = cluster.nodes[1].client().replicas(None).unwrap().replicas;
        replicas.iter().any(|replica| replica.fetching)
    });
    bench.signal(Signal::INT);
    bench.wait().exits(130);
    assert_nothing_left(&cluster.nodes[1]);
}

/// Every one of these figures is a number, none is zero, and none is smaller than the one before.
fn assert_ascend(figures: &Value, names: &[&str]) {
    let figures: Vec<f64> = names.iter().map(|name| figures[name].as_f64().unwrap()).collect();
    assert!(figures[0] > 0.0 && figures.is_sorted(), "{figures:?}");
}

#[track_caller]
fn assert_nothing_left(node: &Node) {
    assert_eq!(shoal(node, ["ls", "-R", "--json"]).success().json(), serde_json::json!([]));
    holds("no chunk is left", || {
        shoal(node, ["chunk", "ls", "--json"]).success().json() == serde_json::json!([])
    });
}
