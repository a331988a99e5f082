//! One node, from its settings until it is stopped. A process may have many.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use catalog::Catalog;
use engine::{Engine, Event, Executors, Sharing, StartError};
use flow::chunk::ChunkId;
use flow::connections::Bounds;
use flow::swarm::Priority;
use flow::wire::control::NodeId;
use flow::wire::session::{
    ChunkFetch, ChunkFetched, ChunkReference, ChunkVerified, ChunkVerify, Device, Failure,
};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::{JoinHandle, JoinSet};

use crate::cluster::{self, Equal, Follower, Head, StopReason};
use crate::collect::{self, Collector};
use crate::data_dir::{DataDir, DataDirError};
use crate::door::{self, Door};
use crate::kv::acknowledged::Acknowledged;
use crate::kv::remote::RemoteCatalog;
use crate::life::Life;
use crate::members::Members;
use crate::node::{Activity, Clock, Identity, Node, Seat, bytes_of};
use crate::outgoing::{Reach, Targets};
use crate::peers::{self, Peers};
use crate::settings::Settings;
use crate::trackers::{self, Trackers};
use crate::{dial, failure, kv, operate, size, values};

/// How long transfers that are under way may take to end when the node stops.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// How long the engine may then take to sync its files.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// How often the bytes on NVMe are counted.
const COUNT_LOOK: Duration = Duration::from_secs(5);

/// Why a node did not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Its directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A socket cannot be bound.
    #[error("cannot listen on {place}: {source}; {remedy}")]
    Listen {
        /// The address or path.
        place: String,
        /// Why not.
        source: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// The catalog cannot be opened.
    #[error("{0}")]
    Catalog(String),
    /// The engine does not start.
    #[error(transparent)]
    Engine(#[from] StartError),
    /// The machine refuses something that every node needs.
    #[error("cannot start the control runtime: {0}")]
    Runtime(#[from] io::Error),
    /// It has no address to tell others.
    #[error(
        "other nodes need an address to reach this one at, and --listen {0} names none; give --advertise HOST:PORT"
    )]
    NoAddress(SocketAddr),
    /// It may not be a member of the cluster, or not any more.
    #[error("{0}")]
    Stopped(String),
}

impl From<StopReason> for NodeError {
    fn from(reason: StopReason) -> Self {
        Self::Stopped(reason.to_string())
    }
}

/// A node in this process. Dropping it without [`Running::stop`] leaves it running until the process ends.
pub struct Running {
    node: Arc<Node>,
    engine: Engine,
    data_dir: DataDir,
    /// Until they are served.
    sockets: Option<Sockets>,
    accepting: JoinSet<()>,
    /// Ends when the node may not be a member any more.
    member: Option<JoinHandle<Option<StopReason>>>,
}

/// Sockets that are bound and not yet served.
struct Sockets {
    local: UnixListener,
    local_path: std::path::PathBuf,
    tcp: TcpListener,
    address: SocketAddr,
}

impl Running {
    /// Binds the sockets and starts the engine, whose shards run on `executors`, or on threads of their own without. It must
    /// be called on a tokio runtime, which the node uses from then on.
    pub async fn start(settings: Settings, executors: Option<&Executors>) -> Result<Self, NodeError> {
        let data_dir = DataDir::open(&settings.data_dir)?;
        let sockets = bind(&settings, &data_dir).await?;
        let identity = identify(&settings, &data_dir, sockets.address)?;
        let seat = take_seat(&settings, &data_dir).await?;
        let sharing = settings.transports.shm.then(|| sharing(&sockets.local_path)).flatten();
        let config = engine_config(&settings, &identity, sharing);
        let (engine, events) = match executors {
            Some(executors) => Engine::start_among(config, executors)?,
            None => Engine::start(config)?,
        };
        let targets = Targets { allowed: settings.allow_send.clone(), allow_local: identity.listens_locally };
        let reach = Reach { targets, sources: settings.sources.clone() };
        let node = assemble(identity, seat, reach, &engine)?;
        report_findings(&settings, &node);
        tokio::spawn(handle_events(node.clone(), events));
        let (sockets, accepting) = (Some(sockets), JoinSet::new());
        Ok(Self { node, engine, data_dir, sockets, accepting, member: None })
    }

