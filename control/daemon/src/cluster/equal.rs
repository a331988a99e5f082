//! A node among equals: it registers in etcd, and follows who else has.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use catalog::{CatalogError, Enrolled, Enrolment, Etcd, EtcdAddress, EtcdSettings, RosterChange, RosterNews};
use flow::limits::NODES_MAX;
use flow::wire::Message;
use flow::wire::control::{Join, NodeId, NodeRecord, NodeState};
use flow::wire::frame::HEADER_LENGTH;
use flow::wire::session::Failure;
use flow::wire::{Header, control};
use plan::membership::Snapshot;
use plan::registry::{Outcome, Reach, Registration, Registry, Step};
use tokio::task::{AbortHandle, JoinError, JoinHandle};

use super::figures::Known;
use super::member::StopReason;
use super::sweep::{renew, sweep};
use super::{apply, member_of, record_of};
use crate::failure;
use crate::members::View;
use crate::node::{Node, Seat};

/// Largest record of a node, in bytes.
const RECORD_SIZE_MAX: u32 = 64 << 10;
/// Time between two looks whether etcd is reached, and who has been dead for long.
const LOOK: Duration = Duration::from_millis(500);
/// Pause between two sweeps of the catalog.
const SWEEP: Duration = Duration::from_millis(250);
/// Pause before etcd is looked for again when it does not answer at the start.
const START_RETRY: Duration = Duration::from_millis(500);
/// How long it may take to say goodbye.
const LEAVE: Duration = Duration::from_millis(800);
/// How long it may take until this node has seen what it has written itself.
const NEWS_TIMEOUT: Duration = Duration::from_secs(2);

/// What a node has that shares a catalog on etcd.
pub(crate) struct Equal {
    pub(crate) catalog: Arc<Etcd>,
    pub(crate) address: EtcdAddress,
    pub(crate) figures: Known,
    registry: Mutex<Registry>,
    /// The lease that this node is registered under; 0 when it is not.
    lease: Mutex<i64>,
    /// What keeps it so.
    keeping: OnceLock<AbortHandle>,
    reach: Mutex<Reach>,
}

impl Equal {
    /// Connects to etcd, however long that takes.
    pub(crate) async fn open(address: EtcdAddress) -> Result<Self, CatalogError> {
        let mut complained = false;
        let catalog = loop {
            match Etcd::open(&address, EtcdSettings::default()).await {
                Err(error @ CatalogError::Unreachable { .. }) => {
                    if !std::mem::replace(&mut complained, true) {
                        let why = failure::in_full(&error);
                        tracing::warn!(%address, why, "etcd does not answer; trying again until it does");
                    }
                    tokio::time::sleep(START_RETRY).await;
                }
                opened => break opened?,
            }
        };
        Ok(Self {
            catalog: Arc::new(catalog),
            address,
            figures: Known::default(),
            registry: Mutex::new(Registry::new(NODES_MAX)),
            lease: Mutex::new(0),
            keeping: OnceLock::new(),
            reach: Mutex::new(Reach::new(0)),
        })
    }

