//! Several chunks that share a link.

use std::io;
use std::thread;

use client::{GetOptions, Priority, Silent};
use suites::network::{Host, Network, NetworkError};
use suites::{Node, Setup, Shoal, Way, holds, shoal, write_noise};

use crate::broadcast::{id_of, only_chunk, replicas, share};

/// What each link carries, in Mbit/s: so little that the large chunk takes ten seconds.
const LINK_MEGABITS_PER_S: u64 = 250;
const LARGE: u64 = 320 << 20;
const SMALL: u64 = 4 << 20;

#[test]
fn a_small_urgent_chunk_comes_before_a_large_one_that_began_earlier() {
    let hosts = match hosts() {
        Ok(hosts) => hosts,
        Err(error) => return println!("without links of our own nothing is shared: {error}"),
    };
    let setup = |host: &Host, name: &str| {
        let entry = host.entry();
        let entry: Vec<&str> = entry.iter().map(String::as_str).collect();
        let listen = format!("{}:0", host.address());
        Setup::named(name).memory("800MB").through(&entry).over(Way::Tcp).listen(&listen).switch("--insecure")
    };
    let source = setup(&hosts[0], "source").start();
    let receiver = setup(&hosts[1], "receiver").join(&source).start();
    let folder = tempfile::tempdir().unwrap();
    for (seed, (key, size)) in (1..).zip([("large", LARGE), ("small", SMALL), ("other", SMALL)]) {
        let file = folder.path().join(key);
        write_noise(&file, seed, size);
        Shoal::at(&source).args(["put", key, "--src"]).arg(&file).run().success();
    }
    thread::scope(|scope| {
        let large = scope.spawn(|| get(&receiver, "large", Priority::Normal));
        holds("pieces of the large chunk arrive", || held(&source, &receiver, "large") > 0.0);
        get(&receiver, "small", Priority::Critical);
        shoal(&receiver, ["get", "other", "--priority", "high", "--dest", "-"]).success();
        assert!(held(&source, &receiver, "large") < 1.0, "the large chunk came before the small ones");
        large.join().unwrap();
    });
    shoal(&receiver, ["get", "other", "--priority", "urgent", "--dest", "-"])
        .exits(2)
        .tells("a priority is critical, high, normal or low");
}

fn hosts() -> Result<Vec<Host>, NetworkError> {
    let mut network = Network::shaped(LINK_MEGABITS_PER_S)?;
    (0..2).map(|_| network.add_host()).collect()
}

fn get(node: &Node, key: &str, priority: Priority) {
    let client = node.client();
    client.set_priority(priority);
    client.get_to_writer(key, &mut io::sink(), &GetOptions::default(), &Silent).unwrap();
}

/// How much of the chunk of a key a node has: 1 is all.
fn held(source: &Node, node: &Node, key: &str) -> f64 {
    let there = replicas(&source.client(), only_chunk(source, key));
    there.get(&id_of(node)).map_or(0.0, share)
}
