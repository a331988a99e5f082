//! `shoal ls`

use client::Client;
use flow::limits::{KEY_LENGTH_MAX, LIST_ENTRIES_MAX};
use flow::wire::session::{KeyListing, KeySummary};
use serde::Serialize;

use crate::failure::Failure;
use crate::global::Global;
use crate::table::{Table, printable};
use crate::{amount, interrupt, output};

/// List keys, one level at a time like a directory
///
/// Names that end with `/` stand for all keys below them.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  shoal ls                        The top level
  shoal ls models -l              What is below models/, with sizes, versions and ages
  shoal ls models --recursive     Every key below models/
  shoal ls -l --json")]
pub struct Ls {
    /// List this key and what is below it [default: everything]
    key: Option<String>,
    /// Show size, number of files, version and age
    #[arg(short, long)]
    long: bool,
    /// Show every key below, not one level
    #[arg(short = 'R', long)]
    recursive: bool,
}

/// A line of the listing.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Entry {
    /// A key.
    Key(KeySummary),
    /// All keys below a name.
    Prefix {
        /// The name, with its `/` at the end.
        key: String,
        /// How many keys, when that was counted.
        #[serde(skip_serializing_if = "Option::is_none")]
        keys: Option<u64>,
        /// Bytes of all of them, when that was counted.
        #[serde(skip_serializing_if = "Option::is_none")]
        size: Option<u64>,
    },
}

impl Ls {
    /// Lists.
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let root = self.key.as_deref().unwrap_or("").trim_matches('/');
        let client = global.connect()?;
        let mut listing = Listing::new(root, self.recursive, self.long);
        read(&client, &mut listing)?;
        if listing.entries.is_empty() && !root.is_empty() {
            let what = format!("there is no key '{root}' and none below it");
            return Err(Failure::NotFound { what, hint: "`shoal ls` lists the top level" });
        }
        if global.json {
            return output::json(&listing.entries);
        }
        if self.long { output::text(&table(&listing.entries, root)) } else { names(&listing.entries, root) }
    }
}

/// Reads page after page until the listing has all it needs.
fn read(client: &Client, listing: &mut Listing) -> Result<(), Failure> {
    if !listing.root.is_empty() {
        // The key itself sorts away from what is below it ("a-b" lies between "a" and "a/b").
        let page = client.list(listing.root, "", 1)?;
        listing.entries.extend(page.keys.into_iter().filter(|key| key.key == listing.root).map(Entry::Key));
    }
    let prefix = below(listing.root);
    let mut after = String::new();
    loop {
        interrupt::check()?;
        match listing.take(client.list(&prefix, &after, LIST_ENTRIES_MAX)?) {
            Some(next) => after = next,
            None => return Ok(()),
        }
    }
}

/// What a directory-like listing of keys has gathered.
struct Listing<'a> {
    root: &'a str,
    recursive: bool,
    counted: bool,
    entries: Vec<Entry>,
}

impl<'a> Listing<'a> {
    fn new(root: &'a str, recursive: bool, counted: bool) -> Self {
        Self { root, recursive, counted, entries: Vec::new() }
    }

    /// Takes the keys of a page, in order; gives the key after which the next page begins, if there is one.
    fn take(&mut self, page: KeyListing) -> Option<String> {
        let last = page.keys.last().map(|key| key.key.clone());
        let start = below(self.root).len();
        for key in page.keys {
            match key.key.get(start..).and_then(|rest| rest.find('/')) {
                Some(slash) if !self.recursive => self.fold(&key, start + slash + 1),
                _ => self.entries.push(Entry::Key(key)),
            }
        }
        if page.more { last.map(|last| self.skip(last)) } else { None }
    }

    /// Counts a key under the prefix that its first `length` bytes are.
    fn fold(&mut self, key: &KeySummary, length: usize) {
        let prefix = &key.key[..length];
        if !matches!(self.entries.last(), Some(Entry::Prefix { key, .. }) if key == prefix) {
            let zero = self.counted.then_some(0);
            self.entries.push(Entry::Prefix { key: prefix.into(), keys: zero, size: zero });
        }
        if let Some(Entry::Prefix { keys: Some(keys), size: Some(size), .. }) = self.entries.last_mut() {
            *keys += 1;
            *size = size.saturating_add(key.size);
        }
    }

    /// Where to go on after `last`: past all of a prefix that is on the list and needs no counting.
    fn skip(&self, last: String) -> String {
        match self.entries.last() {
            Some(Entry::Prefix { key, keys: None, .. })
                if key.len() + char::MAX.len_utf8() <= KEY_LENGTH_MAX =>
            {
                format!("{key}{}", char::MAX)
            }
            _ => last,
        }
    }
}

