//! Who is in the cluster, as this node knows it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use flow::wire::control::{MembersChanged, Membership, NodeId, NodeRecord, NodeState};
use flow::wire::session::Failure;
use tokio::sync::{Notify, watch};

use crate::failure;

/// Trackers of each chunk.
const TRACKERS_PER_CHUNK: usize = 2;

/// All members at one epoch.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    /// Zero until the node has heard who is a member.
    pub(crate) epoch: u64,
    /// The cluster; zero until then.
    pub(crate) cluster: u64,
    /// Views share the records of those who have not changed.
    pub(crate) nodes: BTreeMap<NodeId, Arc<NodeRecord>>,
}

impl View {
    pub(crate) fn of(membership: Membership) -> Self {
        let nodes = by_node(membership.nodes).collect();
        Self { epoch: membership.epoch, cluster: membership.cluster, nodes }
    }

    /// This view as it is after a change; `None` when the change is one of another view.
    pub(crate) fn after(&self, change: MembersChanged) -> Option<Self> {
        if (change.since, change.cluster) != (self.epoch, self.cluster) {
            return None;
        }
        let mut nodes = self.nodes.clone();
        nodes.extend(by_node(change.nodes));
        change.gone.iter().for_each(|gone| drop(nodes.remove(gone)));
        Some(Self { epoch: change.epoch, cluster: self.cluster, nodes })
    }

    pub(crate) fn node(&self, node: NodeId) -> Option<&NodeRecord> {
        self.nodes.get(&node).map(|record| &**record)
    }

    /// The member of this name, or a refusal that says so.
    pub(crate) fn named(&self, name: &str) -> Result<&NodeRecord, Failure> {
        let found = self.nodes.values().find(|record| record.name == name);
        found.map(|record| &**record).ok_or_else(|| {
            failure::not_found(format!("no node is called '{name}'"), "`shoal node ls` lists the names")
        })
    }

    /// The members that are not dead.
    pub(crate) fn live(&self) -> impl Iterator<Item = &NodeRecord> {
        self.nodes.values().map(|record| &**record).filter(|record| record.state != NodeState::Dead)
    }

    /// Whether `node` is a member that is not dead.
    pub(crate) fn is_live(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|record| record.state != NodeState::Dead)
    }

    /// The trackers of a chunk, the first one foremost.
    pub(crate) fn trackers(&self, chunk: &[u8; 32]) -> Vec<NodeId> {
        plan::rendezvous::trackers(chunk, self.live().map(|record| record.node), TRACKERS_PER_CHUNK)
    }

    /// Which process a node is, so that one that has started again is told from the one that was before.
    pub(crate) fn incarnation(&self, node: NodeId) -> Option<u64> {
        self.nodes.get(&node).map(|record| record.incarnation)
    }

    /// Members that `self` knows as live and that `later` lacks, or knows as dead or as another process.
    pub(crate) fn lost_in(&self, later: &View) -> Vec<NodeId> {
        let gone = |record: &&NodeRecord| {
            !later.is_live(record.node) || later.incarnation(record.node) != Some(record.incarnation)
        };
        self.live().filter(gone).map(|record| record.node).collect()
    }

    /// This view and the live members of `earlier` that it lacks.
    pub(crate) fn with_live_of(mut self, earlier: &View) -> View {
        let names: BTreeSet<&str> = self.nodes.values().map(|record| record.name.as_str()).collect();
        let lacking = |record: &&Arc<NodeRecord>| {
            record.state != NodeState::Dead
                && !self.nodes.contains_key(&record.node)
                && !names.contains(record.name.as_str())
        };
        let kept: Vec<Arc<NodeRecord>> = earlier.nodes.values().filter(lacking).cloned().collect();
        self.nodes.extend(kept.into_iter().map(|record| (record.node, record)));
        self
    }
}

fn by_node(records: Vec<NodeRecord>) -> impl Iterator<Item = (NodeId, Arc<NodeRecord>)> {
    records.into_iter().map(|record| (record.node, Arc::new(record)))
}

/// The current view, for everybody to read and to wait on.
#[derive(Debug)]
pub(crate) struct Members {
    current: watch::Sender<Arc<View>>,
    /// Asks for the membership sooner than usual.
    pub(crate) hurry: Notify,
}

