//! Keys are written, read, released.

use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use serde_json::{Value, json};
use suites::{Http, Node};

fn write(http: &Http, key: &str, value: &Value, persist: bool) {
    let body = json!({"key": key, "value": value, "persist": persist});
    let done = http.json("POST", "/write", &body).is(200).value();
    assert_eq!((&done["status"], &done["key"]), (&json!("success"), &json!(key)));
}

fn read(http: &Http, key: &str) -> Option<Value> {
    let found = http.get(&format!("/read/{key}")).is(200).value();
    let is_found = found["found"].as_bool().unwrap();
    assert!(is_found || found["value"].is_null());
    is_found.then(|| found["value"].clone())
}

#[test]
fn values_come_back_as_they_were() {
    let node = Node::start();
    let http = Http::at(&node);
    let large = Value::String("x".repeat(300_000));
    for persist in [true, false] {
        for value in [
            json!({"name": "john", "age": 30}),
            json!([1, 2.5, "three"]),
            json!(""),
            json!(null),
            large.clone(),
        ] {
            write(&http, "user:123", &value, persist);
            assert_eq!(read(&http, "user:123"), Some(value.clone()));
            let extended = http.get("/read_extended/user:123").is(200).value();
            assert_eq!(extended["serialized_value"], json!({"type": "json", "data": value}));
        }
    }
    assert_eq!(
        http.delete("/release/user:123").is(200).value(),
        json!({"status": "success", "key": "user:123"})
    );
    assert_eq!(read(&http, "user:123"), None);
    let gone = http.delete("/release/user:123").is(404).value();
    assert_eq!(gone, json!({"detail": "Key 'user:123' not found"}));
    assert_eq!(http.get("/read_extended/user:123").is(200).value()["serialized_value"], json!(null));
}

#[test]
fn pickles_are_kept_as_they_are() {
    let node = Node::start();
    let http = Http::at(&node);
    for (data, persist) in
        [("gARLKi4=".to_owned(), true), ("AAAA".repeat(100_000), false), ("QUJD".repeat(90_000), true)]
    {
        let serialized = json!({"type": "pickle", "data": data});
        let body = json!({"key": "model:weights", "serialized_value": serialized, "persist": persist});
        http.json("POST", "/write_extended", &body).is(200);
        let found = http.get("/read_extended/model:weights").is(200).value();
        assert_eq!((&found["serialized_value"], &found["found"]), (&serialized, &json!(true)));
    }
    for wrong in [
        json!({"type": "yaml", "data": 1}),
        json!({"data": 1}),
        json!({"type": "pickle", "data": 1}),
        json!({"type": "json"}),
    ] {
        let body = json!({"key": "a", "serialized_value": wrong});
        let refused = http.json("POST", "/write_extended", &body).is(400).value();
        assert!(refused["detail"].as_str().unwrap().starts_with("Deserialization error"), "{refused}");
    }
}

#[test]
fn any_text_is_a_key() {
    let node = Node::start();
    let http = Http::at(&node);
    let keys = ["a/b/c", "/a", "a//b/", ".", "a/../b", "ключ", "a b", "50%", "a?b#c", "\u{1}", "'\"\\"];
    for (number, key) in keys.iter().enumerate() {
        let body = json!({"key": key, "value": number, "persist": number % 2 == 0});
        http.json("POST", "/write", &body).is(200);
    }
    for (number, key) in keys.iter().enumerate() {
        let escaped: String = key.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let found = http.get(&format!("/read/{escaped}")).is(200).value();
        assert_eq!(found, json!({"key": key, "value": number, "found": true}));
    }
    assert_eq!(read(&http, "a/b/c"), Some(json!(0)));
    let shown = http.get("/locations").is(200).value();
    assert_eq!(shown["locations"].as_object().unwrap().len(), keys.len());
}

#[test]
fn what_does_not_fit_is_told_as_fastapi_tells_it() {
    let node = Node::start();
    let http = Http::at(&node);
    let refused = http.json("POST", "/write", &json!({"value": 1})).is(422).value();
    let missing = &refused["detail"][0];
    assert_eq!((&missing["type"], &missing["loc"]), (&json!("missing"), &json!(["body", "key"])));
    assert_eq!((&missing["msg"], &missing["input"]), (&json!("Field required"), &json!({"value": 1})));
    assert_eq!(
        http.json("POST", "/write", &json!({})).is(422).value()["detail"].as_array().unwrap().len(),
        2
    );
    for body in [
        json!({"key": 7, "value": 1}),
        json!({"key": "", "value": 1}),
        json!({"key": "k".repeat(2000), "value": 1}),
        json!({"key": "a", "value": 1, "persist": "perhaps"}),
        json!({"key": "a", "value": 1, "location": 5}),
        json!({"key": "a", "value": 1, "ttl_ms": 0}),
        json!([]),
        json!("a"),
    ] {
        let refused = http.json("POST", "/write", &body).is(422).value();
        let first = &refused["detail"][0];
        assert!(
            first["loc"][0] == "body" && first["msg"].is_string() && first["type"].is_string(),
            "{refused}"
        );
    }
    let json = http.with("content-type", "application/json");
    for body in ["", "{", "{\"key\": \"a\", \"value\": }", "\u{0}", "{\"key\": \"a\", \"value\": 1} 2"] {
        json.ask("POST", "/write", Some(body.as_bytes())).is(422);
    }
    http.with("content-type", "text/plain").ask("POST", "/write", Some(b"{}")).is(422);
    for bytes in ["x", "-1", "1.5", "99999999999999999999"] {
        assert_eq!(
            http.ask("POST", &format!("/set_max_memory/{bytes}"), None).is(422).value()["detail"][0]["loc"]
                [0],
            "path"
        );
    }
    let refused =
        http.json("POST", "/write", &json!({"key": "a", "value": 1, "location": "device:0"})).is(400).value();
    assert!(refused["detail"].as_str().unwrap().contains("dram, pinned_dram, disk"), "{refused}");
    assert_eq!(read(&http, "a"), None, "what was refused has changed nothing");
}

