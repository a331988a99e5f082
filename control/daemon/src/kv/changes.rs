//! What was written, asked for again and again.
//!
//! Who watches asks for what comes after a position and waits a while. So it reads at its own pace, nothing is kept for it
//! here, and after a lost connection it goes on where it was.

use std::time::Duration;

use catalog::CatalogError;
use flow::limits::CHANGES_WAIT_MAX_MS;
use flow::wire::catalog::{CatalogChanged, CatalogChanges};

use super::translate;
use crate::node::Node;

/// Most bytes of changes in one answer: what one write may bring fits beside them into a frame.
const ANSWER_BYTES_MAX: usize = 2 << 20;

/// Waits for changes.
pub(super) async fn answer(node: &Node, question: CatalogChanges) -> Result<CatalogChanged, CatalogError> {
    let CatalogChanges { start, selector, wait_ms, size_limit } = question;
    let patience = Duration::from_millis(wait_ms.min(CHANGES_WAIT_MAX_MS).into());
    let until = tokio::time::Instant::now() + patience;
    let limit = (size_limit as usize).min(ANSWER_BYTES_MAX);
    let mut stream = node.catalog.changes(translate::start(start), translate::selector(selector)).await?;
    let (mut changes, mut size) = (Vec::new(), 0);
    loop {
        // Once there is something it is told at once, with what is there besides.
        let wait = if changes.is_empty() { until } else { tokio::time::Instant::now() };
        let Ok(next) = tokio::time::timeout_at(wait, stream.next()).await else { break };
        for change in next? {
            let entry = match &change.kind {
                catalog::ChangeKind::Put(entry) => translate::size_of_entry(entry),
                _ => 0,
            };
            size += change.key.len() + entry + 64;
            changes.push(translate::change_to_wire(change));
        }
        if size >= limit {
            break;
        }
    }
    Ok(CatalogChanged { changes, position: stream.position() })
}
