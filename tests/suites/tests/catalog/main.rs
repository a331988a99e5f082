//! Every engine of the catalog, by one suite.

mod crash; // killed in the middle of group commits
mod embedded; // the engine in one process
