//! The keys that a benchmark makes, and their end.

use std::io::Cursor;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::{Client, ClientError, PutOptions, Silent, Source};
use flow::limits::LIST_ENTRIES_MAX;
use flow::wire::session::{ChunkReference, ChunkRemove};

use crate::bench::BenchError;
use crate::failure::Failure;
use crate::global::Global;
use crate::noise;

/// One run of a benchmark. Dropping it removes the keys that are still there.
pub struct Run<'a> {
    global: &'a Global,
    client: Arc<Client>,
    prefix: String,
}

impl<'a> Run<'a> {
    /// A run whose keys are put through `client`.
    pub fn new(global: &'a Global, client: &Arc<Client>) -> Self {
        Self { global, client: client.clone(), prefix: format!(".bench/{:016x}", noise::fresh_seed()) }
    }

    /// The key of a round.
    pub fn key(&self, round: u32) -> String {
        format!("{}/{round}", self.prefix)
    }

    /// Puts fresh bytes under the key of a round; gives the time that the put alone took.
    pub fn put(&self, round: u32, size: u64, volatile: bool) -> Result<Duration, Failure> {
        let bytes = noise::bytes(noise::fresh_seed(), size).ok_or(BenchError::Memory { size })?;
        let begin = Instant::now();
        let source = Source::Reader(Box::new(Cursor::new(bytes)));
        self.client.put(
            &self.key(round),
            source,
            &PutOptions { volatile, ..PutOptions::default() },
            &Silent,
        )?;
        Ok(begin.elapsed())
    }

    /// The chunks of a round.
    pub fn chunks(&self, round: u32) -> Result<Vec<ChunkReference>, Failure> {
        Ok(self.client.info(&self.key(round))?.references()?)
    }

    /// Removes the key of a round and its chunks everywhere, so that no round finds less memory than the one before.
    pub fn remove(&self, round: u32, chunks: &[ChunkReference]) -> Result<(), Failure> {
        self.client.remove(&self.key(round), false)?;
        for chunk in chunks {
            self.client.remove_chunk(everywhere(chunk))?;
        }
        Ok(())
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        // After a signal the run's own connection is closed. What fails here the nodes collect in their own time.
        if let Ok(client) = self.global.connect_to_clean_up() {
            let _ = clean_up(&client, &self.prefix);
        }
    }
}

/// Removes all keys below `prefix` and their chunks.
fn clean_up(client: &Client, prefix: &str) -> Result<(), ClientError> {
    let keys = client.list(prefix, "", LIST_ENTRIES_MAX)?.keys;
    let chunks = keys.iter().map(|key| client.info(&key.key)?.references()).collect::<Result<Vec<_>, _>>()?;
    client.remove(prefix, true)?;
    for chunk in chunks.concat() {
        // What nobody has need not go.
        let _ = client.remove_chunk(everywhere(&chunk));
    }
    Ok(())
}

fn everywhere(chunk: &ChunkReference) -> ChunkRemove {
    ChunkRemove { id: chunk.id, node: String::new(), device: None, force: true }
}
