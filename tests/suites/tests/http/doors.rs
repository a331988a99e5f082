//! One port, two protocols, and who may come in.

use std::io::{Read, Write};
use std::net::TcpStream;

use flow::limits::HANDSHAKE_BODY_MAX;
use flow::wire::frame::HEADER_LENGTH;
use flow::wire::handshake::{Hello, Role};
use flow::wire::{Header, Message};
use suites::{Http, Node, Setup, Shoal};

use crate::bounds::{connect, read_all};

#[test]
fn both_protocols_are_spoken_on_one_port() {
    let node = Node::start();
    let http = Http::at(&node);
    http.put("/v1/kv/a", "1").is(200);
    let native = || Shoal::alone().args(["--node", node.address()]).args(["ls", "--json"]).run().success();
    native();
    assert_eq!(http.get("/v1/kv/a").is(200).body, b"1");
    native();
}

#[test]
fn a_connection_keeps_to_its_protocol() {
    let node = Node::start();
    let hello = Message::from(Hello::new(Role::Client, 0, 0, [7; 32])).encode(0, 1);
    // A frame after a request is no request.
    let mut stream = connect(&node);
    stream.write_all(b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    stream.write_all(&hello).unwrap();
    let text = read_all(&mut stream);
    assert_eq!(text.matches("HTTP/1.1 ").count(), 2, "{text}");
    assert!(text.starts_with("HTTP/1.1 200 ") && text.contains("HTTP/1.1 400 "), "{text}");
    // A frame as the body of a request is its body.
    let mut stream = connect(&node);
    let head = format!("PUT /v1/kv/frame HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n", hello.len());
    stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).unwrap();
    stream.write_all(&hello).unwrap();
    assert!(read_all(&mut stream).starts_with("HTTP/1.1 200 "));
    assert!(Http::at(&node).get("/v1/kv/frame").is(200).body == hello);
    // A request after a frame is no frame.
    let mut stream = connect(&node);
    stream.write_all(&hello).unwrap();
    stream.write_all(b"GET /v1/kv HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    assert!(matches!(read_message(&mut stream), Message::Challenge(_)));
    let Message::Refuse(refusal) = read_message(&mut stream) else { panic!("no refusal") };
    assert!(refusal.reason.contains("does not speak Shoal's protocol"), "{}", refusal.reason);
}

#[test]
fn the_token_is_asked_for_in_both_protocols() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let token = "swordfish-swordfish";
    std::fs::write(&path, token).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let node = Setup::named("n1").listen("0.0.0.0:0").flag("--token-file", &path).start();
    let http = Http::to(&format!("127.0.0.1:{}", node.address().rsplit(':').next().unwrap()));
    for client in
        [http.clone(), http.with("authorization", "Bearer swordfish"), http.with("authorization", token)]
    {
        for path in ["/v1/kv/a", "/v1/health", "/openapi.json", "/nothing"] {
            let answer = client.get(path);
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
            let problem = answer.fails(401, "unauthorized");
            assert!(problem["hint"].as_str().unwrap().contains("--token-file"), "{problem}");
        }
        client.put("/v1/kv/a", "x").fails(401, "unauthorized");
    }
    let friend = http.with("authorization", &format!("Bearer {token}"));
    friend.get("/v1/kv/a").fails(404, "no_key");
    friend.put("/v1/kv/a", "x").is(200);
}

#[test]
fn pages_of_strangers_may_not_ask() {
    let node = Node::start();
    let http = Http::at(&node);
    http.with("origin", "http://stranger.example").put("/v1/kv/a", "x").fails(403, "cross_origin");
    http.with("host", "stranger.example").get("/v1/kv").fails(403, "cross_origin");
    http.with("origin", &format!("http://{}", node.address())).put("/v1/kv/a", "x").is(200);
    http.with("host", "localhost:9015").get("/v1/kv/a").is(200);
    // Whoever listens to all the world said so.
    let open = Setup::named("n2").listen("0.0.0.0:0").switch("--insecure").start();
    let http = Http::to(&format!("127.0.0.1:{}", open.address().rsplit(':').next().unwrap()));
    http.with("host", "node.example").put("/v1/kv/a", "x").is(200);
}

#[test]
fn what_is_under_way_ends_before_the_node_does() {
    let mut node = Node::start();
    let mut stream = connect(&node);
    let head = "PUT /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(b"ab").unwrap();
    // Once another connection is answered, the node has read this one too.
    Http::at(&node).get("/v1/health").is(200);
    node.signal(suites::Signal::TERM);
    suites::holds("the node is stopping", || node.log().contains("stopping"));
    stream.write_all(b"cd").unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    assert!(node.wait().success());
    node.restart();
    assert_eq!(Http::at(&node).get("/v1/kv/a").is(200).body, b"abcd");
}

fn read_message(stream: &mut TcpStream) -> Message {
    let mut header = [0; HEADER_LENGTH];
    stream.read_exact(&mut header).unwrap();
    let header = Header::decode(&header, HANDSHAKE_BODY_MAX).unwrap();
    let mut body = vec![0; header.length as usize];
    stream.read_exact(&mut body).unwrap();
    Message::decode(&header, &body).unwrap()
}
