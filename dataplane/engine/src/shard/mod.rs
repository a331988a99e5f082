//! One executor: replicas, fetches, serving.

use std::thread::JoinHandle;

use memory::Arena;

use crate::command::Command;
use crate::{Config, Event, Finding, StartError};

/// Everything that [`start`] made.
pub(crate) struct Started {
    pub(crate) arena: Arena,
    pub(crate) senders: Vec<flume::Sender<Command>>,
    pub(crate) findings: Vec<Finding>,
    pub(crate) threads: Vec<JoinHandle<()>>,
    pub(crate) events: flume::Receiver<Event>,
}

/// A chunk on its way from the shard where it was written to the shard that owns its id.
pub(crate) struct Adopted {}

/// Starts all shards.
pub(crate) fn start(config: Config) -> Result<Started, StartError> {
    let _ = config;
    Err(StartError::Shard { shard: 0, message: String::new() })
}