    /// Enters the cluster and opens the doors. A head that does not answer yet is waited for afterwards.
    pub async fn enter(&mut self) -> Result<(), NodeError> {
        let Some(sockets) = self.sockets.take() else { return Ok(()) };
        let node = &self.node;
        node.life.spawn(trackers::deliver(node.clone()));
        self.member = membership(node).await?;
        node.life.spawn(trackers::refresh(node.clone()));
        node.life.spawn(kv::tidy(node.clone()));
        node.life.spawn(collect::collect(node.clone()));
        node.life.spawn(count_nvme(node.clone()));
        node.life.spawn(values::follow_members(node.clone()));
        self.accepting = open_door(node, sockets, &self.data_dir)?;
        Ok(())
    }

    /// Waits until the node may not be a member any more, and says why.
    pub async fn ended(&mut self) -> NodeError {
        let Some(member) = &mut self.member else { return std::future::pending().await };
        match member.await {
            Ok(Some(reason)) => reason.into(),
            Ok(None) => StopReason::Refused("the node has been stopped".into()).into(),
            Err(error) => StopReason::Refused(error.to_string()).into(),
        }
    }

    /// Lets transfers that are under way end, then stops the engine, leaves the cluster and ends what is connected.
    pub async fn stop(mut self) {
        self.accepting.shutdown().await;
        let node = self.node;
        tracing::info!("stopping: transfers that are under way may take {} s to end", DRAIN_LIMIT.as_secs());
        let left = node.activity.drain(DRAIN_LIMIT).await;
        if left > 0 {
            tracing::warn!(left, "operations of clients are cut off");
        }
        let stopped = tokio::task::spawn_blocking(move || self.engine.stop());
        if tokio::time::timeout(STOP_LIMIT, stopped).await.is_err() {
            tracing::error!("the engine did not stop in {} s", STOP_LIMIT.as_secs());
        }
        cluster::leave(&node).await;
        node.life.end();
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.node.identity.name
    }

    /// Where other nodes reach it: `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.node.identity.address
    }

    /// Where clients on this machine reach it.
    pub fn local_socket(&self) -> PathBuf {
        self.data_dir.socket_path()
    }

    /// Names of the members that it knows, itself among them, and whether each is alive.
    pub fn members(&self) -> Vec<(String, bool)> {
        let view = self.node.members.view();
        view.nodes.values().map(|record| (record.name.clone(), view.is_live(record.node))).collect()
    }

    /// Whether whoever keeps the catalog answered when it was asked last.
    pub fn reaches_catalog(&self) -> bool {
        match &self.node.seat {
            Seat::Head(_) => true,
            Seat::Member { reached, .. } => reached.load(Ordering::Relaxed),
            Seat::Equal(equal) => equal.is_reached(),
        }
    }

    /// Brings a chunk into its memory.
    pub async fn fetch(&self, chunk: ChunkReference) -> Result<ChunkFetched, Failure> {
        let fetch = ChunkFetch { chunk, device: Device::Dram, priority: Priority::Normal };
        peers::expect("ChunkFetch", operate::here::fetch(&self.node, fetch).await?)
    }

    /// Reads all of a chunk that it has, and gives the digest of the bytes.
    pub async fn verify(&self, id: ChunkId) -> Result<ChunkId, Failure> {
        let verified = operate::here::verify(&self.node, ChunkVerify { id }).await?;
        let ChunkVerified { digest } = peers::expect("ChunkVerify", verified)?;
        Ok(digest)
    }

    /// Drops a chunk that it has, whoever may still refer to it.
    pub async fn forget(&self, id: ChunkId) -> Result<(), Failure> {
        self.node.engine.drop_replica(id, None, true).await.map(drop).map_err(|error| error.failure())
    }

    /// What it has counted since its start, by name.
    pub async fn counters(&self) -> Result<Vec<(String, u64)>, Failure> {
        self.node.engine.counters().await.map_err(|error| error.failure())
    }
}

