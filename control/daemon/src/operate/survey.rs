//! Who has which chunk, asked of every node.

use std::collections::BTreeSet;
use std::sync::Arc;

use flow::chunk::ChunkId;
use flow::limits::{GPUS_MAX, LIST_ENTRIES_MAX};
use flow::wire::control::{NodeRecord, NodeState, ReplicaQuery, ReplicaRecord, ReplicaReport};
use flow::wire::session::{ChunkListing, Failure};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{REPORT_TIMEOUT, check_geometry};
use crate::node::{Node, random_number};
use crate::{failure, peers};

/// Nodes that are asked at once.
pub(super) const NODES_AT_ONCE: usize = 128;
/// Fewest entries that a node is asked for at once, however many nodes there are.
const ENTRIES_MIN: u32 = 256;

/// Asks all members whether they have a chunk. A member that is dead or does not answer in time is named as silent.
pub(crate) async fn survey(node: &Arc<Node>, chunk: ChunkId) -> ChunkListing {
    survey_some(node, chunk, usize::MAX).await
}

/// As [`survey`], of so many other members at most, drawn at random.
pub(crate) async fn survey_some(node: &Arc<Node>, chunk: ChunkId, most: usize) -> ChunkListing {
    ask(node, most, |_| ReplicaQuery { chunk: Some(chunk), after: None, limit: 1 }).await
}

/// A page of what all members have: chunks after `after`, ascending.
pub(super) async fn page(node: &Arc<Node>, after: Option<ChunkId>) -> ChunkListing {
    // What all of them tell together is held here, and they are asked again for what lies beyond the shortest answer.
    let limit =
        |nodes: usize| (2 * LIST_ENTRIES_MAX / nodes.max(1) as u32).clamp(ENTRIES_MIN, LIST_ENTRIES_MAX);
    ask(node, usize::MAX, |nodes| ReplicaQuery { chunk: None, after, limit: limit(nodes) }).await
}

/// All that all members have.
pub(super) async fn all(node: &Arc<Node>) -> ChunkListing {
    let mut all = page(node, None).await;
    let mut silent = BTreeSet::from_iter(all.silent);
    while all.more
        && let Some(last) = all.replicas.last().map(|replica| replica.chunk)
    {
        let mut next = page(node, Some(last)).await;
        all.more = next.more;
        all.replicas.append(&mut next.replicas);
        silent.extend(next.silent);
    }
    ChunkListing { silent: silent.into_iter().collect(), ..all }
}

/// A page of what this node has.
pub(crate) async fn report(node: &Node, query: ReplicaQuery) -> Result<ReplicaReport, Failure> {
    let mut replicas = node.replicas(query.chunk).await?;
    replicas.retain(|replica| query.after.is_none_or(|after| replica.chunk > after));
    replicas.sort_unstable_by_key(|replica| replica.chunk);
    let limit = query.limit.clamp(1, LIST_ENTRIES_MAX) as usize;
    let more = replicas.len() > limit;
    replicas.truncate(limit);
    Ok(ReplicaReport { replicas, more })
}

/// Asks members the same, so many others at most; the query may depend on how many members there are.
async fn ask(node: &Arc<Node>, most: usize, query: impl Fn(usize) -> ReplicaQuery) -> ChunkListing {
    let view = node.members.view();
    let query = query(view.live().count());
    let others = view.nodes.values().filter(|record| record.node != node.id());
    let (dead, live): (Vec<_>, Vec<_>) = others.partition(|record| record.state == NodeState::Dead);
    let mut reports: Vec<ReplicaReport> = report(node, query.clone()).await.into_iter().collect();
    let mut silent: Vec<String> = dead.into_iter().map(|record| record.name.clone()).collect();
    let permits = Arc::new(Semaphore::new(NODES_AT_ONCE));
    let mut asked = JoinSet::new();
    for record in draw(live, most) {
        let (node, record, query, permits) = (node.clone(), record.clone(), query.clone(), permits.clone());
        asked.spawn(async move {
            let _permit = permits.acquire_owned().await;
            let report = ask_one(&node, &record, query).await;
            (record, report)
        });
    }
    while let Some(Ok((record, report))) = asked.join_next().await {
        match report {
            Ok(report) => reports.push(report),
            Err(_) => silent.push(record.name.clone()),
        }
    }
    silent.sort();
    let (replicas, more) = merge(reports, LIST_ENTRIES_MAX as usize);
    ChunkListing { replicas, silent, more }
}

