//! Values are sent to other servers, and only where that is allowed.

use std::io::{Read, Write};
use std::net::TcpListener;

use serde_json::{Value, json};
use suites::{Http, Node, Setup};

fn send(http: &Http, key: &str, url: &str) -> suites::Answer {
    http.json("POST", "/send", &json!({"key": key, "url": url}))
}

#[test]
fn values_are_sent_as_they_are_kept() {
    let (node, other) = (Node::start(), Node::start());
    let (http, there) = (Http::at(&node), Http::at(&other));
    let large = "l".repeat(3_000_000);
    for (key, value, persist) in
        [("a/b", json!({"x": 1}), true), ("v", json!(null), false), ("big", json!(large), false)]
    {
        http.json("POST", "/write", &json!({"key": key, "value": value, "persist": persist})).is(200);
        let sent = send(&http, key, &format!("http://{}", other.address())).is(200).value();
        assert_eq!((&sent["status"], &sent["key"]), (&json!("success"), &json!(key)));
        assert!(sent["target"].as_str().unwrap().ends_with(other.address()));
        let found = there.get(&format!("/read/{key}")).is(200).value();
        assert!(found["found"] == json!(true) && found["value"] == value, "{key}");
        let location = there.get(&format!("/location/{key}")).is(200).value()["location"].clone();
        assert_eq!(location, if persist { "disk" } else { "dram" });
    }
    let pickle = json!({"type": "pickle", "data": "gARLKi4="});
    http.json("POST", "/write_extended", &json!({"key": "p", "serialized_value": pickle})).is(200);
    let body = json!({"key": "p", "target": other.address(), "source_location": "dram"});
    let sent = http.json("POST", "/send_extended", &body).is(200).value();
    assert_eq!((&sent["source"], &sent["method"]), (&json!("disk"), &json!("standard")));
    assert_eq!(there.get("/read_extended/p").is(200).value()["serialized_value"], pickle);
    send(&http, "none", other.address()).is(404);
}

/// A server of gswarm's as it was once: it knows `/write` alone. Gives the body that it was sent there.
fn old_server() -> (String, std::thread::JoinHandle<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let served = std::thread::spawn(move || {
        loop {
            let (mut stream, _) = listener.accept().unwrap();
            let mut text = Vec::new();
            let body = loop {
                let mut part = [0; 4096];
                let length = stream.read(&mut part).unwrap();
                assert!(length > 0, "the request breaks off");
                text.extend_from_slice(&part[..length]);
                let shown = String::from_utf8_lossy(&text).into_owned();
                let Some((head, body)) = shown.split_once("\r\n\r\n") else { continue };
                let head = head.to_ascii_lowercase();
                let (_, length) = head.split_once("content-length: ").unwrap();
                let length: usize = length.lines().next().unwrap().trim().parse().unwrap();
                if body.len() >= length {
                    break body.to_owned();
                }
            };
            let is_write = text.starts_with(b"POST /write HTTP");
            let status = if is_write { "200 OK" } else { "404 Not Found" };
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}");
            stream.write_all(answer.as_bytes()).unwrap();
            if is_write {
                return serde_json::from_str(&body).unwrap();
            }
        }
    });
    (address, served)
}

#[test]
fn an_old_server_gets_what_json_can_say() {
    let node = Node::start();
    let http = Http::at(&node);
    http.json("POST", "/write", &json!({"key": "k", "value": [1, 2], "persist": false})).is(200);
    let (address, served) = old_server();
    send(&http, "k", &address).is(200);
    assert_eq!(
        served.join().unwrap(),
        json!({"key": "k", "value": [1, 2], "persist": false, "location": "dram"})
    );
}

#[test]
fn values_are_sent_only_where_that_is_allowed() {
    let node = Node::start();
    let http = Http::at(&node);
    http.json("POST", "/write", &json!({"key": "k", "value": 1})).is(200);
    for url in
        ["169.254.169.254", "http://10.0.0.1:80", "192.0.2.7:9015", "[2001:db8::1]:1", "nobody.invalid:1"]
    {
        let refused = send(&http, "k", url).is(403).value();
        assert!(refused["detail"].as_str().unwrap().contains("--allow-send"), "{refused}");
    }
    for url in ["", "https://localhost:1", "file:///etc/passwd", "localhost:1/x?y", "u:p@localhost:1", "a b"]
    {
        send(&http, "k", url).is(400);
    }
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let failed = send(&http, "k", &nobody).is(500).value();
    assert!(failed["detail"].as_str().unwrap().starts_with("Failed to send data"), "{failed}");
    // A node that others reach sends nothing to this machine unless it is told to.
    let other = Node::start();
    let open = |setup: Setup| {
        let open = setup.listen("0.0.0.0:0").switch("--insecure").start();
        let http = Http::to(&format!("127.0.0.1:{}", open.address().rsplit(':').next().unwrap()));
        http.json("POST", "/write", &json!({"key": "k", "value": 1})).is(200);
        let status = send(&http, "k", other.address()).status;
        drop(open);
        status
    };
    assert_eq!(open(Setup::named("n2")), 403);
    assert_eq!(open(Setup::named("n3").flag("--allow-send", other.address())), 200);
}
