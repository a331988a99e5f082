//! `shoal node …`

use flow::wire::control::{NodeRecord, NodeState};

use crate::failure::Failure;
use crate::global::Global;
use crate::put::note;
use crate::table::Table;
use crate::{amount, output, progress};

/// Look at the nodes of the cluster, and empty one
#[derive(clap::Subcommand)]
pub enum Node {
    /// List the nodes
    #[command(after_help = "\
Examples:
  shoal node ls
  shoal node ls --json | jq -r '.[] | select(.state == \"dead\") | .name'")]
    Ls,
    /// Move every chunk that only this node has to others, and place nothing on it any more
    ///
    /// Returns when the node can be stopped without loss.
    #[command(after_help = "\
Examples:
  shoal node drain n3")]
    Drain {
        /// Name of the node, as `shoal node ls` shows it
        name: String,
    },
}

impl Node {
    /// Carries it out.
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.connect()?;
        match self {
            Node::Ls => {
                let mut nodes = client.nodes()?.nodes;
                nodes.sort_by(|left, right| left.name.cmp(&right.name));
                if global.json { output::json(&nodes) } else { output::text(&table(&nodes).to_string()) }
            }
            Node::Drain { name } => {
                progress::spin(global.draws(), format!("draining {name}"), || client.drain(&name))?;
                note(global, format_args!("{name} is drained: it can be stopped without loss"));
                Ok(())
            }
        }
    }
}

fn table(nodes: &[NodeRecord]) -> Table {
    let mut table = Table::new([
        "NAME", "STATE", "ROLE", "ADDRESS", "RACK", ">SHARDS", ">MEMORY", ">LIMIT", ">NVME", ">UP",
    ]);
    for node in nodes {
        let state = match node.state {
            NodeState::Alive => "alive",
            NodeState::Draining => "draining",
            NodeState::Dead => "dead",
        };
        table.row([
            node.name.clone(),
            state.into(),
            if node.head { "head" } else { "member" }.into(),
            node.address.clone(),
            if node.rack.is_empty() { "-".into() } else { node.rack.clone() },
            node.shards.to_string(),
            amount::size(node.memory_used),
            amount::size(node.memory_limit),
            amount::size(node.nvme_used),
            if node.state == NodeState::Dead { "-".into() } else { amount::age(node.incarnation) },
        ]);
    }
    table
}