/// Enters the cluster; what is given ends when the node may not be a member any more.
async fn membership(node: &Arc<Node>) -> Result<Option<JoinHandle<Option<StopReason>>>, StopReason> {
    match &node.seat {
        Seat::Head(head) => {
            // Whoever comes through the doors finds it among the members.
            cluster::look_round(node, head);
            node.life.spawn(cluster::preside(node.clone()));
            Ok(None)
        }
        Seat::Member { head, .. } => {
            let mut follower = Follower::new(node.clone(), head.clone());
            follower.step().await?;
            Ok(Some(node.life.spawn(follower.follow())))
        }
        Seat::Equal(_) => Ok(Some(cluster::enter(node).await?)),
    }
}

async fn bind(settings: &Settings, data_dir: &DataDir) -> Result<Sockets, NodeError> {
    let local_path = data_dir.clear_socket_path()?;
    let local = door::bind_local(&local_path).map_err(|source| NodeError::Listen {
        place: local_path.display().to_string(),
        source,
        remedy: "choose another --data-dir",
    })?;
    let failed = |source| NodeError::Listen {
        place: settings.listen.to_string(),
        source,
        remedy: "choose another --listen, or stop what listens there",
    };
    let tcp = TcpListener::bind(settings.listen).await.map_err(failed)?;
    let address = tcp.local_addr()?;
    Ok(Sockets { local, local_path, tcp, address })
}

fn identify(settings: &Settings, data_dir: &DataDir, listening: SocketAddr) -> Result<Identity, NodeError> {
    Ok(Identity {
        node: data_dir.node_id()?,
        name: settings.name.clone(),
        address: advertised(settings, listening).ok_or(NodeError::NoAddress(listening))?,
        rack: settings.rack.clone(),
        shards: settings.cores,
        incarnation: data_dir.next_incarnation(Clock::calendar_ms())?,
        token: settings.token.clone(),
        listens_locally: listening.ip().is_loopback(),
        data_dir: data_dir.path().to_owned(),
    })
}

/// Where other nodes reach this one: what the operator says, or where it listens, or, when that is everywhere, the
/// address that packets to the head, or to etcd, leave from. A node that needs nobody serves its own machine without one.
fn advertised(settings: &Settings, listening: SocketAddr) -> Option<String> {
    if let Some(address) = &settings.advertise {
        return Some(address.clone());
    }
    if !listening.ip().is_unspecified() {
        return Some(listening.to_string());
    }
    // Without anybody to ask for, any address that is not on this network will do: 192.0.2.1 is one that nobody has
    // (RFC 5737).
    let etcd = settings.catalog.as_ref().and_then(|etcd| etcd.endpoints.first());
    let towards = settings.join.as_deref().or(etcd.map(String::as_str));
    let local = leaving_from(listening.ip(), towards.unwrap_or("192.0.2.1:9"));
    if local.is_none() && towards.is_none() {
        tracing::warn!(
            "this machine has no network: other nodes cannot join before a start with --advertise HOST:PORT"
        );
        return Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), listening.port()).to_string());
    }
    local.map(|local| SocketAddr::new(local, listening.port()).to_string())
}

/// The address that packets to a place leave from; nothing is sent to find it out.
fn leaving_from(listening: IpAddr, towards: &str) -> Option<IpAddr> {
    let any = if listening.is_ipv6() { IpAddr::from([0_u16; 8]) } else { IpAddr::from([0_u8; 4]) };
    // A datagram socket that is connected has chosen its route.
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(towards).ok()?;
    let local = socket.local_addr().ok()?.ip().to_canonical();
    (!local.is_unspecified()).then_some(local)
}

