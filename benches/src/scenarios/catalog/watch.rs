//! From a put to who watches.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use catalog::{Catalog, Embedded, Selector, Start};
use futures_lite::future::block_on;
use tempfile::TempDir;

use super::{open, value, write};
use crate::conditions::Conditions;
use crate::cost::{Cost, Meter};
use crate::failure::Failure;
use crate::scenario::Contender;

/// One client that puts, and perhaps a thread that watches.
pub(super) struct Watching {
    puts: u64,
    is_watched: bool,
    /// From the call of each put until it was delivered, or acknowledged where nobody watches.
    latencies: Vec<Duration>,
    catalog: Embedded,
    _folder: TempDir,
}

impl Watching {
    pub(super) fn start(puts: u64, is_watched: bool, conditions: &Conditions) -> Result<Self, Failure> {
        let (catalog, folder) = open(conditions)?;
        Ok(Self { puts, is_watched, latencies: Vec::new(), catalog, _folder: folder })
    }

    fn put_all(&mut self, delivered: Option<&mpsc::Receiver<Instant>>) -> Result<(), Failure> {
        for number in 0..self.puts {
            let begin = Instant::now();
            write(&self.catalog, vec![value(format!("bench/{number}"), None)])?;
            let end = match delivered {
                Some(delivered) => {
                    delivered.recv().map_err(|_| Failure::Wrong { place: "at who watches".into() })?
                }
                None => Instant::now(),
            };
            self.latencies.push(end - begin);
        }
        Ok(())
    }
}

impl Contender for Watching {
    fn name(&self) -> String {
        if self.is_watched { "shoal" } else { "unwatched" }.into()
    }

    fn ready(&mut self, _round: u32) -> Result<(), Failure> {
        Ok(())
    }

    fn run(&mut self) -> Result<Cost, Failure> {
        if !self.is_watched {
            let meter = Meter::start(&[])?;
            self.put_all(None)?;
            return meter.stop();
        }
        let changes = self.catalog.changes(Start::Now, Selector::Prefix("bench/".into()));
        let mut changes = block_on(changes).map_err(Failure::catalog("watching the catalog"))?;
        let (deliver, delivered) = mpsc::channel();
        let puts = self.puts;
        let meter = Meter::start(&[])?;
        let watcher = thread::spawn(move || {
            for _ in 0..puts {
                // Whoever waits sees that nothing more comes.
                if block_on(changes.next()).is_err() || deliver.send(Instant::now()).is_err() {
                    return;
                }
            }
        });
        self.put_all(Some(&delivered))?;
        let cost = meter.stop();
        // It has delivered all, or has failed and was noticed.
        let _ = watcher.join();
        cost
    }

    fn verify(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    fn remark(&self) -> Option<String> {
        let mut latencies = self.latencies.clone();
        latencies.sort_unstable();
        let at =
            |share: f64| latencies.get((latencies.len() as f64 * share) as usize).map(Duration::as_micros);
        let until = if self.is_watched { "delivered" } else { "acknowledged" };
        Some(format!("from call to {until}: half within {} µs, 99 % within {} µs", at(0.5)?, at(0.99)?))
    }
}
