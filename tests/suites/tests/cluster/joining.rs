//! Nodes that cannot become members, and what they say.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use suites::{Cluster, Node, Setup, holds, shoal};

/// Writes a token that only its owner can read.
pub fn token(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, format!("the token called {name}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn small(name: &str) -> Setup {
    Setup::named(name).memory("64MB")
}

#[track_caller]
fn fails(setup: Setup, text: &str) {
    let (code, log) = setup.fails();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains(text), "it does not say '{text}':\n{log}");
}

#[test]
fn a_name_is_taken_once() {
    let mut cluster = Cluster::start_with(2, |setup| setup.memory("64MB"));
    let head = &cluster.nodes[0];
    fails(small("n1").join(head), "the name 'n1' is taken by the live node at");
    fails(small("n2").join(head), "start this node with another --name");
    // Whoever comes back on its own data directory keeps its name, at once and elsewhere too.
    cluster.nodes[1].kill();
    cluster.nodes[1].restart();
    cluster.wait_until_all_know(2);
}

#[test]
fn only_the_head_takes_nodes_in() {
    let cluster = Cluster::start_with(2, |setup| setup.memory("64MB"));
    let log = small("n3").join(&cluster.nodes[1]).fails().1;
    assert!(log.contains("node 'n2' is not the head"), "{log}");
    assert!(log.contains(cluster.head().address()), "it does not name the head's address:\n{log}");
}

#[test]
fn nobody_answers_where_the_head_should_be() {
    // A port that was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let node = small("n2").flag("--join", free.to_string()).start();
    assert_waits(&node, &free.to_string());
}

#[test]
fn something_else_answers_where_the_head_should_be() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        use std::io::Write;
        for stream in listener.incoming() {
            let _ =
                stream.and_then(|mut stream| stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n and more"));
        }
    });
    let node = small("n2").flag("--join", &address).start();
    assert_waits(&node, "does not speak Shoal's protocol");
}

/// The head may start later than its members, so that they wait, and say so.
fn assert_waits(node: &Node, why: &str) {
    holds("the log says what is wrong", || {
        let log = node.log();
        log.contains("the head does not answer") && log.contains(why)
    });
    shoal(node, ["ls"]).exits(4).tells("the head does not answer").tells("--join");
    shoal(node, ["node", "ls"]).exits(4).tells("has not joined");
}

#[test]
fn members_must_show_the_right_token() {
    let folder = tempfile::tempdir().unwrap();
    let (right, wrong) = (token(folder.path(), "right"), token(folder.path(), "wrong"));
    let head = small("n1").flag("--token-file", &right).start();
    fails(small("n2").join(&head), "does not prove the cluster token");
    fails(
        small("n2").join(&head).flag("--token-file", &wrong),
        "start both sides with the same --token-file",
    );
    assert!(head.log().contains("does not prove the cluster token"), "the head does not say who was refused");
    let member = small("n2").join(&head).flag("--token-file", &right).start();
    holds("the member is in", || member.client().nodes().is_ok_and(|nodes| nodes.nodes.len() == 2));
    assert!(!head.log().contains("the token called") && !member.log().contains("the token called"));
}

#[test]
fn beyond_this_machine_a_node_wants_a_token() {
    let (code, log) = small("n1").listen("0.0.0.0:0").fails();
    assert_eq!(code, Some(2), "{log}");
    assert!(log.contains("can be reached from other machines and there is no token"), "{log}");
    for text in ["--token-file", "127.0.0.1", "--insecure"] {
        assert!(log.contains(text), "it does not offer {text}:\n{log}");
    }
    let folder = tempfile::tempdir().unwrap();
    let readable = token(folder.path(), "readable");
    std::fs::set_permissions(&readable, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (code, log) = small("n1").listen("0.0.0.0:0").flag("--token-file", &readable).fails();
    assert!(code == Some(2) && log.contains("chmod 600"), "{log}");
    let node = small("n1").listen("0.0.0.0:0").switch("--insecure").start();
    shoal(&node, ["ls"]).success();
}
