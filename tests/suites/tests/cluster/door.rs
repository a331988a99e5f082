//! Who is let in over TCP, and what strangers get.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::time::Duration;

use flow::limits::HANDSHAKE_BODY_MAX;
use flow::wire::control::NodeId;
use flow::wire::frame::{FLAG_REPLY, HEADER_LENGTH};
use flow::wire::handshake::{Hello, Role};
use flow::wire::session::NodeList;
use flow::wire::{Header, Message};
use suites::{Cluster, Node, Setup, Shoal, assert_same_tree, holds, shoal, write_noise};

use crate::joining::token;

/// Longest wait for bytes of the node, well beyond what it gives a stranger.
const PATIENCE: Duration = Duration::from_secs(60);

/// The head's port on the loopback interface, wherever it listens.
fn outside(node: &Node, token_file: Option<&Path>) -> Shoal {
    let port = node.address().rsplit(':').next().unwrap();
    let call = Shoal::alone().args(["--node", &format!("127.0.0.1:{port}")]);
    match token_file {
        Some(path) => call.arg("--token-file").arg(path),
        None => call,
    }
}

#[test]
fn clients_outside_need_the_token() {
    let folder = tempfile::tempdir().unwrap();
    let (right, wrong) = (token(folder.path(), "right"), token(folder.path(), "wrong"));
    let node = Setup::named("n1").memory("128MB").listen("0.0.0.0:0").flag("--token-file", &right).start();
    let refusal = "does not prove the cluster token";
    for call in [outside(&node, None), outside(&node, Some(&wrong))] {
        call.arg("ls").run().exits(1).tells(refusal).tells("--token-file");
    }
    let told = node.log().matches(refusal).count();
    assert!(told >= 2, "the node tells of {told} refusals:\n{}", node.log());
    outside(&node, Some(&folder.path().join("absent")))
        .arg("ls")
        .run()
        .exits(1)
        .tells("cannot read the token");
    outside(&node, Some(&right)).arg("ls").run().success();
    let from_environment = outside(&node, None).env("SHOAL_TOKEN_FILE", &right);
    from_environment.arg("ls").run().success();
    // Its local socket is its owner's alone and asks for no token.
    Shoal::at(&node).arg("ls").run().success();
    Shoal::at(&node).arg("--token-file").arg(&wrong).arg("ls").run().success();
}

#[test]
fn clients_outside_put_and_get() {
    let folder = tempfile::tempdir().unwrap();
    let token = token(folder.path(), "right");
    let cluster = Cluster::start_with(2, |setup| setup.memory("128MB").flag("--token-file", &token));
    let (file, tree) = (folder.path().join("file"), folder.path().join("tree"));
    write_noise(&file, 8, (21 << 20) + 5);
    std::fs::create_dir_all(tree.join("a/b")).unwrap();
    (0..300).for_each(|at| std::fs::write(tree.join(format!("a/b/{at}")), suites::noise(at, 2000)).unwrap());
    std::os::unix::fs::symlink("a/b/1", tree.join("link")).unwrap();
    for (key, source) in [("file", &file), ("tree", &tree)] {
        outside(&cluster.nodes[0], Some(&token)).args(["put", key, "--src"]).arg(source).run().success();
        for node in &cluster.nodes {
            let copy = folder.path().join(format!("{key}-{}", node.name()));
            outside(node, Some(&token)).args(["get", key, "--dest"]).arg(&copy).run().success();
            match key {
                "file" => assert_same_tree(source, &copy),
                _ => assert_same_tree(&source.join("a"), &copy.join("a")),
            }
        }
    }
    let put = outside(&cluster.nodes[1], Some(&token)).args(["put", "stream", "--src", "-"]);
    put.input(std::fs::File::open(&file).unwrap()).run().success();
    let got = outside(&cluster.nodes[0], Some(&token)).args(["get", "stream", "--dest", "-"]).run().success();
    assert!(got.stdout == std::fs::read(&file).unwrap());
    let nodes =
        outside(&cluster.nodes[1], Some(&token)).args(["node", "ls", "--json"]).run().success().json();
    assert_eq!(nodes.as_array().unwrap().len(), 2);
}

