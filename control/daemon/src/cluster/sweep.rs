//! The sweeping of the catalog, and the leases of this node's readers.

use std::sync::Arc;

use catalog::{Catalog, CatalogError, Swept};

use crate::failure;
use crate::node::Node;

/// Sweeps once; how many versions were forgotten, so that chunks may have lost their last reference.
pub(super) async fn sweep(node: &Arc<Node>) -> u64 {
    match node.catalog.sweep().await {
        Ok(Swept { forgotten, expired, abandoned }) => {
            if expired + abandoned > 0 {
                tracing::debug!(expired, abandoned, "keys have ended");
            }
            if forgotten > 0 {
                tracing::debug!(forgotten, "superseded versions were forgotten");
                node.collector.hurry();
            }
            forgotten
        }
        // That it is away is told once, by whoever follows it.
        Err(CatalogError::Unreachable { .. }) => 0,
        Err(error) => {
            tracing::error!(error = failure::in_full(&error), "sweeping the catalog failed");
            0
        }
    }
}

/// Keeps leases on versions alive. Their holders notice by themselves when one is lost.
pub(super) async fn renew(catalog: &dyn Catalog, leases: &[u64]) {
    if !leases.is_empty()
        && let Err(error) = catalog.renew(leases).await
    {
        tracing::warn!(error = failure::in_full(&error), "leases on keys could not be renewed");
    }
}
