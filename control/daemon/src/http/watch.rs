//! Changes as they come, as server-sent events (HTML Living Standard, 9.2).
//!
//! One event is one write, since all changes of a write belong together; its `id` is the revision of the write. So a reader
//! that was cut off names the last event that it has seen, which browsers do by themselves, and goes on behind it.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use catalog::{CatalogError, Change, ChangeKind, ChangeStream, Consistency, Selector, Start};
use futures_lite::stream;
use hyper::body::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::entry::{Detail, EntryShown};
use super::input::{self, InQuery};
use super::problem::{Problem, Told};

/// Time between two signs of life.
const HEARTBEAT: Duration = Duration::from_secs(5);
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Whose changes are wanted, and from where on. At most one of key, prefix and glob, and one of after_revision and since_ms;
/// without either it is all keys, and what is written after the answer began.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WatchGiven {
    /// One key.
    key: Option<String>,
    /// All keys that begin with it.
    prefix: Option<String>,
    /// All keys that a pattern matches: `*` any run of characters, also of `/`; `?` one character; `[a-z]` one of them.
    glob: Option<String>,
    /// The first change is the first after this revision; 0 for all that are kept. The header Last-Event-ID takes its place.
    after_revision: Option<u64>,
    /// The first change is the first at or after this time, milliseconds since 1970.
    since_ms: Option<u64>,
}

/// The changes of one write.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Changes)]
pub(super) struct ChangesShown {
    /// The revision of the write.
    revision: u64,
    /// When it was written, milliseconds since 1970.
    at_ms: u64,
    /// What became of which key, of those that are watched.
    changes: Vec<ChangeShown>,
}

/// What became of one key.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Change)]
struct ChangeShown {
    /// The key.
    key: String,
    /// What happened.
    kind: KindShown,
    /// The version that it has, or had before it went.
    version: u64,
    /// The entry with its value, of a put.
    #[serde(skip_serializing_if = "Option::is_none")]
    entry: Option<EntryShown>,
}

/// What happened to a key.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[schema(as = ChangeKind)]
#[serde(rename_all = "snake_case")]
enum KindShown {
    /// It was put, or its expiry changed.
    Put,
    /// It was deleted.
    Delete,
    /// It has expired.
    Expire,
    /// The service that owned it has ended.
    OwnerEnded,
}

/// Watches keys. The events are `change`, with a document of the changes of one write and its revision as `id`; before them
/// one `start`, with the revision after which they begin; and `gone`, with a problem, when the reader has fallen behind what
/// is kept, after which the answer ends.
#[utoipa::path(
    get, path = "/v1/watch", operation_id = "watchKeys", tag = "changes",
    params(
        WatchGiven,
        ("last-event-id" = Option<u64>, Header, description = "The revision of the last event that was seen"),
    ),
    responses(
        (status = 200, description = "Events, without end", body = ChangesShown, content_type = "text/event-stream"),
        (status = 400, description = "The request cannot be understood", body = Told),
        (status = 410, description = "Changes that are wanted are not kept any more", body = Told),
    )
)]
pub(super) async fn watch(
    State(api): State<Api>,
    InQuery(given): InQuery<WatchGiven>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (selector, start) = given.read(input::header(&headers, &LAST_EVENT_ID)?)?;
    let held = api.hold_stream()?;
    let start = match start {
        // The answer says where it begins, so that also a reader that was cut off before the first event misses nothing.
        Start::Now => Start::After(api.catalog.get(&[], Consistency::Quorum).await?.revision),
        start => start,
    };
    let changes = api.catalog.changes(start, selector).await?;
    let events = Events { changes, before: Some(start), over: false };
    let events = stream::unfold(events, move |events| {
        let _held = &held;
        events.next()
    });
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    Ok((headers, Body::from_stream(events)).into_response())
}

impl WatchGiven {
    fn read(self, last_event: Option<&str>) -> Result<(Selector, Start), Problem> {
        let selector = match (self.key, self.prefix, self.glob) {
            (Some(key), None, None) => Selector::Key(key),
            (None, None, Some(glob)) => Selector::Glob(glob),
            (None, prefix, None) => Selector::Prefix(prefix.unwrap_or_default()),
            _ => return Err(Problem::bad("give one of key, prefix and glob", "")),
        };
        let start = match (last_event.filter(|text| !text.is_empty()), self.after_revision, self.since_ms) {
            (Some(text), _, _) => {
                let refused = |_| Problem::bad("Last-Event-ID is no revision", "send the id of an event");
                Start::After(text.parse().map_err(refused)?)
            }
            (None, Some(revision), None) => Start::After(revision),
            (None, None, Some(time)) => Start::At(time),
            (None, None, None) => Start::Now,
            _ => return Err(Problem::bad("give one of after_revision and since_ms", "")),
        };
        Ok((selector, start))
    }
}