async fn take_seat(settings: &Settings, data_dir: &DataDir) -> Result<Seat, NodeError> {
    Ok(match (&settings.catalog, &settings.join) {
        (Some(etcd), _) => {
            let opened = Equal::open(etcd.clone()).await;
            let opened = opened.map_err(|error| NodeError::Catalog(failure::in_full(&error)))?;
            Seat::Equal(Box::new(opened))
        }
        (None, Some(head)) => Seat::Member { head: head.clone(), reached: AtomicBool::new(false) },
        (None, None) => Seat::Head(open_catalog(data_dir).await?),
    })
}

async fn open_catalog(data_dir: &DataDir) -> Result<Head, NodeError> {
    let directory = data_dir.path().join("catalog");
    let opened = tokio::task::spawn_blocking(move || catalog::Embedded::open(&directory)).await;
    match opened {
        Ok(Ok(catalog)) => Ok(Head::new(Arc::new(catalog))),
        Ok(Err(error)) => Err(NodeError::Catalog(failure::in_full(&error))),
        Err(error) => Err(NodeError::Catalog(format!("opening the catalog failed: {error}"))),
    }
}

/// How nodes on this host reach this node's memory; `None` where the kernel does not tell hosts apart, or the path of
/// the local socket is not text.
fn sharing(local_socket: &Path) -> Option<Sharing> {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
    let socket = std::path::absolute(local_socket).ok()?.to_str()?.to_owned();
    Some(Sharing { boot_id, socket })
}

fn engine_config(settings: &Settings, identity: &Identity, sharing: Option<Sharing>) -> engine::Config {
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    engine::Config {
        node: identity.node,
        data_dir: identity.data_dir.clone(),
        shards: settings.cores,
        // A single shard is better placed by the scheduler, and this thread needs a core as well.
        pin_to_cores: settings.cores > 1 && available > usize::from(settings.cores),
        memory_bytes: settings.max_memory,
        prefault: settings.prefault,
        congestion_control: settings.congestion_control.clone(),
        sharing,
        gpus: settings.gpus,
        connections: Bounds::default(),
        uplinks: settings.uplinks,
        lanes: settings.transports.lanes.clone(),
        corrupt_one_in: settings.corrupt_one_in,
    }
}

pub(crate) fn assemble(
    identity: Identity,
    seat: Seat,
    reach: Reach,
    engine: &Engine,
) -> io::Result<Arc<Node>> {
    let handle = engine.handle().clone();
    let arena = handle.arena();
    let mapping = memory::Mapping::map_shared(arena.read_write_fd(), arena.size(), true)?;
    let peers = Arc::new(Peers::new(identity.node, identity.token.clone()));
    let members = Arc::new(Members::new());
    let truth: Arc<dyn Catalog> = match &seat {
        Seat::Head(head) => head.catalog.clone(),
        Seat::Member { head, .. } => {
            Arc::new(RemoteCatalog::new(peers.clone(), members.clone(), head.clone()))
        }
        Seat::Equal(equal) => equal.catalog.clone(),
    };
    let catalog = Arc::new(Acknowledged::new(truth));
    let node = Arc::new(Node {
        members,
        catalog: catalog.clone(),
        snapshots: Default::default(),
        transactions: Default::default(),
        values: Default::default(),
        reach,
        tasks: Default::default(),
        peers,
        trackers: Trackers::new(),
        neighbours: Default::default(),
        leases: Default::default(),
        collector: Collector::new(),
        clock: Clock::start(),
        life: Life::default(),
        activity: Activity::default(),
        nvme_used: Default::default(),
        findings: engine.findings().to_vec(),
        identity,
        engine: handle,
        mapping,
        seat,
    });
    catalog.set_node(&node);
    Ok(node)
}

