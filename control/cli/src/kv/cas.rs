//! `shoal kv cas`

use super::put;
use super::value::{self, With};
use crate::failure::Failure;
use crate::global::Global;
use crate::put::parse_key;

/// Put a value only if the key has a certain version
///
/// Exits with 5 and changes nothing when it has another one.
#[derive(clap::Args)]
#[command(
    disable_version_flag = true,
    after_help = "\
Examples:
  shoal kv cas lock --version 0 worker-3 --ttl 30s     Take it if nobody has it
  shoal kv cas settings --version 7 @settings.json"
)]
pub struct Cas {
    /// The key
    #[arg(value_parser = parse_key)]
    key: String,
    /// The value; `-` is standard input, `@FILE` a file. At most 64 KiB
    #[arg(default_value = "-", hide_default_value = true, allow_hyphen_values = true)]
    value: String,
    /// The version that the key must have; 0 when it must be absent
    #[arg(long, value_name = "N")]
    version: u64,
    #[command(flatten)]
    with: With,
}

impl Cas {
    /// Puts it.
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let value = value::read(&self.key, &self.value)?;
        let options = self.with.options(Some(self.version));
        let written = global.connect()?.kv().put(&self.key, &value, &options)?;
        put::tell(global, &self.key, &written, value.len())
    }
}
