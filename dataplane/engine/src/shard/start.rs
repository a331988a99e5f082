//! Arena, store, executors.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use flow::connections::Keeper;
use flow::limits::UPLOADS_AT_ONCE;
use flow::swarm::serve::Serve;
use memory::{Arena, Backing};

use super::counters::Counters;
use super::lanes::Rails;
use super::mesh::Mesh;
use super::replica::Replica;
use super::{RefCell, Shard};
use crate::command::{Command, Inbox};
use crate::gpu::Gpus;
use crate::machine::probe_at_start;
use crate::ring::DataRing;
use crate::store::{ChunkStore, FoundChunk};
use crate::transport::lanes::{
    Adapter, LaneError, LaneSettings, RdmaSettings, UcxAdapter, UcxSettings, VerbsAdapter,
};
use crate::values::Budget;
use crate::{Config, Event, Executors, Finding, StartError};

/// Everything that [`start`] made.
pub(crate) struct Started {
    pub(crate) arena: Arena,
    pub(crate) gpus: Gpus,
    pub(crate) senders: Vec<flume::Sender<Command>>,
    /// For each shard whether it is gone.
    pub(crate) closed: Vec<Arc<AtomicBool>>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) findings: Vec<Finding>,
    /// For each shard what ends when nothing is left of it.
    pub(crate) running: Vec<flume::Receiver<()>>,
    pub(crate) events: flume::Receiver<Event>,
}

/// What lanes go over, the preferred first, and what to say of it.
pub(crate) type Adapters = (Vec<Arc<dyn Adapter>>, Vec<Finding>);

/// Starts all shards, on the adapters that `open_adapters` gives for the arena; returns when each is ready for commands.
pub(crate) fn start(
    config: Config,
    executors: &Executors,
    open_adapters: impl FnOnce(&Config, &Arena) -> Adapters,
) -> Result<Started, StartError> {
    let data_dir = |source| StartError::DataDir { path: config.data_dir.clone(), source };
    std::fs::create_dir_all(&config.data_dir).map_err(data_dir)?;
    let (store, found) = ChunkStore::open(&config.data_dir).map_err(data_dir)?;
    let arena = Arena::new(config.memory_bytes, config.shards)?;
    if config.prefault {
        arena.prefault().map_err(|source| StartError::Prefault { size: arena.size(), source })?;
    }
    let mut findings = findings(&arena, &store, found.len());
    let (adapters, of_lanes) = open_adapters(&config, &arena);
    findings.extend(of_lanes);
    let (gpus, of_gpus) = Gpus::open(&config.gpus, &arena, config.prefault);
    findings.push(of_gpus);

    // What stands in these channels is bounded by who sends: each asker waits for its answer, and each connection,
    // fetch and replica sends one event for each change.
    let (event_sender, events) = flume::unbounded();
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..config.shards).map(|_| flume::unbounded()).unzip();
    let mut chunks: Vec<Vec<FoundChunk>> = (0..config.shards).map(|_| Vec::new()).collect();
    for chunk in found {
        chunks[usize::from(chunk.descriptor.id.shard(config.shards))].push(chunk);
    }

    let closed: Vec<Arc<AtomicBool>> = receivers.iter().map(|_| Arc::default()).collect();
    let inboxes = receivers
        .into_iter()
        .zip(&closed)
        .map(|(commands, is_closed)| Inbox { commands, is_closed: is_closed.clone() });

    let budget = Arc::new(Budget::new(config.memory_bytes, config.shards));
    let mut running = Vec::new();
    for (index, (inbox, chunks)) in (0..config.shards).zip(inboxes.zip(chunks)) {
        let parts = Parts {
            index,
            config: config.clone(),
            arena: arena.clone(),
            gpus: gpus.clone(),
            store: store.clone(),
            events: event_sender.clone(),
            shards: senders.clone(),
            chunks,
            adapters: adapters.clone(),
            budget: budget.clone(),
        };
        running.push(parts.spawn(inbox, executors)?);
    }
    Ok(Started { arena, gpus, senders, closed, budget, findings, running, events })
}

/// What a shard is made of before it has an executor.
struct Parts {
    index: u16,
    config: Config,
    arena: Arena,
    gpus: Gpus,
    store: ChunkStore,
    events: flume::Sender<Event>,
    shards: Vec<flume::Sender<Command>>,
    chunks: Vec<FoundChunk>,
    adapters: Vec<Arc<dyn Adapter>>,
    budget: Arc<Budget>,
}

