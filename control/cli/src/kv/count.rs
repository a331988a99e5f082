//! `shoal kv count`

use serde::Serialize;

use crate::failure::Failure;
use crate::global::Global;
use crate::output;

/// Count the keys that begin with a prefix
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  shoal kv count
  shoal kv count jobs/")]
pub struct Count {
    /// What they begin with [default: all keys]
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
}

/// The number, as `--json` prints it.
#[derive(Serialize)]
struct Report {
    count: u64,
}

impl Count {
    /// Counts.
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let count = global.connect()?.kv().count(&self.prefix)?;
        if global.json { output::json(&Report { count }) } else { output::line(count) }
    }
}
