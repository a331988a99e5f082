//! `shoal rm`

use serde::Serialize;

use crate::failure::Failure;
use crate::global::Global;
use crate::put::parse_key;
use crate::{amount, output};

/// Remove keys
///
/// Readers that have begun keep what they read. The bytes are freed a little later, when no key refers to them.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  shoal rm models/llama/step-100
  shoal rm -r models/llama          The key and every key below it")]
pub struct Rm {
    /// The keys
    #[arg(value_name = "KEY", value_parser = parse_key, required = true)]
    keys: Vec<String>,
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
    /// Removes.
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.connect()?;
        let mut removed = 0;
        for key in &self.keys {
            let count = client.remove(key, self.recursive)?;
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
}
