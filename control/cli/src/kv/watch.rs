//! `shoal kv watch`

use client::kv::{Change, ChangeKind, Selector, Start};
use serde::Serialize;

use super::shown::{self, Shown};
use crate::failure::Failure;
use crate::global::Global;
use crate::put::parse_key;
use crate::table::printable;
use crate::{amount, interrupt, output};

/// Follow what is written, line by line, until Ctrl-C
///
/// Every change comes once and in order, also after the connection or the head was lost for a while. A change that is not kept
/// any more ends it with an error.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  shoal kv watch settings
  shoal kv watch --prefix jobs/ --json | jq -r .key
  shoal kv watch --glob 'jobs/*/state' --since 10m
  shoal kv watch --prefix '' --from-revision 120     Everything, from a revision on")]
pub struct Watch {
    /// Follow one key
    #[arg(value_parser = parse_key, required_unless_present_any = ["prefix", "glob"])]
    key: Option<String>,
    /// Follow all keys that begin with this; '' is every key
    #[arg(long, conflicts_with = "key")]
    prefix: Option<String>,
    /// Follow all keys that this matches: `*` any run of characters, `?` one, `[a-z]` one of them
    #[arg(long, value_name = "PATTERN", conflicts_with_all = ["key", "prefix"])]
    glob: Option<String>,
    /// Begin with the writes of this revision
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    from_revision: Option<u64>,
    /// Begin with what was written at a time: so long ago, such as 10m, or in milliseconds since 1970
    #[arg(long, value_name = "TIME", value_parser = parse_time, conflicts_with = "from_revision")]
    since: Option<u64>,
    /// End after so many changes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// A change, as `--json` prints it.
#[derive(Serialize)]
struct Report<'c> {
    revision: u64,
    at_ms: u64,
    key: &'c str,
    change: &'static str,
    /// The version that was written, or that the key had.
    version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    entry: Option<Shown<'c>>,
}

impl Watch {
    /// Follows.
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.connect()?;
        let left = usize::try_from(self.count.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
        let (start, selector) = (self.start(), self.selector()?);
        for change in client.kv().watch(selector, start)?.take(left) {
            interrupt::check()?;
            tell(global, &change?)?;
        }
        Ok(())
    }

    fn start(&self) -> Start {
        match (self.from_revision, self.since) {
            (Some(revision), _) => Start::After(revision - 1),
            (None, Some(time_ms)) => Start::At(time_ms),
            (None, None) => Start::Now,
        }
    }

    fn selector(self) -> Result<Selector, Failure> {
        match (self.key, self.prefix, self.glob) {
            (Some(key), _, _) => Ok(Selector::Key(key)),
            (None, Some(prefix), _) => Ok(Selector::Prefix(prefix)),
            (None, None, Some(pattern)) => Ok(Selector::Glob(pattern)),
            (None, None, None) => Err(Failure::Usage("name a key, a --prefix or a --glob".into())),
        }
    }
}

fn tell(global: &Global, change: &Change) -> Result<(), Failure> {
    let (name, version, entry) = match &change.kind {
        ChangeKind::Put(entry) => ("put", entry.version, Some(entry)),
        ChangeKind::Delete(version) => ("delete", *version, None),
        ChangeKind::Expire(version) => ("expire", *version, None),
        ChangeKind::OwnerEnded(version) => ("owner_ended", *version, None),
    };
    let Change { revision, at_ms, key, .. } = change;
    if global.json {
        let (revision, at_ms, entry) = (*revision, *at_ms, entry.map(Shown::of));
        return output::json_line(&Report { revision, at_ms, key, change: name, version, entry });
    }
    let value = entry.map(shown::brief).unwrap_or_default();
    let line = format!("{revision}\t{name}\t{}\tversion {version}\t{value}", printable(key));
    output::line(line.trim_end())
}

/// A point in time, in milliseconds since 1970.
fn parse_time(text: &str) -> Result<u64, String> {
    if let Ok(time_ms) = text.parse() {
        return Ok(time_ms);
    }
    let ago = amount::parse_span(text).map_err(|_| {
        format!("'{text}' is no time; write 10m for ten minutes ago, or milliseconds since 1970")
    })?;
    Ok(amount::now_ms().saturating_sub(ago.as_millis() as u64))
}
