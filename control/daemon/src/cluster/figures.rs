//! What nodes hold, asked of them when somebody wants to know: it changes all the time, and etcd is not bothered with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flow::wire::control::{NodeId, NodeRecord};
use flow::wire::session::{Status, StatusQuery};
use plan::membership::Figures;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::figures_of;
use crate::members::View;
use crate::node::Node;
use crate::peers;

/// Figures that are younger are not asked for again.
const FRESH: Duration = Duration::from_secs(1);
/// How long a node may take to tell.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Nodes that are asked at once.
const NODES_AT_ONCE: usize = 128;

/// What was told last.
#[derive(Debug, Default)]
pub(crate) struct Known(Mutex<BTreeMap<NodeId, Told>>);

#[derive(Debug)]
struct Told {
    when: Instant,
    figures: Figures,
    silent: bool,
}

impl Known {
    /// Asks all other live nodes whose figures are old; who does not answer.
    pub(super) async fn refresh(&self, node: &Arc<Node>, view: &View) -> BTreeSet<NodeId> {
        let permits = Arc::new(Semaphore::new(NODES_AT_ONCE));
        let mut asked = JoinSet::new();
        for record in view.live().filter(|record| record.node != node.id() && self.is_old(record.node)) {
            let (node, record, permits) = (node.clone(), record.clone(), permits.clone());
            asked.spawn(async move {
                let _permit = permits.acquire_owned().await;
                (record.node, ask(&node, &record).await)
            });
        }
        while let Some(answer) = asked.join_next().await {
            if let Ok((node, figures)) = answer {
                self.note(node, figures);
            }
        }
        let mut told = self.lock();
        told.retain(|node, _| view.node(*node).is_some());
        told.iter().filter(|(_, told)| told.silent).map(|(&node, _)| node).collect()
    }

    /// Puts in what is known.
    pub(super) fn fill_in(&self, record: &mut NodeRecord) {
        if let Some(Told { figures, .. }) = self.lock().get(&record.node) {
            record.memory_limit = figures.memory_limit;
            record.memory_used = figures.memory_used;
            record.nvme_used = figures.nvme_used;
        }
    }

    fn is_old(&self, node: NodeId) -> bool {
        self.lock().get(&node).is_none_or(|told| told.when.elapsed() >= FRESH)
    }

    fn note(&self, node: NodeId, figures: Option<Figures>) {
        let (mut told, when) = (self.lock(), Instant::now());
        let silent = figures.is_none();
        match told.get_mut(&node) {
            Some(known) => {
                *known = Told { when, figures: figures.unwrap_or(known.figures), silent };
            }
            None => {
                if let Some(figures) = figures {
                    told.insert(node, Told { when, figures, silent });
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Told>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ask(node: &Node, record: &NodeRecord) -> Option<Figures> {
    let answer = node.peers.ask(record, StatusQuery {}, Some(ANSWER_TIMEOUT)).await.ok()?;
    let status: Status = peers::expect("StatusQuery", answer).ok()?;
    (status.node.node == record.node).then(|| figures_of(&status.node))
}
