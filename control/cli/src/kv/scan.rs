//! `shoal kv scan`

use client::Client;
use client::kv::{Cursor, Entry, Page, Scan as PageScan};
use serde::Serialize;

use super::Consistency;
use super::shown::{self, Shown};
use crate::failure::Failure;
use crate::global::Global;
use crate::put::note;
use crate::table::printable;
use crate::{interrupt, output};

/// List keys and their values, in the order of the keys
///
/// Without --all it lists a page, and tells how to go on.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  shoal kv scan jobs/
  shoal kv scan jobs/ --limit 20 --after Aa4JPN5hL2I     The next page, as the last one has told
  shoal kv scan --all --keys-only                        Every key at one revision, line by line
  shoal kv scan jobs/ --all --json | jq -r .key          One JSON document a line")]
pub struct Scan {
    /// What the keys begin with [default: all keys]
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    /// Most entries of the page, up to 10000
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Go on where a page has ended
    #[arg(long, value_name = "CURSOR")]
    after: Option<Cursor>,
    /// Show the keys alone
    #[arg(long)]
    keys_only: bool,
    /// List all, however many there are
    #[arg(long, conflicts_with_all = ["limit", "after", "consistency"])]
    all: bool,
    /// How fresh the answer must be
    #[arg(long, value_enum, default_value = "quorum")]
    consistency: Consistency,
}

/// A page, as `--json` prints it.
#[derive(Serialize)]
struct Report<'e> {
    revision: u64,
    entries: Vec<Shown<'e>>,
    /// What `--after` takes for the next page.
    next: Option<String>,
}

impl Scan {
    /// Lists.
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.connect()?;
        if self.all { self.list_all(global, &client) } else { self.list_page(global, &client) }
    }

    fn list_page(self, global: &Global, client: &Client) -> Result<(), Failure> {
        let Self { prefix, limit, after, keys_only, consistency, .. } = self;
        let after = after.map(|cursor| cursor.after(&prefix)).transpose();
        let after = after.map_err(|error| Failure::Usage(error.to_string()))?;
        let scan = PageScan { prefix: prefix.clone(), after, limit, contents: !keys_only };
        let Page { revision, entries, next } = client.kv().scan(scan, consistency.into())?;
        let next = next.map(|after| Cursor::new(&prefix, after).to_string());
        if global.json {
            return output::json(&Report {
                revision,
                entries: entries.iter().map(Shown::of).collect(),
                next,
            });
        }
        if keys_only {
            entries.iter().try_for_each(|entry| output::line(printable(&entry.key)))?;
        } else {
            output::text(&shown::table(&entries).to_string())?;
        }
        if let Some(cursor) = next {
            note(global, format_args!("there are more: --after {cursor}"));
        }
        Ok(())
    }

    /// Lists entry by entry, since all of them together may not fit into memory.
    fn list_all(self, global: &Global, client: &Client) -> Result<(), Failure> {
        for entry in client.kv().entries(&self.prefix, !self.keys_only)? {
            interrupt::check()?;
            let entry: Entry = entry?;
            if global.json {
                output::json_line(&Shown::of(&entry))?;
            } else if self.keys_only {
                output::line(printable(&entry.key))?;
            } else {
                let (key, value) = (printable(&entry.key), shown::brief(&entry));
                output::line(format_args!("{key}\t{}\t{value}", entry.version))?;
            }
        }
        Ok(())
    }
}
