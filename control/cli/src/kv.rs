//! `shoal kv …`

mod cas;
mod count;
mod get;
mod put;
mod rm;
mod scan;
mod shown; // entries and values as they are printed
mod ttl;
mod txn;
mod value; // values as they are given
mod watch;

use crate::failure::Failure;
use crate::global::Global;

/// Keep small values under keys: versions, lives, batches, changes
///
/// A value has up to 64 KiB; `shoal put` stores what is larger. Keys of both kinds are in one catalog.
#[derive(clap::Subcommand)]
pub enum Kv {
    Get(get::Get),
    Put(put::Put),
    Cas(cas::Cas),
    Rm(rm::Rm),
    Scan(scan::Scan),
    Count(count::Count),
    Watch(watch::Watch),
    Ttl(ttl::Ttl),
    Txn(txn::Txn),
}

impl Kv {
    /// Carries it out.
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        match self {
            Kv::Get(get) => get.run(global),
            Kv::Put(put) => put.run(global),
            Kv::Cas(cas) => cas.run(global),
            Kv::Rm(rm) => rm.run(global),
            Kv::Scan(scan) => scan.run(global),
            Kv::Count(count) => count.run(global),
            Kv::Watch(watch) => watch.run(global),
            Kv::Ttl(ttl) => ttl.run(global),
            Kv::Txn(txn) => txn.run(global),
        }
    }
}

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Consistency {
    /// What the node knows, be it stale; also while the catalog is out of reach
    One,
    /// Every write that was acknowledged before is seen
    #[default]
    Quorum,
    /// As quorum
    Serial,
    /// As quorum, and every live node that has the data has said so
    All,
}

impl From<Consistency> for client::kv::Consistency {
    fn from(consistency: Consistency) -> Self {
        match consistency {
            Consistency::One => client::kv::Consistency::One,
            Consistency::Quorum => client::kv::Consistency::Quorum,
            Consistency::Serial => client::kv::Consistency::Serial,
            Consistency::All => client::kv::Consistency::All,
        }
    }
}
