//! How much is asked for from other racks: what their uplinks carry without holding it up.

use std::time::Duration;

use super::Fetch;
use super::peer::Peer;
use crate::time::Instant;

/// A piece from afar that took so many times as long as one from nearby was held up, in hundredths.
const HELD_UP_PERCENT: u32 = 125;
/// Grants towards other racks that are open at once at least.
const FAR_MIN: f64 = 1.0;
/// The same while nobody near has anything to ask for.
const FAR_MIN_ALONE: f64 = 2.0;
/// At most: more than a fetch has under way with names, so that it is none.
const FAR_MAX: f64 = 8.0;
/// How many more it may be after each piece that was not held up.
const FAR_STEP: f64 = 0.25;

/// What a fetch has learned of the links between racks.
#[derive(Debug)]
pub(super) struct Spine {
    /// Moving average of the time from grant to verified piece, over those that came from nearby.
    near_pace: Option<Duration>,
    /// Grants towards other racks that may be open at once.
    far_grants: f64,
}

impl Spine {
    pub(super) fn new() -> Self {
        Self { near_pace: None, far_grants: FAR_MIN }
    }

    /// A piece came, from a source nearby or not.
    pub(super) fn came(&mut self, near: bool, took: Duration) {
        match near {
            true => self.near_came(took),
            false => self.far_came(took),
        }
    }

    /// A piece came from a source nearby.
    fn near_came(&mut self, took: Duration) {
        self.near_pace = Some(self.near_pace.map_or(took, |pace| (pace * 7 + took) / 8));
    }

    /// A piece came from another rack. As many grants as its uplink has room for are found as TCP finds its window: a
    /// few more as long as nothing is held up, and half as many when something is.
    fn far_came(&mut self, took: Duration) {
        let is_held_up = self.near_pace.is_some_and(|near_pace| took * 100 > near_pace * HELD_UP_PERCENT);
        self.far_grants = match is_held_up {
            true => (self.far_grants / 2.0).max(FAR_MIN),
            false => (self.far_grants + FAR_STEP).min(FAR_MAX),
        };
    }
}

impl Fetch {
    /// Whether no more is to be asked for from other racks. Where nobody is near, or racks are not known, all sources are
    /// alike.
    pub(super) fn spine_is_busy(&self, now: Instant) -> bool {
        let connected = || self.peers.iter().filter(|peer| peer.is_connected());
        let far: usize = connected().filter(|peer| peer.is_far()).map(|peer| peer.open).sum();
        let helps = |peer: &Peer| peer.near && (peer.open > 0 || (!peer.exhausted && peer.has_room(now)));
        let least = if connected().any(helps) { FAR_MIN } else { FAR_MIN_ALONE };
        far as f64 >= self.spine.far_grants.max(least) && connected().any(|peer| peer.near)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn far_grants_rise_while_nothing_is_held_up_and_fall_when_it_is() {
        let mut spine = Spine::new();
        spine.far_came(20 * MS);
        assert_eq!(spine.far_grants, FAR_MIN + FAR_STEP, "there is nothing to compare it with");
        spine.near_came(10 * MS);
        (0..100).for_each(|_| spine.far_came(11 * MS));
        assert_eq!(spine.far_grants, FAR_MAX);
        spine.far_came(20 * MS);
        assert_eq!(spine.far_grants, FAR_MAX / 2.0);
        (0..100).for_each(|_| spine.far_came(20 * MS));
        assert_eq!(spine.far_grants, FAR_MIN);
    }
}
