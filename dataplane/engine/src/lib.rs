//! Execution of the data plane: shards, rings, stores, transports.
