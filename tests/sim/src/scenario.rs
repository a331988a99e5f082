//! Who is slow, late, dead, or lies.

use fastrand::Rng;
use flow::limits::UPLOADS_AT_ONCE;
use flow::swarm::Settings;

/// One run of the world. Times are in pieces: the time that a piece takes on an ordinary link.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// From which all that is random follows.
    pub seed: u64,
    /// Nodes that fetch.
    pub receivers: usize,
    /// Nodes that have the chunk at the start.
    pub origins: usize,
    /// Pieces of the chunk.
    pub pieces: u32,
    /// Nanoseconds that a piece takes on an ordinary link.
    pub piece_ns: u64,
    /// Nanoseconds that a message takes.
    pub latency_ns: u64,
    /// Nanoseconds after which a dead node is missed by those who are connected to it.
    pub detection_ns: u64,
    /// Nodes of a rack.
    pub rack_size: usize,
    /// Share of receivers that are slow.
    pub slow: f64,
    /// How many times slower these are.
    pub slowness: u64,
    /// Share of receivers that die during the transfer.
    pub dying: f64,
    /// Share of receivers that join during the transfer.
    pub late: f64,
    /// Receivers that send wrong bytes.
    pub liars: usize,
    /// When the origins die, in pieces.
    pub origins_die_at: Option<u64>,
    /// When the tracker falls silent, in pieces.
    pub tracker_silent_at: Option<u64>,
    /// How a fetch behaves.
    pub settings: Settings,
    /// Pieces that a node sends at once.
    pub uploads_at_once: usize,
    /// Slots of a receiver.
    pub slots: usize,
}

impl Scenario {
    /// `receivers` equal nodes and one origin; 4 MiB pieces at 10 Gbit/s.
    pub fn new(seed: u64, receivers: usize, pieces: u32) -> Self {
        Self {
            seed,
            receivers,
            origins: 1,
            pieces,
            piece_ns: 3_400_000,
            latency_ns: 50_000,
            detection_ns: 50_000_000,
            rack_size: 32,
            slow: 0.0,
            slowness: 4,
            dying: 0.0,
            late: 0.0,
            liars: 0,
            origins_die_at: None,
            tracker_silent_at: None,
            settings: Settings::default(),
            uploads_at_once: UPLOADS_AT_ONCE,
            slots: Settings::default().grants_at_once,
        }
    }

    /// The time that all pieces take on an ordinary link, in nanoseconds.
    pub fn ideal_ns(&self) -> u64 {
        u64::from(self.pieces) * self.piece_ns
    }

    /// What becomes of each receiver.
    pub(crate) fn fates(&self, rng: &mut Rng) -> Vec<Fate> {
        let mut fates = vec![Fate::default(); self.receivers];
        let mut order: Vec<usize> = (0..self.receivers).collect();
        let count = |share: f64| (self.receivers as f64 * share).round() as usize;
        rng.shuffle(&mut order);
        for &at in order.iter().take(count(self.slow)) {
            fates[at].slow = true;
        }
        rng.shuffle(&mut order);
        for &at in order.iter().take(count(self.dying)) {
            fates[at].dies_ns = Some(rng.u64(0..self.ideal_ns()));
        }
        rng.shuffle(&mut order);
        for &at in order.iter().take(count(self.late)) {
            fates[at].joins_ns = rng.u64(0..self.ideal_ns());
        }
        rng.shuffle(&mut order);
        for &at in order.iter().take(self.liars) {
            fates[at].lies = true;
        }
        fates
    }
}

/// What becomes of one node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fate {
    pub(crate) slow: bool,
    pub(crate) lies: bool,
    pub(crate) joins_ns: u64,
    pub(crate) dies_ns: Option<u64>,
}
