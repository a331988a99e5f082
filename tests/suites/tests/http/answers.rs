//! Keys are written, read, listed, watched.

use serde_json::json;
use suites::{Http, Node, Setup, holds, noise, shoal};

#[test]
fn a_value_comes_back_as_it_was_put() {
    let node = Node::start();
    let http = Http::at(&node);
    let bytes = noise(3, 64 << 10);
    for (path, body) in
        [("/v1/kv/a", &b"x"[..]), ("/v1/kv/deep/er/k%20%C3%A9", b""), ("/v1/kv/slash%2Fed", &bytes)]
    {
        let put = http.put(path, body).is(200);
        assert_eq!((put.value()["version"].as_u64(), put.header("etag")), (Some(1), Some("\"1\"")));
        let got = http.get(path).is(200);
        assert!(got.body == body, "{path}");
        assert_eq!(got.header("content-type"), Some("application/octet-stream"));
        assert_eq!((got.header("etag"), got.header("shoal-version")), (Some("\"1\""), Some("1")));
        assert_eq!(got.header("shoal-revision"), Some(put.value()["revision"].to_string().as_str()));
        let head = http.ask("HEAD", path, None).is(200);
        assert!(head.body.is_empty() && head.header("etag") == Some("\"1\""));
        assert_eq!(head.header("content-length"), Some(body.len().to_string().as_str()));
    }
    http.get("/v1/kv/slash/ed").is(200);
    http.get("/v1/kv/absent").fails(404, "no_key");
    http.ask("HEAD", "/v1/kv/absent", None).is(404);
}

#[test]
fn an_entry_is_all_that_is_known_of_a_key() {
    let node = Node::start();
    let http = Http::at(&node);
    http.json("PUT", "/v1/services/s", &json!({"ttl_ms": 60_000})).is(200);
    let put =
        json!({"value": "héllo", "ttl_ms": 60_000, "owner": "s", "labels": {"kind": "greeting", "n": "é"}});
    http.json("PUT", "/v1/kv/a", &put).is(200);
    let json = http.with("accept", "application/json");
    let entry = json.get("/v1/kv/a").is(200).value();
    assert_eq!((&entry["key"], &entry["value"], &entry["size"]), (&"a".into(), &"héllo".into(), &6.into()));
    assert_eq!((&entry["owner"], &entry["labels"]), (&"s".into(), &put["labels"]));
    assert_eq!(entry["created_ms"], entry["updated_ms"]);
    assert_eq!(entry["expires_ms"].as_u64().unwrap(), entry["created_ms"].as_u64().unwrap() + 60_000);
    // A plain put clears what it does not name.
    http.json("PUT", "/v1/kv/a", &json!({"value_base64": "/wA="})).is(200);
    let entry = json.get("/v1/kv/a").is(200).value();
    assert_eq!((&entry["value_base64"], &entry["version"]), (&"/wA=".into(), &2.into()));
    assert_eq!(entry["labels"], json!({}));
    assert!(["value", "owner", "expires_ms"].iter().all(|field| entry.get(field).is_none()), "{entry}");
}

#[test]
fn conditions_hold_or_nothing_is_done() {
    let node = Node::start();
    let http = Http::at(&node);
    let if_match = |version: u64| http.with("if-match", &format!("\"{version}\""));
    let if_absent = http.with("if-none-match", "*");
    if_absent.put("/v1/kv/a", "1").is(200);
    let problem = if_absent.put("/v1/kv/a", "2").fails(412, "conflict");
    assert_eq!((&problem["expected_version"], &problem["found_version"]), (&0.into(), &1.into()));
    http.put("/v1/kv/a?if_version=0", "2").fails(409, "conflict");
    if_match(7).put("/v1/kv/a", "2").fails(412, "conflict");
    let if_there = || http.with("if-match", "*");
    if_there().put("/v1/kv/absent", "2").fails(412, "conflict");
    if_there().delete("/v1/kv/absent").fails(412, "conflict");
    if_there().json("PATCH", "/v1/kv/absent", &json!({"ttl_ms": 5})).fails(412, "conflict");
    http.get("/v1/kv/absent").fails(404, "no_key");
    if_match(7).delete("/v1/kv/a").fails(412, "conflict");
    if_match(7).json("PATCH", "/v1/kv/a", &json!({"persist": true})).fails(412, "conflict");
    assert_eq!(http.get("/v1/kv/a").is(200).body, b"1");
    if_match(1).put("/v1/kv/a", "2").is(200);
    http.put("/v1/kv/a?if_version=2", "3").is(200);
    http.with("if-none-match", "\"3\"").get("/v1/kv/a").is(304);
    http.with("if-none-match", "\"2\"").get("/v1/kv/a").is(200);
    assert_eq!(if_match(3).delete("/v1/kv/a").is(200).value(), json!({"deleted": 1}));
    assert_eq!(http.delete("/v1/kv/a").is(200).value(), json!({"deleted": 0}));
    // Versions go on where they were.
    assert_eq!(http.put("/v1/kv/a", "4").is(200).value()["version"], 4);
    assert_eq!(if_there().put("/v1/kv/a", "5").is(200).value()["version"], 5);
    assert_eq!(if_there().delete("/v1/kv/a").is(200).value(), json!({"deleted": 1}));
}

