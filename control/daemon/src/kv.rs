//! The catalog for those who ask over the native protocol: clients of this node, and members that ask the head.

pub(crate) mod acknowledged; // reads that every replica has to confirm
pub(crate) mod place; // where the catalog is
mod changes; // what was written, asked for again and again
pub(crate) mod remote; // the catalog at the head
mod remembered; // entries that were read before
mod snapshots; // snapshots that are kept for others
pub(crate) mod translate; // what the catalog and the wire call the same things

use std::sync::Arc;
use std::time::Duration;

use catalog::CatalogError;
use flow::wire::Message;
use flow::wire::catalog::*;
use flow::wire::session::{Done, Failure, KeyRemoved};

use crate::failure;
use crate::node::Node;

pub(crate) use snapshots::Snapshots;

/// How often what nobody uses any more is let go.
const TIDYING: Duration = Duration::from_secs(5);

/// Answers a message about the catalog. What the catalog refuses is an answer too.
pub(crate) async fn answer(node: &Node, message: Message) -> Result<Message, Failure> {
    let (name, answered) = (message.name(), carry_out(node, message).await);
    match answered {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err(failure::unexpected("a message about the catalog", name)),
        Err(error) => Ok(translate::refused(&error).into()),
    }
}

/// Answers a write as [`answer`] does, maybe before it is on disk; see [`catalog::Catalog::write_early`].
pub(crate) async fn write_early(node: &Node, write: CatalogWrite) -> Message {
    match node.catalog.write_early(translate::write(write)).await {
        Ok(written) => translate::written(written).into(),
        Err(error) => translate::refused(&error).into(),
    }
}

/// Lets go, again and again, of snapshots and transactions that were forgotten. It never returns.
pub(crate) async fn tidy(node: Arc<Node>) {
    loop {
        tokio::time::sleep(TIDYING).await;
        node.snapshots.end_idle();
        node.transactions.end_late();
    }
}

/// The answer; `None` to what is no question about the catalog.
async fn carry_out(node: &Node, message: Message) -> Result<Option<Message>, CatalogError> {
    let catalog = &node.catalog;
    Ok(Some(match message {
        Message::CatalogGet(CatalogGet { keys, consistency, snapshot: 0 }) => {
            translate::found(catalog.get(&keys, translate::consistency(consistency)).await?).into()
        }
        Message::CatalogGet(CatalogGet { keys, snapshot, .. }) => {
            let snapshot = node.snapshots.get(snapshot)?;
            let (revision, entries) = (snapshot.revision(), snapshot.get(&keys).await?);
            translate::found(catalog::Found { revision, entries, stale: false }).into()
        }
        Message::CatalogScan(scan) => {
            let (consistency, snapshot) = (translate::consistency(scan.consistency), scan.snapshot);
            let scan = translate::scan(scan);
            let page = match snapshot {
                0 => catalog.scan(&scan, consistency).await?,
                snapshot => node.snapshots.get(snapshot)?.scan(&scan).await?,
            };
            translate::page(page).into()
        }
        Message::CatalogCount(CatalogCount { prefix, consistency }) => {
            let count = catalog.count(&prefix, translate::consistency(consistency)).await?;
            CatalogCounted { count }.into()
        }
        Message::CatalogWrite(write) => {
            translate::written(catalog.write(translate::write(write)).await?).into()
        }
        Message::CatalogChanges(question) => changes::answer(node, question).await?.into(),
        Message::CatalogServices(_) => translate::services(catalog.services().await?).into(),
        Message::ServiceKeep(ServiceKeep { name, ttl_ms }) => {
            catalog.keep_service(&name, ttl_ms).await?;
            Done {}.into()
        }
        Message::ServiceEnd(ServiceEnd { name }) => {
            KeyRemoved { count: catalog.end_service(&name).await? }.into()
        }
        Message::SnapshotOpen(_) => {
            let snapshot = catalog.snapshot().await?;
            let revision = snapshot.revision();
            SnapshotOpened { snapshot: node.snapshots.keep(snapshot)?, revision }.into()
        }
        Message::SnapshotClose(SnapshotClose { snapshot }) => {
            node.snapshots.end(snapshot);
            Done {}.into()
        }
        Message::CatalogLease(CatalogLease { key }) => {
            let (entry, lease) =
                catalog.open_leased(&key).await?.map_or((None, 0), |(entry, lease)| (Some(entry), lease));
            CatalogLeased { entry: entry.map(translate::to_wire), lease }.into()
        }
        Message::CatalogRenew(CatalogRenew { leases }) => {
            CatalogRenewed { gone: catalog.renew(&leases).await? }.into()
        }
        _ => return Ok(None),
    }))
}
