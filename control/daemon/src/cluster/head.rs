//! The head's part: takes nodes in, notices who falls silent.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use catalog::Catalog;
use flow::limits::NODES_MAX;
use flow::wire::Message;
use flow::wire::control::{self, Beat, Join, MembersChanged};
use flow::wire::session::{Failure, NodeListing};
use plan::membership::{Changes, Figures, HeartbeatError, JoinError, Membership};
use tokio::task::JoinHandle;

use super::sweep::{renew, sweep};
use super::{apply, figures_of, member_of, record_of};
use crate::failure;
use crate::members::View;
use crate::node::{Clock, Node, Seat};

/// How often the head looks who has fallen silent, and sweeps the catalog.
const TICK: Duration = Duration::from_millis(250);
/// How often leases of the head's own clients are renewed.
const RENEW: Duration = Duration::from_millis(500);

/// What only the head has.
pub(crate) struct Head {
    pub(crate) catalog: Arc<dyn Catalog>,
    membership: Mutex<Membership>,
    /// Versions of keys that were forgotten.
    forgotten: AtomicU64,
}

impl Head {
    pub(crate) fn new(catalog: Arc<dyn Catalog>) -> Self {
        let membership = Membership::new(Clock::calendar_ms(), NODES_MAX);
        Self { catalog, membership: Mutex::new(membership), forgotten: AtomicU64::new(0) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Membership> {
        self.membership.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The members with their figures.
    pub(crate) fn listing(&self) -> NodeListing {
        let snapshot = self.lock().snapshot();
        NodeListing { epoch: snapshot.epoch, nodes: snapshot.members.iter().map(record_of).collect() }
    }

    fn membership(&self) -> control::Membership {
        let (cluster, forgotten) = (self.catalog.cluster_id(), self.forgotten.load(Ordering::Relaxed));
        let NodeListing { epoch, nodes } = self.listing();
        control::Membership { epoch, cluster, nodes, forgotten }
    }

    /// What has changed since an epoch, if that is known.
    fn changes_since(&self, since: u64) -> Option<MembersChanged> {
        let Changes { epoch, members, gone } = self.lock().changes_since(since)?;
        let (cluster, forgotten) = (self.catalog.cluster_id(), self.forgotten.load(Ordering::Relaxed));
        let nodes = members.iter().map(record_of).collect();
        Some(MembersChanged { since, epoch, cluster, nodes, gone, forgotten })
    }
}

/// Takes a node in.
pub(crate) fn join(node: &Arc<Node>, join: Join) -> Result<control::Membership, Failure> {
    let head = head_of(node)?;
    let joined = head.lock().join(member_of(join.record), node.clock.uptime_ms());
    joined.map_err(|error| {
        tracing::warn!(%error, "a node was not taken in");
        let text = error.to_string();
        match error {
            JoinError::Unusable { .. } => failure::invalid(text, ""),
            JoinError::NameTaken { .. } | JoinError::Superseded { .. } => failure::conflict(text, ""),
            JoinError::Full { .. } => failure::unavailable(text, ""),
        }
    })?;
    publish(node, head);
    Ok(head.membership())
}

/// Notes a sign of life.
pub(crate) async fn heartbeat(node: &Arc<Node>, beat: Beat) -> Result<Message, Failure> {
    let head = head_of(node)?;
    let Beat { memory_limit, memory_used, nvme_used, .. } = beat;
    let figures = Figures { memory_limit, memory_used, nvme_used };
    let now_ms = node.clock.uptime_ms();
    let noted = head.lock().heartbeat(beat.node, beat.incarnation, figures, now_ms);
    noted.map_err(|error| match error {
        HeartbeatError::Unknown { .. } => failure::not_found(error.to_string(), ""),
        HeartbeatError::Superseded { .. } => failure::conflict(error.to_string(), ""),
    })?;
    renew(&*head.catalog, &beat.leases).await;
    publish(node, head);
    Ok(head.changes_since(beat.epoch).map_or_else(|| head.membership().into(), Message::from))
}

/// Takes a node out of placement. The head itself stays: with its chunks elsewhere it still could not be stopped.
pub(crate) fn drain(node: &Arc<Node>, name: &str) -> Result<u64, Failure> {
    let head = head_of(node)?;
    if name == node.identity.name {
        let text = format!("node '{name}' is the head, without which keys can be neither read nor written");
        return Err(failure::conflict(text, "move its chunks with `shoal chunk move`, and keep it running"));
    }
    let drained = head.lock().drain(name);
    let drained = drained.map_err(|error| failure::not_found(error.to_string(), ""))?;
    publish(node, head);
    Ok(drained)
}

/// What the head does all the time: it is a member of its own cluster, notices who falls silent, renews the leases of
/// its own clients and sweeps the catalog. It never returns.
pub(crate) async fn preside(node: Arc<Node>) {
    let mut ticks = tokio::time::interval(TICK);
    let every = |span: Duration| (span.as_millis() / TICK.as_millis()) as u64;
    let mut sweeping: Option<JoinHandle<()>> = None;
    for count in 0_u64.. {
        ticks.tick().await;
        let Ok(head) = head_of(&node) else { return };
        look_round(&node, head);
        if count % every(RENEW) == 0 {
            renew(&*head.catalog, &node.leases.all()).await;
        }
        // One at a time: a second one would only pass what the first has dealt with.
        if sweeping.as_ref().is_none_or(JoinHandle::is_finished) {
            sweeping = Some(tokio::spawn(sweep_once(node.clone())));
        }
    }
}

/// One look at who is there.
pub(crate) fn look_round(node: &Arc<Node>, head: &Head) {
    let (record, now_ms) = (node.record(), node.clock.uptime_ms());
    let figures = figures_of(&record);
    let mut membership = head.lock();
    if membership.heartbeat(record.node, record.incarnation, figures, now_ms).is_err()
        && let Err(error) = membership.join(member_of(record), now_ms)
    {
        tracing::error!(%error, "the head cannot be a member of its own cluster");
    }
    membership.tick(now_ms);
    drop(membership);
    publish(node, head);
}

async fn sweep_once(node: Arc<Node>) {
    let forgotten = sweep(&node).await;
    if let Seat::Head(head) = &node.seat {
        // Members hear of it with their next heartbeat.
        head.forgotten.fetch_add(forgotten, Ordering::Relaxed);
    }
}

fn publish(node: &Arc<Node>, head: &Head) {
    let view = node.members.view();
    if head.lock().epoch() != view.epoch {
        let followed = head.changes_since(view.epoch).and_then(|change| view.after(change));
        apply(node, followed.unwrap_or_else(|| View::of(head.membership())));
    }
}

fn head_of(node: &Node) -> Result<&Head, Failure> {
    match &node.seat {
        Seat::Head(head) => Ok(head),
        Seat::Member { head, .. } => {
            let text = format!("node '{}' is not the head", node.identity.name);
            Err(failure::invalid(text, format!("the head is at {head}; --join must name it")))
        }
        Seat::Equal(equal) => {
            let text =
                format!("node '{}' is no head: its cluster has its catalog on etcd", node.identity.name);
            Err(failure::invalid(text, format!("start the node with --catalog {}", equal.address)))
        }
    }
}
