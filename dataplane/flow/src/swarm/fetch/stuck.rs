//! Whether anybody is left who can help.

use super::Fetch;
use super::peer::Stage;
use crate::wire::control::NodeId;

impl Fetch {
    /// Whether nothing is under way and nothing can come. `holders` are all nodes that have pieces of the chunk, this
    /// one left out, and how many pieces each has at least: none of them may be of use, because it is refused for what
    /// it sent, or because it is connected and what it has is here.
    pub fn is_stuck(&self, holders: &[(NodeId, u32)]) -> bool {
        let of_use = |&(node, pieces): &(NodeId, u32)| {
            let peer = self.peers.find(node).filter(|peer| peer.is_connected());
            let is_known = |peer: &super::Peer| {
                let [theirs, ours] = [peer.have.words(), self.have.words()];
                peer.have.count() >= pieces
                    && theirs.iter().zip(ours).all(|(theirs, ours)| theirs & !ours == 0)
            };
            !self.banned.contains(&node) && !peer.is_some_and(is_known)
        };
        self.grants.len() == 0 && !self.have.is_full() && !holders.iter().any(of_use)
    }

    /// Whether a peer that is to be connected has yet to say what it has.
    pub fn is_getting_acquainted(&self) -> bool {
        self.peers.iter().any(|peer| matches!(peer.stage, Stage::Connecting(_)))
    }

    /// Whether a peer is connected, or is to be.
    pub fn is_acquainted(&self, peer: NodeId) -> bool {
        self.peers.iter().any(|known| known.node == peer && known.stage != Stage::Named)
    }

    /// Those of `holders` that are connected and have more pieces than they told of: news were lost or overtaken, and
    /// they must be asked again.
    pub fn untold(&self, holders: &[(NodeId, u32)]) -> Vec<NodeId> {
        let told = |node| self.peers.find(node).filter(|peer| peer.is_connected());
        let has_more =
            |&&(node, pieces): &&(NodeId, u32)| told(node).is_some_and(|peer| peer.have.count() < pieces);
        holders.iter().filter(has_more).map(|&(node, _)| node).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::bitmap::Bitmap;
    use crate::limits::BAD_PIECES_PER_PEER;
    use crate::swarm::{Action, Fetch, Settings};
    use crate::time::Instant;
    use crate::wire::control::TrackerPeer;

    const NOW: Instant = Instant::ZERO;

    fn fetch(have: &[u32]) -> Fetch {
        Fetch::new(Settings::default(), of(have), 1, NOW)
    }

    fn of(pieces: &[u32]) -> Bitmap {
        let mut bitmap = Bitmap::new(4);
        pieces.iter().for_each(|&piece| assert!(bitmap.insert(piece)));
        bitmap
    }

    #[test]
    fn without_anybody_a_fetch_is_stuck_unless_it_has_all() {
        assert!(fetch(&[]).is_stuck(&[]));
        assert!(!fetch(&[0, 1, 2, 3]).is_stuck(&[]));
    }

    #[test]
    fn who_is_not_connected_may_help() {
        let mut fetch = fetch(&[]);
        assert!(!fetch.is_stuck(&[(7, 4)]));
        fetch.on_peers(NOW, &[TrackerPeer { node: 7, complete: true, near: true }]);
        assert!(!fetch.is_stuck(&[(7, 4)]) && !fetch.is_getting_acquainted());
        assert_eq!(fetch.poll(NOW, 1), Some(Action::Connect { peer: 7 }));
        assert!(fetch.is_getting_acquainted());
        fetch.on_interest(NOW, 7, true, of(&[0]));
        assert!(!fetch.is_getting_acquainted());
    }

    #[test]
    fn who_has_nothing_that_is_missing_cannot_help() {
        let mut fetch = fetch(&[0, 1]);
        fetch.on_interest(NOW, 7, true, of(&[0]));
        assert!(fetch.is_stuck(&[(7, 1)]));
        assert!(!fetch.is_stuck(&[(7, 2)]), "it has a piece that it has not told of");
        assert_eq!((fetch.untold(&[(7, 2), (8, 1)]), fetch.untold(&[(7, 1)])), (vec![7], vec![]));
        fetch.on_have(NOW, 7, &[2]);
        assert!(!fetch.is_stuck(&[(7, 2)]));
    }

    #[test]
    fn who_sent_bad_pieces_cannot_help() {
        let mut fetch = fetch(&[]);
        fetch.on_interest(NOW, 7, true, Bitmap::full(4));
        let mut bad = 0;
        while bad < BAD_PIECES_PER_PEER {
            assert!(!fetch.is_stuck(&[(7, 4)]));
            let Some(Action::Grant { grant, .. }) = fetch.poll(NOW, 1) else { continue };
            let _ = fetch.on_arriving(NOW, 7, grant, bad);
            fetch.on_corrupt(NOW, grant);
            bad += 1;
        }
        assert!(fetch.is_stuck(&[(7, 4)]));
    }

    #[test]
    fn who_declines_again_and_again_is_asked_again_what_it_has() {
        let mut fetch = fetch(&[0, 1, 2]);
        fetch.on_interest(NOW, 7, true, of(&[0, 3]));
        let mut declined = 0;
        let mut asked_after = Vec::new();
        for step in 0..3000 {
            let now = NOW + Duration::from_secs(step);
            match fetch.poll(now, 1) {
                Some(Action::Grant { peer, grant, .. }) => {
                    declined += 1;
                    fetch.on_declined(now, peer, grant);
                }
                Some(Action::Connect { peer: 7 }) => asked_after.push(declined),
                _ => {}
            }
        }
        assert_eq!(asked_after[..2], [512, 1024]);
        assert!(!fetch.is_stuck(&[(7, 2)]));
        fetch.on_interest(NOW, 7, true, of(&[0]));
        assert!(fetch.is_stuck(&[(7, 1)]), "it has lost the piece");
    }
}
