//! How a node is in the cluster: as its head, as a member of a head, or among equals on etcd.

mod equal; // registers in etcd, follows who else has
mod figures; // what nodes hold, asked of them
mod head; // takes nodes in, notices who falls silent
mod member; // joins, sends heartbeats, joins again
mod sweep; // what is done for the catalog all the time

use std::sync::Arc;

use flow::wire::control::{NodeRecord, NodeState};
use plan::membership::{Figures, Member, State};

use flow::wire::control::NodeId;
use flow::wire::session::{Failure, NodeListing};

pub(crate) use equal::{Equal, enter, leave};
pub(crate) use head::{Head, heartbeat, join, look_round, preside};
pub(crate) use member::{Follower, StopReason};

use crate::members::View;
use crate::node::{Node, Seat};

/// The members with their figures; `None` on a member, whose head has to be asked.
pub(crate) async fn listing(node: &Arc<Node>) -> Option<NodeListing> {
    match &node.seat {
        Seat::Head(head) => Some(head.listing()),
        Seat::Equal(equal) => Some(equal::listing(node, equal).await),
        Seat::Member { .. } => None,
    }
}

/// Takes a node out of placement, until it starts again, and gives which one it is.
pub(crate) async fn drain(node: &Arc<Node>, name: &str) -> Result<NodeId, Failure> {
    match &node.seat {
        Seat::Equal(equal) => equal::drain(node, equal, name).await,
        Seat::Head(_) | Seat::Member { .. } => head::drain(node, name),
    }
}

/// Makes `view` the view of this node and lets everybody act on it.
fn apply(node: &Arc<Node>, view: View) {
    let before = node.members.view();
    let lost = before.lost_in(&view);
    let came = view.lost_in(&before);
    let are_same = view.nodes.keys().eq(before.nodes.keys());
    if view.epoch == before.epoch && are_same && lost.is_empty() && came.is_empty() {
        return;
    }
    report_changes(node, &before, &view, &lost, &came);
    node.members.publish(view);
    let view = node.members.view();
    if !lost.is_empty() || !came.is_empty() {
        node.engine.members(&engine_peers(node, &view));
    }
    node.trackers.on_lost(&lost);
    crate::trackers::announce_moved(node, before, view);
}

fn report_changes(node: &Node, before: &View, view: &View, lost: &[u64], came: &[u64]) {
    for &peer in lost.iter().filter(|peer| !came.contains(peer)) {
        tracing::info!(node = name_of(before, peer), "a node has left the cluster");
    }
    for &peer in came.iter().filter(|&&peer| peer != node.id()) {
        let what = if lost.contains(&peer) { "a node has started again" } else { "a node is in the cluster" };
        tracing::info!(node = name_of(view, peer), "{what}");
    }
}

fn engine_peers(node: &Node, view: &View) -> Vec<engine::Peer> {
    let ours = &node.identity.rack;
    let here = view.node(node.id()).map(|record| host_of(&record.address));
    let others = view.live().filter(|record| record.node != node.id());
    let peer = |record: &NodeRecord| engine::Peer {
        node: record.node,
        name: record.name.clone(),
        shards: record.shards,
        near: !ours.is_empty() && record.rack == *ours,
        here: here == Some(host_of(&record.address)),
    };
    others.map(peer).collect()
}

/// The host of an address.
fn host_of(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

fn name_of(view: &View, node: u64) -> &str {
    view.node(node).map_or("?", |record| &record.name)
}

/// A node as `plan` knows it.
pub(crate) fn member_of(record: NodeRecord) -> Member {
    Member {
        figures: figures_of(&record),
        node: record.node,
        name: record.name,
        address: record.address,
        rack: record.rack,
        shards: record.shards,
        incarnation: record.incarnation,
        state: match record.state {
            NodeState::Alive => State::Alive,
            NodeState::Draining => State::Draining,
            NodeState::Dead => State::Dead,
        },
        head: record.head,
    }
}

fn figures_of(record: &NodeRecord) -> Figures {
    let NodeRecord { memory_limit, memory_used, nvme_used, .. } = *record;
    Figures { memory_limit, memory_used, nvme_used }
}

/// A node as the wire carries it.
fn record_of(member: &Member) -> NodeRecord {
    let Member { node, name, address, rack, shards, incarnation, state, head, figures } = member.clone();
    NodeRecord {
        node,
        name,
        address,
        rack,
        shards,
        incarnation,
        state: match state {
            State::Alive => NodeState::Alive,
            State::Draining => NodeState::Draining,
            State::Dead => NodeState::Dead,
        },
        head,
        memory_limit: figures.memory_limit,
        memory_used: figures.memory_used,
        nvme_used: figures.nvme_used,
    }
}