impl Members {
    pub(crate) fn new() -> Self {
        Self { current: watch::Sender::new(Arc::default()), hurry: Notify::new() }
    }

    pub(crate) fn view(&self) -> Arc<View> {
        self.current.borrow().clone()
    }

    pub(crate) fn publish(&self, view: View) {
        self.current.send_replace(Arc::new(view));
    }

    /// The view, to be waited on.
    pub(crate) fn changes(&self) -> watch::Receiver<Arc<View>> {
        self.current.subscribe()
    }

    /// Whether `node` is a live member; a node that is unknown may have joined just before, so this asks and waits a
    /// little.
    pub(crate) async fn knows(&self, node: NodeId, patience: Duration) -> bool {
        self.becomes(patience, |view| view.is_live(node)).await
    }

    /// Waits a little until this node's view is that of `epoch` or a later one.
    pub(crate) async fn catch_up(&self, epoch: u64, patience: Duration) {
        self.becomes(patience, |view| view.epoch >= epoch).await;
    }

    async fn becomes(&self, patience: Duration, condition: impl Fn(&View) -> bool) -> bool {
        let mut changes = self.current.subscribe();
        if condition(&self.view()) {
            return true;
        }
        self.hurry.notify_one();
        let known = changes.wait_for(|view| condition(view));
        matches!(tokio::time::timeout(patience, known).await, Ok(Ok(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(nodes: &[(NodeId, &str, u64, NodeState)]) -> View {
        let record = |&(node, name, incarnation, state): &(NodeId, &str, u64, NodeState)| NodeRecord {
            node,
            name: name.into(),
            address: "127.0.0.1:1".into(),
            rack: String::new(),
            shards: 1,
            incarnation,
            state,
            head: false,
            memory_limit: 0,
            memory_used: 0,
            nvme_used: 0,
        };
        View { epoch: 1, cluster: 1, nodes: by_node(nodes.iter().map(record).collect()).collect() }
    }

    use NodeState::{Alive, Dead, Draining};

    #[test]
    fn nodes_are_lost_by_death_absence_and_restart() {
        let before =
            view(&[(1, "a", 1, Alive), (2, "b", 1, Alive), (3, "c", 1, Draining), (4, "d", 1, Dead)]);
        let after = view(&[(1, "a", 1, Draining), (2, "b", 2, Alive), (4, "d", 1, Alive)]);
        assert_eq!(before.lost_in(&after), [2, 3]);
    }

    #[test]
    fn a_view_follows_the_changes_that_begin_where_it_is() {
        let before = view(&[(1, "a", 1, Alive), (2, "b", 1, Alive), (3, "c", 1, Alive)]);
        let news = view(&[(2, "b", 1, Dead), (4, "d", 1, Alive)]).nodes;
        let nodes = news.into_values().map(Arc::unwrap_or_clone).collect();
        let change = MembersChanged { since: 1, epoch: 3, cluster: 1, nodes, gone: vec![3, 9], forgotten: 0 };
        let after = before.after(change.clone()).unwrap();
        assert_eq!((after.epoch, after.nodes.keys().copied().collect::<Vec<_>>()), (3, vec![1, 2, 4]));
        assert_eq!([1, 2, 4].map(|node| after.is_live(node)), [true, false, true]);
        assert!(Arc::ptr_eq(&before.nodes[&1], &after.nodes[&1]));
        assert!(after.after(change.clone()).is_none(), "it has passed already");
        assert!(before.after(MembersChanged { cluster: 2, ..change }).is_none());
    }

    #[test]
    fn a_young_head_does_not_make_the_cluster_forget() {
        let before =
            view(&[(1, "head", 1, Alive), (2, "b", 1, Alive), (3, "c", 1, Dead), (4, "d", 1, Alive)]);
        let young = view(&[(1, "head", 2, Alive), (9, "d", 1, Alive)]);
        let merged = young.with_live_of(&before);
        assert_eq!(merged.nodes.keys().copied().collect::<Vec<_>>(), [1, 2, 9]);
        assert_eq!(merged.incarnation(1), Some(2));
    }

    #[test]
    fn only_live_nodes_track() {
        let view = view(&[(1, "a", 1, Dead), (2, "b", 1, Draining)]);
        assert_eq!(view.trackers(&[7; 32]), [2]);
    }
}
