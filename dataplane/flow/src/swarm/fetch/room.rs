//! One piece more than usual, from a source that says that it has room.
//!
//! A fetch asks for as many pieces at once as its links need, and chooses sources at random among those that seem equal. So some source
//! is asked by nobody for a while, though its neighbours lack what it has: they all have asked for enough elsewhere. It says so, and
//! whoever hears it first asks it beyond the usual number. Its link is full again, and those of the receiver's other sources go to
//! others meanwhile.

use super::peer::Peer;
use super::{Action, Fetch};
use crate::limits::UPLOADS_AT_ONCE;
use crate::time::Instant;
use crate::wire::control::NodeId;

/// A source of which pieces take so many times as long as of all sources, in hundredths, is not asked for more than usual: it has
/// room because nobody wants to wait for it.
const SLOW_PERCENT: u32 = 150;

impl Fetch {
    /// A source has sent what it was asked for, and is asked for nothing. It counts if it has sent a piece before, about as fast as
    /// others do.
    pub fn on_room(&mut self, peer: NodeId) {
        let typical = self.tempo.typical();
        let Some(known) = self.peer_mut(peer) else { return };
        let is_slow = |service| service * 100 > typical * SLOW_PERCENT;
        if known.service.is_some_and(|service| !is_slow(service)) {
            known.has_told_room();
            self.settled = false;
        }
    }

    /// Asks a source that has room while as many pieces are asked for as shall be.
    pub(super) fn ask_for_more(&mut self, near_only: bool, now: Instant) -> Option<Action> {
        let at_once = self.settings.pieces_at_once;
        // One for each card's worth, and none for a fetch that leaves room for one that matters more.
        let more = at_once / UPLOADS_AT_ONCE;
        if self.tempo.is_doubted() || self.named_in_time().count() >= at_once + more {
            return None;
        }
        loop {
            let may = |peer: &Peer| {
                let is_reached = !near_only || !peer.is_far();
                peer.has_told_room && peer.open == 0 && is_reached && !peer.exhausted && peer.has_room(now)
            };
            let at = self.best_peer(may)?;
            if let Some(action) = self.grant_to(at, now) {
                return Some(action);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::bitmap::Bitmap;
    use crate::limits::UPLOADS_AT_ONCE;
    use crate::swarm::{Action, Fetch, Settings};
    use crate::time::Instant;
    use crate::wire::control::NodeId;
    use crate::wire::data::Want;

    const PIECES: u32 = 64;
    const PEERS: u64 = 12;
    const MS: Duration = Duration::from_millis(1);

    /// A fetch that knows peers nearby that have all pieces but one.
    fn fetch() -> Fetch {
        let mut fetch = Fetch::new(Settings::default(), Bitmap::new(PIECES), 1, Instant::ZERO);
        for peer in 1..=PEERS {
            let mut have = Bitmap::full(PIECES);
            have.remove(PIECES - 1);
            assert!(fetch.on_interest(Instant::ZERO, peer, true, have));
        }
        fetch
    }

    /// The sources asked and their grants, until there is nothing more to do.
    fn asked(fetch: &mut Fetch, now: Instant) -> Vec<(NodeId, u64, u32)> {
        let actions = std::iter::from_fn(|| fetch.poll(now, 64));
        let grants = actions.filter_map(|action| match action {
            Action::Grant { peer, grant, want: Want::Piece(piece) } => Some((peer, grant, piece)),
            _ => None,
        });
        grants.collect()
    }

    /// The same fetch when its first sources have sent a piece, all in the same time but one that took so many times that, and
    /// others are asked for as many pieces as shall be.
    fn busy(times: u32) -> (Fetch, Instant, NodeId) {
        let mut fetch = fetch();
        let first = asked(&mut fetch, Instant::ZERO);
        assert_eq!(first.len(), UPLOADS_AT_ONCE);
        let (in_time, now) = (Instant::ZERO + 12 * MS, Instant::ZERO + 12 * MS * times);
        for &(peer, grant, piece) in &first {
            fetch.on_arriving(Instant::ZERO, peer, grant, piece);
        }
        first[1..].iter().for_each(|(_, grant, _)| fetch.on_verified(in_time, *grant));
        let (source, grant, _) = first[0];
        fetch.on_verified(now, grant);
        // They are asked again, since they have just sent pieces, decline, and others are asked.
        for (peer, grant, _) in asked(&mut fetch, now) {
            assert!(first.iter().any(|(sent, ..)| *sent == peer));
            fetch.on_declined(now, peer, grant);
        }
        assert_eq!(asked(&mut fetch, now).len(), UPLOADS_AT_ONCE);
        (fetch, now, source)
    }

    #[test]
    fn who_has_room_is_asked_for_one_more_and_no_two() {
        let (mut fetch, now, source) = busy(1);
        fetch.on_room(source);
        let more = asked(&mut fetch, now);
        assert_eq!(more.iter().map(|grant| grant.0).collect::<Vec<_>>(), [source]);
        fetch.on_room(source);
        assert_eq!(asked(&mut fetch, now), [], "one more at a time");
    }

    #[test]
    fn who_never_sent_anything_or_is_slow_is_not_asked_for_more() {
        let (mut fetch, now, _) = busy(1);
        let stranger = fetch.peers.iter().find(|peer| !peer.has_delivered() && peer.open == 0).unwrap().node;
        fetch.on_room(stranger);
        assert_eq!(asked(&mut fetch, now), []);
        let (mut fetch, now, source) = busy(2);
        fetch.on_room(source);
        assert_eq!(asked(&mut fetch, now), []);
        fetch.on_room(99);
    }

    #[test]
    fn a_fetch_that_shall_leave_room_for_others_asks_for_no_more() {
        let (mut fetch, now, source) = busy(1);
        fetch.set_pieces_at_once(UPLOADS_AT_ONCE - 1);
        fetch.on_room(source);
        assert_eq!(asked(&mut fetch, now), []);
    }
}
