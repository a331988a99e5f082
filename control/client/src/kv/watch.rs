//! Changes as they come.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use flow::limits::CHANGES_WAIT_MAX_MS;
use flow::wire::catalog::{CatalogChanged, CatalogChanges};
use flow::wire::session::FailureCode;

use super::{Change, Selector, Start};
use crate::connection::Connection;
use crate::{Client, ClientError};

/// Bytes of changes that are asked for at once.
const ANSWER_BYTES: u32 = 1 << 20;
/// First and longest time before a lost connection is tried again.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// Changes of the selected keys, each once, in the order of their revisions. It waits for the next one, goes on by itself
/// after a lost connection, and ends after an error: with [`FailureCode::Gone`] when it has fallen behind what is kept, so
/// that changes were missed.
pub struct Watch<'c> {
    client: &'c Client,
    connection: Option<Arc<Connection>>,
    selector: Selector,
    start: Start,
    ready: VecDeque<Change>,
    ended: bool,
}

impl<'c> Watch<'c> {
    /// Begins where `start` says at the time of this call.
    pub(super) fn begin(client: &'c Client, selector: Selector, start: Start) -> Result<Self, ClientError> {
        let connection = Some(client.connect_again()?);
        let ready = VecDeque::new();
        let mut watch = Self { client, connection, selector, start, ready, ended: false };
        let first = watch.ask(0)?;
        watch.note(first);
        Ok(watch)
    }

    /// The revision up to which all changes were read. A watch that begins after it, [`Start::After`], misses nothing.
    pub fn position(&self) -> u64 {
        match (self.ready.front(), self.start) {
            (Some(change), _) => change.revision.saturating_sub(1),
            (None, Start::After(revision)) => revision,
            // The first answer has made a position of every start.
            (None, Start::Now | Start::At(_)) => 0,
        }
    }

    fn ask(&self, wait_ms: u32) -> Result<CatalogChanged, ClientError> {
        let (start, selector) = (self.start, self.selector.clone());
        let Some(connection) = &self.connection else {
            return Err(ClientError::Closed { node: self.client.node().into() });
        };
        connection.call(CatalogChanges { start, selector, wait_ms, size_limit: ANSWER_BYTES })
    }

    fn note(&mut self, changed: CatalogChanged) {
        self.start = Start::After(changed.position);
        self.ready.extend(changed.changes);
    }

    /// Asks until there is something, and connects again when the connection or the catalog is lost.
    fn wait(&mut self) -> Result<(), ClientError> {
        let mut backoff = BACKOFF_MIN;
        while self.ready.is_empty() {
            match self.ask(CHANGES_WAIT_MAX_MS) {
                Ok(changed) => {
                    self.note(changed);
                    backoff = BACKOFF_MIN;
                }
                Err(error) if is_lost(&error) => {
                    self.client.rest(backoff)?;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                    if matches!(error, ClientError::Closed { .. }) {
                        self.connection = self.client.connect_again().ok();
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Whether it may be better the next time.
fn is_lost(error: &ClientError) -> bool {
    matches!(error.code(), Some(FailureCode::Unavailable | FailureCode::Draining))
}

impl Iterator for Watch<'_> {
    type Item = Result<Change, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        if self.ready.is_empty()
            && let Err(error) = self.wait()
        {
            self.ended = true;
            return Some(Err(error));
        }
        self.ready.pop_front().map(Ok)
    }
}