/// So many of a list at most, drawn at random.
fn draw<T>(mut list: Vec<T>, most: usize) -> Vec<T> {
    if list.len() > most {
        for place in 0..most {
            let left = (list.len() - place) as u64;
            list.swap(place, place + (random_number() % left) as usize);
        }
        list.truncate(most);
    }
    list
}

async fn ask_one(node: &Node, peer: &NodeRecord, query: ReplicaQuery) -> Result<ReplicaReport, Failure> {
    let answer = node.peers.ask(peer, query.clone(), Some(REPORT_TIMEOUT)).await?;
    let report: ReplicaReport = peers::expect("ReplicaQuery", answer)?;
    let may_be = |replica: &ReplicaRecord| {
        replica.node == peer.node
            && check_geometry(replica.geometry).is_ok()
            && replica.gpus.len() <= GPUS_MAX
            && query.chunk.is_none_or(|chunk| replica.chunk == chunk)
            && query.after.is_none_or(|after| replica.chunk > after)
    };
    let in_order = report.replicas.is_sorted_by(|left, right| left.chunk < right.chunk);
    let is_page = !report.more || !report.replicas.is_empty();
    if in_order
        && is_page
        && report.replicas.len() <= query.limit as usize
        && report.replicas.iter().all(may_be)
    {
        return Ok(report);
    }
    Err(failure::internal(format!("node '{}' tells of other replicas than it was asked for", peer.name)))
}

/// One page from those of several nodes: the entries before which no node has left anything out, about `limit` of them,
/// all of a chunk or none; and whether there are more.
fn merge(reports: Vec<ReplicaReport>, limit: usize) -> (Vec<ReplicaRecord>, bool) {
    let unfinished = reports.iter().filter(|report| report.more);
    let frontier = unfinished.filter_map(|report| report.replicas.last()).map(|last| last.chunk).min();
    let mut replicas: Vec<_> = reports.into_iter().flat_map(|report| report.replicas).collect();
    if let Some(frontier) = frontier {
        replicas.retain(|replica| replica.chunk <= frontier);
    }
    replicas.sort_unstable_by_key(|replica| (replica.chunk, replica.node));
    let told = replicas.len();
    if told > limit {
        let last = replicas[limit.max(1) - 1].chunk;
        replicas.truncate(replicas.partition_point(|replica| replica.chunk <= last));
    }
    let more = frontier.is_some() || replicas.len() < told;
    (replicas, more)
}

#[cfg(test)]
mod tests {
    use flow::chunk::Geometry;
    use proptest::prelude::*;

    use super::*;

    fn record(chunk: u8, node: u64) -> ReplicaRecord {
        ReplicaRecord {
            chunk: ChunkId([chunk; 32]),
            geometry: Geometry::of(1).unwrap(),
            descriptor_digest: [0; 32],
            node,
            dram_pieces: 1,
            nvme_pieces: 0,
            gpus: Vec::new(),
            pinned: false,
            fetching: false,
        }
    }

    fn tell(held: &BTreeSet<u8>, node: u64, after: Option<ChunkId>, limit: usize) -> ReplicaReport {
        let all = held.iter().map(|&chunk| record(chunk, node));
        let left: Vec<_> = all.filter(|record| after.is_none_or(|after| record.chunk > after)).collect();
        ReplicaReport { more: left.len() > limit, replicas: left.into_iter().take(limit).collect() }
    }

    #[test]
    fn a_draw_has_each_at_most_once() {
        assert_eq!(draw(vec![1, 2, 3], 3), [1, 2, 3]);
        let mut drawn = draw(Vec::from_iter(0..100), 40);
        assert_eq!(drawn.len(), 40);
        drawn.sort_unstable();
        drawn.dedup();
        assert_eq!(drawn.len(), 40);
    }

    proptest! {
        #[test]
        fn pages_hold_everything_once_and_in_order(
            nodes in prop::collection::vec(prop::collection::btree_set(any::<u8>(), 0..60), 0..6),
            entries in 1_usize..20,
            limit in 1_usize..50,
        ) {
            let (mut paged, mut after) = (Vec::new(), None);
            loop {
                let reports = (1..).zip(&nodes).map(|(node, held)| tell(held, node, after, entries)).collect();
                let (mut page, more) = merge(reports, limit);
                prop_assert!(page.len() < limit + nodes.len());
                prop_assert!(!(more && page.is_empty()));
                after = page.last().map(|last| last.chunk);
                paged.append(&mut page);
                if !more {
                    break;
                }
            }
            let mut expected: Vec<_> = (1..).zip(&nodes).flat_map(|(node, held)| tell(held, node, None, 256).replicas).collect();
            expected.sort_by_key(|record| (record.chunk, record.node));
            prop_assert_eq!(paged, expected);
        }
    }
}
