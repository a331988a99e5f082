//! What operators ask for, of the whole cluster.

mod drain; // a node gives away what only it has
pub(crate) mod here; // the part of one node
mod place; // a chunk is copied or moved
mod survey; // who has which chunk

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use flow::chunk::{ChunkId, Geometry};
use flow::wire::Message;
use flow::wire::control::{NodeId, NodeRecord, NodeState};
use flow::wire::session::*;
use tokio::task::JoinSet;

pub(crate) use drain::drain;
pub(crate) use place::{bring, place, take_back};
pub(crate) use survey::{report, survey, survey_some};

use crate::node::{Node, Seat};
use crate::{cluster, failure, keys, peers};

/// How long a node may take to tell what it has.
const REPORT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a node may take to carry out something small.
const ACTION_TIMEOUT: Duration = Duration::from_secs(15);
/// How long it may take until this node knows the members that the head knows.
const NEWS_TIMEOUT: Duration = Duration::from_secs(1);

/// Refuses a geometry that a peer or client made up.
pub(crate) fn check_geometry(geometry: Geometry) -> Result<(), Failure> {
    let checked = Geometry::new(geometry.size(), geometry.piece_size());
    checked.map(drop).map_err(|error| failure::invalid(error.to_string(), ""))
}

/// A page of the replicas of the cluster.
pub(crate) async fn chunk_list(node: &Arc<Node>, list: ChunkList) -> Result<Message, Failure> {
    let listing = match list.chunk {
        Some(chunk) => survey(node, chunk).await,
        None => survey::page(node, list.after).await,
    };
    Ok(listing.into())
}

/// The members.
pub(crate) async fn node_list(node: &Arc<Node>) -> Result<Message, Failure> {
    if let Some(listing) = cluster::listing(node).await {
        return Ok(listing.into());
    }
    let Seat::Member { head, .. } = &node.seat else {
        return Err(failure::internal("a node without a seat"));
    };
    let answer = node.peers.call(head, 0, &NodeList {}.into(), Some(REPORT_TIMEOUT)).await;
    if let Ok(Message::NodeListing(listing)) = answer {
        // Whoever sees a node here may ask this node to act on it.
        node.members.catch_up(listing.epoch, NEWS_TIMEOUT).await;
        return Ok(listing.into());
    }
    // Without the head this node tells what it knew last, and that the head is not there.
    let view = node.members.view();
    let mut nodes: Vec<NodeRecord> = view.nodes.values().map(|record| NodeRecord::clone(record)).collect();
    nodes.iter_mut().filter(|record| record.head).for_each(|record| record.state = NodeState::Dead);
    if nodes.is_empty() {
        return Err(failure::head_away("this node has not joined the cluster yet"));
    }
    Ok(NodeListing { epoch: view.epoch, nodes }.into())
}

/// The GPUs of a member.
pub(crate) async fn gpus(node: &Arc<Node>, name: &str) -> Result<Vec<GpuRecord>, Failure> {
    // A node that has just started may not know that it is a member.
    if name == node.identity.name {
        return Ok(node.engine.gpus());
    }
    let record = named(node, name).await?;
    let answer = node.peers.ask(&record, StatusQuery {}, Some(REPORT_TIMEOUT)).await?;
    let status: Status = peers::expect("StatusQuery", answer)?;
    Ok(status.gpus)
}

/// Sets or clears a pin.
pub(crate) async fn pin(node: &Arc<Node>, pin: ChunkPin) -> Result<Message, Failure> {
    let holders = holders(node, pin.id, &pin.node).await?;
    let requests =
        holders.iter().map(|holder| (holder.clone(), ChunkPin { node: holder.name.clone(), ..pin.clone() }));
    everywhere(node, requests, |node, pin| async move { here::pin(&node, pin).await }).await
}

/// Drops replicas.
pub(crate) async fn remove(node: &Arc<Node>, remove: ChunkRemove) -> Result<Message, Failure> {
    let holders = holders(node, remove.id, &remove.node).await?;
    if !remove.force {
        check_unused(node, &remove, &holders).await?;
    }
    let requests = holders.iter().map(|holder| (holder.clone(), remove.clone()));
    let removed = everywhere(node, requests, |node, remove| async move { here::remove(&node, remove).await });
    let removed = removed.await;
    if remove.node.is_empty() && remove.device.is_none() {
        remove_late(node, &remove, &holders).await;
    }
    removed
}