    /// Whether etcd has given a sign of life lately.
    pub(crate) fn is_reached(&self) -> bool {
        self.reach().is_reached()
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lease(&self) -> MutexGuard<'_, i64> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reach(&self) -> MutexGuard<'_, Reach> {
        self.reach.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, now_ms: u64) {
        self.reach().hear(now_ms);
    }

    /// Tells when etcd is lost and found.
    fn look(&self, now_ms: u64) {
        let change = self.reach().look(now_ms);
        let address = &self.address;
        match change {
            Some(false) => tracing::warn!(
                %address,
                "etcd is out of reach: keys cannot be written, the members are those that were known last, and \
                 transfers go on"
            ),
            Some(true) => tracing::info!(%address, "etcd is reached again"),
            None => {}
        }
    }
}

/// The node's part among equals, until it ends; the node is registered, and knows the members, when this returns.
/// What the task that is returned gives is why the node must stop.
pub(crate) async fn enter(node: &Arc<Node>) -> Result<JoinHandle<Option<StopReason>>, StopReason> {
    node.life.spawn(follow(node.clone()));
    node.life.spawn(tend(node.clone()));
    let mut keeping = node.life.spawn(keep(node.clone()));
    if let Some(equal) = equal_of(node) {
        // It is entered once.
        let _ = equal.keeping.set(keeping.abort_handle());
    }
    let mut here = node.members.changes();
    let is_here = here.wait_for(|view| view.incarnation(node.id()) == Some(node.identity.incarnation));
    tokio::select! {
        _ = is_here => {}
        ended = &mut keeping => {
            let failed = |error: JoinError| Some(StopReason::Refused(error.to_string()));
            return Err(ended.unwrap_or_else(failed).unwrap_or(StopReason::Refused("the node ends".into())));
        }
    }
    tracing::info!(members = node.members.view().live().count(), "this node is a member of the cluster");
    Ok(keeping)
}

/// Ends the registration, so that nobody waits for this node.
pub(crate) async fn leave(node: &Node) {
    let Some(equal) = equal_of(node) else { return };
    equal.keeping.get().inspect(|keeping| keeping.abort());
    let lease = std::mem::take(&mut *equal.lease());
    if lease != 0 {
        // It ends by itself otherwise.
        let _ = tokio::time::timeout(LEAVE, equal.catalog.leave(lease)).await;
    }
}

/// Takes a node out of placement.
pub(super) async fn drain(node: &Arc<Node>, equal: &Equal, name: &str) -> Result<NodeId, Failure> {
    let leaver = node.members.view().named(name)?.node;
    let marked = equal.catalog.drain(leaver).await.map_err(|error| failure::of_catalog(&error))?;
    if let Some(revision) = marked {
        node.members.catch_up(revision, NEWS_TIMEOUT).await;
    }
    Ok(leaver)
}

/// Keeps the node registered. It ends when the node must stop.
async fn keep(node: Arc<Node>) -> StopReason {
    let Some(equal) = equal_of(&node) else { return std::future::pending().await };
    let (id, incarnation) = (node.id(), node.identity.incarnation);
    let (mut registration, mut changes) = (Registration::new(), node.members.changes());
    let mut was_registered = false;
    loop {
        let standing = equal.registry().standing(id, incarnation, registration.revision());
        let begun_ms = node.clock.uptime_ms();
        let step = registration.step(begun_ms, standing);
        let is_registered = registration.revision() > 0;
        if std::mem::replace(&mut was_registered, is_registered) && !is_registered {
            tracing::warn!(
                "etcd has ended this node's registration, since it was silent for too long; registering anew"
            );
        }
        let outcome = match step {
            Step::Stop { by } => return superseded(&node, by),
            Step::Wait(wait_ms) => {
                let _ = tokio::time::timeout(Duration::from_millis(wait_ms), changes.changed()).await;
                continue;
            }
            Step::Register { draining } => match register(&node, equal, draining).await {
                Ok(outcome) => outcome,
                Err(reason) => return reason,
            },
            Step::Renew => {
                let lease = *equal.lease();
                stay(equal, lease).await
            }
        };
        let now_ms = node.clock.uptime_ms();
        match outcome {
            Outcome::Renewed | Outcome::Registered { .. } => equal.hear(now_ms),
            Outcome::Lost | Outcome::Unreachable => {}
        }
        registration.done(begun_ms, now_ms, outcome);
    }
}

async fn stay(equal: &Equal, lease: i64) -> Outcome {
    match equal.catalog.stay(lease).await {
        Ok(true) => Outcome::Renewed,
        Ok(false) => Outcome::Lost,
        Err(error) => unreachable(&error),
    }
}

async fn register(node: &Arc<Node>, equal: &Equal, draining: bool) -> Result<Outcome, StopReason> {
    let count = equal.registry().live_count();
    if count >= NODES_MAX {
        let text = format!("the cluster has {count} nodes, which is the most it may have; stop one first");
        return Err(StopReason::Refused(text));
    }
    let record = Message::from(Join { record: node.record() }).encode(0, 0);
    let (name, incarnation) = (node.identity.name.clone(), node.identity.incarnation);
    let enrolment = Enrolment { node: node.id(), incarnation, name, record, draining };
    match equal.catalog.enrol(enrolment).await {
        Ok(Enrolled::Done { lease, revision }) => {
            *equal.lease() = lease;
            Ok(Outcome::Registered { revision })
        }
        Ok(Enrolled::NameTaken { record }) => Err(name_taken(node, record.as_deref())),
        Ok(Enrolled::Superseded { incarnation }) => Err(superseded(node, incarnation)),
        Err(error) => Ok(unreachable(&error)),
    }
}

/// etcd may also be there and refuse: its space is used up, or the user has no rights. That may be mended while the node
/// runs.
fn unreachable(error: &CatalogError) -> Outcome {
    match error {
        CatalogError::Unreachable { .. } => tracing::debug!("etcd does not answer"),
        error => tracing::error!(error = failure::in_full(error), "this node could not be registered"),
    }
    Outcome::Unreachable
}

fn name_taken(node: &Node, record: Option<&[u8]>) -> StopReason {
    let holder = record.and_then(|record| read(Some(record)).ok());
    let place = holder.map(|holder| format!(" at {}", holder.address)).unwrap_or_default();
    StopReason::Refused(format!(
        "the name '{}' is taken by the live node{place}; start this node with another --name, or stop the other one and \
         wait {} s",
        node.identity.name,
        catalog::NODE_LEASE_S
    ))
}

fn superseded(node: &Node, by: u64) -> StopReason {
    StopReason::Refused(format!(
        "node '{}' has started again since (incarnation {by} is registered, this is {}); check that no two nodes share a \
         data directory",
        node.identity.name, node.identity.incarnation
    ))
}

/// Follows who is registered. It never returns.
async fn follow(node: Arc<Node>) {
    let Some(equal) = equal_of(&node) else { return };
    let mut roster = equal.catalog.roster();
    while let Some(news) = roster.next().await {
        let now_ms = node.clock.uptime_ms();
        match news {
            RosterNews::All { revision, changes } => {
                equal.registry().begin_anew(revision, now_ms);
                take(equal, revision, changes, now_ms);
                publish(&node, equal);
            }
            RosterNews::Changed { revision, changes } => {
                take(equal, revision, changes, now_ms);
                publish(&node, equal);
            }
            RosterNews::Quiet => {}
            RosterNews::Away => continue,
        }
        equal.hear(now_ms);
    }
}

fn take(equal: &Equal, revision: u64, changes: Vec<RosterChange>, now_ms: u64) {
    let mut registry = equal.registry();
    for change in changes {
        match change {
            RosterChange::Here { node, record } => {
                let known = read(record.as_deref()).and_then(|record| {
                    let fits =
                        if record.node == node { Ok(record) } else { Err("it tells of another".into()) };
                    fits.and_then(|record| {
                        registry.here(revision, member_of(record)).map_err(|error| error.to_string())
                    })
                });
                if let Err(error) = known {
                    let node = format_args!("{node:016x}");
                    tracing::warn!(node, error, "what a node has registered in etcd cannot be used");
                }
            }
            RosterChange::Gone { node } => registry.gone(revision, node, now_ms),
            RosterChange::Draining { node, draining } => registry.draining(revision, node, draining),
        }
    }
}

/// What a node says of itself, from what it has registered.
fn read(record: Option<&[u8]>) -> Result<NodeRecord, String> {
    let bytes = record.ok_or("another build has written it")?;
    let (header, body) = bytes.split_first_chunk::<HEADER_LENGTH>().ok_or("it is cut off")?;
    let header = Header::decode(header, RECORD_SIZE_MAX).map_err(|error| error.to_string())?;
    match Message::decode(&header, body).map_err(|error| error.to_string())? {
        Message::Join(Join { record }) => Ok(record),
        other => Err(format!("it is {}", other.name())),
    }
}

fn publish(node: &Arc<Node>, equal: &Equal) {
    let Snapshot { epoch, members } = equal.registry().snapshot();
    let nodes = members.iter().map(record_of).collect();
    let cluster = catalog::Catalog::cluster_id(&*equal.catalog);
    let was_here = node.members.view().is_live(node.id());
    let was_member = node.members.view().node(node.id()).is_some();
    apply(node, View::of(control::Membership { epoch, cluster, nodes, forgotten: 0 }));
    if was_member && !was_here && node.members.view().is_live(node.id()) {
        // For the others this node was dead for a while, and its holdings with it.
        crate::trackers::announce_anew(node);
    }
}

/// What goes on all the time: the catalog is swept, this node's readers keep their leases, and it is told when etcd is lost
/// and found. It never returns.
async fn tend(node: Arc<Node>) {
    let Some(equal) = equal_of(&node) else { return };
    node.life.spawn(sweep_always(node.clone()));
    equal.hear(node.clock.uptime_ms());
    loop {
        tokio::time::sleep(LOOK).await;
        let now_ms = node.clock.uptime_ms();
        equal.look(now_ms);
        let forgot = equal.registry().forget(now_ms);
        if forgot {
            publish(&node, equal);
        }
        renew(&*equal.catalog, &node.leases.all()).await;
    }
}

async fn sweep_always(node: Arc<Node>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        sweep(&node).await;
    }
}

