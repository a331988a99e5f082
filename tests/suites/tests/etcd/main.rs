//! The catalog on etcd, and nodes that share it, with members that run here. A machine without `etcd` skips all of it, and says so.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

mod conformance; // what every engine does
mod failover; // members that die and freeze
mod reach; // nobody answers, and what is remembered
mod secured; // who is there
mod nodes; // equals that share keys, chunks and members
mod node_loss; // nodes that die, and etcd's leader, while files and values are written
mod out_of_reach; // all of etcd away from nodes that run
mod several; // nodes that share one catalog
mod up; // a cluster of one command

use catalog::{Catalog, Content, Etcd, EtcdSettings, Operation, Put, Write, Written};
use futures_lite::future::block_on;
use suites::Etcds;

/// A node's catalog on these members.
fn open(etcds: &Etcds) -> Etcd {
    open_with(etcds, EtcdSettings::default())
}

fn open_with(etcds: &Etcds, settings: EtcdSettings) -> Etcd {
    let address = etcds.address().parse().expect("an address");
    block_on(Etcd::open(&address, settings)).expect("etcd answers")
}

fn value(text: impl AsRef<str>) -> Content {
    Content::Value(text.as_ref().as_bytes().to_vec())
}

fn put(key: impl Into<String>, text: impl AsRef<str>) -> Operation {
    Operation::Put(Put::new(key, value(text)))
}

fn write(catalog: &Etcd, operations: Vec<Operation>) -> Written {
    block_on(catalog.write(Write { conditions: Vec::new(), operations })).expect("a write")
}

fn text(catalog: &impl Catalog, key: &str) -> Option<String> {
    let found = block_on(catalog.get(&[key.into()], Default::default())).expect("a read");
    let entry = found.entries.into_iter().next().flatten()?;
    match entry.content {
        Some(Content::Value(value)) => Some(String::from_utf8(value).expect("text")),
        other => panic!("{key} has {other:?}"),
    }
}