/// Lets all nodes that have nothing of a chunk know that it was removed: one that was asked to fetch it may begin
/// afterwards, or have begun. Those that do not answer keep what comes for as long as any chunk that nobody refers to.
async fn remove_late(node: &Arc<Node>, remove: &ChunkRemove, holders: &[NodeRecord]) {
    let holders: BTreeSet<NodeId> = holders.iter().map(|holder| holder.node).collect();
    let view = node.members.view();
    let mut told = JoinSet::new();
    for record in view.live().filter(|record| !holders.contains(&record.node)) {
        if told.len() >= survey::NODES_AT_ONCE {
            told.join_next().await;
        }
        let (node, record, remove) = (node.clone(), record.clone(), remove.clone());
        told.spawn(async move {
            match record.node == node.id() {
                true => here::remove(&node, remove).await,
                false => node.peers.ask(&record, remove, Some(REPORT_TIMEOUT)).await,
            }
        });
    }
    while told.join_next().await.is_some() {}
}

/// Refuses to drop what a key refers to or what is pinned, before anything is dropped anywhere.
async fn check_unused(node: &Arc<Node>, remove: &ChunkRemove, holders: &[NodeRecord]) -> Result<(), Failure> {
    let id = remove.id;
    if keys::references(node, &[id]).await?.contains(&true) {
        let hint = "remove the key, or use --force and lose its data if this is the last replica";
        return Err(failure::conflict(format!("a key refers to chunk {id}"), hint));
    }
    let holders: BTreeSet<NodeId> = holders.iter().map(|holder| holder.node).collect();
    let survey = survey(node, id).await;
    let pinned = survey.replicas.iter().find(|replica| replica.pinned && holders.contains(&replica.node));
    match pinned {
        Some(replica) => {
            let view = node.members.view();
            let name = view.node(replica.node).map_or("?", |record| &record.name);
            Err(failure::conflict(
                format!("chunk {id} is pinned on node '{name}'"),
                "unpin it, or use --force",
            ))
        }
        None => Ok(()),
    }
}

/// The nodes that a request is about: the one it names, or all that have a replica.
async fn holders(node: &Arc<Node>, id: ChunkId, name: &str) -> Result<Vec<NodeRecord>, Failure> {
    if !name.is_empty() {
        return Ok(vec![named(node, name).await?]);
    }
    let view = node.members.view();
    let survey = survey(node, id).await;
    let holders: Vec<NodeRecord> =
        survey.replicas.iter().filter_map(|replica| view.node(replica.node).cloned()).collect();
    if holders.is_empty() { Err(no_replica(id, &survey.silent)) } else { Ok(holders) }
}

/// The member of this name. Of one that has just joined the head may be the only one to know.
async fn named(node: &Arc<Node>, name: &str) -> Result<NodeRecord, Failure> {
    if let Ok(known) = node.members.view().named(name) {
        return Ok(known.clone());
    }
    node_list(node).await?;
    node.members.view().named(name).cloned()
}

fn no_replica(id: ChunkId, silent: &[String]) -> Failure {
    if silent.is_empty() {
        failure::not_found(format!("no node has chunk {id}"), "`shoal chunk ls` lists what there is")
    } else {
        let text = format!("no node that answers has chunk {id}; these do not answer: {}", silent.join(", "));
        failure::unavailable(text, "`shoal node ls` shows which nodes are alive")
    }
}

/// Carries a request out on each node; the first failure is the answer, after all have been asked.
async fn everywhere<T, Local>(
    node: &Arc<Node>,
    requests: impl Iterator<Item = (NodeRecord, T)>,
    local: impl Fn(Arc<Node>, T) -> Local,
) -> Result<Message, Failure>
where
    T: Into<Message>,
    Local: Future<Output = Result<Message, Failure>>,
{
    let mut first_failure = None;
    for (record, request) in requests {
        let answer = match record.node == node.id() {
            true => local(node.clone(), request).await,
            false => node.peers.ask(&record, request, Some(ACTION_TIMEOUT)).await,
        };
        if let Err(mut failure) = answer {
            failure.message = format!("on node '{}': {}", record.name, failure.message);
            first_failure.get_or_insert(failure);
        }
    }
    first_failure.map_or_else(|| Ok(Done {}.into()), Err)
}
