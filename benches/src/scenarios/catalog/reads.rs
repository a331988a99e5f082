//! Gets and pages.

use std::collections::BTreeMap;

use catalog::{Catalog, Consistency, Content, Embedded, OPERATIONS_MAX, Operation, Put, Scan};
use futures_lite::future::block_on;
use tempfile::TempDir;

use super::{open, write};
use crate::conditions::Conditions;
use crate::cost::{Cost, Meter};
use crate::failure::Failure;
use crate::scenario::Contender;

/// One thread that reads keys, or the page after each.
pub(super) struct Reading {
    keys: Vec<String>,
    page: Option<usize>,
    found: usize,
    catalog: Embedded,
    _folder: TempDir,
}

impl Reading {
    pub(super) fn start(
        entries: &BTreeMap<String, Vec<u8>>,
        keys: Vec<String>,
        page: Option<usize>,
        conditions: &Conditions,
    ) -> Result<Self, Failure> {
        let (catalog, folder) = open(conditions)?;
        let puts: Vec<Operation> = entries
            .iter()
            .map(|(key, value)| Operation::Put(Put::new(key, Content::Value(value.clone()))))
            .collect();
        puts.chunks(OPERATIONS_MAX).try_for_each(|puts| write(&catalog, puts.to_vec()))?;
        Ok(Self { keys, page, found: 0, catalog, _folder: folder })
    }

    async fn read(&self) -> Result<usize, catalog::CatalogError> {
        let mut count = 0;
        for key in &self.keys {
            count += match self.page {
                None => {
                    let found = self.catalog.get(std::slice::from_ref(key), Consistency::Quorum).await?;
                    found.entries.iter().flatten().count()
                }
                Some(limit) => {
                    let scan =
                        Scan { prefix: String::new(), after: Some(key.clone()), limit, contents: true };
                    self.catalog.scan(&scan, Consistency::Quorum).await?.entries.len()
                }
            };
        }
        Ok(count)
    }
}

impl Contender for Reading {
    fn name(&self) -> String {
        "shoal".into()
    }

    fn ready(&mut self, _round: u32) -> Result<(), Failure> {
        Ok(())
    }

    fn run(&mut self) -> Result<Cost, Failure> {
        let meter = Meter::start(&[])?;
        self.found = block_on(self.read()).map_err(Failure::catalog("reading the catalog"))?;
        meter.stop()
    }

    fn verify(&mut self) -> Result<(), Failure> {
        if self.found == self.keys.len() * self.page.unwrap_or(1) {
            Ok(())
        } else {
            Err(Failure::Wrong { place: "from the catalog".into() })
        }
    }
}
