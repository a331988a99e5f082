//! The OpenAPI document is true.

use std::collections::BTreeSet;

use serde_json::Value;
use suites::{Http, Node};

#[test]
fn what_is_described_is_there() {
    let node = Node::start();
    let http = Http::at(&node);
    let answer = http.get("/openapi.json").is(200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let document = answer.value();
    assert_eq!(document["openapi"], "3.1.0");
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let methods: Vec<&String> = item.as_object().unwrap().keys().collect();
        let concrete = path.replace("{key}", "a").replace("{name}", "s").replace("{id}", "0000000000000001");
        // What is not described is not there, and what is described is.
        for method in ["get", "put", "post", "delete", "patch"] {
            let is_described = methods.iter().any(|&known| known == method);
            if method == "get" && path == "/v1/watch" {
                continue;
            }
            let status = http.ask(&method.to_uppercase(), &concrete, None).status;
            assert_eq!(status != 405, is_described, "{method} {path}: {status}");
            assert!(status < 500, "{method} {path}: {status}");
            if is_described {
                let operation = &item[method];
                let known = operation["responses"].as_object().unwrap();
                assert!(known.contains_key(&status.to_string()), "{method} {path}: {status}");
                assert!(
                    ids.insert(operation["operationId"].to_string()),
                    "{method} {path} has the id of another"
                );
                assert!(!operation["summary"].as_str().unwrap_or_default().is_empty(), "{method} {path}");
            }
        }
    }
    every_reference_leads_somewhere(&document, &document);
}

#[test]
fn fields_that_exclude_each_other_are_told() {
    let node = Node::start();
    let document = Http::at(&node).get("/openapi.json").is(200).value();
    let ways = |name: &str| {
        let ways = document["components"]["schemas"][name]["oneOf"].as_array().unwrap().clone();
        assert!(ways.iter().all(|way| way["additionalProperties"] == false), "{name}");
        ways
    };
    for (name, fields) in [
        ("Put", &["value", "value_base64"][..]),
        ("PutOperation", &["value", "value_base64"]),
        ("Expiry", &["ttl_ms", "extend_ms", "persist"]),
        ("ExpireOperation", &["ttl_ms", "extend_ms", "persist"]),
        ("Operation", &["put", "delete", "expire"]),
    ] {
        let ways = ways(name);
        assert_eq!(ways.len(), fields.len(), "{name}");
        for (way, own) in ways.iter().zip(fields) {
            assert!(way["required"].as_array().unwrap().contains(&(*own).into()), "{name} {own}");
            let is_there = |field: &&str| way["properties"].get(field).is_some();
            assert_eq!(fields.iter().filter(|field| is_there(field)).collect::<Vec<_>>(), [own], "{name}");
        }
    }
    assert_eq!(ways("Condition").len(), 3);
}

fn every_reference_leads_somewhere(document: &Value, part: &Value) {
    match part {
        Value::Object(fields) => {
            if let Some(place) = fields.get("$ref").and_then(Value::as_str) {
                assert!(document.pointer(place.trim_start_matches('#')).is_some(), "{place}");
            }
            fields.values().for_each(|value| every_reference_leads_somewhere(document, value));
        }
        Value::Array(values) => {
            values.iter().for_each(|value| every_reference_leads_somewhere(document, value))
        }
        _ => {}
    }
}
