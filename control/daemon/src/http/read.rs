//! Reads of several keys: lists, counts, many at once, and streams of all.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use catalog::{CatalogError, Consistency, Entry, GET_KEYS_MAX, Page, SCAN_LIMIT_MAX, Scan, Snapshot};
use flow::wire::cursor::Cursor;
use futures_lite::stream;
use hyper::body::Bytes;
use plan::key::check_key;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::entry::{Detail, EntryShown};
use super::input::{InBody, InQuery};
use super::key::KeyText;
use super::problem::{Code, Problem, Told};
use crate::failure::in_full;

/// Entries of a page for which no limit is given.
const LIMIT_DEFAULT: usize = 100;
/// Entries that a stream reads at once.
const STREAM_STEP: usize = 256;

/// How fresh an answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Freshness {
    /// What one place knows: it may be stale, and is there also while the catalog cannot be reached.
    One,
    /// Linearizable: every write that was acknowledged before is seen.
    #[default]
    Quorum,
    /// As quorum.
    Serial,
    /// As quorum, and every live node that has a replica of what the key refers to has said that it has it.
    All,
}

impl From<Freshness> for Consistency {
    fn from(given: Freshness) -> Self {
        match given {
            Freshness::One => Self::One,
            Freshness::Quorum => Self::Quorum,
            Freshness::Serial => Self::Serial,
            Freshness::All => Self::All,
        }
    }
}

/// Which keys are listed.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListGiven {
    /// Only keys that begin with it.
    #[serde(default)]
    pub(super) prefix: String,
    /// Most entries of the page, from 1 to 10,000.
    #[param(minimum = 1, maximum = 10000, default = 100)]
    pub(super) limit: Option<usize>,
    /// Where the page begins, as the page before said it.
    pub(super) cursor: Option<String>,
    /// Whether values are left out.
    #[serde(default)]
    pub(super) keys_only: bool,
    /// How fresh the answer must be.
    #[serde(default)]
    #[param(inline)]
    pub(super) consistency: Freshness,
}

/// Which keys are counted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct CountGiven {
    /// Only keys that begin with it.
    #[serde(default)]
    prefix: String,
    /// How fresh the answer must be.
    #[serde(default)]
    #[param(inline)]
    consistency: Freshness,
}

/// Which keys are streamed.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct StreamGiven {
    /// Only keys that begin with it.
    #[serde(default)]
    prefix: String,
    /// Whether values are left out.
    #[serde(default)]
    keys_only: bool,
}

/// The keys of a multi-get.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ManyGiven {
    /// The keys; at most 1024.
    #[schema(max_items = 1024, value_type = Vec<KeyText>)]
    keys: Vec<String>,
    /// How fresh the answer must be.
    #[serde(default)]
    consistency: Freshness,
}

/// A page of entries, ascending by key.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Page)]
pub(super) struct PageShown {
    /// The revision that it shows.
    revision: u64,
    /// The entries.
    entries: Vec<EntryShown>,
    /// Where the next page begins; absent when this is the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

/// What a multi-get found, all at one revision.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Found)]
pub(super) struct FoundShown {
    /// The revision that it shows.
    revision: u64,
    /// For each key in the order asked its entry, or null.
    entries: Vec<Option<EntryShown>>,
    /// Whether this was read earlier, since the catalog cannot be reached; only with consistency one.
    stale: bool,
}

/// A number of keys.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Count {
    /// How many.
    count: u64,
}

/// Lists keys in the order of their bytes.
#[utoipa::path(
    get, path = "/v1/kv", operation_id = "listKeys", tag = "keys", params(ListGiven),
    responses(
        (status = 200, description = "A page of entries", body = PageShown),
        (status = 400, description = "The request cannot be understood", body = Told),
    )
)]
pub(super) async fn list(
    State(api): State<Api>,
    InQuery(given): InQuery<ListGiven>,
) -> Result<Json<PageShown>, Problem> {
    let consistency = given.consistency.into();
    let scan = given.read()?;
    let page = api.catalog.scan(&scan, consistency).await?;
    Ok(Json(PageShown::of(page, &scan.prefix)))
}