fn equal_of(node: &Node) -> Option<&Equal> {
    match &node.seat {
        Seat::Equal(equal) => Some(equal),
        Seat::Head(_) | Seat::Member { .. } => None,
    }
}

/// What `shoal node ls` shows: the members, and what each holds, of which it is asked.
pub(crate) async fn listing(node: &Arc<Node>, equal: &Equal) -> flow::wire::session::NodeListing {
    let view = node.members.view();
    let silent = equal.figures.refresh(node, &view).await;
    let mut nodes: Vec<NodeRecord> = view.nodes.values().map(|record| NodeRecord::clone(record)).collect();
    for record in &mut nodes {
        if record.node == node.id() {
            *record = node.record();
        }
        equal.figures.fill_in(record);
        // Without etcd nobody says who is dead; who does not answer may as well be.
        if silent.contains(&record.node) && !equal.is_reached() {
            record.state = NodeState::Dead;
        }
    }
    flow::wire::session::NodeListing { epoch: view.epoch, nodes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let record = NodeRecord {
            node: 7,
            name: "seven".into(),
            address: "127.0.0.1:9".into(),
            rack: "r".into(),
            shards: 2,
            incarnation: 3,
            state: NodeState::Alive,
            head: false,
            memory_limit: 1,
            memory_used: 2,
            nvme_used: 3,
        };
        let bytes = Message::from(Join { record: record.clone() }).encode(0, 0);
        assert_eq!(read(Some(&bytes)), Ok(record));
        assert!(read(None).is_err() && read(Some(&bytes[..9])).is_err());
        assert!(read(Some(&bytes[..bytes.len() - 1])).is_err());
        let other = Message::from(flow::wire::session::Done {}).encode(0, 0);
        assert!(read(Some(&other)).is_err());
    }
}
