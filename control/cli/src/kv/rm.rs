//! `shoal kv rm`

use client::kv::Kv;
use serde::Serialize;

use super::get::no_key;
use crate::failure::Failure;
use crate::global::Global;
use crate::put::parse_key;
use crate::{amount, output};

/// Remove keys
#[derive(clap::Args)]
#[command(
    disable_version_flag = true,
    after_help = "\
Examples:
  shoal kv rm jobs/7/state
  shoal kv rm lock --version 3      Only if nobody has written it since; exits with 5 otherwise
  shoal kv rm --recursive jobs/7    The key and every key below it"
)]
pub struct Rm {
    /// The keys
    #[arg(value_name = "KEY", value_parser = parse_key, required = true)]
    keys: Vec<String>,
    /// Remove it only if it has this version
    #[arg(long, value_name = "N", conflicts_with = "recursive")]
    version: Option<u64>,
    /// Remove every key below too
    #[arg(short, long)]
    recursive: bool,
}

/// What was removed, as `--json` prints it.
#[derive(Serialize)]
struct Report {
    removed: u64,
}

impl Rm {
    /// Removes them, one after another.
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        if self.version.is_some() && self.keys.len() > 1 {
            return Err(Failure::Usage("--version is about one key".into()));
        }
        let client = global.connect()?;
        let mut removed = 0;
        for key in &self.keys {
            let count = self.remove(client.kv(), key)?;
            removed += count;
            if !global.json && !global.quiet {
                match count {
                    1 => output::line(format_args!("removed {key}"))?,
                    count => output::line(format_args!("removed {key}: {}", amount::count(count, "key")))?,
                }
            }
        }
        if global.json { output::json(&Report { removed }) } else { Ok(()) }
    }

    fn remove(&self, kv: Kv<'_>, key: &str) -> Result<u64, Failure> {
        if self.recursive {
            return Ok(kv.delete_below(key)?);
        }
        match kv.delete(key, self.version)? {
            0 => Err(no_key(key)),
            _ => Ok(1),
        }
    }
}
