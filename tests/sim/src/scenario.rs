//! One run of the world: what is broadcast, to whom, how, and what goes wrong.

use flow::chunk::Geometry;
use flow::connections::Bounds;
use flow::limits::{NODES_MAX, UPLOADS_AT_ONCE};
use flow::swarm::{Priority, Settings};

use crate::cluster::{Cluster, time_ns};
use crate::faults::Faults;
use crate::strategy::Strategy;

/// Most pieces of a chunk that are simulated.
pub const PIECES_MAX: u32 = 1 << 16;
/// Most chunks that are broadcast at the same time.
pub const CHUNKS_MAX: usize = 16;

/// One run of the world.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// From which all that is random follows.
    pub seed: u64,
    /// Nodes that fetch.
    pub receivers: usize,
    /// Nodes that have everything at the start.
    pub origins: usize,
    /// Bytes of a chunk.
    pub size_bytes: u64,
    /// Bytes of a piece, a power of two from 1 MiB to 16 MiB.
    pub piece_bytes: u32,
    /// Chunks that every receiver fetches: versions of the same, each of which begins while those before it are under
    /// way.
    pub chunks: usize,
    /// What every receiver fetches besides, from the same origins.
    pub flows: Vec<Flow>,
    /// Who sends to whom.
    pub strategy: Strategy,
    /// The machines and their network.
    pub cluster: Cluster,
    /// What goes wrong.
    pub faults: Faults,
    /// How a fetch of the swarm behaves.
    pub settings: Settings,
    /// Pieces that a node of the swarm sends at once.
    pub uploads_at_once: usize,
    /// Slots of a receiver of the swarm, for each chunk.
    pub slots: usize,
    /// The most nodes that one of the swarm is connected to.
    pub connections: Bounds,
}

/// A chunk that every receiver fetches beside the one that the scenario is about.
#[derive(Debug, Clone, PartialEq)]
pub struct Flow {
    /// Bytes of the chunk; its pieces are as large as the scenario's.
    pub size_bytes: u64,
    /// When a receiver begins to want it after it has joined, as a multiple of the scenario's ideal time.
    pub begins: f64,
    /// How much it matters; what the scenario is about matters as usual.
    pub priority: Priority,
}

/// A scenario that cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this cannot be simulated: {0}")]
pub struct Refused(pub String);

impl Scenario {
    /// A chunk of `size_bytes` to `receivers` nodes from one, by the swarm, cut as in production, in a
    /// [`Cluster::default`] in which nothing goes wrong.
    pub fn new(seed: u64, receivers: usize, size_bytes: u64) -> Self {
        let piece_bytes =
            Geometry::of(size_bytes).map_or(flow::limits::PIECE_SIZE_MAX, |geometry| geometry.piece_size());
        let settings = Settings::default();
        Self {
            seed,
            receivers,
            origins: 1,
            size_bytes,
            piece_bytes,
            chunks: 1,
            flows: Vec::new(),
            strategy: Strategy::Swarm,
            cluster: Cluster::default(),
            faults: Faults::default(),
            slots: settings.grants_at_once,
            connections: Bounds::default(),
            settings,
            uploads_at_once: UPLOADS_AT_ONCE,
        }
    }

    /// The same with so many pieces of 4 MiB.
    pub fn of_pieces(seed: u64, receivers: usize, pieces: u32) -> Self {
        let piece_bytes = 4 << 20;
        let size_bytes = u64::from(pieces) * u64::from(piece_bytes);
        Self { piece_bytes, ..Self::new(seed, receivers, size_bytes) }
    }

