//! What a fetch knows of one source.

use std::time::Duration;

use crate::bitmap::Bitmap;
use crate::time::Instant;
use crate::wire::control::NodeId;

/// Grants that a source gets before it has delivered anything.
const WINDOW_START: usize = 2;
/// How often the rest of a source that declines doubles.
const REST_DOUBLINGS_MAX: u32 = 2;

/// A peer that declines so often in a row is asked again what it has, and whenever that has doubled: news of it may have
/// been lost or overtaken, and refusals count as activity, so that nobody would doubt the fetch.
const DECLINES_DOUBTED: u32 = 512;

/// How far the acquaintance has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Named by the tracker.
    Named,
    /// A connection was asked for; given up at this time.
    Connecting(Instant),
    /// It said what it has.
    Connected,
}

/// One possible source of one chunk.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) node: NodeId,
    pub(super) near: bool,
    pub(super) stage: Stage,
    /// It came by itself; the tracker did not name it.
    pub(super) incoming: bool,
    /// It had the whole chunk when it was first heard of.
    pub(super) origin: bool,
    pub(super) have: Bitmap,
    /// Grants open towards it.
    pub(super) open: usize,
    /// Grants it may have open.
    pub(super) window: usize,
    /// Nothing that it has is both missing and unasked. Cleared when that may have changed.
    pub(super) exhausted: bool,
    /// Pieces that it sent wrongly.
    pub(super) spoiled: Vec<u32>,
    /// Wrong pieces, and pieces that were not asked for.
    pub(super) bad: u32,
    /// Deadlines missed since it last delivered.
    pub(super) missed: u32,
    /// It is not asked before this time.
    pub(super) rest_until: Instant,
    /// It has sent a piece and was not asked since: one of its upload slots is likely to be free.
    pub(super) freed: bool,
    /// It said that nothing is asked of it, and was not asked since.
    pub(super) has_told_room: bool,
    missed_at: Instant,
    declines: u32,
    /// Moving average of the time from grant to verified piece.
    pub(super) service: Option<Duration>,
}

impl Peer {
    pub(super) fn new(node: NodeId, near: bool, origin: bool, pieces: u32) -> Self {
        Self {
            node,
            near,
            stage: Stage::Named,
            incoming: false,
            origin,
            have: Bitmap::new(pieces),
            open: 0,
            window: WINDOW_START,
            exhausted: false,
            spoiled: Vec::new(),
            bad: 0,
            missed: 0,
            rest_until: Instant::ZERO,
            freed: false,
            has_told_room: false,
            missed_at: Instant::ZERO,
            declines: 0,
            service: None,
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.stage == Stage::Connected
    }

    /// Whether it is connected, or about to be, since the tracker named it.
    pub(super) fn is_outgoing(&self) -> bool {
        !self.incoming && self.stage != Stage::Named
    }

    /// Whether what it sends crosses into this node's rack and could come from within it as well: what origins send
    /// enters the swarm there alone.
    pub(super) fn is_far(&self) -> bool {
        !self.near && !self.origin
    }

    /// Whether another grant may be opened towards it.
    pub(super) fn has_room(&self, now: Instant) -> bool {
        self.is_connected() && self.open < self.window && self.rest_until <= now
    }

    /// Whether it ever delivered.
    pub(super) fn has_delivered(&self) -> bool {
        self.service.is_some()
    }

    /// A grant is opened towards it.
    pub(super) fn asked(&mut self) {
        self.open += 1;
        self.freed = false;
        self.has_told_room = false;
    }

    /// It said that nothing is asked of it: it need not rest, and is as good as one that has just sent a piece.
    pub(super) fn has_told_room(&mut self) {
        self.freed = true;
        self.has_told_room = true;
        self.rest_until = Instant::ZERO;
    }

    pub(super) fn delivered(&mut self, took: Duration, window_max: usize) {
        self.service = Some(self.service.map_or(took, |service| (service * 7 + took) / 8));
        self.missed = 0;
        self.declines = 0;
        self.freed = true;
        self.window = (self.window + 1).min(window_max);
    }

    /// A grant opened at `opened` missed its deadline. Grants that were open at the same time count as one.
    pub(super) fn missed_deadline(&mut self, opened: Instant, now: Instant) {
        if opened < self.missed_at {
            return;
        }
        self.missed_at = now;
        self.missed = self.missed.saturating_add(1);
        self.window = (self.window / 2).max(1);
    }

    /// It declined a grant: it rests for `rest`, longer each time in a row. Whether to ask it again what it has.
    pub(super) fn declined(&mut self, now: Instant, rest: Duration) -> bool {
        self.freed = false;
        self.rest_until = now + rest * (1 << self.declines.min(REST_DOUBLINGS_MAX));
        self.declines = self.declines.saturating_add(1);
        self.declines >= DECLINES_DOUBTED && self.declines.is_power_of_two()
    }
}
