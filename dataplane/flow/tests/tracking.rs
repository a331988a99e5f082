//! A tracker under any order of events.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use flow::chunk::ChunkId;
use flow::swarm::tracker::Tracker;
use flow::time::Instant;
use flow::wire::control::{Holding, NodeId};
use proptest::prelude::*;

const CHUNK: ChunkId = ChunkId([1; 32]);

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn a_tracker_names_members_only(seed: u64) {
        let mut rng = Rng::with_seed(seed);
        let mut tracker = Tracker::new(seed);
        let mut members: BTreeMap<NodeId, bool> = BTreeMap::new();
        let now = Instant::ZERO;
        for _ in 0..300 {
            let node = rng.u64(1..60);
            let rack = format!("r{}", node % 3);
            match rng.u8(0..8) {
                0 => {
                    tracker.on_announce(now, node, &rack, CHUNK, Holding::Complete);
                    members.insert(node, true);
                }
                1 => {
                    tracker.on_announce(now, node, &rack, CHUNK, Holding::None);
                    members.remove(&node);
                }
                2 => {
                    tracker.on_node_lost(node);
                    members.remove(&node);
                }
                _ => {
                    let named = tracker.join(now, CHUNK, node, &rack, 16);
                    members.entry(node).or_insert(false);
                    let nodes: BTreeSet<NodeId> = named.iter().map(|peer| peer.node).collect();
                    prop_assert_eq!(nodes.len(), named.len(), "a peer is named twice");
                    // Names are drawn at random, and a draw may repeat one.
                    let most = 16.min(members.len() - 1);
                    prop_assert!((most.div_ceil(2)..=most).contains(&named.len()));
                    for peer in &named {
                        prop_assert_ne!(peer.node, node);
                        prop_assert_eq!(members.get(&peer.node), Some(&peer.complete));
                        prop_assert_eq!(peer.near, peer.node % 3 == node % 3);
                    }
                    let sources = members.iter().any(|(member, complete)| *complete && *member != node);
                    prop_assert_eq!(named.iter().any(|peer| peer.complete), sources);
                }
            }
        }
    }
}