/// Counts keys.
#[utoipa::path(
    get, path = "/v1/count", operation_id = "countKeys", tag = "keys", params(CountGiven),
    responses(
        (status = 200, description = "How many keys there are", body = Count),
        (status = 400, description = "The request cannot be understood", body = Told),
    )
)]
pub(super) async fn count(
    State(api): State<Api>,
    InQuery(given): InQuery<CountGiven>,
) -> Result<Json<Count>, Problem> {
    let count = api.catalog.count(&given.prefix, given.consistency.into()).await?;
    Ok(Json(Count { count }))
}

/// Reads several keys at one revision.
#[utoipa::path(
    post, path = "/v1/mget", operation_id = "getKeys", tag = "keys", request_body = ManyGiven,
    responses(
        (status = 200, description = "What the keys have", body = FoundShown),
        (status = 400, description = "The request cannot be understood", body = Told),
        (status = 408, description = "The body did not come in time", body = Told),
        (status = 413, description = "These are too many keys", body = Told),
        (status = 415, description = "The body is not JSON", body = Told),
    )
)]
pub(super) async fn many(
    State(api): State<Api>,
    InBody { value: ManyGiven { keys, consistency }, .. }: InBody<ManyGiven>,
) -> Result<Json<FoundShown>, Problem> {
    if keys.len() > GET_KEYS_MAX {
        let text = format!("{} keys are asked for, at most {GET_KEYS_MAX} may be", keys.len());
        return Err(Problem::too_large(text, "ask several times, or list them by a prefix"));
    }
    let found = api.catalog.get(&keys, consistency.into()).await?;
    let shown = |entry: Option<Entry>| entry.map(|entry| EntryShown::of(entry, Detail::Line));
    let entries = found.entries.into_iter().map(shown).collect();
    Ok(Json(FoundShown { revision: found.revision, entries, stale: found.stale }))
}

/// Streams entries as lines of JSON, all of one revision, however many they are. When it breaks off, the last chunk of
/// the transfer coding is missing.
#[utoipa::path(
    get, path = "/v1/stream", operation_id = "streamKeys", tag = "keys", params(StreamGiven),
    responses(
        (status = 200, description = "A line for each entry", body = EntryShown,
            content_type = "application/x-ndjson", headers(
            ("shoal-revision" = u64, description = "The revision that it shows"),
        )),
        (status = 400, description = "The request cannot be understood", body = Told),
    )
)]
pub(super) async fn all(
    State(api): State<Api>,
    InQuery(StreamGiven { prefix, keys_only }): InQuery<StreamGiven>,
) -> Result<Response, Problem> {
    let held = api.hold_stream()?;
    let snapshot = api.catalog.snapshot().await?;
    let revision = snapshot.revision();
    let scan = Scan { prefix, after: None, limit: STREAM_STEP, contents: !keys_only };
    // What is wrong with the prefix is told before the answer begins.
    let first = snapshot.scan(&scan).await?;
    let lines = stream::unfold(Lines { snapshot, scan, first: Some(first), over: false }, move |lines| {
        let _held = &held;
        lines.next()
    });
    let headers = [
        (CONTENT_TYPE, "application/x-ndjson".to_owned()),
        (axum::http::HeaderName::from_static("shoal-revision"), revision.to_string()),
    ];
    Ok((headers, Body::from_stream(lines)).into_response())
}

/// A stream of entries between two pages.
struct Lines {
    snapshot: Box<dyn Snapshot>,
    scan: Scan,
    first: Option<Page>,
    over: bool,
}

