//! Start, stop, settings.

use suites::{Cluster, Node, shoal};

#[test]
fn a_node_starts_stops_and_starts_again() {
    let mut node = Node::start();
    let status = shoal(&node, ["status", "--json"]).success().json();
    assert_eq!(status["node"]["name"], "n1");
    node.stop();
    node.restart();
    shoal(&node, ["ls"]).success();
    node.kill();
}

#[test]
fn two_nodes_meet() {
    let cluster = Cluster::start(2);
    let nodes = shoal(&cluster.nodes[1], ["node", "ls", "--json"]).success().json();
    assert_eq!(nodes.as_array().unwrap().len(), 2, "{nodes}");
}