fn report_findings(settings: &Settings, node: &Node) {
    for finding in &node.findings {
        tracing::info!("{}: {}", finding.topic, operate::here::in_words(finding));
    }
    if let Some(note) = &settings.max_memory_note {
        tracing::warn!("{note}");
    }
    let device = |name: &str, what: String| tracing::info!("device {name}: {what}");
    device("dram", format!("{} for chunks", size::show(node.engine.arena().size())));
    device("nvme", format!("files below {}", node.identity.data_dir.display()));
}

/// Answers what the shards ask. They wait while nobody listens, so this goes on until they are gone.
async fn handle_events(node: Arc<Node>, events: flume::Receiver<Event>) {
    while let Ok(event) = events.recv_async().await {
        match event {
            Event::Dial { from_shard, peer, to_shard } => {
                tokio::spawn(dial::dial(node.clone(), from_shard, peer, to_shard));
            }
            Event::Map { shard, connection, peer, socket } => {
                tokio::spawn(map(node.clone(), shard, connection, peer, socket));
            }
            Event::FindPeers { chunk } => {
                tokio::spawn(trackers::find_peers(node.clone(), chunk));
            }
            Event::FindHolders { chunk, nodes } => {
                tokio::spawn(trackers::find_holders(node.clone(), chunk, nodes));
            }
            Event::Holding { chunk, holding } => trackers::announce(&node, chunk, holding),
            Event::ValueDropped { chunk, handle } => {
                let node = node.clone();
                tokio::spawn(async move { values::dropped(&node, chunk, handle).await });
            }
            Event::Fault(fault) => {
                let peer = fault.peer.map(|peer| format!("{peer:016x}")).unwrap_or_default();
                tracing::warn!(chunk = %fault.chunk, piece = fault.piece, peer, "{}", fault.message);
            }
        }
    }
}

/// Answers `Map`.
async fn map(node: Arc<Node>, shard: u16, connection: u64, peer: NodeId, socket: PathBuf) {
    let mapped = node.neighbours.map(node.id(), peer, &socket).await;
    if let Err(error) = &mapped {
        let socket = socket.display();
        tracing::info!(
            peer = format_args!("{peer:016x}"),
            "a node on this host is reached over TCP: {socket}: {error}"
        );
    }
    node.engine.mapped(shard, connection, mapped.ok());
}

async fn count_nvme(node: Arc<Node>) {
    loop {
        if let Ok(replicas) = node.replicas(None).await {
            let used = replicas.iter().map(|replica| bytes_of(replica, replica.nvme_pieces)).sum();
            node.nvme_used.store(used, Ordering::Relaxed);
        }
        tokio::time::sleep(COUNT_LOOK).await;
    }
}

/// Connections are accepted until what is returned is dropped; those that were accepted go on.
fn open_door(node: &Arc<Node>, sockets: Sockets, data_dir: &DataDir) -> Result<JoinSet<()>, NodeError> {
    let door = Door::new(node.clone());
    let mut accepting = JoinSet::new();
    accepting.spawn(door.clone().open_local(sockets.local));
    accepting.spawn(door.open_tcp(sockets.tcp));
    data_dir.write_address(&node.identity.address)?;
    let Identity { name, address, .. } = &node.identity;
    let place = sockets.local_path.display();
    tracing::info!("listening on {} (node '{name}', reached at {address}) and {place}", sockets.address);
    Ok(accepting)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Flags;

    #[test]
    fn a_head_knows_itself_when_its_doors_open() {
        let folder = tempfile::tempdir().unwrap();
        let flags = Flags {
            data_dir: Some(folder.path().to_owned()),
            listen: Some("127.0.0.1:0".into()),
            name: Some("n1".into()),
            max_memory: Some("64MB".into()),
            cores: Some(1),
            ..Flags::default()
        };
        let settings = Settings::of_flags(flags).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut running = Running::start(settings, None).await.unwrap();
            running.enter().await.unwrap();
            // Nothing that was spawned has run on this thread since then.
            assert_eq!(running.members(), [("n1".to_owned(), true)]);
            running.stop().await;
        });
    }
}
