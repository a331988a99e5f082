//! Any node answers for any key.

use serde_json::{Value, json};
use suites::{Http, Node, Setup, Signal};

const KEYS: usize = 60;

fn value_of(key: usize) -> Value {
    // Some are chunks.
    json!({"number": key, "fill": "f".repeat(if key % 12 == 5 { 300_000 } else { key })})
}

fn write(http: &Http, key: usize, persist: bool) {
    let body = json!({"key": format!("k{key}"), "value": value_of(key), "persist": persist});
    http.json("POST", "/write", &body).is(200);
}

fn has(http: &Http, key: usize) -> bool {
    let answer = http.get(&format!("/read/k{key}"));
    if answer.status != 200 {
        return false;
    }
    let found = answer.value();
    assert!(found["found"] == json!(false) || found["value"] == value_of(key), "k{key}");
    found["found"] == json!(true)
}

fn keys_of(http: &Http) -> u64 {
    http.get("/stats").is(200).value()["stats"]["total_keys"].as_u64().unwrap()
}

fn three() -> Vec<Node> {
    let head = Setup::named("n1").start();
    let others: Vec<Node> = ["n2", "n3"].map(|name| Setup::named(name).join(&head).start()).into();
    let nodes: Vec<Node> = std::iter::once(head).chain(others).collect();
    for node in &nodes {
        suites::holds("all nodes know each other", || {
            Http::at(node).get("/v1/status").is(200).value()["live_nodes"] == json!(3)
        });
    }
    nodes
}

#[test]
fn keys_are_spread_and_answered_everywhere() {
    let nodes = three();
    let https: Vec<Http> = nodes.iter().map(Http::at).collect();
    for key in 0..KEYS {
        write(&https[key % 3], key, key % 2 == 0);
    }
    for http in &https {
        assert!((0..KEYS).all(|key| has(http, key)));
    }
    suites::holds("each key is counted by one node", || {
        let counts: Vec<u64> = https.iter().map(keys_of).collect();
        counts.iter().sum::<u64>() == KEYS as u64 && counts.iter().all(|&count| count > 5)
    });
    // A value is overwritten, moved and released from any node.
    https[1].json("POST", "/write", &json!({"key": "k0", "value": "another", "persist": false})).is(200);
    assert_eq!(https[2].get("/read/k0").is(200).value()["value"], json!("another"));
    https[0].json("POST", "/move", &json!({"key": "k1", "destination": "disk"})).is(200);
    assert_eq!(https[1].get("/location/k1").is(200).value()["location"], "disk");
    https[2].delete("/release/k1").is(200);
    https[0].delete("/release/k1").is(404);
    for http in &https {
        assert!(!has(http, 1));
    }
    // Where a value does not fit is decided by the node that its key belongs to.
    https.iter().for_each(|http| drop(http.ask("POST", "/set_max_memory/0", None).is(200)));
    https[0].json("POST", "/write", &json!({"key": "new", "value": 1})).is(507);
}

#[test]
fn keys_move_as_nodes_come_and_go() {
    let mut nodes = three();
    let first = Http::at(&nodes[0]);
    for key in 0..KEYS {
        write(&first, key, key % 2 == 0);
    }
    nodes.push(Setup::named("n4").join(&nodes[0]).start());
    let last = Http::at(&nodes[3]);
    suites::holds("the node that came has its keys", || keys_of(&last) > 3);
    suites::holds("all values are there", || (0..KEYS).all(|key| has(&first, key) && has(&last, key)));
    // What is durable outlives its node.
    nodes[2].signal(Signal::KILL);
    for http in [&first, &Http::at(&nodes[1]), &last] {
        suites::holds("the dead node is missed", || {
            http.get("/v1/status").is(200).value()["live_nodes"] == json!(3)
        });
    }
    let small: Vec<usize> = (0..KEYS).filter(|key| key % 2 == 0 && key % 12 != 5).collect();
    for http in [&first, &Http::at(&nodes[1]), &last] {
        suites::holds("durable values are there", || small.iter().all(|&key| has(http, key)));
    }
    write(&last, 7, true);
    assert!(has(&first, 7));
}
