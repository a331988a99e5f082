//! What Shoal does in `stream` and `broadcast`.

use client::{PutOptions, Silent, Source};
use flow::wire::session::{ChunkReference, ChunkRemove, Device};
use suites::Way;
use suites::network::Host;

use crate::conditions::Conditions;
use crate::cost::{Cost, Meter};
use crate::failure::Failure;
use crate::nodes::Nodes;
use crate::payload::{Payload, PayloadFile};
use crate::scenario::Contender;

const KEY: &str = "bench";

/// Brings a chunk from the memory of one node to that of others at once.
pub struct Fetching {
    nodes: Nodes,
    source: PayloadFile,
    chunk: Option<ChunkReference>,
}

impl Fetching {
    /// Starts a node at each host; the first has the bytes, and the others receive them.
    pub fn start(
        hosts: &[Host],
        payload: &Payload,
        way: Way,
        conditions: &Conditions,
    ) -> Result<Self, Failure> {
        let source = payload.file(conditions)?;
        let nodes = Nodes::start(hosts, payload.length(), way, conditions)?;
        Ok(Self { nodes, source, chunk: None })
    }

    fn chunk(&self) -> Result<ChunkReference, Failure> {
        self.chunk.ok_or_else(|| Failure::Wrong { place: "at the first node".into() })
    }
}

impl Contender for Fetching {
    fn name(&self) -> String {
        "shoal".into()
    }

    fn ready(&mut self, round: u32) -> Result<(), Failure> {
        let first = self.nodes.first();
        self.source.stamp(round)?;
        let source = Source::Path(self.source.path().to_owned());
        let volatile = PutOptions { volatile: true, ..PutOptions::default() };
        first.put(KEY, source, &volatile, &Silent).map_err(Failure::client("putting the chunk"))?;
        let references = first.info(KEY).and_then(|info| info.references());
        let references = references.map_err(Failure::client("looking the chunk up"))?;
        self.chunk = match references[..] {
            [chunk] => Some(chunk),
            _ => None,
        };
        self.chunk().map(drop)
    }

    fn run(&mut self) -> Result<Cost, Failure> {
        let chunk = self.chunk()?;
        let meter = Meter::start(self.nodes.processes())?;
        self.nodes.each_other(|client| {
            client.fetch(chunk, Device::Dram).map(drop).map_err(Failure::client("fetching the chunk"))
        })?;
        meter.stop()
    }

    fn verify(&mut self) -> Result<(), Failure> {
        let ChunkReference { id, .. } = self.chunk()?;
        self.nodes.each_other(|client| {
            match client.verify(id).map_err(Failure::client("reading the chunk back"))? {
                digest if digest == id => Ok(()),
                _ => Err(Failure::Wrong { place: format!("on node {}", client.node()) }),
            }
        })?;
        let first = self.nodes.first();
        first.remove(KEY, false).map_err(Failure::client("removing the key"))?;
        let everywhere = ChunkRemove { id, node: String::new(), device: None, force: true };
        first.remove_chunk(everywhere).map_err(Failure::client("removing the chunk"))
    }
}
