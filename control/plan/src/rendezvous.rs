//! Which nodes track a chunk: highest random weight over the live nodes.
//!
//! Every node computes the same answer from the same membership, with no table to keep. When a node leaves, only
//! its chunks get another tracker; when one joins, it takes over its share and nothing else moves.

/// The trackers of a chunk, the first one foremost: the `count` of the live nodes with the highest weights for
/// it, or all when there are fewer. The order and repetition of `live_nodes` do not matter.
pub fn trackers(chunk: &[u8; 32], live_nodes: impl Iterator<Item = u64>, count: usize) -> Vec<u64> {
    let mut chosen: Vec<(u64, u64)> = Vec::new();
    for node in live_nodes {
        let ranked = (weight(chunk, node), node);
        let at = chosen.partition_point(|other| *other > ranked);
        if at < count && chosen.get(at) != Some(&ranked) {
            chosen.truncate(count - 1);
            chosen.insert(at, ranked);
        }
    }
    chosen.into_iter().map(|(_, node)| node).collect()
}

fn weight(chunk: &[u8; 32], node: u64) -> u64 {
    let mut head = [0; 8];
    head.copy_from_slice(&chunk[..8]);
    mix(u64::from_le_bytes(head) ^ mix(node))
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): each bit of the input flips half of the output. A
/// cryptographic hash for each node and chunk would be too slow with thousands of nodes.
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn chunk(number: u64) -> [u8; 32] {
        *blake3::hash(&number.to_le_bytes()).as_bytes()
    }

    #[test]
    fn chunks_are_spread_evenly_even_over_consecutive_node_ids() {
        const NODES: u64 = 50;
        const CHUNKS: u64 = 200_000;
        let mut load: BTreeMap<u64, u64> = BTreeMap::new();
        for number in 0..CHUNKS {
            for node in trackers(&chunk(number), 1..=NODES, 2) {
                *load.entry(node).or_default() += 1;
            }
        }
        let fair = 2 * CHUNKS / NODES;
        assert_eq!(load.len() as u64, NODES);
        for (node, load) in load {
            assert!(load.abs_diff(fair) < fair / 20, "node {node} tracks {load}, fair is {fair}");
        }
    }

    #[test]
    fn fewer_nodes_than_wanted_are_all_named() {
        assert_eq!(trackers(&chunk(1), std::iter::empty(), 2), []);
        assert_eq!(trackers(&chunk(1), [7, 7].into_iter(), 2), [7]);
        assert_eq!(trackers(&chunk(1), [7, 8].into_iter(), 0), []);
    }

    proptest! {
        #[test]
        fn a_leaver_disturbs_only_its_own_chunks(
            nodes in prop::collection::btree_set(any::<u64>(), 2..40), number in any::<u64>(), count in 1..4_usize,
        ) {
            let before = trackers(&chunk(number), nodes.iter().copied(), count);
            prop_assert_eq!(before.len(), count.min(nodes.len()));
            prop_assert_eq!(&before, &trackers(&chunk(number), nodes.iter().rev().copied(), count));
            for leaver in &nodes {
                let rest = nodes.iter().copied().filter(|node| node != leaver);
                let after = trackers(&chunk(number), rest, count);
                let kept: Vec<u64> = before.iter().copied().filter(|node| node != leaver).collect();
                prop_assert!(after.starts_with(&kept));
            }
        }
    }
}