    /// Whether this can be run.
    pub fn check(&self) -> Result<(), Refused> {
        let refuse = |why: String| Err(Refused(why));
        if let Err(error) = Geometry::new(self.size_bytes, self.piece_bytes) {
            return refuse(error.to_string());
        }
        if self.pieces() > PIECES_MAX {
            return refuse(format!("{} pieces; at most {PIECES_MAX}, so take larger ones", self.pieces()));
        }
        if !(1..=NODES_MAX).contains(&self.receivers) || !(1..=NODES_MAX).contains(&self.origins) {
            let (receivers, origins) = (self.receivers, self.origins);
            return refuse(format!(
                "{receivers} receivers, {origins} origins; from 1 to {NODES_MAX} of each"
            ));
        }
        if self.chunks == 0 || self.transfers() > CHUNKS_MAX {
            return refuse(format!("{} chunks; from 1 to {CHUNKS_MAX}", self.transfers()));
        }
        for flow in &self.flows {
            let fits =
                Geometry::new(flow.size_bytes, self.piece_bytes).is_ok_and(|cut| cut.pieces() <= PIECES_MAX);
            if !fits || !(0.0..=1000.0).contains(&flow.begins) {
                return refuse(format!(
                    "a flow of {} bytes at {} times the ideal",
                    flow.size_bytes, flow.begins
                ));
            }
        }
        if self.strategy != Strategy::Swarm && (self.transfers() > 1 || self.origins > 1) {
            return refuse(format!("strategy {} knows one chunk and one origin", self.strategy));
        }
        if self.slots == 0 || self.uploads_at_once == 0 {
            return refuse("no slots, or nothing sent at once".to_owned());
        }
        match self.cluster.fault().or_else(|| self.faults.fault()) {
            Some(why) => refuse(why),
            None => Ok(()),
        }
    }

    /// How many pieces a chunk has.
    pub fn pieces(&self) -> u32 {
        self.size_bytes.div_ceil(u64::from(self.piece_bytes).max(1)).min(u64::from(u32::MAX)) as u32
    }

    /// How many racks the nodes fill.
    pub fn racks(&self) -> usize {
        (self.origins + self.receivers).div_ceil(self.cluster.nodes_per_rack.max(1))
    }

    /// How many chunks there are, those of the flows included. They come after the scenario's own.
    pub(crate) fn transfers(&self) -> usize {
        self.chunks + self.flows.len()
    }

    fn flow(&self, chunk: usize) -> Option<&Flow> {
        self.flows.get(chunk.checked_sub(self.chunks)?)
    }

    fn bytes_of(&self, chunk: usize) -> u64 {
        self.flow(chunk).map_or(self.size_bytes, |flow| flow.size_bytes)
    }

    /// How many pieces one of the chunks has.
    pub(crate) fn pieces_of(&self, chunk: usize) -> u32 {
        self.bytes_of(chunk).div_ceil(u64::from(self.piece_bytes)) as u32
    }

    /// How much one of the chunks matters.
    pub(crate) fn priority_of(&self, chunk: usize) -> Priority {
        self.flow(chunk).map_or(Priority::Normal, |flow| flow.priority)
    }

    /// How long after it has joined a receiver begins to want one of the chunks, in nanoseconds. Of several versions,
    /// each comes half an ideal time after the last.
    pub(crate) fn begins_ns(&self, chunk: usize) -> u64 {
        match self.flow(chunk) {
            Some(flow) => (flow.begins * self.ideal_ns() as f64) as u64,
            None => chunk as u64 * self.ideal_ns() / 2,
        }
    }

    /// Bytes of a piece of one of the chunks.
    pub(crate) fn length(&self, chunk: usize, piece: u32) -> u64 {
        let piece_bytes = u64::from(self.piece_bytes);
        piece_bytes.min(self.bytes_of(chunk).saturating_sub(u64::from(piece) * piece_bytes))
    }

    /// The time that all bytes of a chunk take through an ordinary node's cards, in nanoseconds.
    pub fn ideal_ns(&self) -> u64 {
        time_ns(self.size_bytes, self.cluster.node_gbps())
    }

    /// The least time in which all receivers can have a chunk, in nanoseconds: `max(S/B_source, S/B_receiver) +
    /// α log₂ N`, where α is the time that one piece takes from one node to the next. No more than twice as many nodes
    /// can have a piece after α.
    pub fn bound_ns(&self) -> u64 {
        let hop_ns = time_ns(self.length(0, 0), self.cluster.node_gbps()) + self.cluster.latency_ns;
        self.ideal_ns() + (hop_ns as f64 * (self.receivers as f64).log2()) as u64
    }
}
