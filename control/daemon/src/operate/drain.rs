//! A node gives away what only it has.

use std::sync::Arc;
use std::time::Duration;

use flow::chunk::ChunkId;
use flow::swarm::Priority;
use flow::wire::Message;
use flow::wire::control::{NodeId, ReplicaRecord};
use flow::wire::session::*;
use plan::placement::{Move, Replica, drain_moves};
use tokio::task::JoinSet;

use super::place::copy;
use super::survey;
use crate::node::{Node, Seat};
use crate::{cluster, failure};

/// Copies that are made at once.
const COPIES_AT_ONCE: usize = 4;
/// Writes that had begun when the node began to drain may end after the first look at what it has.
const LOOKS: usize = 5;
/// Time between two looks: by then every node has heard that this one drains.
const PAUSE: Duration = Duration::from_secs(1);

/// Takes a node out of placement and moves away what only it has. Where there is a head, it does it, whoever is asked.
pub(crate) async fn drain(node: &Arc<Node>, drain: NodeDrain) -> Result<Message, Failure> {
    if let Seat::Member { head, .. } = &node.seat {
        return match node.peers.call(head, 0, &drain.into(), None).await.map_err(failure::head_away)? {
            Message::Failure(failure) => Err(failure),
            answer => Ok(answer),
        };
    }
    let leaver = cluster::drain(node, &drain.node).await?;
    if !node.members.view().is_live(leaver) {
        let text =
            format!("node '{}' is dead; what only it has cannot be moved until it returns", drain.node);
        return Err(failure::unavailable(text, "start it again, then drain it"));
    }
    for look in 0..LOOKS {
        let moves = plan_moves(node, leaver, &drain.node).await?;
        if moves.is_empty() && look > 0 {
            return Ok(Done {}.into());
        }
        if !moves.is_empty() {
            tracing::info!(node = drain.node, chunks = moves.len(), "chunks are moved off a draining node");
        }
        carry_out(node, moves).await?;
        tokio::time::sleep(PAUSE).await;
    }
    let text = format!("node '{}' still receives chunks that only it has", drain.node);
    Err(failure::conflict(text, "stop the clients that write to it, then drain it again"))
}

type Copy = (Move, ReplicaRecord);

async fn plan_moves(node: &Arc<Node>, leaver: NodeId, name: &str) -> Result<Vec<Copy>, Failure> {
    let found = survey::all(node).await;
    if found.silent.iter().any(|silent| silent == name) {
        return Err(failure::unavailable(
            format!("node '{name}' does not tell what it has"),
            "drain it again later",
        ));
    }
    let replicas: Vec<Replica> =
        found.replicas.iter().filter(|replica| replica.is_whole()).flat_map(replicas_of).collect();
    let Some(listing) = cluster::listing(node).await else { return Ok(Vec::new()) };
    let members: Vec<_> = listing.nodes.into_iter().map(cluster::member_of).collect();
    let moves = drain_moves(leaver, &replicas, &members)
        .map_err(|error| failure::unavailable(error.to_string(), ""))?;
    let source = |one: &Move| {
        let is_source =
            |replica: &&ReplicaRecord| replica.node == leaver && replica.chunk == ChunkId(one.chunk);
        found.replicas.iter().find(is_source).cloned()
    };
    Ok(moves.into_iter().filter_map(|one| source(&one).map(|source| (one, source))).collect())
}

/// A record as `plan` knows it: one replica for each device that has all of the chunk.
fn replicas_of(record: &ReplicaRecord) -> impl Iterator<Item = Replica> {
    use plan::placement::Device;
    let pieces = record.geometry.pieces();
    let replica = |device, pieces_there| {
        (pieces_there >= pieces).then(|| Replica {
            chunk: record.chunk.0,
            size: record.geometry.size(),
            node: record.node,
            device,
            pinned: record.pinned,
        })
    };
    let on_nvme = replica(Device::Nvme, record.nvme_pieces);
    // What is on a GPU alone goes to the memory of another node, which has GPUs or has not.
    let on_gpu = record.pieces_on(flow::wire::session::Device::AnyGpu);
    let in_memory = match on_gpu > record.dram_pieces {
        true => replica(Device::Dram, on_gpu).map(|replica| Replica { pinned: true, ..replica }),
        false => replica(Device::Dram, record.dram_pieces),
    };
    [on_nvme, in_memory].into_iter().flatten()
}

async fn carry_out(node: &Arc<Node>, moves: Vec<Copy>) -> Result<(), Failure> {
    let mut copies = JoinSet::new();
    for (one, source) in moves {
        if copies.len() >= COPIES_AT_ONCE
            && let Some(copied) = copies.join_next().await
        {
            check(copied)?;
        }
        let node = node.clone();
        copies.spawn(async move {
            let view = node.members.view();
            let target =
                view.node(one.to).ok_or_else(|| failure::internal("the plan names a node that left"))?;
            let device = match one.device {
                plan::placement::Device::Dram => Device::Dram,
                plan::placement::Device::Nvme => Device::Nvme,
            };
            // Nobody waits for these bytes but whoever drains the node.
            copy(&node, target, &source, (device, Priority::Low), one.pinned).await.map(drop)
        });
    }
    while let Some(copied) = copies.join_next().await {
        check(copied)?;
    }
    Ok(())
}

fn check(copied: Result<Result<(), Failure>, tokio::task::JoinError>) -> Result<(), Failure> {
    copied.unwrap_or_else(|_| Err(failure::internal("copying a chunk failed")))
}

#[cfg(test)]
mod tests {
    use flow::chunk::Geometry;
    use flow::wire::control::GpuPieces;
    use plan::placement::Device;

    use super::*;

    #[test]
    fn each_device_that_has_the_whole_chunk_is_a_replica() {
        let record = |dram_pieces, nvme_pieces, gpu_pieces| ReplicaRecord {
            chunk: ChunkId([1; 32]),
            geometry: Geometry::of(3 << 20).unwrap(),
            descriptor_digest: [0; 32],
            node: 7,
            dram_pieces,
            nvme_pieces,
            gpus: vec![GpuPieces { gpu: 1, pieces: gpu_pieces }],
            pinned: false,
            fetching: false,
        };
        let devices = |record: ReplicaRecord| {
            replicas_of(&record).map(|one| (one.device, one.pinned)).collect::<Vec<_>>()
        };
        assert_eq!(devices(record(3, 3, 0)), [(Device::Nvme, false), (Device::Dram, false)]);
        assert_eq!(devices(record(3, 2, 2)), [(Device::Dram, false)]);
        assert_eq!(devices(record(0, 2, 2)), []);
        assert_eq!(
            devices(record(0, 0, 3)),
            [(Device::Dram, true)],
            "what is on a GPU alone is kept in memory"
        );
    }
}
