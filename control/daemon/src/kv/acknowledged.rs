//! Reads that every replica has to confirm.

use std::sync::{Arc, OnceLock, Weak};

use async_trait::async_trait;
use catalog::{
    Catalog, CatalogError, ChangeStream, Consistency, Content, Entry, Found, Page, Scan, Selector, Service,
    Snapshot, Start, Swept, Write, Written,
};
use flow::chunk::ChunkId;
use flow::wire::control::{NodeState, ReplicaRecord};
use plan::manifest::Manifest;
use tokio::task::JoinSet;

use crate::node::Node;
use crate::operate;

/// Chunks that are asked about at once.
const CHUNKS_AT_ONCE: usize = 16;

/// A catalog whose reads with [`Consistency::All`] ask the nodes too, which no engine knows. In all else it is the engine.
pub(crate) struct Acknowledged {
    engine: Arc<dyn Catalog>,
    node: OnceLock<Weak<Node>>,
}

impl Acknowledged {
    pub(crate) fn new(engine: Arc<dyn Catalog>) -> Self {
        Self { engine, node: OnceLock::new() }
    }

    /// Says which node asks the others. Until then nobody can be asked.
    pub(crate) fn set_node(&self, node: &Arc<Node>) {
        // It is said once, when the node is put together.
        let _ = self.node.set(Arc::downgrade(node));
    }

    /// Has every live node that has chunks of these entries say so.
    async fn confirm<'e>(&self, entries: impl Iterator<Item = &'e Entry>) -> Result<(), CatalogError> {
        for entry in entries {
            // An inline value is in the catalog and nowhere else.
            let Some(Content::Manifest(root)) = &entry.content else { continue };
            let key = || entry.key.clone();
            let manifest =
                Manifest::decode(root).map_err(|source| CatalogError::Manifest { key: key(), source })?;
            let chunks: Vec<ChunkId> = manifest.all_chunks().map(|chunk| ChunkId(chunk.id)).collect();
            let confirmed = self.confirm_chunks(&chunks).await;
            confirmed.map_err(|reason| CatalogError::Unacknowledged { key: key(), reason })?;
        }
        Ok(())
    }

    async fn confirm_chunks(&self, chunks: &[ChunkId]) -> Result<(), String> {
        let node = self.node.get().and_then(Weak::upgrade).ok_or("this node is starting or stopping")?;
        for batch in chunks.chunks(CHUNKS_AT_ONCE) {
            let mut asked = JoinSet::new();
            for &chunk in batch {
                let node = node.clone();
                asked.spawn(async move { confirm_chunk(&node, chunk).await });
            }
            while let Some(confirmed) = asked.join_next().await {
                confirmed.unwrap_or_else(|error| Err(error.to_string()))?;
            }
        }
        Ok(())
    }
}

/// Asks every live node about a chunk. One that is silent may have a replica, so that it must not be.
async fn confirm_chunk(node: &Arc<Node>, chunk: ChunkId) -> Result<(), String> {
    let survey = operate::survey(node, chunk).await;
    let view = node.members.view();
    let lives = |name: &String| view.named(name).is_ok_and(|record| record.state != NodeState::Dead);
    if let Some(name) = survey.silent.iter().find(|name| lives(name)) {
        return Err(format!("node '{name}' does not say whether it has chunk {chunk}"));
    }
    if survey.replicas.iter().any(ReplicaRecord::is_whole) {
        Ok(())
    } else {
        Err(format!("no live node has chunk {chunk}"))
    }
}

#[async_trait]
impl Catalog for Acknowledged {
    fn cluster_id(&self) -> u64 {
        self.engine.cluster_id()
    }

    async fn get(&self, keys: &[String], consistency: Consistency) -> Result<Found, CatalogError> {
        if consistency != Consistency::All {
            return self.engine.get(keys, consistency).await;
        }
        let found = self.engine.get(keys, Consistency::Quorum).await?;
        self.confirm(found.entries.iter().flatten()).await?;
        Ok(found)
    }

    async fn scan(&self, scan: &Scan, consistency: Consistency) -> Result<Page, CatalogError> {
        if consistency != Consistency::All {
            return self.engine.scan(scan, consistency).await;
        }
        let page = self.engine.scan(scan, Consistency::Quorum).await?;
        self.confirm(page.entries.iter()).await?;
        Ok(page)
    }

    async fn count(&self, prefix: &str, consistency: Consistency) -> Result<u64, CatalogError> {
        self.engine.count(prefix, consistency).await
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, CatalogError> {
        self.engine.snapshot().await
    }

    async fn write(&self, write: Write) -> Result<Written, CatalogError> {
        self.engine.write(write).await
    }

    async fn write_early(&self, write: Write) -> Result<Written, CatalogError> {
        self.engine.write_early(write).await
    }

    async fn remove(&self, key: &str, recursive: bool) -> Result<u64, CatalogError> {
        self.engine.remove(key, recursive).await
    }

    async fn changes(&self, start: Start, selector: Selector) -> Result<Box<dyn ChangeStream>, CatalogError> {
        self.engine.changes(start, selector).await
    }

    async fn open_leased(&self, key: &str) -> Result<Option<(Entry, u64)>, CatalogError> {
        self.engine.open_leased(key).await
    }

    async fn renew(&self, leases: &[u64]) -> Result<Vec<u64>, CatalogError> {
        self.engine.renew(leases).await
    }

    async fn release(&self, lease: u64) -> Result<(), CatalogError> {
        self.engine.release(lease).await
    }

    async fn references(&self, chunks: &[[u8; 32]]) -> Result<Vec<bool>, CatalogError> {
        self.engine.references(chunks).await
    }

    async fn sweep(&self) -> Result<Swept, CatalogError> {
        self.engine.sweep().await
    }

    async fn keep_service(&self, name: &str, ttl_ms: u64) -> Result<(), CatalogError> {
        self.engine.keep_service(name, ttl_ms).await
    }

    async fn end_service(&self, name: &str) -> Result<u64, CatalogError> {
        self.engine.end_service(name).await
    }

    async fn services(&self) -> Result<Vec<Service>, CatalogError> {
        self.engine.services().await
    }
}