/// A watch between two events.
struct Events {
    changes: Box<dyn ChangeStream>,
    /// Where it begins, until that was said.
    before: Option<Start>,
    over: bool,
}

impl Events {
    /// The next event, or a sign of life when none comes for a while.
    async fn next(mut self) -> Option<(Result<Bytes, std::convert::Infallible>, Self)> {
        if self.over {
            return None;
        }
        if let Some(start) = self.before.take() {
            return Some((Ok(first(start)), self));
        }
        let text = match tokio::time::timeout(HEARTBEAT, self.changes.next()).await {
            // Where a reader that hears of nothing has come to, so that it does not fall behind what is kept.
            Err(_) => format!(": still here\nid: {}\n\n", self.changes.position()),
            Ok(Ok(changes)) => event(changes),
            Ok(Err(error)) => {
                self.over = true;
                farewell(error)
            }
        };
        Some((Ok(text.into()), self))
    }
}

fn first(start: Start) -> Bytes {
    match start {
        Start::After(revision) => {
            format!("event: start\nid: {revision}\ndata: {{\"revision\":{revision}}}\n\n").into()
        }
        Start::Now | Start::At(_) => Bytes::from_static(b": here\n\n"),
    }
}

fn event(changes: Vec<Change>) -> String {
    let (revision, at_ms) = changes.first().map_or((0, 0), |change| (change.revision, change.at_ms));
    let changes = changes.into_iter().map(ChangeShown::of).collect();
    let data = serde_json::to_string(&ChangesShown { revision, at_ms, changes });
    let data = data.expect("a change has texts and numbers alone");
    format!("event: change\nid: {revision}\ndata: {data}\n\n")
}

fn farewell(error: CatalogError) -> String {
    let name = if matches!(error, CatalogError::ChangesGone { .. }) { "gone" } else { "failed" };
    let problem = serde_json::to_string(&*Problem::from(error));
    format!("event: {name}\ndata: {}\n\n", problem.expect("a problem has texts and numbers alone"))
}

impl ChangeShown {
    fn of(change: Change) -> Self {
        let Change { key, kind, .. } = change;
        let gone = |kind, version| (kind, version, None);
        let (kind, version, entry) = match kind {
            ChangeKind::Put(entry) => {
                (KindShown::Put, entry.version, Some(EntryShown::of(entry, Detail::Line)))
            }
            ChangeKind::Delete { version } => gone(KindShown::Delete, version),
            ChangeKind::Expire { version } => gone(KindShown::Expire, version),
            ChangeKind::OwnerEnded { version } => gone(KindShown::OwnerEnded, version),
        };
        Self { key, kind, version, entry }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str, last_event: Option<&str>) -> Option<(Selector, Start)> {
        let uri = format!("/v1/watch?{query}").parse().unwrap();
        let given = axum::extract::Query::<WatchGiven>::try_from_uri(&uri).ok()?;
        given.0.read(last_event).ok()
    }

    #[test]
    fn a_watch_begins_where_it_is_told() {
        let all = || Selector::Prefix(String::new());
        assert_eq!(read("", None), Some((all(), Start::Now)));
        assert_eq!(read("", Some("")), Some((all(), Start::Now)));
        assert_eq!(read("key=a&after_revision=3", None), Some((Selector::Key("a".into()), Start::After(3))));
        assert_eq!(read("glob=a*&since_ms=3", None), Some((Selector::Glob("a*".into()), Start::At(3))));
        // Whoever comes again asks as before, and says beside it how far it is.
        assert_eq!(read("after_revision=3", Some("7")), Some((all(), Start::After(7))));
        assert_eq!(read("since_ms=3", Some("7")), Some((all(), Start::After(7))));
        for query in ["key=a&prefix=b", "glob=a&key=b", "after_revision=1&since_ms=2", "after_revision=-1"] {
            assert_eq!(read(query, None), None, "{query}");
        }
        assert_eq!(read("", Some("x")), None);
    }

    #[test]
    fn an_event_is_one_write() {
        let change = |key: &str, kind| Change { revision: 9, at_ms: 5, key: key.into(), kind };
        let changes = vec![
            change("a", ChangeKind::Delete { version: 2 }),
            change("b\n", ChangeKind::OwnerEnded { version: 3 }),
        ];
        let text = event(changes);
        let data = r#"{"revision":9,"at_ms":5,"changes":[{"key":"a","kind":"delete","version":2},{"key":"b\n","kind":"owner_ended","version":3}]}"#;
        assert_eq!(text, format!("event: change\nid: 9\ndata: {data}\n\n"));
    }
}
