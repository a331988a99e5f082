//! A file onto disk.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use client::{PutOptions, Silent, Source};
use flow::chunk::ChunkId;
use flow::wire::session::ChunkRemove;
use suites::Noise;
use tempfile::TempDir;

use crate::conditions::Conditions;
use crate::cost::{Cost, Meter};
use crate::failure::Failure;
use crate::interrupt;
use crate::nodes::{Nodes, memory_bytes};
use crate::peers::fio::Fio;
use crate::scenario::{Contender, Contenders, Scenario};

/// Bytes of the file: the largest that is one chunk.
const SIZE: u64 = 4 << 30;
/// Bytes of the file that are written or read at once.
const BLOCK: usize = 1 << 20;
const KEY: &str = "bench";

/// A durable put, beside fio.
pub struct Put;

impl Scenario for Put {
    fn name(&self) -> String {
        "put".into()
    }

    fn compares(&self) -> &'static str {
        "a durable put of a file in the page cache, hashed and checked, by a client on the node's host; beside fio, \
         which writes as many bytes from memory the way the node does: past the page cache, through io_uring, in \
         blocks of one piece, into room set aside before, synced at the end"
    }

    fn goal(&self) -> &'static str {
        "at least 0.9 of the rate of fio"
    }

    fn amount(&self, conditions: &Conditions) -> u64 {
        conditions.sized(SIZE)
    }

    fn memory_bytes(&self, conditions: &Conditions) -> u64 {
        // The file in the page cache, and the node.
        self.amount(conditions) + memory_bytes(self.amount(conditions))
    }

    fn prepare(&self, conditions: &Conditions) -> Result<Contenders, Failure> {
        let bytes = self.amount(conditions);
        let ours = Putting::start(bytes, conditions)?;
        Contenders::new(ours).with_if_there("fio", Fio::find(bytes, conditions))
    }
}

struct Putting {
    nodes: Nodes,
    source: PathBuf,
    digest: [u8; 32],
    folder: TempDir,
}

impl Putting {
    fn start(bytes: u64, conditions: &Conditions) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("shoal-bench-").tempdir_in(&conditions.folder);
        let folder = folder.map_err(Failure::system("make a folder for the file to put"))?;
        let source = folder.path().join("source");
        let digest = write(&source, bytes)?;
        Ok(Self { nodes: Nodes::start_one(bytes, conditions)?, source, digest, folder })
    }

    fn chunk(&self) -> Result<ChunkId, Failure> {
        let references = self.nodes.first().info(KEY).and_then(|info| info.references());
        match references.map_err(Failure::client("looking the chunk up"))?[..] {
            [chunk] if chunk.id.0 == self.digest => Ok(chunk.id),
            _ => Err(Failure::Wrong { place: "in the node".into() }),
        }
    }

    /// Lets the disk come to rest, so that no run pays for what came before it.
    fn settle(&self) -> Result<(), Failure> {
        let folder = File::open(self.folder.path()).map_err(Failure::system("open a folder"))?;
        rustix::fs::syncfs(&folder).map_err(Failure::system("wait for the disk"))
    }
}

/// Writes a file that does not compress; gives its BLAKE3 digest.
fn write(path: &Path, bytes: u64) -> Result<[u8; 32], Failure> {
    let failed = || Failure::system(format!("write {}", path.display()));
    let mut file = File::create_new(path).map_err(failed())?;
    let (mut noise, mut hasher) = (Noise::new(bytes, bytes), blake3::Hasher::new());
    let mut block = vec![0; BLOCK];
    loop {
        interrupt::check()?;
        let length = noise.read(&mut block).map_err(failed())?;
        if length == 0 {
            return Ok(hasher.finalize().into());
        }
        hasher.update(&block[..length]);
        file.write_all(&block[..length]).map_err(failed())?;
    }
}

impl Contender for Putting {
    fn name(&self) -> String {
        "shoal".into()
    }

    fn ready(&mut self, _round: u32) -> Result<(), Failure> {
        let read = || -> std::io::Result<()> {
            let (mut file, mut block) = (File::open(&self.source)?, vec![0; BLOCK]);
            while interrupt::signal().is_none() && file.read(&mut block)? > 0 {}
            Ok(())
        };
        read().map_err(Failure::system("bring the file to put into the page cache"))?;
        self.settle()
    }

    fn run(&mut self) -> Result<Cost, Failure> {
        let meter = Meter::start(self.nodes.processes())?;
        let source = Source::Path(self.source.clone());
        let put = self.nodes.first().put(
            KEY,
            source,
            &PutOptions { volatile: false, ..PutOptions::default() },
            &Silent,
        );
        put.map_err(Failure::client("putting the file"))?;
        meter.stop()
    }

    fn verify(&mut self) -> Result<(), Failure> {
        let (first, id) = (self.nodes.first(), self.chunk()?);
        if first.verify(id).map_err(Failure::client("reading the chunk back"))? != id {
            return Err(Failure::Wrong { place: "on the node's disk".into() });
        }
        first.remove(KEY, false).map_err(Failure::client("removing the key"))?;
        let everywhere = ChunkRemove { id, node: String::new(), device: None, force: true };
        first.remove_chunk(everywhere).map_err(Failure::client("removing the chunk"))?;
        self.settle()
    }
}
