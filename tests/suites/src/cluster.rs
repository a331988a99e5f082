//! Nodes that are a cluster: a head and its members, or equals on etcd.

use flow::wire::control::NodeState;

use crate::etcd::Etcds;
use crate::node::{Node, Setup};
use crate::wait::holds;

/// Nodes that know each other. The first is the head, unless they are equals on etcd. Dropping it ends them all.
pub struct Cluster {
    /// The nodes, `n1` first.
    pub nodes: Vec<Node>,
}

impl Cluster {
    /// Starts so many nodes, named `n1`, `n2` and so on, and waits until each knows all.
    pub fn start(count: usize) -> Self {
        Self::start_with(count, |setup| setup)
    }

    /// Starts nodes whose setups are changed first.
    pub fn start_with(count: usize, change: impl Fn(Setup) -> Setup) -> Self {
        let setup = |at: usize| change(Setup::named(&format!("n{}", at + 1)));
        let mut cluster = Self { nodes: vec![setup(0).start()] };
        for at in 1..count {
            let member = setup(at).join(cluster.head()).start();
            cluster.nodes.push(member);
        }
        cluster.wait_until_all_know(count);
        cluster
    }

    /// Starts equals, whose catalog is on etcd, with setups that are changed first, and waits until each knows all.
    pub fn start_on(etcds: &Etcds, count: usize, change: impl Fn(Setup) -> Setup) -> Self {
        let setup = |at: usize| change(Setup::named(&format!("n{}", at + 1)).on(etcds));
        let cluster = Self { nodes: (0..count).map(|at| setup(at).start()).collect() };
        cluster.wait_until_all_know(count);
        cluster
    }

    /// The head.
    pub fn head(&self) -> &Node {
        &self.nodes[0]
    }

    /// Starts one more member and waits until all know it.
    pub fn add(&mut self, setup: Setup) -> &Node {
        self.nodes.push(setup.join(&self.nodes[0]).start());
        self.wait_until_all_know(self.nodes.len());
        &self.nodes[self.nodes.len() - 1]
    }

    /// Waits until each node that runs counts so many nodes alive.
    pub fn wait_until_all_know(&self, alive: usize) {
        for node in self.nodes.iter().filter(|node| node.runs()) {
            holds(&format!("node {} knows {alive} nodes that live", node.name()), || {
                let Some(nodes) = node.try_client().and_then(|client| client.nodes().ok()) else {
                    return false;
                };
                nodes.nodes.iter().filter(|node| node.state == NodeState::Alive).count() == alive
            });
        }
    }
}
