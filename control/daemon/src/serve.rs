//! From settings to a running node, and down again.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use catalog::Catalog;
use engine::{Engine, Event, Sharing, StartError};
use flow::wire::control::NodeId;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

use crate::cluster::{self, Equal, Follower, Head, StopReason};
use crate::collect::{self, Collector};
use crate::data_dir::{DataDir, DataDirError};
use crate::door::{self, Door};
use crate::kv::acknowledged::Acknowledged;
use crate::kv::remote::RemoteCatalog;
use crate::members::Members;
use crate::node::{Activity, Clock, Identity, Node, Seat, bytes_of};
use crate::outgoing::{Reach, Targets};
use crate::peers::Peers;
use crate::settings::{self, Settings};
use crate::trackers::{self, Trackers};
use crate::{dial, failure, kv, operate, size, values};

/// How long transfers that are under way may take to end when the node stops.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// How long the engine may then take to sync its files.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// How often the parent process is looked for.
const PARENT_LOOK: Duration = Duration::from_millis(500);
/// How often the bytes on NVMe are counted.
const COUNT_LOOK: Duration = Duration::from_secs(5);

/// Why a node did not start, or had to stop.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error("cannot listen on {place}: {source}; {remedy}")]
    Listen { place: String, source: io::Error, remedy: &'static str },
    #[error("{0}")]
    Catalog(String),
    #[error(transparent)]
    Engine(#[from] StartError),
    #[error("cannot start the control runtime: {0}")]
    Runtime(#[from] io::Error),
    #[error(
        "other nodes need an address to reach this one at, and --listen {0} names none; give --advertise HOST:PORT"
    )]
    NoAddress(SocketAddr),
    #[error(transparent)]
    Stopped(#[from] StopReason),
}

/// Runs a node until a signal ends it. It logs to standard error; what it found on the machine and where it listens
/// comes first. SIGTERM and SIGINT let transfers end first; a second one does not wait.
pub fn serve(settings: Settings) -> ExitCode {
    start_log();
    match run(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn start_log() {
    use std::io::IsTerminal;
    let filter = tracing_subscriber::EnvFilter::try_from_env("SHOAL_LOG");
    let filter =
        filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,fjall=warn,lsm_tree=warn"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    // A program that embeds the daemon may have a log of its own.
    let _ = log.with_ansi(io::stderr().is_terminal()).try_init();
}

fn run(settings: Settings) -> Result<(), ServeError> {
    allow_many_files();
    let data_dir = DataDir::open(&settings.data_dir)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(16).build()?;
    let ended = runtime.block_on(live(settings, &data_dir));
    // Whatever still reads the catalog may end by itself; its writes are on disk when they are acknowledged.
    runtime.shutdown_timeout(Duration::from_secs(1));
    data_dir.clear_traces();
    ended
}

/// Every connection and every open chunk file is a descriptor, and the usual limit of 1024 is a convention of shells.
fn allow_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// Sockets that are bound and not yet served.
struct Sockets {
    local: UnixListener,
    local_path: std::path::PathBuf,
    tcp: TcpListener,
    address: SocketAddr,
}

async fn live(settings: Settings, data_dir: &DataDir) -> Result<(), ServeError> {
    let mut signals = Signals::new()?;
    let parent = parent_gone(settings.exit_with_parent);
    let sockets = bind(&settings, data_dir).await?;
    let identity = identify(&settings, data_dir, sockets.address)?;
    let mut parent = std::pin::pin!(parent);
    let seat = tokio::select! {
        () = signals.next() => return Ok(()),
        () = &mut parent => return Ok(()),
        seat = take_seat(&settings, data_dir) => seat?,
    };
    let sharing = settings.transports.shm.then(|| sharing(&sockets.local_path)).flatten();
    let (engine, events) = Engine::start(engine_config(&settings, &identity, sharing))?;
    let targets = Targets { allowed: settings.allow_send.clone(), allow_local: identity.listens_locally };
    let reach = Reach { targets, sources: settings.sources.clone() };
    let node = assemble(identity, seat, reach, &engine)?;
    report_findings(&settings, &node);
    tokio::spawn(handle_events(node.clone(), events));
    let ended = tokio::select! {
        () = signals.next() => Ok(()),
        () = &mut parent => Ok(()),
        ended = take_part(&node, sockets, data_dir) => ended,
    };
    shut_down(&node, engine, signals).await;
    cluster::leave(&node).await;
    ended
}

async fn bind(settings: &Settings, data_dir: &DataDir) -> Result<Sockets, ServeError> {
    let local_path = data_dir.clear_socket_path()?;
    let local = door::bind_local(&local_path).map_err(|source| ServeError::Listen {
        place: local_path.display().to_string(),
        source,
        remedy: "choose another --data-dir",
    })?;
    let failed = |source| ServeError::Listen {
        place: settings.listen.to_string(),
        source,
        remedy: "choose another --listen, or stop what listens there",
    };
    let tcp = TcpListener::bind(settings.listen).await.map_err(failed)?;
    let address = tcp.local_addr()?;
    Ok(Sockets { local, local_path, tcp, address })
}

fn identify(settings: &Settings, data_dir: &DataDir, listening: SocketAddr) -> Result<Identity, ServeError> {
    Ok(Identity {
        node: data_dir.node_id()?,
        name: settings.name.clone(),
        address: advertised(settings, listening).ok_or(ServeError::NoAddress(listening))?,
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

async fn take_seat(settings: &Settings, data_dir: &DataDir) -> Result<Seat, ServeError> {
    Ok(match (&settings.catalog, &settings.join) {
        (Some(etcd), _) => {
            let opened = Equal::open(etcd.clone()).await;
            let opened = opened.map_err(|error| ServeError::Catalog(failure::in_full(&error)))?;
            Seat::Equal(Box::new(opened))
        }
        (None, Some(head)) => Seat::Member { head: head.clone(), reached: AtomicBool::new(false) },
        (None, None) => Seat::Head(open_catalog(data_dir).await?),
    })
}

async fn open_catalog(data_dir: &DataDir) -> Result<Head, ServeError> {
    let directory = data_dir.path().join("catalog");
    let opened = tokio::task::spawn_blocking(move || catalog::Embedded::open(&directory)).await;
    match opened {
        Ok(Ok(catalog)) => Ok(Head::new(Arc::new(catalog))),
        Ok(Err(error)) => Err(ServeError::Catalog(failure::in_full(&error))),
        Err(error) => Err(ServeError::Catalog(format!("opening the catalog failed: {error}"))),
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
    let variables = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    for name in settings::unknown_variables(variables) {
        tracing::warn!(
            "the environment variable {name} is no setting; `shoal serve --help` names those that are"
        );
    }
    let device = |name: &str, what: String| tracing::info!("device {name}: {what}");
    device("dram", format!("{} for chunks", size::show(node.engine.arena().size())));
    device("nvme", format!("files below {}", node.identity.data_dir.display()));
}

/// Starts everything that goes on by itself, joins, and takes connections. It ends when the node has to stop; connections
/// are taken until it is dropped.
async fn take_part(node: &Arc<Node>, sockets: Sockets, data_dir: &DataDir) -> Result<(), ServeError> {
    tokio::spawn(trackers::deliver(node.clone()));
    let stopped = membership(node).await?;
    tokio::spawn(trackers::refresh(node.clone()));
    tokio::spawn(kv::tidy(node.clone()));
    tokio::spawn(collect::collect(node.clone()));
    tokio::spawn(count_nvme(node.clone()));
    tokio::spawn(values::follow_members(node.clone()));
    let _door = open_door(node, sockets, data_dir)?;
    Err(stopped.await.into())
}

/// Enters the cluster; what is given ends when the node may not be a member any more.
async fn membership(
    node: &Arc<Node>,
) -> Result<Pin<Box<dyn Future<Output = StopReason> + Send>>, StopReason> {
    match &node.seat {
        Seat::Head(_) => {
            tokio::spawn(cluster::preside(node.clone()));
            Ok(Box::pin(std::future::pending()))
        }
        Seat::Member { head, .. } => {
            let mut follower = Follower::new(node.clone(), head.clone());
            follower.step().await?;
            Ok(Box::pin(follower.follow()))
        }
        Seat::Equal(_) => {
            let entered = cluster::enter(node).await?;
            Ok(Box::pin(async move {
                entered.await.unwrap_or_else(|error| StopReason::Refused(error.to_string()))
            }))
        }
    }
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
            Event::FindHolders { chunk } => {
                tokio::spawn(trackers::find_holders(node.clone(), chunk));
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

/// Ends when this process has another parent than the one with this number; zero is the one at the time of the call.
/// Without a number it never ends.
fn parent_gone(parent: Option<u32>) -> impl Future<Output = ()> {
    let current = std::os::unix::process::parent_id;
    let parent = parent.map(|number| if number == 0 { current() } else { number });
    async move {
        let Some(parent) = parent else { return std::future::pending().await };
        while current() == parent {
            tokio::time::sleep(PARENT_LOOK).await;
        }
        tracing::info!("the process that started this node is gone");
    }
}

/// Connections are accepted until what is returned is dropped; those that were accepted go on.
fn open_door(node: &Arc<Node>, sockets: Sockets, data_dir: &DataDir) -> Result<JoinSet<()>, ServeError> {
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

async fn shut_down(node: &Arc<Node>, engine: Engine, mut signals: Signals) {
    tracing::info!("stopping: transfers that are under way may take {} s to end", DRAIN_LIMIT.as_secs());
    let stopping = async {
        let left = node.activity.drain(DRAIN_LIMIT).await;
        if left > 0 {
            tracing::warn!(left, "operations of clients are cut off");
        }
        let stopped = tokio::task::spawn_blocking(move || engine.stop());
        if tokio::time::timeout(STOP_LIMIT, stopped).await.is_err() {
            tracing::error!("the engine did not stop in {} s", STOP_LIMIT.as_secs());
        }
    };
    tokio::select! {
        () = stopping => tracing::info!("stopped"),
        () = signals.next() => {
            tracing::warn!("a second signal: stopping at once");
            std::process::exit(128 + signals.last);
        }
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    last: i32,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let (terminate, interrupt) = (SignalKind::terminate(), SignalKind::interrupt());
        Ok(Self { terminate: signal(terminate)?, interrupt: signal(interrupt)?, last: 0 })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => self.last = SignalKind::terminate().as_raw_value(),
            _ = self.interrupt.recv() => self.last = SignalKind::interrupt().as_raw_value(),
        }
    }
}
