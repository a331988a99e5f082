//! `shoal kv ttl`

use std::time::Duration;

use serde::Serialize;

use super::get::no_key;
use crate::amount::parse_span;
use crate::failure::Failure;
use crate::global::Global;
use crate::put::parse_key;
use crate::{amount, output};

/// Show or change when a key expires
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  shoal kv ttl jobs/7/state
  shoal kv ttl jobs/7/state --set 1h
  shoal kv ttl jobs/7/state --extend 10m     Ten minutes later than it would
  shoal kv ttl jobs/7/state --remove         It stays")]
pub struct Ttl {
    /// The key
    #[arg(value_parser = parse_key)]
    key: String,
    /// Let it expire so long from now
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    set: Option<Duration>,
    /// Let it expire later by this; it must expire already
    #[arg(long, value_name = "TIME", value_parser = parse_span, conflicts_with = "set")]
    extend: Option<Duration>,
    /// Let it stay
    #[arg(long, conflicts_with_all = ["set", "extend"])]
    remove: bool,
}

/// When a key expires, as `--json` prints it.
#[derive(Serialize)]
struct Report<'a> {
    key: &'a str,
    version: u64,
    expires_ms: Option<u64>,
}

impl Ttl {
    /// Shows or changes it.
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let (client, key) = (global.connect()?, &self.key);
        let kv = client.kv();
        match (self.set, self.extend, self.remove) {
            (Some(ttl), _, _) => drop(kv.expire(key, ttl)?),
            (None, Some(by), _) => drop(kv.extend(key, by)?),
            (None, None, true) => drop(kv.persist(key)?),
            (None, None, false) => {}
        }
        let entry = kv.get(key)?.ok_or_else(|| no_key(key))?;
        if global.json {
            return output::json(&Report { key, version: entry.version, expires_ms: entry.expires_ms });
        }
        match entry.expires_ms {
            Some(expires_ms) => output::line(format_args!("{key} expires in {}", amount::left(expires_ms))),
            None => output::line(format_args!("{key} does not expire")),
        }
    }
}
