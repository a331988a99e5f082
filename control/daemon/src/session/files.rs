//! All of a file at once, in memory: what a client would otherwise ask for step by step.

use std::sync::Arc;

use flow::chunk::{ChunkId, Geometry};
use flow::swarm::Priority;
use flow::wire::Message;
use flow::wire::catalog::{CatalogContent, CatalogEntry};
use flow::wire::session::{ChunkInMemory, ChunkReference, Failure, FailureCode, FileOpen, FileOpened};
use plan::manifest::{ChunkEntry, Manifest};

use super::{Bytes, Session};
use crate::kv::translate;
use crate::{failure, keys};

/// Most chunks that are opened with their file.
const CHUNKS_MAX: usize = 64;

impl Session {
    /// Opens a key, and every chunk of its file as soon as the catalog has named them. They keep the bytes when all are here, so
    /// that nobody waits for the lease to be given back.
    pub(super) async fn open_file(self: &Arc<Self>, open: FileOpen) -> Result<Message, Failure> {
        let FileOpen { key, priority, view_max } = open;
        self.holdings.check_room()?;
        let (entry, lease) = self.lease_entry(key).await?;
        let wanted = match self.bytes {
            Bytes::InArena => chunks_to_see(&entry, view_max),
            Bytes::OnTheWire => None,
        };
        let Some(wanted) = wanted else {
            return Ok(FileOpened { entry, lease, chunks: Vec::new() }.into());
        };
        match self.bring(&wanted, priority).await {
            Ok(chunks) => {
                self.let_lease_go(lease);
                Ok(FileOpened { entry, lease: 0, chunks }.into())
            }
            // It can still be read piece by piece.
            Err(failure) if failure.code == FailureCode::MemoryFull => {
                Ok(FileOpened { entry, lease, chunks: Vec::new() }.into())
            }
            Err(failure) => {
                self.let_lease_go(lease);
                Err(failure)
            }
        }
    }

    /// The current version of a key, and a lease on it that is the connection's.
    async fn lease_entry(self: &Arc<Self>, key: String) -> Result<(CatalogEntry, u64), Failure> {
        let session = self.clone();
        let opened = tokio::spawn(async move {
            let (entry, lease) = keys::open_leased(&session.node, &key).await?;
            session.node.leases.add(lease);
            if !session.holdings.add_lease(lease) {
                keys::release(session.node.clone(), lease).await;
            }
            Ok((translate::to_wire(entry), lease))
        });
        opened.await.unwrap_or_else(|_| Err(failure::internal("opening the key failed")))
    }

    /// Opens chunks, all at once, and waits until every piece of them is in memory. When that fails none is open.
    async fn bring(
        self: &Arc<Self>,
        wanted: &[ChunkReference],
        priority: Priority,
    ) -> Result<Vec<ChunkInMemory>, Failure> {
        let mut chunks = Vec::with_capacity(wanted.len());
        let brought = self.bring_into(&mut chunks, wanted, priority).await;
        if brought.is_err() {
            for ChunkInMemory { handle, .. } in chunks.drain(..) {
                // A chunk that cannot be closed was closed with the connection.
                let _ = self.close(handle).await;
            }
        }
        brought.map(|()| chunks)
    }

    async fn bring_into(
        self: &Arc<Self>,
        chunks: &mut Vec<ChunkInMemory>,
        wanted: &[ChunkReference],
        priority: Priority,
    ) -> Result<(), Failure> {
        for &chunk in wanted {
            let handle = self.open_chunk(chunk, priority).await?.handle;
            chunks.push(ChunkInMemory { handle, slots: Vec::new() });
        }
        for chunk in chunks {
            chunk.slots = self.node.engine.whole(chunk.handle).await.map_err(|error| error.failure())?;
            let seen = chunk.slots.len() as u32;
            self.holdings.show(chunk.handle, seen, || self.node.activity.begin_seeing());
        }
        Ok(())
    }
}

/// The chunks whose bytes are those of an entry's file, if there are not more of them than a client would look at.
fn chunks_to_see(entry: &CatalogEntry, view_max: u64) -> Option<Vec<ChunkReference>> {
    let Some(CatalogContent::Manifest(root)) = &entry.content else { return None };
    if entry.size > view_max {
        return None;
    }
    // What this node cannot read, the client says.
    let manifest = Manifest::decode(root).ok()?;
    let chunks = manifest.chunks_in_order().filter(|chunks| chunks.len() <= CHUNKS_MAX)?;
    chunks.into_iter().map(reference).collect()
}

fn reference(entry: &ChunkEntry) -> Option<ChunkReference> {
    let geometry = Geometry::new(entry.size, entry.piece_size).ok()?;
    Some(ChunkReference { id: ChunkId(entry.id), geometry, descriptor_digest: entry.descriptor_digest })
}
