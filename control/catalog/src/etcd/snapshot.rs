//! The catalog at one revision, which etcd keeps by itself.

use std::sync::Arc;

use async_trait::async_trait;

use super::core::Core;
use super::read::entries;
use super::runtime::Runtime;
use crate::catalog::Snapshot;
use crate::check;
use crate::entry::Entry;
use crate::error::CatalogError;
use crate::read::{Page, Scan};

/// A revision, and when it was taken: what had expired by then is absent.
pub(super) struct EtcdSnapshot {
    pub(super) core: Arc<Core>,
    pub(super) runtime: Arc<Runtime>,
    pub(super) revision: u64,
    pub(super) at_ms: u64,
}

#[async_trait]
impl Snapshot for EtcdSnapshot {
    fn revision(&self) -> u64 {
        self.revision
    }

    async fn get(&self, keys: &[String]) -> Result<Vec<Option<Entry>>, CatalogError> {
        check::keys(keys)?;
        let (core, keys, at, at_ms) = (self.core.clone(), keys.to_vec(), self.revision, self.at_ms);
        self.runtime
            .run(async move {
                let (_, seen) = core.fetch(&keys, at, false).await?;
                Ok(entries(&keys, seen, at_ms))
            })
            .await
    }

    async fn scan(&self, scan: &Scan) -> Result<Page, CatalogError> {
        let (core, scan, at, at_ms) = (self.core.clone(), scan.clone(), self.revision, self.at_ms);
        self.runtime.run(async move { core.scan_at(&scan, at, at_ms, false).await }).await
    }
}
