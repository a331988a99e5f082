//! A chunk is copied or moved.

use std::sync::Arc;

use flow::chunk::ChunkId;
use flow::swarm::Priority;
use flow::wire::Message;
use flow::wire::control::{NodeRecord, NodeState, ReplicaRecord};
use flow::wire::session::*;

use super::{ACTION_TIMEOUT, here, named, no_replica, survey};
use crate::node::Node;
use crate::{failure, peers};

/// Copies or moves a chunk. The source goes only when the copy has been read back and is right.
pub(crate) async fn place(node: &Arc<Node>, place: ChunkPlace) -> Result<Message, Failure> {
    let brought = bring(node, place, false, Priority::Normal).await?;
    if brought.place.remove_source {
        brought.take_sources(node).await?;
    }
    Ok(brought.fetched.into())
}

/// A chunk that has come to where it shall be, and is still where it was.
pub(crate) struct Brought {
    place: ChunkPlace,
    target: NodeRecord,
    from: Option<NodeRecord>,
    /// Where it was.
    found: ChunkListing,
    is_pinned: bool,
    fetched: ChunkFetched,
}

/// Copies a chunk, and reads the copy back. It is pinned there if it must be, or if a replica is that the copy is to replace.
pub(crate) async fn bring(
    node: &Arc<Node>,
    place: ChunkPlace,
    pinned: bool,
    priority: Priority,
) -> Result<Brought, Failure> {
    let target = named(node, &place.node).await?;
    let from = if place.from.is_empty() { None } else { Some(named(node, &place.from).await?) };
    if target.state == NodeState::Draining {
        return Err(failure::draining(&target.name));
    }
    let found = survey(node, place.id).await;
    let source = found.replicas.iter().filter(|replica| replica.is_whole()).find(|replica| match &from {
        Some(from) => replica.node == from.node,
        None => true,
    });
    let source = source.ok_or_else(|| match &from {
        Some(from) => failure::not_found(
            format!("node '{}' does not have all of chunk {}", from.name, place.id),
            "`shoal chunk info` shows where it is",
        ),
        None => no_replica(place.id, &found.silent),
    })?;
    let takes_pin = place.remove_source && sources(&found, &place, &from).any(|replica| replica.pinned);
    let is_pinned = pinned || takes_pin;
    let fetched = copy(node, &target, source, (place.device, priority), is_pinned).await?;
    Ok(Brought { place, target, from, found, is_pinned, fetched })
}

impl Brought {
    /// Takes away what was copied.
    pub(crate) async fn take_sources(&self, node: &Arc<Node>) -> Result<(), Failure> {
        let view = node.members.view();
        for replica in sources(&self.found, &self.place, &self.from) {
            let Some(holder) = view.node(replica.node) else { continue };
            // The pin of the copy must not guard what the copy replaces.
            let is_pinned = replica.pinned || (holder.node == self.target.node && self.is_pinned);
            let replica = ReplicaRecord { pinned: is_pinned, ..replica.clone() };
            remove_source(node, holder, &self.target, &replica, self.place.device).await?;
        }
        Ok(())
    }
}

/// Takes away what has come to a node on its way there, with what is still coming.
pub(crate) async fn take_back(
    node: &Arc<Node>,
    target: &NodeRecord,
    id: ChunkId,
    device: Option<Device>,
    pinned: bool,
) -> Result<(), Failure> {
    if !pinned {
        match set_pin(node, target, id, false).await {
            Ok(()) | Err(Failure { code: FailureCode::NotFound, .. }) => {}
            Err(failure) => return Err(failure),
        }
    }
    let remove = ChunkRemove { id, node: target.name.clone(), device, force: pinned };
    let answer = if target.node == node.id() {
        here::remove(node, remove).await
    } else {
        node.peers.ask(target, remove, Some(ACTION_TIMEOUT)).await
    };
    match answer {
        Ok(_) | Err(Failure { code: FailureCode::NotFound, .. }) => Ok(()),
        Err(failure) => Err(failure),
    }
}

