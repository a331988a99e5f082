//! What was acknowledged as durable survives a SIGKILL, whole and as it was last.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use suites::{Http, Node, Signal};

const ROUNDS: usize = 50;
const WRITERS: usize = 3;

#[test]
fn acknowledged_durable_writes_survive_kills() {
    let mut node = Node::start();
    let mut acknowledged: BTreeMap<String, u64> = BTreeMap::new();
    let mut number = 0;
    for round in 0..ROUNDS {
        let stop = AtomicBool::new(false);
        let address = node.address().to_owned();
        let written: Vec<Vec<(String, u64)>> = std::thread::scope(|scope| {
            let writers = (0..WRITERS).map(|writer| {
                let (stop, address) = (&stop, &address);
                scope.spawn(move || write_until(stop, address, writer, number))
            });
            let writers: Vec<_> = writers.collect();
            // Not a condition, only a while: in which state the node dies is a matter of chance, round by round.
            std::thread::sleep(std::time::Duration::from_millis(40 + (round as u64 * 7) % 60));
            node.signal(Signal::KILL);
            stop.store(true, Ordering::Relaxed);
            writers.into_iter().map(|writer| writer.join().unwrap()).collect()
        });
        acknowledged.extend(written.into_iter().flatten());
        number += 1_000_000;
        node.wait();
        node.restart();
        let http = Http::at(&node);
        for (key, expected) in &acknowledged {
            let found = http.get(&format!("/read/{key}")).is(200).value();
            let value = &found["value"];
            let there = value["number"].as_u64().unwrap_or_default();
            assert!(there >= *expected, "round {round}: {key} has {there}, {expected} was acknowledged");
            let length = value["fill"].as_str().map(str::len);
            assert_eq!(length, Some(fill(there)), "round {round}: {key} is not whole");
        }
    }
    assert!(acknowledged.len() >= WRITERS);
    let http = Http::at(&node);
    suites::holds("all of them are counted", || {
        let stats = http.get("/stats").is(200).value();
        stats["stats"]["persistent_keys"].as_u64().unwrap() >= acknowledged.len() as u64
    });
}

/// How long the text beside a number is: some are chunks, most are not.
fn fill(number: u64) -> usize {
    if number % 16 == 7 { 200_000 } else { (number % 100) as usize }
}

fn write_until(stop: &AtomicBool, address: &str, writer: usize, first: u64) -> Vec<(String, u64)> {
    let mut acknowledged = Vec::new();
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    for number in first + 1.. {
        let key = format!("w{writer}:{}", number % 20);
        let value: Value = json!({"number": number, "fill": "f".repeat(fill(number))});
        let body = json!({"key": key, "value": value, "persist": true}).to_string();
        let request =
            agent.post(format!("http://{address}/write")).header("content-type", "application/json");
        match request.send(body.as_bytes()) {
            Ok(answer) if answer.status() == 200 => acknowledged.push((key, number)),
            _ if stop.load(Ordering::Relaxed) => return acknowledged,
            _ => {}
        }
    }
    acknowledged
}