/// What the keys below `root` begin with.
fn below(root: &str) -> String {
    if root.is_empty() { String::new() } else { format!("{root}/") }
}

fn names(entries: &[Entry], root: &str) -> Result<(), Failure> {
    let lines: Vec<String> = entries.iter().map(|entry| printable(entry.name(root)) + "\n").collect();
    output::text(&lines.concat())
}

fn table(entries: &[Entry], root: &str) -> String {
    let mut table = Table::new([">SIZE", ">FILES", ">VERSION", ">AGE", "NAME"]);
    for entry in entries {
        let name = entry.name(root).to_owned();
        table.row(match entry {
            Entry::Key(key) => [
                amount::size(key.size),
                key.files.to_string(),
                key.version.to_string(),
                amount::age(key.created_ms),
                name,
            ],
            Entry::Prefix { keys, size, .. } => [
                size.map(amount::size).unwrap_or_default(),
                String::new(),
                String::new(),
                String::new(),
                format!("{name}  ({})", amount::count(keys.unwrap_or_default(), "key")),
            ],
        });
    }
    table.to_string()
}

impl Entry {
    /// The name relative to `root`; the root itself keeps its whole name.
    fn name(&self, root: &str) -> &str {
        let (Entry::Key(KeySummary { key, .. }) | Entry::Prefix { key, .. }) = self;
        key.strip_prefix(&below(root)).unwrap_or(key)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn summary(key: &str) -> KeySummary {
        KeySummary { key: key.into(), version: 1, created_ms: 0, size: 10, files: 1 }
    }

    /// A catalog that answers `limit` keys at a time; gives the names and how many pages were asked for.
    fn list(keys: &[&str], root: &str, recursive: bool, counted: bool, limit: usize) -> (Vec<Entry>, usize) {
        let mut keys: Vec<&str> = keys.to_vec();
        keys.sort_unstable();
        let mut listing = Listing::new(root, recursive, counted);
        let (mut after, mut pages) = (String::new(), 0);
        loop {
            pages += 1;
            let found: Vec<KeySummary> = keys
                .iter()
                .filter(|key| key.starts_with(&below(root)) && **key > after.as_str())
                .map(|key| summary(key))
                .collect();
            let more = found.len() > limit;
            match listing.take(KeyListing { keys: found.into_iter().take(limit).collect(), more }) {
                Some(next) => after = next,
                None => return (listing.entries, pages),
            }
        }
    }

    fn names(entries: &[Entry], root: &str) -> Vec<String> {
        entries.iter().map(|entry| entry.name(root).to_owned()).collect()
    }

    const KEYS: [&str; 7] = ["a", "a-b", "a/x", "a/y/1", "a/y/2", "b/z/q", "c"];

    #[test]
    fn one_level_is_shown() {
        for limit in 1..8 {
            let top = list(&KEYS, "", false, false, limit).0;
            assert_eq!(names(&top, ""), ["a", "a-b", "a/", "b/", "c"]);
            assert_eq!(names(&list(&KEYS, "a", false, false, limit).0, "a"), ["x", "y/"]);
            assert_eq!(names(&list(&KEYS, "a", true, false, limit).0, "a"), ["x", "y/1", "y/2"]);
            assert!(list(&KEYS, "nowhere", false, false, limit).0.is_empty());
        }
    }

    #[test]
    fn prefixes_are_counted_when_asked() {
        let entries = list(&KEYS, "", false, true, 2).0;
        assert!(entries.contains(&Entry::Prefix { key: "a/".into(), keys: Some(3), size: Some(30) }));
    }

    #[test]
    fn a_large_prefix_is_skipped() {
        let keys: Vec<String> = (0..100).map(|at| format!("big/{at:03}")).chain(["z".into()]).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let (entries, pages) = list(&keys, "", false, false, 10);
        assert_eq!(names(&entries, ""), ["big/", "z"]);
        assert_eq!(pages, 2);
    }

    proptest! {
        #[test]
        fn paging_changes_nothing(keys in proptest::collection::btree_set("[ab](/[ab0]{1,2}){0,3}", 0..30), limit in 1usize..10) {
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            for root in ["", "a"] {
                let whole = list(&keys, root, false, false, usize::MAX).0;
                prop_assert_eq!(&list(&keys, root, false, false, limit).0, &whole);
                prop_assert_eq!(names(&list(&keys, root, false, true, limit).0, root), names(&whole, root));
            }
        }
    }
}
