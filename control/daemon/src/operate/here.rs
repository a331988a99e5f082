//! The part of one node: what it does itself, whoever asks.

use std::sync::Arc;

use flow::wire::Message;
use flow::wire::session::*;

use super::check_geometry;
use crate::failure;
use crate::kv::place::CatalogPlace;
use crate::node::Node;

/// Brings a chunk here.
pub(crate) async fn fetch(node: &Arc<Node>, fetch: ChunkFetch) -> Result<Message, Failure> {
    node.check_takes_chunks()?;
    check_geometry(fetch.chunk.geometry)?;
    let _busy = node.activity.begin();
    // It must stay until whoever wanted it here has done with it what they wanted.
    let _touched = node.collector.touch(fetch.chunk.id);
    let fetched = node.engine.fetch(fetch.chunk, fetch.device, fetch.priority).await;
    Ok(fetched.map_err(|error| error.failure())?.into())
}

/// Reads a local chunk and says what it is.
pub(crate) async fn verify(node: &Arc<Node>, verify: ChunkVerify) -> Result<Message, Failure> {
    let digest = node.engine.verify(verify.id).await.map_err(|error| error.failure())?;
    Ok(ChunkVerified { digest }.into())
}

/// Sets or clears the pin of a local chunk.
pub(crate) async fn pin(node: &Arc<Node>, pin: ChunkPin) -> Result<Message, Failure> {
    check_meant(node, &pin.node)?;
    let found = node.engine.pin(pin.id, pin.pinned).await.map_err(|error| error.failure())?;
    if found && !pin.pinned {
        // The pin was why it was here, if no key refers to it.
        node.collector.settle(pin.id);
    }
    if found { Ok(Done {}.into()) } else { Err(not_here(node, &pin.id)) }
}

/// Drops the local replica. Whether a key refers to the chunk was asked by whoever wants it dropped. Without a name, all
/// nodes are asked to.
pub(crate) async fn remove(node: &Arc<Node>, remove: ChunkRemove) -> Result<Message, Failure> {
    check_meant(node, &remove.node)?;
    if remove.node.is_empty() && remove.device.is_none() {
        node.collector.remove(remove.id);
    }
    let dropped = node.engine.drop_replica(remove.id, remove.device, remove.force).await;
    if dropped.map_err(|error| error.failure())? {
        Ok(Done {}.into())
    } else {
        Err(not_here(node, &remove.id))
    }
}

/// The node's own counters.
pub(crate) async fn status(node: &Arc<Node>) -> Result<Message, Failure> {
    let counters = node.engine.counters().await.map_err(|error| error.failure())?;
    let gpus = node.engine.gpus();
    let finding = |finding: &engine::Finding| (finding.topic.to_owned(), in_words(finding));
    let catalog = ("catalog".to_owned(), CatalogPlace::of(node).await.to_string());
    let findings = std::iter::once(catalog).chain(node.findings.iter().map(finding)).collect();
    Ok(Status { node: node.record(), findings, counters, gpus }.into())
}

/// A finding as one line.
pub(crate) fn in_words(finding: &engine::Finding) -> String {
    let engine::Finding { found, taken, remedy, .. } = finding;
    match remedy {
        Some(remedy) => format!("{found}; {taken}; faster: {remedy}"),
        None => format!("{found}; {taken}"),
    }
}

fn check_meant(node: &Node, name: &str) -> Result<(), Failure> {
    let ours = &node.identity.name;
    if name.is_empty() || name == ours {
        return Ok(());
    }
    Err(failure::not_found(format!("this is node '{ours}', not '{name}'"), "`shoal node ls` lists the names"))
}

fn not_here(node: &Node, id: &flow::chunk::ChunkId) -> Failure {
    let text = format!("node '{}' has no such replica of chunk {id}", node.identity.name);
    failure::not_found(text, "`shoal chunk ls` shows where it is")
}