#[test]
fn what_expires_is_gone() {
    let node = Node::start();
    let http = Http::at(&node);
    let expiry = |body| http.json("PATCH", "/v1/kv/a", &body);
    expiry(json!({"ttl_ms": 5})).fails(404, "no_key");
    http.put("/v1/kv/a?ttl_ms=60000", "x").is(200);
    let expires = |http: &Http| {
        let got = http.get("/v1/kv/a").is(200);
        got.header("shoal-expires-ms").map(|text| text.parse::<u64>().unwrap())
    };
    let first = expires(&http).unwrap();
    assert_eq!(expiry(json!({"extend_ms": 5_000})).is(200).value()["version"], 2);
    assert_eq!(expires(&http), Some(first + 5_000));
    expiry(json!({"persist": true})).is(200);
    assert_eq!(expires(&http), None);
    expiry(json!({"extend_ms": 5_000})).fails(409, "no_expiry");
    expiry(json!({"ttl_ms": 1})).is(200);
    holds("the key has expired", || http.get("/v1/kv/a").status == 404);
}

#[test]
fn keys_are_listed_page_by_page() {
    let mut node = Node::start();
    let http = Http::at(&node);
    for at in 0..25 {
        http.put(&format!("/v1/kv/l/{at:03}"), format!("v{at}")).is(200);
    }
    http.put("/v1/kv/m", "other").is(200);
    assert_eq!(http.get("/v1/count?prefix=l/").is(200).value(), json!({"count": 25}));
    let first = http.get("/v1/kv?prefix=l/&limit=10").is(200).value();
    assert_eq!(first["entries"].as_array().unwrap().len(), 10);
    assert_eq!(first["entries"][3]["value"], "v3");
    let cursor = first["cursor"].as_str().unwrap().to_owned();
    // A cursor is good for what it came from, also after a restart, and for nothing else.
    node.kill();
    node.restart();
    let http = Http::at(&node);
    let second =
        http.get(&format!("/v1/kv?prefix=l/&limit=100&keys_only=true&cursor={cursor}")).is(200).value();
    let entries = second["entries"].as_array().unwrap();
    assert_eq!((entries.len(), &entries[0]["key"]), (15, &"l/010".into()));
    assert!(entries[0].get("value").is_none() && second.get("cursor").is_none());
    http.get(&format!("/v1/kv?prefix=l&cursor={cursor}")).fails(400, "bad_cursor");
    let stream = http.get("/v1/stream?prefix=l/").is(200);
    assert_eq!(stream.header("content-type"), Some("application/x-ndjson"));
    let lines: Vec<serde_json::Value> = stream
        .body
        .split(|&byte| byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    assert_eq!((lines.len(), &lines[24]["value"]), (25, &"v24".into()));
}

#[test]
fn several_keys_are_read_and_written_together() {
    let node = Node::start();
    let http = Http::at(&node);
    let put = |key: &str, value: &str| json!({"put": {"key": key, "value": value}});
    let write = json!({"if": [{"key": "a", "version": 0}], "do": [put("a", "1"), put("b", "2")]});
    let written = http.json("POST", "/v1/write", &write).is(200).value();
    assert_eq!(written["versions"], json!([1, 1]));
    http.json("POST", "/v1/write", &write).fails(409, "conflict");
    let changed = json!({"if": [{"prefix": "", "unchanged_since": 0}], "do": [{"delete": {"key": "a"}}]});
    http.json("POST", "/v1/write", &changed).fails(409, "changed");
    let unchanged = json!({
        "if": [{"prefix": "", "unchanged_since": written["revision"]}],
        "do": [{"delete": {"key": "a"}}, {"expire": {"key": "b", "ttl_ms": 60_000}}],
    });
    assert_eq!(http.json("POST", "/v1/write", &unchanged).is(200).value()["versions"], json!([1, 2]));
    let many = http.json("POST", "/v1/mget", &json!({"keys": ["b", "a", "b"]})).is(200).value();
    assert_eq!((&many["entries"][0]["version"], &many["entries"][1]), (&2.into(), &json!(null)));
    assert_eq!(many["entries"][0], many["entries"][2]);
}

#[test]
fn a_subtree_goes_at_once() {
    let node = Node::start();
    let http = Http::at(&node);
    for key in ["t", "t/a", "t/b/c", "tt"] {
        http.put(&format!("/v1/kv/{key}"), "").is(200);
    }
    assert_eq!(http.delete("/v1/kv/t?recursive=true").is(200).value(), json!({"deleted": 3}));
    assert_eq!(http.get("/v1/count").is(200).value(), json!({"count": 1}));
}

#[test]
fn a_service_takes_along_what_it_owns() {
    let node = Node::start();
    let http = Http::at(&node);
    http.put("/v1/kv/a?owner=s", "x").fails(409, "no_service");
    http.json("PUT", "/v1/services/s", &json!({"ttl_ms": 60_000})).is(200);
    http.put("/v1/kv/a?owner=s", "x").is(200);
    let service = http.get("/v1/services").is(200).value()["services"][0].clone();
    assert_eq!((&service["name"], &service["keys"]), (&"s".into(), &1.into()));
    assert!(service["left_ms"].as_u64().unwrap() <= 60_000);
    assert_eq!(http.delete("/v1/services/s").is(200).value(), json!({"removed": 1}));
    http.delete("/v1/services/s").fails(404, "no_service");
    http.get("/v1/kv/a").is(404);
}

#[test]
fn a_transaction_is_carried_out_as_a_whole() {
    let node = Node::start();
    let http = Http::at(&node);
    let begin = |isolation: &str| {
        let begun = http.json("POST", "/v1/transactions", &json!({"isolation": isolation})).is(201);
        format!("/v1/transactions/{}", begun.value()["id"].as_str().unwrap())
    };
    let put = |key: &str, value: &str| json!({"do": [{"put": {"key": key, "value": value}}]});
    http.put("/v1/kv/a", "1").is(200);
    let one = begin("serializable");
    assert_eq!(http.get(&format!("{one}/kv/a")).is(200).value()["value"], "1");
    http.json("POST", &format!("{one}/write"), &put("b", "2")).is(200);
    assert_eq!(http.get(&format!("{one}/kv/b")).is(200).value()["value"], "2");
    let listed = http.get(&format!("{one}/kv?prefix=")).is(200).value();
    assert_eq!(listed["entries"].as_array().unwrap().len(), 2);
    http.get("/v1/kv/b").fails(404, "no_key");
    assert_eq!(http.ask("POST", &format!("{one}/commit"), None).is(200).value()["versions"], json!([1]));
    assert_eq!(http.get("/v1/kv/b").is(200).body, b"2");
    http.ask("POST", &format!("{one}/commit"), None).fails(404, "no_transaction");
    // What was read was changed by somebody else.
    let two = begin("serializable");
    http.get(&format!("{two}/kv/a")).is(200);
    http.json("POST", &format!("{two}/write"), &put("b", "3")).is(200);
    http.put("/v1/kv/a", "9").is(200);
    http.ask("POST", &format!("{two}/commit"), None).fails(409, "changed");
    assert_eq!(http.get("/v1/kv/b").is(200).body, b"2");
    let three = begin("SNAPSHOT");
    http.json("POST", &format!("{three}/write"), &put("b", "3")).is(200);
    http.delete(&three).is(200);
    http.delete(&three).fails(404, "no_transaction");
    assert_eq!(http.get("/v1/kv/b").is(200).body, b"2");
    for wrong in [json!({"isolation": "loose"}), json!({"timeout_ms": 0}), json!({"timeout_ms": 600_001})] {
        http.json("POST", "/v1/transactions", &wrong).fails(400, "bad_request");
    }
    http.get("/v1/transactions/x/kv/a").fails(404, "no_transaction");
    http.get("/v1/transactions/0000000000000001/kv/a").fails(404, "no_transaction");
}

#[test]
fn a_watch_goes_on_where_it_was() {
    let node = Node::start();
    let http = Http::at(&node);
    let mut events = http.events("/v1/watch?prefix=w/").unwrap();
    let start = events.next_event().unwrap();
    assert_eq!((start.name.as_str(), start.id), ("start", start.data["revision"].as_u64()));
    http.put("/v1/kv/w/a", "1").is(200);
    http.put("/v1/kv/other", "1").is(200);
    let both = json!({"do": [{"put": {"key": "w/b", "value_base64": "/w=="}}, {"delete": {"key": "w/a"}}]});
    let both = http.json("POST", "/v1/write", &both).is(200).value()["revision"].as_u64();
    http.put("/v1/kv/w/c?ttl_ms=1", "3").is(200);
    let first = events.next_event().unwrap();
    assert_eq!((first.name.as_str(), &first.data["changes"][0]["entry"]["value"]), ("change", &"1".into()));
    let second = events.next_event().unwrap();
    assert_eq!(second.id, both);
    let changes = second.data["changes"].as_array().unwrap();
    let kinds: Vec<_> = changes.iter().map(|change| change["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["put", "delete"]);
    assert_eq!(events.next_event().unwrap().data["changes"][0]["key"], "w/c");
    assert_eq!(events.next_event().unwrap().data["changes"][0]["kind"], "expire");
    drop(events);
    // A reader that was cut off names the last event that it has seen.
    let seen = first.id.unwrap().to_string();
    let mut events = http.with("last-event-id", &seen).events("/v1/watch?prefix=w/").unwrap();
    assert_eq!(events.next_event().unwrap().name, "start");
    assert_eq!(events.next_event(), Some(second));
    // What matches a pattern, from a time.
    let mut events = http.events("/v1/watch?glob=w%2F%5Bbc%5D&since_ms=0").unwrap();
    assert_eq!(events.next_event().unwrap().id, both);
}

#[test]
fn files_are_described_and_their_bytes_have_another_door() {
    let node = Node::start();
    let http = Http::at(&node);
    let file = tempfile::tempdir().unwrap();
    let path = file.path().join("f");
    std::fs::write(&path, noise(1, 3 << 20)).unwrap();
    shoal(&node, ["put", "models/f", "--src", path.to_str().unwrap()]).success();
    http.get("/v1/kv/models/f").fails(406, "holds_files");
    let entry = http.with("accept", "application/json").get("/v1/kv/models/f").is(200).value();
    assert_eq!((&entry["size"], &entry["files"]["count"]), (&(3 << 20).into(), &1.into()));
    assert_eq!(entry["files"]["shape"], "file");
    assert_eq!(entry["files"]["chunks"][0]["id"].as_str().unwrap().len(), 64);
    let listed = http.get("/v1/kv?prefix=models/").is(200).value()["entries"][0].clone();
    assert!(listed["files"].get("chunks").is_none());
}

#[test]
fn a_member_answers_as_the_head_does() {
    let head = Node::start();
    let member = Setup::named("n2").join(&head).start();
    let (at_head, at_member) = (Http::at(&head), Http::at(&member));
    at_member.put("/v1/kv/a", "1").is(200);
    assert_eq!(at_head.get("/v1/kv/a").is(200).body, b"1");
    let mut events = at_member.events("/v1/watch?key=a").unwrap();
    assert_eq!(events.next_event().unwrap().name, "start");
    at_head.put("/v1/kv/a", "2").is(200);
    assert_eq!(events.next_event().unwrap().data["changes"][0]["version"], 2);
    let status = at_member.get("/v1/status").is(200).value();
    assert_eq!((&status["name"], &status["head"]), (&"n2".into(), &false.into()));
    assert_eq!(status["cluster"], at_head.get("/v1/status").is(200).value()["cluster"]);
    assert_eq!(at_head.get("/v1/health").is(200).value()["status"], "ok");
}

#[test]
fn while_the_catalog_is_out_of_reach_that_is_what_is_said() {
    let mut head = Node::start();
    let member = Setup::named("n2").join(&head).start();
    let http = Http::at(&member);
    http.put("/v1/kv/a", "1").is(200);
    assert_eq!(http.get("/v1/kv/a").is(200).body, b"1");
    head.kill();
    for answer in
        [http.put("/v1/kv/b", "2"), http.get("/v1/kv/a"), http.get("/v1/kv"), http.get("/v1/health")]
    {
        assert!(answer.header("retry-after").is_some());
        let problem = answer.fails(503, "unreachable");
        assert!(problem["retry_ms"].as_u64().is_some_and(|wait| wait > 0), "{problem}");
    }
    let stale = http.get("/v1/kv/a?consistency=one").is(200);
    assert_eq!((stale.body.as_slice(), stale.header("shoal-stale")), (&b"1"[..], Some("true")));
}
