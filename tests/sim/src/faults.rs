//! Who is slow, late, dead, cut off, or lies.

use fastrand::Rng;

use crate::scenario::Scenario;

/// What goes wrong. Shares are of the receivers, from 0 to 1, drawn apart from each other. Moments are given as parts of
/// the ideal time: the time that all bytes take on the links of an ordinary node.
#[derive(Debug, Clone, PartialEq)]
pub struct Faults {
    /// Share of receivers whose cards are slow.
    pub slow: f64,
    /// How many times slower these are.
    pub slowness: f64,
    /// Share of receivers whose slowness is drawn from a distribution with a heavy tail (Pareto).
    pub straggling: f64,
    /// Its shape: the share of stragglers that are `x` times slower or more is `x` to the power of minus this.
    pub straggler_shape: f64,
    /// Share of receivers that die, at any time before the ideal end.
    pub dying: f64,
    /// Share of receivers that join late, at any time before the ideal end.
    pub late: f64,
    /// Share of receivers with a lossy link: each hundredth slice or message holds all that the node sends and gets for
    /// the time of a retransmission.
    pub lossy: f64,
    /// Share of receivers of whom, from some time on, nothing arrives anywhere, though they live.
    pub one_way: f64,
    /// Receivers that send wrong bytes.
    pub liars: usize,
    /// Racks that die as a whole, at any time before the ideal end. The one of the first origin is spared.
    pub racks_lost: usize,
    /// When the origins die.
    pub origins_die_at: Option<f64>,
    /// When all trackers fall silent for good.
    pub trackers_silent_at: Option<f64>,
    /// When the nodes that track the chunk die.
    pub trackers_die_at: Option<f64>,
    /// The network falls apart for a while.
    pub partition: Option<Partition>,
    /// Nanoseconds after which a dead node is missed by those who are connected to it.
    pub detection_ns: u64,
}

/// Some racks cannot reach the others for a while.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Partition {
    /// When it begins.
    pub begins: f64,
    /// How long it lasts.
    pub lasts: f64,
    /// Share of the racks that are cut off from the rest.
    pub share: f64,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            slow: 0.0,
            slowness: 4.0,
            straggling: 0.0,
            straggler_shape: 1.5,
            dying: 0.0,
            late: 0.0,
            lossy: 0.0,
            one_way: 0.0,
            liars: 0,
            racks_lost: 0,
            origins_die_at: None,
            trackers_silent_at: None,
            trackers_die_at: None,
            partition: None,
            detection_ns: 50_000_000,
        }
    }
}

/// Slower than that is as good as dead.
const SLOWNESS_MAX: f64 = 1000.0;

impl Faults {
    /// Why such faults cannot be simulated.
    pub(crate) fn fault(&self) -> Option<String> {
        let shares = [self.slow, self.straggling, self.dying, self.late, self.lossy, self.one_way];
        if let Some(share) = shares.iter().find(|share| !(0.0..=1.0).contains(*share)) {
            return Some(format!("a share of {share} of the receivers; it must be from 0 to 1"));
        }
        if !(1.0..=SLOWNESS_MAX).contains(&self.slowness) {
            return Some(format!("{} times slower; it must be from 1 to {SLOWNESS_MAX}", self.slowness));
        }
        if !(0.1..=100.0).contains(&self.straggler_shape) {
            return Some(format!("a tail of shape {}; it must be from 0.1 to 100", self.straggler_shape));
        }
        let moments = [self.origins_die_at, self.trackers_silent_at, self.trackers_die_at];
        let partition = self.partition.map(|partition| [partition.begins, partition.lasts]);
        let mut moments = moments.into_iter().flatten().chain(partition.into_iter().flatten());
        let wrong = moments.find(|moment| !(0.0..=1000.0).contains(moment));
        wrong.map(|moment| format!("a moment at {moment} of the ideal time; it must be from 0 to 1000"))
    }
}

/// What becomes of one node. Times are in nanoseconds.
#[derive(Debug, Clone)]
pub(crate) struct Fate {
    /// How many times slower its cards are.
    pub(crate) slowness: f64,
    pub(crate) lies: bool,
    pub(crate) lossy: bool,
    pub(crate) late: bool,
    pub(crate) joins_ns: u64,
    pub(crate) dies_ns: Option<u64>,
    pub(crate) mute_ns: Option<u64>,
}

impl Default for Fate {
    fn default() -> Self {
        Self {
            slowness: 1.0,
            lies: false,
            lossy: false,
            late: false,
            joins_ns: 0,
            dies_ns: None,
            mute_ns: None,
        }
    }
}

/// The fates of all nodes, origins first.
pub(crate) fn fates(scenario: &Scenario, rng: &mut Rng) -> Vec<Fate> {
    let faults = &scenario.faults;
    let (origins, receivers, ideal_ns) = (scenario.origins, scenario.receivers, scenario.ideal_ns().max(1));
    let at_ns = |moment: f64| (moment * ideal_ns as f64) as u64;
    let mut fates = vec![Fate::default(); origins + receivers];
    for fate in &mut fates[..origins] {
        fate.dies_ns = faults.origins_die_at.map(at_ns);
    }
    let mut order: Vec<usize> = (origins..origins + receivers).collect();
    let mut draw = |rng: &mut Rng, count: usize| {
        rng.shuffle(&mut order);
        order[..count.min(receivers)].to_vec()
    };
    let count = |share: f64| (receivers as f64 * share).round() as usize;
    for at in draw(rng, count(faults.slow)) {
        fates[at].slowness = faults.slowness;
    }
    for at in draw(rng, count(faults.straggling)) {
        let tail = (1.0 - rng.f64()).powf(-1.0 / faults.straggler_shape);
        fates[at].slowness = (fates[at].slowness * tail).min(SLOWNESS_MAX);
    }
    for at in draw(rng, count(faults.dying)) {
        fates[at].dies_ns = Some(rng.u64(0..ideal_ns));
    }
    for at in draw(rng, count(faults.late)) {
        fates[at].late = true;
        fates[at].joins_ns = rng.u64(0..ideal_ns);
    }
    for at in draw(rng, count(faults.lossy)) {
        fates[at].lossy = true;
    }
    for at in draw(rng, count(faults.one_way)) {
        fates[at].mute_ns = Some(rng.u64(0..ideal_ns));
    }
    for at in draw(rng, faults.liars) {
        fates[at].lies = true;
    }
    let racks = scenario.racks();
    let mut others: Vec<usize> = (1..racks).collect();
    rng.shuffle(&mut others);
    for rack in others.into_iter().take(faults.racks_lost) {
        let dies_ns = rng.u64(0..ideal_ns);
        for (_, fate) in fates.iter_mut().enumerate().filter(|(at, _)| scenario.cluster.rack(*at) == rack) {
            fate.dies_ns = Some(fate.dies_ns.map_or(dies_ns, |dies| dies.min(dies_ns)));
        }
    }
    fates
}
