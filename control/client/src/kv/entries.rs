//! All entries below a prefix, page by page.

use std::collections::VecDeque;

use flow::wire::catalog::CatalogScan;

use super::{Consistency, Entry, Page, close_snapshot};
use crate::{Client, ClientError};

/// Entries that are read at once.
const PAGE: u32 = 1000;

/// Entries in the order of their keys, all at one revision. At most a page of them is held in memory, about 6 MiB. It ends
/// after an error.
pub struct Entries<'c> {
    client: &'c Client,
    snapshot: u64,
    revision: u64,
    /// What the next page is asked for with; `None` after the last.
    next: Option<CatalogScan>,
    page: VecDeque<Entry>,
}

impl<'c> Entries<'c> {
    pub(super) fn new(
        client: &'c Client,
        snapshot: u64,
        revision: u64,
        prefix: &str,
        contents: bool,
    ) -> Self {
        let consistency = Consistency::Quorum;
        let scan =
            CatalogScan { prefix: prefix.into(), after: None, limit: PAGE, contents, consistency, snapshot };
        Self { client, snapshot, revision, next: Some(scan), page: VecDeque::new() }
    }

    /// The revision that the entries show.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    fn read(&mut self, scan: CatalogScan) -> Result<(), ClientError> {
        let Page { entries, next, .. } = self.client.connection().call(scan.clone())?;
        if next.is_some() && entries.is_empty() {
            return Err(self.client.connection().protocol("it sends an empty page in place of the last"));
        }
        self.page = entries.into();
        self.next = next.map(|after| CatalogScan { after: Some(after), ..scan });
        Ok(())
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.page.is_empty() {
            let scan = self.next.take()?;
            if let Err(error) = self.read(scan) {
                return Some(Err(error));
            }
        }
        self.page.pop_front().map(Ok)
    }
}

impl Drop for Entries<'_> {
    fn drop(&mut self) {
        close_snapshot(self.client, self.snapshot);
    }
}
