//! Whether what concurrent callers saw of keys can have happened one call after another.
//!
//! A store is linearizable when every call seems to take effect at one moment between its begin and its end. Keys are
//! independent of each other, so that each is checked by itself (Herlihy & Wing, "Linearizability: A Correctness Condition
//! for Concurrent Objects", 1990, theorem 1). Revisions, which order the writes of all keys, are checked beside that.

mod broken; // stores with one defect, which must be noticed
mod checker; // finds an order in which it can have happened
mod history; // who called what, when, and what came of it
mod model; // what one key does when it is called by one at a time
mod remote; // a node as a store
mod store; // what can be called, and the engines of the catalog as one
mod workload; // many callers at once

#[cfg(test)]
mod tests;

pub use broken::{Broken, Defect};
pub use checker::{Violation, check};
pub use history::{Call, Ending, History};
pub use model::{Act, Answer, Key};
pub use remote::Remote;
pub use store::{Outcome, Seen, Store, Turns};
pub use workload::Workload;

/// How many seeded histories a test records: what `SHOAL_HISTORY_RUNS` says, else `few`.
pub fn runs(few: u64) -> u64 {
    match std::env::var("SHOAL_HISTORY_RUNS") {
        Ok(count) => count.parse().expect("SHOAL_HISTORY_RUNS is a number"),
        Err(_) => few,
    }
}