/// Brings a chunk to `target` and makes sure that it is right there.
pub(super) async fn copy(
    node: &Arc<Node>,
    target: &NodeRecord,
    source: &ReplicaRecord,
    (device, priority): (Device, Priority),
    pinned: bool,
) -> Result<ChunkFetched, Failure> {
    let ReplicaRecord { chunk: id, geometry, descriptor_digest, .. } = *source;
    let chunk = ChunkReference { id, geometry, descriptor_digest };
    // Copying may take as long as it takes; that the target is gone shows in the connection.
    let answer = if target.node == node.id() {
        here::fetch(node, ChunkFetch { chunk, device, priority }).await?
    } else {
        node.peers.ask(target, ChunkFetch { chunk, device, priority }, None).await?
    };
    let fetched: ChunkFetched = peers::expect("ChunkFetch", answer)?;
    if pinned {
        set_pin(node, target, id, true).await?;
    }
    let answer = if target.node == node.id() {
        here::verify(node, ChunkVerify { id }).await?
    } else {
        node.peers.ask(target, ChunkVerify { id }, None).await?
    };
    let ChunkVerified { digest } = peers::expect("ChunkVerify", answer)?;
    if digest == id {
        return Ok(fetched);
    }
    let message =
        format!("the copy of chunk {id} on node '{}' has digest {digest}; the source was kept", target.name);
    let hint = "`shoal doctor` on that node checks its devices".into();
    Err(Failure { code: FailureCode::Corrupt, message, hint })
}

async fn set_pin(node: &Arc<Node>, holder: &NodeRecord, id: ChunkId, pinned: bool) -> Result<(), Failure> {
    let pin = ChunkPin { id, pinned, node: holder.name.clone() };
    let answer = if holder.node == node.id() {
        here::pin(node, pin).await?
    } else {
        node.peers.ask(holder, pin, Some(ACTION_TIMEOUT)).await?
    };
    peers::expect::<Done>("ChunkPin", answer).map(drop)
}

/// The replicas that a move takes away: those on the node it names, or all.
fn sources<'a>(
    found: &'a ChunkListing,
    place: &'a ChunkPlace,
    from: &'a Option<NodeRecord>,
) -> impl Iterator<Item = &'a ReplicaRecord> {
    let meant = |replica: &&ReplicaRecord| from.as_ref().is_none_or(|from| from.node == replica.node);
    found.replicas.iter().filter(|replica| replica.chunk == place.id).filter(meant)
}

/// Drops a replica that was moved; on the target itself only from the devices that it was moved from.
async fn remove_source(
    node: &Arc<Node>,
    holder: &NodeRecord,
    target: &NodeRecord,
    replica: &ReplicaRecord,
    moved_to: Device,
) -> Result<(), Failure> {
    if holder.node != target.node {
        if replica.pinned {
            set_pin(node, holder, replica.chunk, false).await?;
        }
        return remove_from(node, holder, target, replica.chunk, None, false).await;
    }
    let seen = replica.devices().map(|(device, _)| device).filter(|device| *device != Device::Dram);
    let is_other = |device: &Device| *device != moved_to && !(moved_to == Device::AnyGpu && device.is_gpu());
    for device in std::iter::once(Device::Dram).chain(seen).filter(is_other) {
        // A pin of the target stays and guards the copy; it must not guard what the copy replaces. What passed through memory on
        // its way there may have stayed, whoever reads it.
        let is_passing = device == Device::Dram && replica.dram_pieces == 0;
        let force = replica.pinned || is_passing;
        remove_from(node, holder, target, replica.chunk, Some(device), force).await?;
    }
    Ok(())
}

/// Drops a replica that was moved, from one device or from all.
async fn remove_from(
    node: &Arc<Node>,
    holder: &NodeRecord,
    target: &NodeRecord,
    id: ChunkId,
    device: Option<Device>,
    force: bool,
) -> Result<(), Failure> {
    let remove = ChunkRemove { id, node: holder.name.clone(), device, force };
    let answer = if holder.node == node.id() {
        here::remove(node, remove).await
    } else {
        node.peers.ask(holder, remove, Some(ACTION_TIMEOUT)).await
    };
    match answer {
        // It was evicted in the meantime.
        Err(Failure { code: FailureCode::NotFound, .. }) => Ok(()),
        Err(mut failure) => {
            failure.message =
                format!("chunk {id} is on node '{}', but its source stays: {}", target.name, failure.message);
            Err(failure)
        }
        Ok(_) => Ok(()),
    }
}