#[test]
fn locations_and_moves() {
    let node = Node::start();
    let http = Http::at(&node);
    let big = Value::String("y".repeat(200_000));
    for value in [json!([1]), big] {
        for (persist, location, expected) in [
            (None, None, "disk"),
            (Some(true), None, "disk"),
            (Some(false), None, "dram"),
            (None, Some("dram"), "dram"),
            (None, Some("pinned_dram"), "pinned_dram"),
            (None, Some("disk"), "disk"),
            (Some(true), Some("dram"), "disk"),
            (Some(false), Some("pinned_dram"), "pinned_dram"),
        ] {
            let body = json!({"key": "k", "value": value, "persist": persist, "location": location});
            assert_eq!(http.json("POST", "/write", &body).is(200).value()["location"], expected, "{body}");
            let shown = http.get("/location/k").is(200).value();
            assert_eq!(shown["location"], expected);
            assert_eq!(shown["locations"][0]["size"], value.to_string().len());
            assert_eq!(shown["locations"][0]["copy_status"], "complete");
        }
        for (source, destination) in [("pinned_dram", "disk"), ("disk", "dram"), ("dram", "pinned_dram")] {
            let moved =
                http.json("POST", "/move", &json!({"key": "k", "destination": destination})).is(200).value();
            assert_eq!((&moved["source"], &moved["destination"]), (&json!(source), &json!(destination)));
            assert_eq!(read(&http, "k"), Some(value.clone()));
        }
    }
    http.json("POST", "/move", &json!({"key": "k", "destination": "device:3"})).is(400);
    http.json("POST", "/move", &json!({"key": "none", "destination": "dram"})).is(404);
    http.get("/location/none").is(404);
}

#[test]
fn a_move_brings_nothing_back() {
    let nodes = suites::Cluster::start(2);
    let [first, second] = [0, 1].map(|at| Http::at(&nodes.nodes[at]));
    // Some are chunks.
    let value = |number: usize| json!({"number": number, "fill": "f".repeat(if number.is_multiple_of(3) { 200_000 } else { 9 })});
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for http in [&first, &second] {
            let stop = &stop;
            scope.spawn(move || {
                for destination in ["dram", "disk", "pinned_dram"].into_iter().cycle() {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    for key in ["k", "l"] {
                        let body = json!({"key": key, "destination": destination});
                        let status = http.json("POST", "/move", &body).status;
                        assert!(matches!(status, 200 | 404), "{status}");
                    }
                }
            });
        }
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for number in 0..60 {
                for (key, http) in [("k", &first), ("l", &second)] {
                    write(http, key, &value(number), number % 2 == 0);
                    assert!(read(&first, key) == Some(value(number)), "{key} is not {number}");
                    assert!(read(&second, key) == Some(value(number)), "{key} is not {number}");
                }
                if number % 7 == 0 {
                    second.delete("/release/k").is(200);
                    assert_eq!(read(&first, "k"), None);
                }
            }
        }));
        stop.store(true, Ordering::Relaxed);
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

#[test]
fn a_value_with_a_time_to_live_ends() {
    let node = Node::start();
    let http = Http::at(&node);
    for persist in [true, false] {
        let body = json!({"key": "k", "value": 1, "persist": persist, "ttl_ms": 300});
        http.json("POST", "/write", &body).is(200);
        suites::holds("the value has ended", || read(&http, "k").is_none());
        suites::holds("it is counted no more", || {
            http.get("/stats").is(200).value()["stats"]["total_keys"] == json!(0)
        });
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(".{0,8}", inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

#[test]
fn any_value_comes_back() {
    let node = Node::start();
    let http = Http::at(&node);
    let mut runner =
        prop::test_runner::TestRunner::new(ProptestConfig { cases: 64, ..ProptestConfig::default() });
    let cases = (any_value(), any::<bool>(), 0usize..3_000_000, 0u8..4);
    let ran = runner.run(&cases, |(value, persist, length, turn)| {
        write(&http, "any", &value, persist);
        prop_assert_eq!(read(&http, "any"), Some(value));
        if turn == 0 {
            let text = Value::String("z".repeat(length));
            write(&http, "long", &text, persist);
            prop_assert!(read(&http, "long") == Some(text));
        }
        Ok(())
    });
    ran.unwrap();
}
