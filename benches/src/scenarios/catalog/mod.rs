//! Small values, in this process.

mod lives; // many keys that expire
mod puts; // durable puts
mod reads; // gets and pages
mod watch; // from a put to who watches

use std::collections::BTreeMap;

use catalog::{Catalog, Content, Embedded, Operation, Put, Write};
use fastrand::Rng;
use futures_lite::future::block_on;
use tempfile::TempDir;

use crate::conditions::Conditions;
use crate::failure::Failure;
use crate::peers::append::Append;
use crate::peers::map::Map;
use crate::peers::sqlite::Sqlite;
use crate::scenario::{Contenders, Scenario, Unit};

/// Bytes of a value.
const VALUE: usize = 100;
/// Entries of the catalog that is read.
const ENTRIES: u64 = 100_000;
/// Entries that expire.
const LIVES: u64 = 1_000_000;
/// Clients that put at once, where they are many.
const MANY: u64 = 64;
/// Puts of all of them in one run.
const PUTS: u64 = 2560;
/// Entries of a page.
const PAGE: usize = 100;

/// All of the catalog.
pub fn all() -> Vec<Box<dyn Scenario>> {
    use CatalogScenario::{Gets, Lives, Puts, Scans, Watches};
    let all = [Puts { clients: 1 }, Puts { clients: MANY }, Gets, Scans, Watches, Lives];
    all.into_iter().map(|scenario| Box::new(scenario) as _).collect()
}

enum CatalogScenario {
    Puts { clients: u64 },
    Gets,
    Scans,
    Watches,
    Lives,
}

impl Scenario for CatalogScenario {
    fn name(&self) -> String {
        match self {
            Self::Puts { clients } => format!("catalog-put-{clients}"),
            Self::Gets => "catalog-get".into(),
            Self::Scans => "catalog-scan".into(),
            Self::Watches => "catalog-watch".into(),
            Self::Lives => "catalog-ttl".into(),
        }
    }

    fn compares(&self) -> &'static str {
        match self {
            Self::Puts { clients: 1 } => {
                "durable puts of 100 bytes by one client of the catalog in its process, one after another; beside SQLite \
                 (write-ahead log, synchronous=FULL) that commits a row each, and a file laid out \
                 before that is synced after each record"
            }
            Self::Puts { .. } => {
                "durable puts of 100 bytes by 64 clients at once; beside SQLite (write-ahead log, synchronous=FULL) that \
                 commits as many rows, in 64 threads with a connection each or all by one, and 64 threads that write to one \
                 file laid out before and sync it after each record"
            }
            Self::Gets => {
                "gets of keys at random out of 100,000 by one thread of the catalog's process; beside a BTreeMap behind a lock"
            }
            Self::Scans => {
                "pages of 100 entries with their values, from keys at random out of 100,000; beside a BTreeMap behind a lock"
            }
            Self::Watches => {
                "durable puts by one client, each awaited by somebody who watches; beside puts that nobody watches"
            }
            Self::Lives => {
                "durable puts by 64 clients, each of a key that expires, in a catalog with a million such keys; beside the same \
                 of keys that live for ever"
            }
        }
    }

    fn goal(&self) -> &'static str {
        match self {
            Self::Puts { clients: 1 } => "none: it shows what a sync costs",
            Self::Puts { .. } => "at least 1.5 times the rate of SQLite",
            _ => "none",
        }
    }

    fn unit(&self) -> Unit {
        Unit::Operation
    }

    fn amount(&self, conditions: &Conditions) -> u64 {
        match self {
            Self::Puts { clients: 1 } | Self::Watches => conditions.counted(1000),
            Self::Puts { clients } => conditions.counted(PUTS) / clients * clients,
            Self::Lives => conditions.counted(PUTS) / MANY * MANY,
            Self::Gets => conditions.counted(200_000),
            Self::Scans => conditions.counted(5_000),
        }
    }

    fn memory_bytes(&self, _: &Conditions) -> u64 {
        1 << 30
    }

    fn prepare(&self, conditions: &Conditions) -> Result<Contenders, Failure> {
        let amount = self.amount(conditions);
        match self {
            Self::Puts { clients } => {
                let (clients, each) = (*clients, amount / clients);
                let contenders = Contenders::new(puts::Putting::start(clients, each, conditions)?)
                    .with(Append::new(clients, each, conditions)?)
                    .with_if_there("sqlite", Sqlite::find("sqlite", clients, each, conditions))?;
                match clients {
                    1 => Ok(contenders),
                    _ => contenders
                        .with_if_there("sqlite-one", Sqlite::find("sqlite-one", 1, amount, conditions)),
                }
            }
            Self::Gets => reads(amount, None, conditions),
            Self::Scans => reads(amount, Some(PAGE), conditions),
            Self::Lives => {
                let (entries, each) = (conditions.counted(LIVES), amount / MANY);
                Ok(Contenders::new(lives::Living::start(entries, each, true, conditions)?)
                    .with(lives::Living::start(entries, each, false, conditions)?))
            }
            Self::Watches => Ok(Contenders::new(watch::Watching::start(amount, true, conditions)?)
                .with(watch::Watching::start(amount, false, conditions)?)),
        }
    }
}

fn reads(amount: u64, page: Option<usize>, conditions: &Conditions) -> Result<Contenders, Failure> {
    let entries: BTreeMap<String, Vec<u8>> = (0..conditions.counted(ENTRIES))
        .map(|number| (format!("bench/{number:07}"), vec![7; VALUE]))
        .collect();
    let mut random = Rng::with_seed(7);
    // A page from the last keys would have less than it may.
    let count = entries.len() as u64 - page.unwrap_or_default().min(entries.len() / 2) as u64;
    let keys: Vec<String> = (0..amount).map(|_| format!("bench/{:07}", random.u64(0..count))).collect();
    let ours = reads::Reading::start(&entries, keys.clone(), page, conditions)?;
    Ok(Contenders::new(ours).with(Map::new(entries, keys, page)))
}

/// A catalog of its own, in the conditions' folder.
fn open(conditions: &Conditions) -> Result<(Embedded, TempDir), Failure> {
    let folder = tempfile::Builder::new().prefix("shoal-bench-").tempdir_in(&conditions.folder);
    let folder = folder.map_err(Failure::system("make a folder for a catalog"))?;
    let catalog = Embedded::open(folder.path()).map_err(Failure::catalog("opening a catalog"))?;
    Ok((catalog, folder))
}

fn value(key: String, ttl_ms: Option<u64>) -> Operation {
    Operation::Put(Put { ttl_ms, ..Put::new(key, Content::Value(vec![7; VALUE])) })
}

fn write(catalog: &Embedded, operations: Vec<Operation>) -> Result<(), Failure> {
    let written = block_on(catalog.write(Write { conditions: Vec::new(), operations }));
    written.map(drop).map_err(Failure::catalog("putting into the catalog"))
}