#[test]
fn strangers_are_told_why_and_sent_away() {
    let node = Setup::named("n1").memory("64MB").start();
    let hello = |hello: Hello| Message::from(hello).encode(0, 0);
    let honest = || Hello::new(Role::Client, 0, 0, [7; 32]);
    let header = |change: &dyn Fn(&mut Header)| {
        let mut header = Header::for_body(Message::from(honest()).number(), 0, 0, b"body");
        change(&mut header);
        [&header.encode()[..], b"body"].concat()
    };
    let elsewhere: NodeId = 1;
    let cases: [(Vec<u8>, &str); 10] = [
        (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 is how TLS begins, with a record of a handshake"
                .into(),
            "does not speak Shoal's protocol",
        ),
        (vec![0; 1 << 16], "does not speak Shoal's protocol"),
        (header(&|header| header.version = 9), "protocol version 9"),
        (header(&|header| header.length = u32::MAX), "announces a body of 4294967295 bytes"),
        (header(&|header| header.length = HANDSHAKE_BODY_MAX + 1), "at most 4096 are allowed"),
        (header(&|header| header.body_checksum ^= 1), "checksum"),
        (header(&|header| header.message_type = 60_000), "60000"),
        (hello(Hello { version_min: 8, version_max: 9, ..honest() }), "version"),
        (hello(Hello { expected_node: elsewhere, ..honest() }), "0000000000000001"),
        (Message::from(NodeList {}).encode(FLAG_REPLY, 3), "NodeList"),
    ];
    for (bytes, why) in cases {
        let mut stream = connect(&node);
        // The node may hang up before it has read everything.
        let _ = stream.write_all(&bytes);
        let reason = refusal(&mut stream).unwrap_or_else(|error| panic!("no refusal for '{why}': {error}"));
        assert!(reason.contains(why), "'{reason}' does not say '{why}'");
        assert_closes(&mut stream);
    }

    // What ends or stands still in the middle costs the node its patience and no more.
    let mut half = connect(&node);
    half.write_all(&hello(honest())[..HEADER_LENGTH / 2]).unwrap();
    let mut silent = connect(&node);
    let mut gone = connect(&node);
    gone.write_all(&hello(honest())[..HEADER_LENGTH / 2]).unwrap();
    gone.shutdown(Shutdown::Write).unwrap();
    assert_closes(&mut gone);
    for stream in [&mut half, &mut silent] {
        let reason = refusal(stream).unwrap();
        assert!(reason.contains("the handshake took more than"), "{reason}");
        assert_closes(stream);
    }
    outside(&node, None).arg("ls").run().success();
    shoal(&node, ["status"]).success();
}

#[test]
fn idle_strangers_do_not_keep_others_out() {
    let node = Setup::named("n1").memory("64MB").start();
    let strangers: Vec<TcpStream> = (0..600).map(|_| connect(&node)).collect();
    // On the local socket there is no wait at all, since strangers cannot reach it.
    shoal(&node, ["put", "key", "--src", "-"]).success();
    outside(&node, None).arg("ls").run().success();
    drop(strangers);
    outside(&node, None).args(["get", "key", "--dest", "-"]).run().success();
}

#[test]
fn many_strangers_do_not_fill_the_log() {
    let node = Setup::named("n1").memory("64MB").start();
    for _ in 0..300 {
        let mut stream = connect(&node);
        let _ = stream.write_all(b"\x16\x03\x01 is how TLS begins, which is not what is spoken here");
        refusal(&mut stream).unwrap();
    }
    holds("those that were not told are counted", || node.log().contains("more connections were refused"));
    let told = node.log().matches("a connection was refused").count();
    assert!((1..100).contains(&told), "{told} of 300 were told one by one");
}

fn connect(node: &Node) -> TcpStream {
    let stream = TcpStream::connect(node.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Reads the frame that must be a refusal.
fn refusal(stream: &mut TcpStream) -> io::Result<String> {
    let mut header = [0; HEADER_LENGTH];
    stream.read_exact(&mut header)?;
    let header = Header::decode(&header, HANDSHAKE_BODY_MAX).unwrap();
    let mut body = vec![0; header.length as usize];
    stream.read_exact(&mut body)?;
    match Message::decode(&header, &body).unwrap() {
        Message::Refuse(refuse) => Ok(refuse.reason),
        other => panic!("{} in place of a refusal", other.name()),
    }
}

/// The connection ends without much more being said.
fn assert_closes(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    match stream.take(1 << 20).read_to_end(&mut rest) {
        Ok(_) => assert!(rest.len() < 1 << 20),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
    }
}
