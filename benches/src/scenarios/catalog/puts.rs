//! Durable puts.

use std::thread;

use catalog::{Catalog, Consistency, Embedded};
use futures_lite::future::block_on;
use tempfile::TempDir;

use super::{open, value, write};
use crate::conditions::Conditions;
use crate::cost::{Cost, Meter};
use crate::failure::Failure;
use crate::scenario::Contender;

/// Clients that put at once, each its own keys.
pub(super) struct Putting {
    clients: u64,
    each: u64,
    ttl_ms: Option<u64>,
    round: u32,
    pub(super) catalog: Embedded,
    _folder: TempDir,
}

impl Putting {
    pub(super) fn start(clients: u64, each: u64, conditions: &Conditions) -> Result<Self, Failure> {
        let (catalog, folder) = open(conditions)?;
        Ok(Self::new(clients, each, None, catalog, folder))
    }

    pub(super) fn new(
        clients: u64,
        each: u64,
        ttl_ms: Option<u64>,
        catalog: Embedded,
        folder: TempDir,
    ) -> Self {
        Self { clients, each, ttl_ms, round: 0, catalog, _folder: folder }
    }
}

impl Contender for Putting {
    fn name(&self) -> String {
        "shoal".into()
    }

    fn ready(&mut self, round: u32) -> Result<(), Failure> {
        self.round = round;
        Ok(())
    }

    fn run(&mut self) -> Result<Cost, Failure> {
        let Self { clients, each, ttl_ms, round, catalog, .. } = self;
        let meter = Meter::start(&[])?;
        thread::scope(|scope| {
            let (each, ttl_ms, round) = (*each, *ttl_ms, *round);
            let client = |client: u64| {
                let catalog = &*catalog;
                move || {
                    let key = |number| format!("bench/{round}/{client}/{number}");
                    (0..each).try_for_each(|number| write(catalog, vec![value(key(number), ttl_ms)]))
                }
            };
            let clients: Vec<_> = (0..*clients).map(|number| scope.spawn(client(number))).collect();
            clients.into_iter().try_for_each(|client| client.join().expect("a client returns its errors"))
        })?;
        meter.stop()
    }

    fn verify(&mut self) -> Result<(), Failure> {
        let prefix = format!("bench/{}/", self.round);
        let count = block_on(self.catalog.count(&prefix, Consistency::Quorum));
        let count = count.map_err(Failure::catalog("counting keys"))?;
        if count == self.clients * self.each {
            Ok(())
        } else {
            Err(Failure::Wrong { place: "in the catalog".into() })
        }
    }
}
