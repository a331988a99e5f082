//! More than is taken, slower than is borne.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;
use suites::{Http, Node};

/// Longest wait for bytes of the node, well beyond what it gives a stranger.
const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) fn connect(node: &Node) -> TcpStream {
    let stream = TcpStream::connect(node.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// What comes until the node hangs up.
pub(crate) fn read_all(stream: &mut TcpStream) -> String {
    let (mut text, mut bytes) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => text.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{error} after {}", String::from_utf8_lossy(&text)),
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn says(node: &Node, request: &[u8]) -> String {
    let mut stream = connect(node);
    // The node may hang up before it has read everything.
    let _ = stream.write_all(request);
    read_all(&mut stream)
}

fn head(line: &str, more: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n")
}

#[test]
fn heads_that_are_too_large_are_refused() {
    let node = Node::start();
    let key = "k".repeat(10 << 20);
    for request in [
        head(&format!("PUT /v1/kv/{key}"), "Content-Length: 0\r\n"),
        head("GET /v1/health", &format!("X-Long: {key}\r\n")),
        head("GET /v1/health", &"X-Many: x\r\n".repeat(1000)),
    ] {
        let text = says(&node, request.as_bytes());
        assert!(text.starts_with("HTTP/1.1 431 ") || text.starts_with("HTTP/1.1 414 "), "{text}");
    }
    assert_eq!(Http::at(&node).get("/v1/count").is(200).value(), json!({"count": 0}));
}

#[test]
fn bodies_that_are_too_large_are_refused() {
    let node = Node::start();
    let http = Http::at(&node);
    // Announced, or not.
    http.put("/v1/kv/a", vec![0; 10 << 20]).fails(413, "value_too_large");
    let large = json!({"value": "x".repeat(10 << 20)});
    http.json("PUT", "/v1/kv/a", &large).fails(413, "too_large");
    http.json("POST", "/v1/write", &large).fails(413, "too_large");
    let huge = head("PUT /v1/kv/a", "Content-Length: 99999999999\r\n");
    assert!(says(&node, huge.as_bytes()).starts_with("HTTP/1.1 413 "));
    let chunks = format!("10000\r\n{}\r\n", "x".repeat(0x10000)).repeat(4);
    let endless = head("PUT /v1/kv/a", "Transfer-Encoding: chunked\r\n") + &chunks;
    assert!(says(&node, endless.as_bytes()).starts_with("HTTP/1.1 413 "));
    http.get("/v1/kv/a").fails(404, "no_key");
}

#[test]
fn what_is_no_request_is_refused() {
    let node = Node::start();
    for request in [
        "GET\r\n\r\n",
        "GET /v1/health HTTP/9.9\r\n\r\n",
        "GET /v1/he\0alth HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /v1/health HTTP/1.1\r\nHost: localhost\r\nX\0: 1\r\n\r\n",
        "GET /v1/health HTTP/1.1\r\n folded\r\n\r\n",
        "PUT /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        "PUT /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "PUT /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let text = says(&node, request.as_bytes());
        assert!(text.starts_with("HTTP/1.1 4"), "{request:?}: {text}");
    }
    for request in [
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "CONNECT a:1 HTTP/1.1\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let mut stream = connect(&node);
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let text = read_all(&mut stream);
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{request:?}: {text}");
    }
    Http::at(&node).get("/v1/kv/a").fails(404, "no_key");
}

#[test]
fn two_ways_to_say_how_long_a_body_is_do_not_make_two_requests_of_one() {
    let node = Node::start();
    // Who reads the length would see one request, who reads the chunks would see two.
    let inner = "PUT /v1/kv/smuggled HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";
    let body = format!("0\r\n\r\n{inner}");
    let more = format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", body.len());
    let text = says(&node, (head("PUT /v1/kv/outer", &more) + &body).as_bytes());
    assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{text}");
    Http::at(&node).get("/v1/kv/smuggled").fails(404, "no_key");
}

#[test]
fn requests_may_come_before_the_answers_to_those_before() {
    let node = Node::start();
    let mut text = String::new();
    for at in 0..20 {
        text += &head(&format!("PUT /v1/kv/{at:02}"), "Content-Length: 2\r\n");
        text += &format!("{at:02}");
    }
    text += &head("GET /v1/kv/07", "Connection: close\r\n");
    let answers = says(&node, text.as_bytes());
    assert_eq!(answers.matches("HTTP/1.1 200 ").count(), 21, "{answers}");
    assert!(answers.ends_with("\r\n\r\n07"), "{answers}");
}

#[test]
fn whoever_is_too_slow_is_sent_away() {
    let node = Node::start();
    let begin = |text: &str| {
        let mut stream = connect(&node);
        stream.write_all(text.as_bytes()).unwrap();
        stream
    };
    let mut half_head = begin("GET /v1/health HT");
    let mut idle = begin(&head("GET /v1/health", ""));
    let mut half_body = begin(&(head("PUT /v1/kv/a", "Content-Length: 10\r\n") + "abc"));
    let mut drop_of_body = begin(&(head("PUT /v1/kv/b", "Content-Length: 10\r\n") + "abc"));
    let dripping = std::thread::spawn(move || {
        // Bytes that come one by one do not buy more time.
        drop_of_body.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut answer = [0; 12];
        while drop_of_body.read_exact(&mut answer).is_err() {
            drop_of_body.write_all(b".").unwrap();
        }
        answer
    });
    assert!(read_all(&mut half_body).starts_with("HTTP/1.1 408 "));
    let said = read_all(&mut half_head);
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 408 "), "{said}");
    assert!(read_all(&mut idle).starts_with("HTTP/1.1 200 "));
    assert_eq!(&dripping.join().unwrap(), b"HTTP/1.1 408");
    for key in ["a", "b"] {
        Http::at(&node).get(&format!("/v1/kv/{key}")).fails(404, "no_key");
    }
}

#[test]
fn connections_that_do_nothing_keep_nobody_out() {
    let node = Node::start();
    let strangers: Vec<TcpStream> = (0..1100)
        .map(|_| {
            let mut stream = connect(&node);
            stream.write_all(b"G").unwrap();
            stream
        })
        .collect();
    // Of the connections of HTTP there are only so many, and those of clients are others.
    suites::holds("one connection too many is told so", || {
        let text = says(&node, head("GET /v1/health", "Connection: close\r\n").as_bytes());
        text.starts_with("HTTP/1.1 503 ")
    });
    suites::Shoal::alone().args(["--node", node.address(), "ls"]).run().success();
    drop(strangers);
    suites::holds("there is room again", || {
        let text = says(&node, head("GET /v1/health", "Connection: close\r\n").as_bytes());
        text.starts_with("HTTP/1.1 200 ")
    });
}
