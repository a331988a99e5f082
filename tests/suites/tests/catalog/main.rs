//! Every engine of the catalog, by one suite.

mod embedded; // the engine in one process
