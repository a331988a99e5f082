//! Nodes that run while no member of etcd does.

use std::io::{self, Write};
use std::sync::mpsc;
use std::time::Instant;

use client::{GetOptions, Silent};
use suites::{Cluster, Etcds, Node, Shoal, holds, noise, shoal};

const SIZE: usize = 96 << 20;

/// Takes bytes, and says so when the first have come; it then waits until it may go on.
struct Gate {
    bytes: Vec<u8>,
    begun: Option<mpsc::Sender<()>>,
    go_on: mpsc::Receiver<()>,
}

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(begun) = self.begun.take() {
            begun.send(()).unwrap();
            self.go_on.recv().unwrap();
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn is_reached(node: &Node) -> bool {
    let findings = node.client().status().unwrap().findings;
    let told = findings.into_iter().find(|(topic, _)| topic == "catalog").unwrap().1;
    !told.contains("out of reach")
}

#[test]
fn without_etcd_transfers_end_well_and_what_was_read_is_there() {
    let Some(mut etcds) = Etcds::start(3) else { return };
    let cluster = Cluster::start_on(&etcds, 3, |setup| setup.memory("128MB"));
    let [first, second, third] = &cluster.nodes[..] else { panic!("three nodes") };
    let original = noise(1, SIZE);
    let input = io::Cursor::new(original.clone());
    Shoal::at(first).args(["put", "large", "--src", "-"]).input(input).run().success();
    Shoal::at(first)
        .args(["put", "small", "--src", "-"])
        .input(io::Cursor::new(b"some bytes".repeat(99)))
        .run()
        .success();
    shoal(second, ["get", "small", "--dest", "-"]).success();
    shoal(second, ["kv", "put", "value", "x"]).success();
    shoal(second, ["kv", "get", "value"]).success();

    let (begun, has_begun) = mpsc::channel();
    let (may_go_on, go_on) = mpsc::channel();
    let client = third.client();
    let getting = std::thread::spawn(move || {
        let mut gate = Gate { bytes: Vec::new(), begun: Some(begun), go_on };
        let got = client.get_to_writer("large", &mut gate, &GetOptions::default(), &Silent);
        got.map(|_| gate.bytes)
    });
    has_begun.recv().unwrap();
    etcds.kill_all();
    may_go_on.send(()).unwrap();
    let got = getting.join().unwrap().expect("a transfer that has begun ends well");
    assert!(got == original, "the bytes are right");

    for words in [&["kv", "put", "value", "y"][..], &["kv", "rm", "value"], &["rm", "small"]] {
        let begin = Instant::now();
        let refused = shoal(second, words).exits(4).tells("the catalog cannot be reached").tells("hint: ");
        refused.tells("try again");
        println!("{} without etcd: refused after {} ms", words.join(" "), begin.elapsed().as_millis());
    }
    let input = io::Cursor::new(vec![1; 100]);
    let begin = Instant::now();
    Shoal::at(second)
        .args(["put", "other", "--src", "-"])
        .input(input)
        .run()
        .exits(4)
        .tells("cannot be reached");
    println!("put without etcd: refused after {} ms", begin.elapsed().as_millis());
    let begin = Instant::now();
    let small = shoal(second, ["get", "small", "--consistency", "one", "--dest", "-"]).success();
    println!("get --consistency one without etcd: {} ms", begin.elapsed().as_millis());
    assert!(small.stdout == b"some bytes".repeat(99));
    assert_eq!(
        shoal(second, ["kv", "get", "value", "--consistency", "one"]).success().text().trim_end(),
        "x"
    );
    shoal(second, ["kv", "get", "never read", "--consistency", "one"]).exits(4);

    holds("every node says that etcd is away", || cluster.nodes.iter().all(|node| !is_reached(node)));
    assert!(second.log().contains("etcd is out of reach"), "{}", second.log());
    let nodes = shoal(second, ["node", "ls", "--json"]).success().json();
    assert!(nodes.as_array().unwrap().iter().all(|node| node["state"] == "alive"), "{nodes}");

    etcds.restart_all();
    for node in &cluster.nodes {
        holds("a write is taken again", || shoal(node, ["kv", "put", "value", "z"]).code == Some(0));
        holds("the node says that etcd is there", || is_reached(node));
    }
    cluster.wait_until_all_know(3);
    assert!(second.log().contains("etcd is reached again"));
    let again = shoal(second, ["get", "large", "--dest", "-"]).success();
    assert!(again.stdout == original);
}
