//! Follows what is written: from memory while it keeps up, from disk otherwise.

use std::ops::Bound;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

use super::rows::{Logged, Table, change_row, number};
use super::shared::{Moment, Shared};
use crate::change::{Change, ChangeStream, Start};
use crate::check::invalid;
use crate::error::CatalogError;
use crate::selection::Selection;

/// Revisions that are looked at before others get their turn.
const TURN_LENGTH: usize = 1024;

/// A stream of changes.
pub(crate) struct Stream {
    shared: Arc<Shared>,
    news: watch::Receiver<u64>,
    selection: Selection,
    /// The last revision that was delivered, or had nothing selected.
    position: u64,
}

impl Stream {
    pub(crate) fn new(
        shared: Arc<Shared>,
        news: watch::Receiver<u64>,
        start: Start,
        selection: Selection,
    ) -> Result<Self, CatalogError> {
        let moment = shared.moment();
        let position = match start {
            Start::Now => moment.state.revision,
            Start::After(revision) if revision > moment.state.revision => {
                let reason = "the catalog has not come so far; follow it from a revision that it has told";
                return Err(invalid("the revision to follow from", &revision.to_string(), reason));
            }
            Start::After(revision) if revision < moment.state.kept_after => {
                return Err(CatalogError::ChangesGone { asked: revision, kept: moment.state.kept_after });
            }
            Start::After(revision) => revision,
            Start::At(at_ms) => moment.before(at_ms)?,
        };
        Ok(Self { shared, news, selection, position })
    }

    /// The next changes, if they are within reach; whether there may be more is told by `position`.
    fn pull(&mut self) -> Result<Option<Vec<Change>>, CatalogError> {
        let shared = self.shared.clone();
        let recent = shared.recent();
        if self.position < recent.after() {
            drop(recent);
            return self.pull_from_disk();
        }
        for recorded in recent.since(self.position).take(TURN_LENGTH) {
            self.position = recorded.revision;
            let selected = recorded.changes.iter().filter(|change| self.selection.has(&change.key));
            let selected: Vec<Change> = selected.cloned().collect();
            if !selected.is_empty() {
                return Ok(Some(selected));
            }
        }
        Ok(None)
    }

    fn pull_from_disk(&mut self) -> Result<Option<Vec<Change>>, CatalogError> {
        let Moment { view, state, .. } = self.shared.moment();
        if self.position < state.kept_after {
            return Err(CatalogError::ChangesGone { asked: self.position, kept: state.kept_after });
        }
        let from = change_row(self.position.saturating_add(1), 0);
        let (mut selected, mut seen, mut at) = (Vec::new(), 0, self.position);
        for row in view.range::<Logged>(Table::Changes, Bound::Included(&from)) {
            let (row, logged, content) = row?;
            let revision = number(&row);
            if revision > at {
                self.position = at;
                seen += 1;
                if !selected.is_empty() || seen > TURN_LENGTH {
                    return Ok(Some(selected).filter(|selected| !selected.is_empty()));
                }
                at = revision;
            }
            if self.selection.has(&logged.key) {
                selected.push(logged.into_change(revision, content));
            }
        }
        self.position = at;
        Ok(Some(selected).filter(|selected| !selected.is_empty()))
    }
}

#[async_trait]
impl ChangeStream for Stream {
    async fn next(&mut self) -> Result<Vec<Change>, CatalogError> {
        loop {
            let last = *self.news.borrow_and_update();
            if let Some(changes) = self.pull()? {
                return Ok(changes);
            }
            match self.position < last {
                true => futures_lite::future::yield_now().await,
                false => self.news.changed().await.map_err(|_| CatalogError::Stopped)?,
            }
        }
    }

    fn position(&self) -> u64 {
        self.position
    }
}

impl Moment {
    /// The last revision that was written before a time.
    fn before(&self, at_ms: u64) -> Result<u64, CatalogError> {
        let (mut before, mut after) = (self.state.kept_after, self.state.revision.saturating_add(1));
        if before > 0 && at_ms <= self.state.kept_after_ms {
            return Err(CatalogError::ChangesGone { asked: 0, kept: before });
        }
        // Revisions follow each other without a gap, and their times do not go back.
        while after - before > 1 {
            let middle = before + (after - before) / 2;
            let row = change_row(middle, 0);
            let logged: Option<Logged> = self.view.get(Table::Changes, &row)?;
            let damaged = || CatalogError::Damaged { subject: Table::Changes.subject(&row) };
            match logged.ok_or_else(damaged)?.at_ms < at_ms {
                true => before = middle,
                false => after = middle,
            }
        }
        Ok(before)
    }
}