impl Parts {
    fn spawn(self, inbox: Inbox, executors: &Executors) -> Result<flume::Receiver<()>, StartError> {
        let index = self.index;
        let (ready, started) = flume::bounded(1);
        let (is_running, running) = flume::bounded(0);
        executors.run(move |ring| async move {
            let commands = inbox.commands.clone();
            let shard = Rc::new(self.shard(ring));
            let _ = ready.send(());
            shard.run(commands).await;
            drop((inbox, is_running));
        });
        let gone = |_| StartError::Shard { shard: index, message: "its thread ended".into() };
        started.recv().map_err(gone)?;
        Ok(running)
    }

    fn shard(self, ring: DataRing) -> Shard {
        let replicas = self.chunks.into_iter().map(|chunk| {
            let nothing = vec![None; chunk.descriptor.geometry.pieces() as usize];
            let replica = Replica::complete(chunk.descriptor, nothing, Some(chunk.file), None);
            (replica.id, Rc::new(replica))
        });
        Shard {
            index: self.index,
            keeper: RefCell::new(Keeper::new(self.config.connections)),
            config: self.config,
            arena: self.arena,
            gpus: self.gpus,
            ring,
            store: self.store,
            events: self.events,
            shards: self.shards,
            origin: std::time::Instant::now(),
            next_number: 1.into(),
            replicas: RefCell::new(replicas.collect()),
            writings: RefCell::default(),
            prepared: Rc::default(),
            readings: RefCell::default(),
            fetches: RefCell::new(HashMap::new()),
            values: super::values::Values::new(self.budget),
            fetch_started: Default::default(),
            serve: RefCell::new(Serve::new(UPLOADS_AT_ONCE)),
            mesh: RefCell::new(Mesh::default()),
            rails: Rails::open(&self.adapters),
            pieces_queued: 0.into(),
            counters: Counters::default(),
        }
    }
}

/// What of this machine the settings name.
pub(crate) fn open_adapters(config: &Config, arena: &Arena) -> Adapters {
    let mut adapters = Vec::new();
    let mut findings = Vec::new();
    for settings in &config.lanes {
        let (topic, name, opened) = match settings {
            LaneSettings::Rdma(settings) => ("rdma", "RDMA", open_devices(settings, arena)),
            LaneSettings::Ucx(settings) => ("ucx", "UCX", open_ucx(settings, arena)),
        };
        let (found, taken) = match opened {
            Ok(opened) => {
                let names: Vec<_> = opened.iter().map(|adapter| adapter.name()).collect();
                let found = format!("{}, with the arena registered", names.join(", "));
                adapters.extend(opened);
                (found, format!("{name} to nodes that it reaches, TCP to others"))
            }
            Err(error) => (error.to_string(), "TCP".to_owned()),
        };
        findings.push(Finding { topic, found, taken, remedy: None });
    }
    if !config.lanes.iter().any(|lanes| matches!(lanes, LaneSettings::Rdma(_))) {
        let (found, taken) = ("not among --transports".to_owned(), "others".to_owned());
        findings.push(Finding { topic: "rdma", found, taken, remedy: None });
    }
    (adapters, findings)
}

fn open_devices(settings: &RdmaSettings, arena: &Arena) -> Result<Vec<Arc<dyn Adapter>>, LaneError> {
    let adapters = VerbsAdapter::open_all(settings, arena)?;
    Ok(adapters.into_iter().map(|adapter| adapter as Arc<dyn Adapter>).collect())
}

fn open_ucx(settings: &UcxSettings, arena: &Arena) -> Result<Vec<Arc<dyn Adapter>>, LaneError> {
    Ok(vec![UcxAdapter::open(settings, arena)?])
}

fn findings(arena: &Arena, store: &ChunkStore, chunks: usize) -> Vec<Finding> {
    let remedy_pages = "reserve hugepages (vm.nr_hugepages) or set \
                        /sys/kernel/mm/transparent_hugepage/shmem_enabled to advise";
    let pages = match arena.backing() {
        Backing::Huge => ("reserved hugepages".to_owned(), "2 MiB pages", None),
        Backing::Transparent => {
            ("transparent hugepages".to_owned(), "2 MiB pages where the kernel finds them", None)
        }
        Backing::Small(reason) => (reason.clone(), "4 KiB pages", Some(remedy_pages.to_owned())),
    };
    let direct = match store.direct() {
        Ok(()) => ("the file system takes O_DIRECT".to_owned(), "O_DIRECT", None),
        Err(reason) => {
            let remedy = "put --data-dir on ext4 or xfs on NVMe".to_owned();
            (reason.to_owned(), "buffered reads and writes", Some(remedy))
        }
    };
    let chunks = (format!("{chunks} chunks"), "announced; each piece is verified when it is read", None);
    let taken = [("arena", pages), ("nvme", direct), ("chunks on nvme", chunks)];
    let taken = taken.map(|(topic, (found, taken, remedy))| Finding {
        topic,
        found,
        taken: taken.to_owned(),
        remedy,
    });
    probe_at_start().into_iter().chain(taken).collect()
}