impl Lines {
    async fn next(mut self) -> Option<(Result<Bytes, CatalogError>, Self)> {
        if self.over {
            return None;
        }
        let page = match self.first.take() {
            Some(page) => Ok(page),
            None => self.snapshot.scan(&self.scan).await,
        };
        match page {
            Ok(page) => {
                self.over = page.next.is_none();
                self.scan.after = page.next;
                let mut text = Vec::new();
                for entry in page.entries {
                    let shown = EntryShown::of(entry, Detail::Line);
                    serde_json::to_writer(&mut text, &shown).expect("an entry has texts and numbers alone");
                    text.push(b'\n');
                }
                Some((Ok(text.into()), self))
            }
            Err(error) => {
                tracing::warn!(error = in_full(&error), "a stream of keys broke off");
                self.over = true;
                Some((Err(error), self))
            }
        }
    }
}

impl ListGiven {
    /// The scan that is meant.
    pub(super) fn read(self) -> Result<Scan, Problem> {
        let limit = self.limit.unwrap_or(LIMIT_DEFAULT);
        if !(1..=SCAN_LIMIT_MAX).contains(&limit) {
            return Err(Problem::bad(format!("limit is {limit}; it must be 1 to {SCAN_LIMIT_MAX}"), ""));
        }
        let after = self.cursor.map(|cursor| after(&self.prefix, &cursor)).transpose()?;
        Ok(Scan { prefix: self.prefix, after, limit, contents: !self.keys_only })
    }
}

/// The key after which a page begins.
fn after(prefix: &str, cursor: &str) -> Result<String, Problem> {
    let after = cursor.parse::<Cursor>().and_then(|cursor| cursor.after(prefix));
    after.ok().filter(|after| check_key(after).is_ok()).ok_or_else(|| {
        let text = "the cursor is damaged, or of another listing";
        Problem::new(StatusCode::BAD_REQUEST, Code::BadCursor, text, "begin again without a cursor")
    })
}

impl PageShown {
    pub(super) fn of(page: Page, prefix: &str) -> Self {
        let Page { revision, entries, next } = page;
        let entries = entries.into_iter().map(|entry| EntryShown::of(entry, Detail::Line)).collect();
        Self { revision, entries, cursor: next.map(|after| Cursor::new(prefix, after).to_string()) }
    }
}

/// One key that must be there, and whether that may be stale.
pub(super) async fn one(api: &Api, key: String, freshness: Freshness) -> Result<(Entry, bool), Problem> {
    let mut found = api.catalog.get(std::slice::from_ref(&key), freshness.into()).await?;
    let entry = found.entries.pop().flatten();
    entry.map(|entry| (entry, found.stale)).ok_or_else(|| Problem::no_key(&key))
}

#[cfg(test)]
mod tests {
    use axum::extract::Query;
    use proptest::prelude::*;

    use super::*;

    fn list(query: &str) -> Result<Scan, String> {
        let uri = format!("/v1/kv?{query}").parse().map_err(|_| "no URI")?;
        let given = Query::<ListGiven>::try_from_uri(&uri).map_err(|error| error.body_text())?;
        given.0.read().map_err(|problem| problem.message.clone())
    }

    #[test]
    fn a_query_says_what_to_list() {
        let scan = list("prefix=a%2Fb&limit=7&keys_only=true&consistency=one").unwrap();
        let expected = Scan { prefix: "a/b".into(), after: None, limit: 7, contents: false };
        assert_eq!(scan, expected);
        assert_eq!(list("").unwrap().limit, LIMIT_DEFAULT);
        let cursor = Cursor::new("a/", "a/b");
        assert_eq!(list(&format!("prefix=a/&cursor={cursor}")).unwrap().after.as_deref(), Some("a/b"));
    }

    #[test]
    fn what_is_wrong_in_a_query_is_refused() {
        for query in [
            "limit=0",
            "limit=-1",
            "limit=10001",
            "limit=x",
            "limit=1&limit=2",
            "keys_only=2",
            "consistency=most",
            "cursor=",
            "cursor=AAAA",
            "prefx=a",
        ] {
            assert!(list(query).is_err(), "{query}");
        }
    }

    proptest! {
        #[test]
        fn any_query_is_read_or_refused(query in "[a-z_=&%0-9+/-]{0,60}") {
            let _ = list(&query);
        }
    }
}
