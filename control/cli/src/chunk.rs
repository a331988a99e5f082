//! `shoal chunk …`

use std::collections::BTreeMap;

use client::{ChunkId, Client, ClientError};
use flow::wire::control::{NodeId, ReplicaRecord};
use flow::wire::session::{ChunkFetched, ChunkListing, ChunkPin, ChunkPlace, ChunkRemove, Device};
use serde::Serialize;

use crate::failure::Failure;
use crate::global::Global;
use crate::place::Place;
use crate::put::note;
use crate::table::Table;
use crate::{amount, output, progress};

/// How many digits of an id tables show; enough to tell a million chunks apart.
const SHORT_ID: usize = 12;

/// See every chunk, and place, move, pin or drop it
///
/// A chunk may be named by the first digits of its id, as long as they are those of one chunk alone.
#[derive(clap::Subcommand)]
pub enum Chunk {
    /// List all chunks and where their replicas are
    #[command(after_help = "\
Examples:
  shoal chunk ls
  shoal chunk ls --full-ids
  shoal chunk ls --json | jq '.[] | select(.pinned)'")]
    Ls {
        /// Show all digits of the ids
        #[arg(long)]
        full_ids: bool,
    },
    /// Show one chunk
    #[command(after_help = "Examples:\n  shoal chunk info 3fa81c")]
    Info {
        /// The chunk
        id: String,
    },
    /// Move a chunk: when the copy is complete and verified, the replica it came from is dropped
    #[command(after_help = "\
Examples:
  shoal chunk move 3fa81c --to n2:nvme
  shoal chunk move 3fa81c --to n2:dram --from n1")]
    Move {
        /// The chunk
        id: String,
        /// Where to: NODE:DEVICE, with the device dram, nvme, gpu or gpu:N; dram when it is left out
        #[arg(long, value_name = "NODE:DEVICE")]
        to: Place,
        /// Which node's replica is dropped [default: every other node's]
        #[arg(long, value_name = "NODE")]
        from: Option<String>,
    },
    /// Copy a chunk to one more place
    #[command(after_help = "Examples:\n  shoal chunk copy 3fa81c --to n2:dram")]
    Copy {
        /// The chunk
        id: String,
        /// Where to: NODE:DEVICE, with the device dram, nvme, gpu or gpu:N; dram when it is left out
        #[arg(long, value_name = "NODE:DEVICE")]
        to: Place,
    },
    /// Keep a chunk where it is: it is not evicted and not collected
    #[command(after_help = "Examples:\n  shoal chunk pin 3fa81c\n  shoal chunk pin 3fa81c --on n2")]
    Pin {
        /// The chunk
        id: String,
        /// Only on this node [default: wherever it is]
        #[arg(long, value_name = "NODE")]
        on: Option<String>,
    },
    /// Let a pinned chunk go
    #[command(after_help = "Examples:\n  shoal chunk unpin 3fa81c")]
    Unpin {
        /// The chunk
        id: String,
        /// Only on this node [default: wherever it is]
        #[arg(long, value_name = "NODE")]
        on: Option<String>,
    },
    /// Drop replicas of a chunk
    ///
    /// Refused while a key refers to the chunk or it is pinned, unless forced. Forcing the last replica loses the data.
    #[command(
        after_help = "Examples:\n  shoal chunk rm 3fa81c --on n2:dram\n  shoal chunk rm 3fa81c --force"
    )]
    Rm {
        /// The chunk
        id: String,
        /// Only on this node, and device if one is named [default: everywhere]
        #[arg(long, value_name = "NODE[:DEVICE]")]
        on: Option<Place>,
        /// Even if a key refers to it or it is pinned
        #[arg(long)]
        force: bool,
    },
}

