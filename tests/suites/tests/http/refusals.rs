//! What cannot be understood is refused, and changes nothing.

use serde_json::{Value, json};
use suites::{Http, Node};

#[test]
fn nothing_is_changed_by_what_is_refused() {
    let node = Node::start();
    let http = Http::at(&node);
    let first = http.put("/v1/kv/a", "1").is(200).value()["revision"].clone();
    let long = format!("/v1/kv/{}", "k".repeat(1025));
    for path in ["/v1/kv/a%00b", "/v1/kv/a//b", "/v1/kv/a/", "/v1/kv/%2E%2E/b", "/v1/kv/%FF", long.as_str()] {
        http.put(path, "x").fails(400, "bad_key");
        http.get(path).fails(400, "bad_key");
        http.delete(path).fails(400, "bad_key");
    }
    for query in [
        "ttl_ms=-1",
        "ttl_ms=0",
        "ttl_ms=1.5",
        "ttl_ms=99999999999999999999",
        "ttl=1",
        "if_version=x",
        "owner=",
    ] {
        http.put(&format!("/v1/kv/b?{query}"), "x").fails(400, "bad_request");
    }
    // What is refused unread ends the connection, and says so.
    let refused = http.put("/v1/kv/b", vec![0; (64 << 10) + 1]);
    assert_eq!(refused.header("connection"), Some("close"));
    refused.fails(413, "value_too_large");
    let put = |body: Value| http.json("PUT", "/v1/kv/b", &body);
    for body in [
        json!({}),
        json!([]),
        json!(["x", null, null, null, {}]),
        json!("x"),
        json!({"value": 1}),
        json!({"value": "x", "value_base64": "eA=="}),
        json!({"value_base64": "%"}),
        json!({"value": "x", "ttl_ms": -5}),
        json!({"value": "x", "ttl_ms": "5"}),
        json!({"value": "x", "labels": []}),
        json!({"value": "x", "labels": {"": ""}}),
        json!({"value": "x", "else": 1}),
    ] {
        put(body).fails(400, "bad_request");
    }
    put(json!({"value": "x".repeat((64 << 10) + 1)})).fails(413, "value_too_large");
    http.with("content-type", "application/json").put("/v1/kv/b", "{\"value\": ").fails(400, "bad_request");
    http.with("content-type", "application/json")
        .put("/v1/kv/b", "[".repeat(1 << 20))
        .fails(400, "bad_request");
    for (header, value) in [("if-match", "1"), ("if-match", "W/\"1\""), ("if-none-match", "\"1\"")] {
        http.with(header, value).put("/v1/kv/b", "x").fails(400, "bad_request");
    }
    http.with("if-match", "\"1\"").put("/v1/kv/b?if_version=1", "x").fails(400, "bad_request");
    http.delete("/v1/kv/a?recursive=true&if_version=1").fails(400, "bad_request");
    http.json("PATCH", "/v1/kv/a", &json!({})).fails(400, "bad_request");
    http.json("PATCH", "/v1/kv/a", &json!({"ttl_ms": 5, "persist": true})).fails(400, "bad_request");
    http.ask("PATCH", "/v1/kv/a", Some(b"{\"persist\":true}")).fails(415, "bad_media_type");
    assert_eq!(http.get("/v1/health").is(200).value()["revision"], first);
    assert_eq!(http.get("/v1/kv/a").is(200).body, b"1");
}

#[test]
fn writes_are_refused_as_a_whole() {
    let node = Node::start();
    let http = Http::at(&node);
    let put = |key: &str, value: &str| json!({"put": {"key": key, "value": value}});
    let write = |body: Value| http.json("POST", "/v1/write", &body);
    let good = put("good", "x");
    for bad in [
        put("", "x"),
        put("a\0", "x"),
        put("good", "y"),
        json!({"put": {"key": "b"}}),
        json!({"put": {"key": "b", "value": "x", "ttl_ms": -1}}),
        json!({"expire": {"key": "b"}}),
        json!({"unknown": {}}),
        json!(null),
    ] {
        let problem = write(json!({"do": [good, bad]})).is(400).value();
        assert!(
            ["bad_key", "key_twice", "bad_request"].contains(&problem["code"].as_str().unwrap()),
            "{problem}"
        );
    }
    write(json!({"do": [good, {"expire": {"key": "absent", "ttl_ms": 5}}]})).fails(404, "no_key");
    let many: Vec<Value> = (0..129).map(|at| put(&format!("m/{at}"), "")).collect();
    write(json!({"do": many})).fails(413, "too_large");
    let large: Vec<Value> = (0..30).map(|at| put(&format!("m/{at}"), &"x".repeat(60 << 10))).collect();
    write(json!({"do": large})).fails(413, "too_large");
    http.with("content-type", "text/plain")
        .ask("POST", "/v1/write", Some(b"{}"))
        .fails(415, "bad_media_type");
    let keys: Vec<String> = (0..1025).map(|at| at.to_string()).collect();
    http.json("POST", "/v1/mget", &json!({"keys": keys})).fails(413, "too_large");
    assert_eq!(http.get("/v1/count").is(200).value(), json!({"count": 0}));
}

#[test]
fn reads_are_asked_for_exactly() {
    let node = Node::start();
    let http = Http::at(&node);
    for path in [
        "/v1/kv?limit=0",
        "/v1/kv?limit=-1",
        "/v1/kv?limit=100000",
        "/v1/kv?limt=1",
        "/v1/kv?limit=1&limit=1",
        "/v1/kv?prefix=%00",
        "/v1/kv?prefix=%FF",
        "/v1/kv?consistency=some",
        "/v1/kv/a?consistency=some",
        "/v1/count?prefix=%00",
        "/v1/stream?prefix=%00",
        "/v1/stream?limit=3",
        "/v1/watch?key=a&prefix=b",
        "/v1/watch?after_revision=-1",
        "/v1/watch?since_ms=1&after_revision=1",
        "/v1/watch?glob=%5B",
    ] {
        http.get(path).fails(400, "bad_request");
    }
    http.get("/v1/watch?key=").is(400);
    for cursor in ["x", "AAAA", "%00", "AWoq63ZhL2I", "Ag"] {
        http.get(&format!("/v1/kv?cursor={cursor}")).fails(400, "bad_cursor");
    }
    http.with("last-event-id", "x").get("/v1/watch").fails(400, "bad_request");
    http.json("PUT", "/v1/services/s", &json!({"ttl_ms": 0})).fails(400, "bad_request");
    http.json("PUT", &format!("/v1/services/{}", "s".repeat(257)), &json!({"ttl_ms": 5}))
        .fails(400, "bad_request");
}

#[test]
fn there_is_nothing_elsewhere() {
    let node = Node::start();
    let http = Http::at(&node);
    for path in ["/", "/v1", "/v1/", "/v1/kv/", "/v2/kv/a", "/v1/nothing", "/v1/health/x", "//", "/%00"] {
        http.get(path).fails(404, "no_route");
    }
    for (method, path) in [
        ("POST", "/v1/kv/a"),
        ("DELETE", "/v1/kv"),
        ("PUT", "/v1/write"),
        ("OPTIONS", "/v1/kv"),
        ("TRACE", "/v1/kv/a"),
    ] {
        let answer = http.ask(method, path, None);
        assert!(answer.header("allow").is_some_and(|methods| !methods.is_empty()), "{method} {path}");
        answer.fails(405, "no_method");
    }
}
