//! Every engine of the catalog, by one suite.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

mod crash; // killed in the middle of group commits
mod embedded; // the engine in one process
mod over_http; // the HTTP door of a node