impl Chunk {
    /// Carries it out.
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.connect()?;
        match self {
            Chunk::Ls { full_ids } => list(global, &client, None, full_ids),
            Chunk::Info { id } => list(global, &client, Some(client.resolve_chunk_prefix(&id)?), true),
            Chunk::Move { id, to, from } => place(global, &client, &id, to, Some(from.unwrap_or_default())),
            Chunk::Copy { id, to } => place(global, &client, &id, to, None),
            Chunk::Pin { id, on } => pin(global, &client, &id, on, true),
            Chunk::Unpin { id, on } => pin(global, &client, &id, on, false),
            Chunk::Rm { id, on, force } => {
                let id = client.resolve_chunk_prefix(&id)?;
                let (node, device) = on.map(|place| (place.node, place.device)).unwrap_or_default();
                client.remove_chunk(ChunkRemove { id, node, device, force })?;
                note(global, format_args!("dropped {id}"));
                Ok(())
            }
        }
    }
}

fn place(global: &Global, client: &Client, id: &str, to: Place, from: Option<String>) -> Result<(), Failure> {
    let id = client.resolve_chunk_prefix(id)?;
    let device = to.device.unwrap_or(Device::Dram);
    let remove_source = from.is_some();
    let from = from.unwrap_or_default();
    let node = to.node.clone();
    let fetched = watched(global, client, id, &to.node, || {
        client.place(ChunkPlace { id, node, device, remove_source, from })
    })?;
    if global.json {
        return output::json(&fetched);
    }
    let time = std::time::Duration::from_micros(fetched.elapsed_us);
    let verb = if remove_source { "moved" } else { "copied" };
    note(global, format_args!("{verb} {id} to {}:{device} in {}", to.node, amount::span(time)));
    Ok(())
}

/// Draws how much of the chunk has arrived on the node while `task` runs.
fn watched(
    global: &Global,
    client: &Client,
    id: ChunkId,
    node: &str,
    task: impl FnOnce() -> Result<ChunkFetched, ClientError>,
) -> Result<ChunkFetched, Failure> {
    if !global.draws() {
        return Ok(task()?);
    }
    let size = client.replicas(Some(id))?.replicas.first().map_or(0, |record| record.geometry.size());
    let target =
        client.nodes()?.nodes.into_iter().find(|record| record.name == node).map(|record| record.node);
    let arrived = || {
        let listing = client.replicas(Some(id)).ok()?;
        let record = listing.replicas.into_iter().find(|record| Some(record.node) == target)?;
        let pieces = record.most_pieces();
        Some((u64::from(pieces) * u64::from(record.geometry.piece_size())).min(size))
    };
    Ok(progress::watch(true, "place", size, arrived, task)?)
}

fn pin(global: &Global, client: &Client, id: &str, on: Option<String>, pinned: bool) -> Result<(), Failure> {
    let id = client.resolve_chunk_prefix(id)?;
    client.pin(ChunkPin { id, pinned, node: on.unwrap_or_default() })?;
    note(global, format_args!("{} {id}", if pinned { "pinned" } else { "unpinned" }));
    Ok(())
}

fn list(global: &Global, client: &Client, chunk: Option<ChunkId>, full_ids: bool) -> Result<(), Failure> {
    let listing = client.replicas(chunk)?;
    let replicas = Replica::all(client, &listing)?;
    if !listing.silent.is_empty() {
        note(
            global,
            format_args!(
                "warning: no answer from {}; their replicas are missing here",
                listing.silent.join(", ")
            ),
        );
    }
    if global.json {
        return output::json(&replicas);
    }
    let mut table = Table::new(["CHUNK", ">SIZE", "NODE", ">DRAM", ">NVME", ">GPU", "PINNED", "STATE"]);
    for replica in &replicas {
        let digits = if full_ids { replica.chunk.len() } else { SHORT_ID };
        table.row([
            replica.chunk[..digits].to_owned(),
            amount::size(replica.size),
            replica.node.clone(),
            replica.share(replica.dram_pieces),
            replica.share(replica.nvme_pieces),
            replica.share_on_gpus(),
            if replica.pinned { "pinned" } else { "-" }.into(),
            if replica.fetching { "fetching" } else { "-" }.into(),
        ]);
    }
    output::text(&table.to_string())
}

