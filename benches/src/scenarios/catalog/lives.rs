//! Many keys that expire.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use catalog::{Catalog, Clock, Embedded, OPERATIONS_MAX, Operation, Settings, SystemClock};
use futures_lite::future::block_on;

use super::puts::Putting;
use super::{MANY, value, write};
use crate::conditions::Conditions;
use crate::cost::Cost;
use crate::failure::Failure;
use crate::interrupt;
use crate::scenario::Contender;

/// How long keys live that expire, in milliseconds: longer than anything is measured.
const TTL_MS: u64 = 24 * 3600 * 1000;
/// One of so many expires in half that time, so that those end at once by themselves.
const EARLY: u64 = 10;

/// Puts into a catalog that is full of keys, all of which expire or none.
pub(super) struct Living {
    puts: Putting,
    expire: bool,
    entries: u64,
    /// Memory that filling the catalog has taken.
    memory_bytes: u64,
    clock: Arc<Ahead>,
}

/// The machine's calendar, so many milliseconds ahead.
#[derive(Default)]
struct Ahead(AtomicU64);

impl Clock for Ahead {
    fn now_ms(&self) -> u64 {
        SystemClock.now_ms() + self.0.load(Ordering::Relaxed)
    }
}

impl Living {
    pub(super) fn start(
        entries: u64,
        each: u64,
        expire: bool,
        conditions: &Conditions,
    ) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("shoal-bench-").tempdir_in(&conditions.folder);
        let folder = folder.map_err(Failure::system("make a folder for a catalog"))?;
        let clock = Arc::<Ahead>::default();
        let settings = Settings { clock: clock.clone(), ..Settings::default() };
        let ttl_ms = expire.then_some(TTL_MS);
        let before_bytes = resident_bytes()?;
        let catalog =
            Embedded::open_with(folder.path(), settings).map_err(Failure::catalog("opening a catalog"))?;
        let keys: Vec<u64> = (0..entries).collect();
        for keys in keys.chunks(OPERATIONS_MAX) {
            interrupt::check()?;
            // Neighbours in time are no neighbours by name.
            let key = |key: &u64| format!("full/{:08}", key.wrapping_mul(0x9E37_79B9) % 100_000_000);
            let ttl_ms = |number: &u64| {
                if number.is_multiple_of(EARLY) { ttl_ms.map(|ttl_ms| ttl_ms / 2) } else { ttl_ms }
            };
            let operations: BTreeMap<String, Operation> =
                keys.iter().map(|number| (key(number), value(key(number), ttl_ms(number)))).collect();
            write(&catalog, operations.into_values().collect())?;
        }
        let memory_bytes = resident_bytes()?.saturating_sub(before_bytes);
        let puts = Putting::new(MANY, each, ttl_ms, catalog, folder);
        Ok(Self { puts, expire, entries, memory_bytes, clock })
    }

    /// Seconds that a sweep takes, and how many keys it ends.
    fn sweep(&self) -> Option<(f64, u64)> {
        let begin = Instant::now();
        let swept = block_on(self.puts.catalog.sweep()).ok()?;
        Some((begin.elapsed().as_secs_f64(), swept.expired))
    }
}

impl Contender for Living {
    fn name(&self) -> String {
        if self.expire { "shoal" } else { "for-ever" }.into()
    }

    fn ready(&mut self, round: u32) -> Result<(), Failure> {
        self.puts.ready(round)
    }

    fn run(&mut self) -> Result<Cost, Failure> {
        self.puts.run()
    }

    fn verify(&mut self) -> Result<(), Failure> {
        self.puts.verify()
    }

    fn remark(&self) -> Option<String> {
        let megabytes = self.memory_bytes as f64 / 1e6;
        let full = format!("{} keys took {megabytes:.0} MB of memory", self.entries);
        // The first may find what the puts have left to do.
        self.sweep()?;
        let (idle_s, _) = self.sweep()?;
        let idle = format!("{full}; a sweep that finds nothing takes {:.0} µs", idle_s * 1e6);
        if !self.expire {
            return Some(idle);
        }
        let sweep_at = |ahead_ms| {
            self.clock.0.store(ahead_ms + 60_000, Ordering::Relaxed);
            let (end_s, ended) = self.sweep()?;
            Some(format!("one that ends {ended} keys {end_s:.2} s"))
        };
        Some(format!("{idle}, {}, {}", sweep_at(TTL_MS / 2)?, sweep_at(TTL_MS)?))
    }
}

/// Memory of this process that is in use.
fn resident_bytes() -> Result<u64, Failure> {
    let status =
        std::fs::read_to_string("/proc/self/status").map_err(Failure::system("read its own status"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes: Option<u64> =
        resident.and_then(|text| text.trim().strip_suffix("kB")?.trim().parse().ok());
    Ok(kibibytes.unwrap_or_default() * 1024)
}
