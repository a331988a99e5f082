//! `shoal status`

use std::collections::BTreeMap;

use flow::wire::control::{NodeRecord, NodeState};
use flow::wire::session::{GpuRecord, Status as NodeStatus};
use serde::Serialize;

use crate::failure::Failure;
use crate::global::Global;
use crate::table::Table;
use crate::{amount, output};

/// Show how the node and its cluster are doing
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  shoal status
  shoal status --node 10.0.0.2:9015
  shoal status --json | jq .counters.bytes_sent")]
pub struct Status {}

/// The node's own status and the members, as `--json` prints them.
#[derive(Serialize)]
struct Report {
    node: NodeRecord,
    findings: BTreeMap<String, String>,
    counters: BTreeMap<String, u64>,
    gpus: Vec<GpuRecord>,
    nodes: Vec<NodeRecord>,
}

impl Status {
    /// Shows.
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.connect()?;
        let status = client.status()?;
        let nodes = client.nodes()?.nodes;
        if global.json {
            let NodeStatus { node, findings, counters, gpus } = status;
            let (findings, counters) = (BTreeMap::from_iter(findings), BTreeMap::from_iter(counters));
            return output::json(&Report { node, findings, counters, gpus, nodes });
        }
        output::text(&describe(&status, &nodes))
    }
}

fn describe(status: &NodeStatus, nodes: &[NodeRecord]) -> String {
    let node = &status.node;
    let in_state = |state| nodes.iter().filter(|node| node.state == state).count();
    // Without a head the catalog is on etcd, or this node has not joined anybody yet; the findings say which.
    let head = nodes.iter().find(|node| node.head);
    let head = head.map(|node| format!("; the head is {}", node.name)).unwrap_or_default();
    let mut text = format!(
        "node     {} ({:016x}) at {}, {}\n\
         memory   {} of {}\n\
         nvme     {}\n\
         cluster  {}: {} alive, {} draining, {} dead{head}\n",
        node.name,
        node.node,
        node.address,
        amount::count(node.shards.into(), "shard"),
        amount::size(node.memory_used),
        amount::size(node.memory_limit),
        amount::size(node.nvme_used),
        amount::count(nodes.len() as u64, "node"),
        in_state(NodeState::Alive),
        in_state(NodeState::Draining),
        in_state(NodeState::Dead),
    );
    let mut gpus = Table::new(["GPU", "NAME", ">USED", ">LIMIT", ">MEMORY"]);
    for gpu in &status.gpus {
        let sizes = [gpu.used_bytes, gpu.limit_bytes, gpu.memory_bytes].map(amount::size);
        let [used, limit, memory] = sizes;
        gpus.row([format!("gpu:{}", gpu.index), gpu.name.clone(), used, limit, memory]);
    }
    let mut findings = Table::new(["FINDING", "STATE"]);
    status.findings.iter().for_each(|(topic, state)| findings.row([topic.clone(), state.clone()]));
    let mut counters = Table::new(["COUNTER", ">VALUE"]);
    status.counters.iter().for_each(|(name, value)| counters.row([name.clone(), value.to_string()]));
    for table in [gpus, findings, counters].iter().filter(|table| !table.is_empty()) {
        text += &format!("\n{table}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_is_summed_up() {
        let record = |name: &str, state, head| NodeRecord {
            node: 7,
            name: name.into(),
            address: "10.0.0.1:9015".into(),
            rack: String::new(),
            shards: 1,
            incarnation: 0,
            state,
            head,
            memory_limit: 1 << 30,
            memory_used: 1 << 20,
            nvme_used: 0,
        };
        let nodes = [record("n0", NodeState::Alive, true), record("n1", NodeState::Dead, false)];
        let counters = vec![("pieces_sent".to_owned(), 12)];
        let status = NodeStatus { node: nodes[0].clone(), findings: Vec::new(), counters, gpus: Vec::new() };
        let text = describe(&status, &nodes);
        assert!(text.contains("2 nodes: 1 alive, 0 draining, 1 dead; the head is n0"), "{text}");
        assert!(text.contains("1.0 MiB of 1.0 GiB"), "{text}");
        assert!(text.ends_with("\nCOUNTER      VALUE\npieces_sent     12\n"), "{text}");
    }
}
