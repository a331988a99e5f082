//! `shoal kv put`

use client::kv::Written;
use serde::Serialize;

use super::value::{self, With};
use crate::failure::Failure;
use crate::global::Global;
use crate::output;
use crate::put::parse_key;

/// Put a value under a key
///
/// What is not said is cleared: a put without --ttl lets the key stay. The value is durable when this returns.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  shoal kv put jobs/7/state running
  shoal kv put leases/gpu0 worker-3 --ttl 30s --owner scheduler
  shoal kv put settings @settings.json --label team=research
  date | shoal kv put last-seen")]
pub struct Put {
    /// The key
    #[arg(value_parser = parse_key)]
    key: String,
    /// The value; `-` is standard input, `@FILE` a file. At most 64 KiB
    #[arg(default_value = "-", hide_default_value = true, allow_hyphen_values = true)]
    value: String,
    #[command(flatten)]
    with: With,
}

/// What was put, as `--json` prints it.
#[derive(Serialize)]
struct Report<'a> {
    key: &'a str,
    version: u64,
    revision: u64,
    size: usize,
}

impl Put {
    /// Puts it.
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let value = value::read(&self.key, &self.value)?;
        let written = global.connect()?.kv().put(&self.key, &value, &self.with.options(None))?;
        tell(global, &self.key, &written, value.len())
    }
}

/// Says what was put.
pub fn tell(global: &Global, key: &str, written: &Written, size: usize) -> Result<(), Failure> {
    let (version, revision) = (written.versions.first().copied().unwrap_or_default(), written.revision);
    if global.json {
        return output::json(&Report { key, version, revision, size });
    }
    if global.quiet {
        Ok(())
    } else {
        output::line(format_args!("{key}: version {version}, revision {revision}"))
    }
}
