//! Who passes a piece on to whom where that is fixed in advance.

use crate::strategy::Strategy;

/// The trees of a strategy over the origin, which is node 0, and all receivers in their order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Route {
    strategy: Strategy,
    receivers: usize,
    parts: u32,
}

impl Route {
    pub(crate) fn new(strategy: Strategy, receivers: usize, parts: u32) -> Self {
        Self { strategy, receivers, parts }
    }

    /// To whom a node passes a part on, the first one first.
    pub(crate) fn children(&self, part: u32, node: usize) -> Vec<usize> {
        let last = self.receivers;
        let among = |candidates: [usize; 2]| candidates.into_iter().filter(|&to| to <= last).collect();
        match self.strategy {
            Strategy::Star if node == 0 => (1..=last).collect(),
            Strategy::Chain if node < last => vec![node + 1],
            Strategy::Tree => among([2 * node + 1, 2 * node + 2]),
            Strategy::DoubleTree if node == 0 => vec![self.mirrored(part, 1)],
            Strategy::DoubleTree => {
                let place = self.mirrored(part, node);
                let below: Vec<usize> = among([2 * place, 2 * place + 1]);
                below.into_iter().map(|place| self.mirrored(part, place)).collect()
            }
            Strategy::Binomial => {
                let first = if node == 0 { 0 } else { node.ilog2() + 1 };
                let steps = (first..usize::BITS - 1).map(|step| node + (1 << step));
                steps.take_while(|&to| to <= last).collect()
            }
            Strategy::ScatterAllgather if node == 0 => vec![self.owner(part)],
            Strategy::ScatterAllgather => {
                let next = node % last + 1;
                if next == self.owner(part) { Vec::new() } else { vec![next] }
            }
            _ => Vec::new(),
        }
    }

    /// Who passes a part on to a receiver.
    pub(crate) fn parent(&self, part: u32, node: usize) -> usize {
        match self.strategy {
            Strategy::Chain => node - 1,
            Strategy::Tree => (node - 1) / 2,
            Strategy::DoubleTree => match self.mirrored(part, node) / 2 {
                0 => 0,
                place => self.mirrored(part, place),
            },
            Strategy::Binomial => node - (1 << node.ilog2()),
            Strategy::ScatterAllgather if node == self.owner(part) => 0,
            Strategy::ScatterAllgather if node == 1 => self.receivers,
            Strategy::ScatterAllgather => node - 1,
            _ => 0,
        }
    }

    /// The place of a receiver in the tree of a part, or the receiver at a place: the second of two trees is the first
    /// backwards, so that its inner nodes are the first one's leaves.
    fn mirrored(&self, part: u32, node: usize) -> usize {
        if part.is_multiple_of(2) { node } else { self.receivers + 1 - node }
    }

    /// The receiver that gets a part from the origin.
    fn owner(&self, part: u32) -> usize {
        1 + (u64::from(part) * self.receivers as u64 / u64::from(self.parts)) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIXED: [Strategy; 6] = [
        Strategy::Star,
        Strategy::Chain,
        Strategy::Tree,
        Strategy::DoubleTree,
        Strategy::Binomial,
        Strategy::ScatterAllgather,
    ];

    #[test]
    fn every_part_gets_to_every_receiver_once_from_its_parent() {
        for strategy in FIXED {
            for (receivers, parts) in [(1, 1), (2, 3), (7, 7), (8, 20), (33, 40), (100, 9)] {
                let route = Route::new(strategy, receivers, parts);
                for part in 0..parts {
                    let mut got = vec![0; receivers + 1];
                    let mut passing = vec![0];
                    while let Some(node) = passing.pop() {
                        for child in route.children(part, node) {
                            assert_eq!(route.parent(part, child), node, "{strategy} {receivers} {part}");
                            got[child] += 1;
                            passing.push(child);
                        }
                    }
                    assert!(got[1..].iter().all(|&times| times == 1) && got[0] == 0, "{strategy} {got:?}");
                }
            }
        }
    }

    #[test]
    fn inner_nodes_of_one_tree_are_leaves_of_the_other() {
        for receivers in [2, 9, 64, 101] {
            let route = Route::new(Strategy::DoubleTree, receivers, 2);
            let is_inner = |part: u32, node: usize| !route.children(part, node).is_empty();
            assert!((1..=receivers).all(|node| !(is_inner(0, node) && is_inner(1, node))), "{receivers}");
        }
    }
}
