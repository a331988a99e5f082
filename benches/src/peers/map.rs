//! A map in memory, behind a lock: the least that reads can do.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{PoisonError, RwLock};

use crate::cost::{Cost, Meter};
use crate::failure::Failure;
use crate::scenario::Contender;

/// Reads of a `BTreeMap`, each behind a lock of its own, and copied.
pub struct Map {
    entries: RwLock<BTreeMap<String, Vec<u8>>>,
    keys: Vec<String>,
    page: Option<usize>,
    found: usize,
}

impl Map {
    /// Looks these keys up one by one, or with a page reads so many entries after each.
    pub fn new(entries: BTreeMap<String, Vec<u8>>, keys: Vec<String>, page: Option<usize>) -> Self {
        Self { entries: RwLock::new(entries), keys, page, found: 0 }
    }

    fn read(&self, key: &String) -> usize {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let Some(page) = self.page else {
            return std::hint::black_box(entries.get(key).cloned()).map_or(0, |_| 1);
        };
        let after = entries.range::<String, _>((Bound::Excluded(key), Bound::Unbounded)).take(page);
        let page: Vec<_> = after.map(|(key, value)| (key.clone(), value.clone())).collect();
        std::hint::black_box(page).len()
    }
}

impl Contender for Map {
    fn name(&self) -> String {
        "btreemap".into()
    }

    fn ready(&mut self, _round: u32) -> Result<(), Failure> {
        Ok(())
    }

    fn run(&mut self) -> Result<Cost, Failure> {
        let meter = Meter::start(&[])?;
        self.found = self.keys.iter().map(|key| self.read(key)).sum();
        meter.stop()
    }

    fn verify(&mut self) -> Result<(), Failure> {
        if self.found > 0 { Ok(()) } else { Err(Failure::Wrong { place: "from the map".into() }) }
    }
}