/// The copies of a chunk on one node, as `--json` prints them.
#[derive(Debug, Clone, Serialize)]
pub struct Replica {
    /// All digits of the id.
    pub chunk: String,
    /// Bytes of the chunk.
    pub size: u64,
    /// Pieces of the chunk.
    pub pieces: u32,
    /// Bytes of a piece.
    pub piece_size: u32,
    /// Name of the node.
    pub node: String,
    /// Verified pieces in memory.
    pub dram_pieces: u32,
    /// Pieces on NVMe.
    pub nvme_pieces: u32,
    /// Pieces on each GPU that has any, by names such as `gpu:0`.
    pub gpu_pieces: BTreeMap<String, u32>,
    /// Whether it must not be evicted.
    pub pinned: bool,
    /// Whether a transfer into this node is under way.
    pub fetching: bool,
}

impl Replica {
    /// The replicas of a listing, by chunk and name of the node.
    pub fn all(client: &Client, listing: &ChunkListing) -> Result<Vec<Replica>, Failure> {
        let nodes = client.nodes()?.nodes;
        let names: BTreeMap<NodeId, String> = nodes.into_iter().map(|node| (node.node, node.name)).collect();
        let mut replicas: Vec<Replica> =
            listing.replicas.iter().map(|record| Replica::of(record, names.get(&record.node))).collect();
        replicas.sort_by(|left, right| (&left.chunk, &left.node).cmp(&(&right.chunk, &right.node)));
        Ok(replicas)
    }

    fn of(record: &ReplicaRecord, name: Option<&String>) -> Replica {
        Replica {
            chunk: record.chunk.to_string(),
            size: record.geometry.size(),
            pieces: record.geometry.pieces(),
            piece_size: record.geometry.piece_size(),
            node: name.cloned().unwrap_or_else(|| format!("{:016x}", record.node)),
            dram_pieces: record.dram_pieces,
            nvme_pieces: record.nvme_pieces,
            gpu_pieces: record
                .gpus
                .iter()
                .map(|there| (Device::Gpu(there.gpu).to_string(), there.pieces))
                .collect(),
            pinned: record.pinned,
            fetching: record.fetching,
        }
    }

    /// Where this node has the chunk: `n1:dram`, `n1:gpu:0`, `n1:dram 40%`.
    pub fn places(&self) -> Vec<String> {
        let on = |device: &str, pieces: u32| match self.share(pieces).as_str() {
            "-" => None,
            "all" => Some(format!("{}:{device}", self.node)),
            share => Some(format!("{}:{device} {share}", self.node)),
        };
        let host = [on("dram", self.dram_pieces), on("nvme", self.nvme_pieces)];
        let gpus = self.gpu_pieces.iter().map(|(gpu, pieces)| on(gpu, *pieces));
        host.into_iter().chain(gpus).flatten().collect()
    }

    /// What is on GPUs: `gpu:0`, `gpu:0 40%, gpu:1`.
    fn share_on_gpus(&self) -> String {
        let shown = self.gpu_pieces.iter().map(|(gpu, pieces)| match self.share(*pieces).as_str() {
            "all" => gpu.clone(),
            share => format!("{gpu} {share}"),
        });
        let shown = shown.collect::<Vec<_>>().join(", ");
        if shown.is_empty() { "-".into() } else { shown }
    }

    fn share(&self, pieces: u32) -> String {
        match pieces {
            0 => "-".into(),
            pieces if pieces >= self.pieces => "all".into(),
            pieces => format!("{}%", u64::from(pieces) * 100 / u64::from(self.pieces)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_places_are_told() {
        let replica = Replica {
            chunk: "ab".repeat(32),
            size: 8 << 20,
            pieces: 8,
            piece_size: 1 << 20,
            node: "n1".into(),
            dram_pieces: 3,
            nvme_pieces: 8,
            gpu_pieces: [("gpu:1".to_owned(), 8), ("gpu:0".to_owned(), 4)].into(),
            pinned: false,
            fetching: true,
        };
        assert_eq!(replica.places(), ["n1:dram 37%", "n1:nvme", "n1:gpu:0 50%", "n1:gpu:1"]);
        let empty = Replica { dram_pieces: 0, nvme_pieces: 0, gpu_pieces: BTreeMap::new(), ..replica };
        assert!(empty.places().is_empty());
    }
}
