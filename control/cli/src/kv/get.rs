//! `shoal kv get`

use std::io::{self, IsTerminal, Write};

use client::kv::{Content, Entry};

use super::Consistency;
use super::shown::{self, Shown};
use crate::failure::Failure;
use crate::global::Global;
use crate::output;
use crate::put::{note, parse_key};

/// Print the value of a key
///
/// The bytes are printed as they are. Several keys are read at one revision, and shown as a table.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  shoal kv get jobs/7/state
  shoal kv get jobs/7/state --json | jq .version
  shoal kv get a b c
  shoal kv get settings --consistency one     Also while the head is away, from what the node has read before")]
pub struct Get {
    /// The keys
    #[arg(value_name = "KEY", value_parser = parse_key, required = true)]
    keys: Vec<String>,
    /// How fresh the answer must be
    #[arg(long, value_enum, default_value = "quorum")]
    consistency: Consistency,
}

impl Get {
    /// Prints them.
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let found = global.connect()?.kv().get_many(&self.keys, self.consistency.into())?;
        if found.stale {
            note(
                global,
                "the catalog cannot be reached: this was read earlier, and may have been written since",
            );
        }
        let mut entries = Vec::with_capacity(found.entries.len());
        for (key, entry) in self.keys.iter().zip(found.entries) {
            entries.push(entry.ok_or_else(|| no_key(key))?);
        }
        match entries.as_slice() {
            [entry] if global.json => output::json(&Shown::of(entry)),
            entries if global.json => output::json(&entries.iter().map(Shown::of).collect::<Vec<_>>()),
            [entry] => print(entry),
            entries => output::text(&shown::table(entries).to_string()),
        }
    }
}

/// Prints the bytes, and ends the line on a terminal.
fn print(entry: &Entry) -> Result<(), Failure> {
    let Some(Content::Value(bytes)) = &entry.content else {
        let text = format!("key '{}' holds files, not a value; `shoal get` writes them", entry.key);
        return Err(Failure::Usage(text));
    };
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    if stdout.is_terminal() && !bytes.ends_with(b"\n") {
        stdout.write_all(b"\n")?;
    }
    Ok(stdout.flush()?)
}

/// That there is no such key.
pub fn no_key(key: &str) -> Failure {
    Failure::NotFound { what: format!("there is no key '{key}'"), hint: "`shoal kv scan` lists the keys" }
}
