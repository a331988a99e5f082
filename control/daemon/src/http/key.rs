//! One key.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH, VARY};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use catalog::{CatalogError, Condition, Content, Entry, Operation, Put, VALUE_SIZE_MAX, Write};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::entry::{Detail, EntryShown, etag, holds_files, set_headers, value_bytes, version_of};
use super::input::{self, InBody, InKey, InQuery, present};
use super::problem::{Code, Problem, Told, shortened};
use super::read::Freshness;
use super::write::read_expiry;

/// How a key is read.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ReadGiven {
    /// How fresh the answer must be.
    #[serde(default)]
    #[param(inline)]
    consistency: Freshness,
}

/// Under which condition a key is written.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PutGiven {
    /// The version that the key must have; 0: it must be absent.
    if_version: Option<u64>,
    /// How long the value lives, in milliseconds; for ever when absent. With a JSON body it stands there.
    #[param(minimum = 1, maximum = 3_155_760_000_000_u64)]
    ttl_ms: Option<u64>,
    /// The service that owns the key. With a JSON body it stands there.
    owner: Option<String>,
}

/// A value and what is said about it. It has either 'value' or 'value_base64'.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = Put)]
#[serde(deny_unknown_fields)]
pub(super) struct PutBody {
    /// The value, as text; up to 64 KiB.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    value: Option<String>,
    /// The value, as base64; up to 64 KiB.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    value_base64: Option<String>,
    /// How long it lives, in milliseconds; for ever when absent.
    #[schema(minimum = 1, maximum = 3_155_760_000_000_u64)]
    ttl_ms: Option<u64>,
    /// The service that owns the key. It must be registered.
    owner: Option<String>,
    /// What is said about it; at most 32.
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// What is deleted, and under which condition.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DeleteGiven {
    /// The version that the key must have.
    if_version: Option<u64>,
    /// Also every key below it: `KEY/…`.
    #[serde(default)]
    recursive: bool,
}

/// Under which condition an expiry is changed.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PatchGiven {
    /// The version that the key must have.
    if_version: Option<u64>,
}

/// When a key shall expire: one of the three.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = Expiry)]
#[serde(deny_unknown_fields)]
pub(super) struct PatchBody {
    /// Milliseconds from now.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false, minimum = 1, maximum = 3_155_760_000_000_u64)]
    ttl_ms: Option<u64>,
    /// Milliseconds later than it would.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false, minimum = 1, maximum = 3_155_760_000_000_u64)]
    extend_ms: Option<u64>,
    /// True: never.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    persist: Option<bool>,
}

/// A write of one key, which is durable.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct KeyWritten {
    /// The key.
    key: String,
    /// The version that it has.
    version: u64,
    /// The revision of the write.
    revision: u64,
}

/// What was deleted.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct KeyDeleted {
    /// How many keys; 0 when there was none.
    deleted: u64,
}

/// Reads a key: the bytes of its value, or with `Accept: application/json` all that is known about it.
#[utoipa::path(
    get, path = "/v1/kv/{key}", operation_id = "getKey", tag = "keys",
    params(
        ("key" = inline(KeyText), Path, description = KEY_TEXT), ReadGiven,
        ("accept" = Option<String>, Header, description = "`application/json` for the whole entry"),
        ("if-none-match" = Option<String>, Header, description = "The entity tag that is known already"),
    ),
    responses(
        (status = 200, description = "The value, or the entry", content(
            (Vec<u8> = "application/octet-stream"), (EntryShown = "application/json"),
        ), headers(
            ("etag" = String, description = "The version, in quotes"),
            ("shoal-version" = u64, description = "The version"),
            ("shoal-revision" = u64, description = "The revision of the write"),
            ("shoal-created-ms" = u64, description = "When the key came to be, milliseconds since 1970"),
            ("shoal-updated-ms" = u64, description = "When this version was written, milliseconds since 1970"),
            ("shoal-expires-ms" = u64, description = "When it expires, if it does, milliseconds since 1970"),
        )),
        (status = 304, description = "The version is the one that is known already"),
        (status = 400, description = "The request cannot be understood", body = Told),
        (status = 404, description = "There is no such key", body = Told),
        (status = 406, description = "The key holds files, whose bytes have another door", body = Told),
    )
)]
pub(super) async fn get(
    State(api): State<Api>,
    InKey(key): InKey,
    InQuery(given): InQuery<ReadGiven>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let known = input::header(&headers, &IF_NONE_MATCH)?.map(str::to_owned);
    let (entry, stale) = super::read::one(&api, key, given.consistency).await?;
    let mut response = if known.is_some_and(|known| names(&known, entry.version)) {
        let mut response = StatusCode::NOT_MODIFIED.into_response();
        set_headers(response.headers_mut(), &entry);
        response
    } else {
        show(entry, wants_json(&headers))?
    };
    if stale {
        response.headers_mut().insert("shoal-stale", HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// Puts a value. The body is the value as it is, or with `Content-Type: application/json` a document that has it.
#[utoipa::path(
    put, path = "/v1/kv/{key}", operation_id = "putKey", tag = "keys",
    params(
        ("key" = inline(KeyText), Path, description = KEY_TEXT), PutGiven,
        ("if-match" = Option<String>, Header, pattern = r#"^([*]|"[0-9]{1,19}")$"#, description = "The version that the key must have, in quotes; `*`: it must be there"),
        ("if-none-match" = Option<String>, Header, pattern = r"^[*]$", description = "`*`: the key must be absent"),
    ),
    request_body(content((Vec<u8> = "application/octet-stream"), (PutBody = "application/json"))),
    responses(
        (status = 200, description = "It is put, and durable", body = KeyWritten, headers(
            ("etag" = String, description = "The version, in quotes"),
        )),
        (status = 400, description = "The request cannot be understood", body = Told),
        (status = 408, description = "The body did not come in time", body = Told),
        (status = 409, description = "The version is not `if_version`, or the owner is not registered", body = Told),
        (status = 412, description = "The version is not the one in the header", body = Told),
        (status = 413, description = "The value is too large", body = Told),
    )
)]
pub(super) async fn put(
    State(api): State<Api>,
    InKey(key): InKey,
    InQuery(given): InQuery<PutGiven>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let guard = Guard::of(&headers, given.if_version)?;
    let put = if input::is_json(&headers) {
        if given.ttl_ms.is_some() || given.owner.is_some() {
            let hint = "or send the value as it is, with Content-Type: application/octet-stream";
            return Err(Problem::bad("with a JSON body, ttl_ms and owner stand in the body", hint));
        }
        let received = input::receive(&api, &headers, body, input::JSON_SIZE_MAX).await?;
        let InBody { value: PutBody { value, value_base64, ttl_ms, owner, labels }, .. } =
            received.parse()?;
        Put { key, content: Content::Value(value_bytes(value, value_base64)?), ttl_ms, owner, labels }
    } else {
        let received = input::receive(&api, &headers, body, VALUE_SIZE_MAX).await;
        let received = received.map_err(|problem| match problem.code {
            Code::TooLarge => {
                let text = format!("the value of key '{key}' has more than {VALUE_SIZE_MAX} bytes");
                let hint = "store it with `shoal put`";
                Problem::new(problem.status, Code::ValueTooLarge, text, hint).about(&key)
            }
            _ => problem,
        })?;
        let content = Content::Value(received.bytes.to_vec());
        Put { ttl_ms: given.ttl_ms, owner: given.owner, ..Put::new(key, content) }
    };
    let done = guard.write(&api, Operation::Put(put)).await?;
    let tag = etag(done.version);
    Ok(([(ETAG, tag)], Json(done)).into_response())
}

/// Changes when a key expires, and nothing else. It is a write: the version grows.
#[utoipa::path(
    patch, path = "/v1/kv/{key}", operation_id = "setExpiry", tag = "keys", request_body = PatchBody,
    params(
        ("key" = inline(KeyText), Path, description = KEY_TEXT), PatchGiven,
        ("if-match" = Option<String>, Header, pattern = r#"^([*]|"[0-9]{1,19}")$"#, description = "The version that the key must have, in quotes; `*`: it must be there"),
    ),
    responses(
        (status = 200, description = "It is done, and durable", body = KeyWritten, headers(
            ("etag" = String, description = "The version, in quotes"),
        )),
        (status = 400, description = "The request cannot be understood", body = Told),
        (status = 404, description = "There is no such key", body = Told),
        (status = 408, description = "The body did not come in time", body = Told),
        (status = 409, description = "The version is not `if_version`, or the key does not expire", body = Told),
        (status = 412, description = "The version is not the one in the header", body = Told),
        (status = 413, description = "The body is too large", body = Told),
        (status = 415, description = "The body is not JSON", body = Told),
    )
)]
pub(super) async fn patch(
    State(api): State<Api>,
    InKey(key): InKey,
    InQuery(given): InQuery<PatchGiven>,
    headers: HeaderMap,
    InBody { value: PatchBody { ttl_ms, extend_ms, persist }, .. }: InBody<PatchBody>,
) -> Result<Response, Problem> {
    let guard = Guard::of(&headers, given.if_version)?;
    let when = read_expiry(ttl_ms, extend_ms, persist)?;
    let done = guard.write(&api, Operation::Expire { key, when }).await?;
    let tag = etag(done.version);
    Ok(([(ETAG, tag)], Json(done)).into_response())
}

/// Deletes a key. That there is none is no error.
#[utoipa::path(
    delete, path = "/v1/kv/{key}", operation_id = "deleteKey", tag = "keys",
    params(
        ("key" = inline(KeyText), Path, description = KEY_TEXT), DeleteGiven,
        ("if-match" = Option<String>, Header, pattern = r#"^([*]|"[0-9]{1,19}")$"#, description = "The version that the key must have, in quotes; `*`: it must be there"),
    ),
    responses(
        (status = 200, description = "There is no such key any more", body = KeyDeleted),
        (status = 400, description = "The request cannot be understood", body = Told),
        (status = 409, description = "The version is not `if_version`", body = Told),
        (status = 412, description = "The version is not the one in the header", body = Told),
    )
)]
pub(super) async fn delete(
    State(api): State<Api>,
    InKey(key): InKey,
    InQuery(given): InQuery<DeleteGiven>,
    headers: HeaderMap,
) -> Result<Json<KeyDeleted>, Problem> {
    let guard = Guard::of(&headers, given.if_version)?;
    if !given.recursive {
        let done = guard.write(&api, Operation::Delete { key }).await?;
        return Ok(Json(KeyDeleted { deleted: u64::from(done.version != 0) }));
    }
    if guard.demand.is_some() {
        let hint = "read what is there, and delete it with POST /v1/write";
        return Err(Problem::bad("a recursive deletion takes no condition", hint));
    }
    Ok(Json(KeyDeleted { deleted: api.catalog.remove(&key, true).await? }))
}

/// A key as it stands in a path. `/` may stand as it is or as `%2F`.
#[derive(ToSchema)]
#[schema(min_length = 1, max_length = 1024, pattern = r"^[^/\u0000]+(/[^/\u0000]+)*$")]
#[allow(dead_code, reason = "it describes")]
pub(super) struct KeyText(String);

const KEY_TEXT: &str = "A path-like name of 1 to 1024 bytes, of which no part between `/` is empty, `.` or `..`. `/` may \
                        stand as it is or as `%2F`";

/// How often others may have written a key, each time before a write that only demands that it is there.
const RACES_MAX: usize = 64;

/// What a request demands of a key.
struct Guard {
    demand: Option<Demand>,
    /// Whether it came in a header, which has an answer of its own.
    is_precondition: bool,
}

/// A condition on a key (RFC 9110, 13.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Demand {
    /// It has this version; 0: it is absent.
    Version(u64),
    /// It is there.
    Presence,
}

impl Guard {
    fn of(headers: &HeaderMap, if_version: Option<u64>) -> Result<Self, Problem> {
        let matching = input::header(headers, &IF_MATCH)?.map(|tag| {
            let text = "If-Match takes * or one version in quotes, such as \"3\"";
            let version = || version_of(tag).map(Demand::Version);
            let demand = if tag == "*" { Some(Demand::Presence) } else { version() };
            demand.ok_or_else(|| Problem::bad(text, "GET gives it as ETag"))
        });
        let absent = input::header(headers, &IF_NONE_MATCH)?.map(|tag| match tag {
            "*" => Ok(Demand::Version(0)),
            _ => Err(Problem::bad("If-None-Match takes * with a write", "it means that the key is absent")),
        });
        match (matching.transpose()?, absent.transpose()?, if_version) {
            (None, None, version) => {
                Ok(Self { demand: version.map(Demand::Version), is_precondition: false })
            }
            (Some(demand), None, None) | (None, Some(demand), None) => {
                Ok(Self { demand: Some(demand), is_precondition: true })
            }
            _ => Err(Problem::bad("give one of If-Match, If-None-Match and if_version", "")),
        }
    }

    async fn write(&self, api: &Api, operation: Operation) -> Result<KeyWritten, Problem> {
        let key = operation.key().to_owned();
        let mut version = self.demand.map(|demand| match demand {
            Demand::Version(version) => version,
            // The refusal of a version that it has not says which one it has.
            Demand::Presence => 1,
        });
        for _ in 0..RACES_MAX {
            let condition = version.map(|version| Condition::Version { key: key.clone(), version });
            let operations = vec![operation.clone()];
            let write = Write { conditions: condition.into_iter().collect(), operations };
            match api.catalog.write(write).await {
                Ok(written) => {
                    let version = written.versions.first().copied().unwrap_or_default();
                    return Ok(KeyWritten { key, version, revision: written.revision });
                }
                Err(CatalogError::Conflict { found, .. }) if self.demand == Some(Demand::Presence) => {
                    match found {
                        0 => return Err(absent(&key)),
                        found => version = Some(found),
                    }
                }
                Err(error) => {
                    let problem = Problem::from(error);
                    return Err(if self.is_precondition { problem.of_precondition() } else { problem });
                }
            }
        }
        Err(Problem::busy(format!("key '{key}' is written by others all the time")).about(&key))
    }
}

/// The refusal of a write that demands that the key is there.
fn absent(key: &str) -> Problem {
    let text = format!("there is no key '{}', and If-Match demands that there is", shortened(key));
    Problem::new(StatusCode::PRECONDITION_FAILED, Code::Conflict, text, "put it without If-Match").about(key)
}

/// Whether a list of entity tags has this version, or any.
fn names(tags: &str, version: u64) -> bool {
    let tag = |tag: &str| version_of(tag.trim().trim_start_matches("W/"));
    tags.trim() == "*" || tags.split(',').any(|text| tag(text) == Some(version))
}

fn wants_json(headers: &HeaderMap) -> bool {
    let kinds = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut kinds = kinds.flat_map(|kinds| kinds.split(',')).filter_map(|kind| kind.split(';').next());
    kinds.any(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

fn show(mut entry: Entry, as_json: bool) -> Result<Response, Problem> {
    let mut headers = HeaderMap::new();
    set_headers(&mut headers, &entry);
    headers.insert(VARY, HeaderValue::from_static("accept"));
    if as_json {
        return Ok((headers, Json(EntryShown::of(entry, Detail::Full))).into_response());
    }
    match entry.content.take() {
        Some(Content::Value(bytes)) => {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
            Ok((headers, bytes).into_response())
        }
        Some(Content::Manifest(_)) => Err(holds_files(&entry)),
        None => {
            let text = "the catalog gave an entry without its content";
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, Code::Failed, text, ""))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let line = |&(name, value): &(&'static str, &'static str)| {
            (name.parse::<axum::http::HeaderName>().unwrap(), HeaderValue::from_static(value))
        };
        lines.iter().map(line).collect()
    }

    #[test]
    fn a_condition_comes_from_one_place() {
        let guard = |lines: &[(&'static str, &'static str)], if_version| {
            Guard::of(&headers(lines), if_version).map(|guard| (guard.demand, guard.is_precondition)).ok()
        };
        let version = |version| Some(Demand::Version(version));
        assert_eq!(guard(&[], None), Some((None, false)));
        assert_eq!(guard(&[], Some(4)), Some((version(4), false)));
        assert_eq!(guard(&[("if-match", "\"4\"")], None), Some((version(4), true)));
        assert_eq!(guard(&[("if-match", "*")], None), Some((Some(Demand::Presence), true)));
        assert_eq!(guard(&[("if-none-match", "*")], None), Some((version(0), true)));
        for lines in [[("if-match", "4")], [("if-match", "W/\"4\"")], [("if-none-match", "\"4\"")]] {
            assert_eq!(guard(&lines, None), None, "{lines:?}");
        }
        assert_eq!(guard(&[("if-match", "\"4\"")], Some(4)), None);
        assert_eq!(guard(&[("if-match", "\"4\""), ("if-none-match", "*")], None), None);
    }

    #[test]
    fn json_is_given_to_those_who_ask_for_it() {
        for accept in ["application/json", "text/html, Application/JSON;q=0.9"] {
            assert!(wants_json(&headers(&[("accept", accept)])), "{accept}");
        }
        assert!(!wants_json(&headers(&[("accept", "*/*")])) && !wants_json(&headers(&[])));
    }

    #[test]
    fn a_known_version_is_named_by_any_tag_of_a_list() {
        assert!(names("*", 3) && names("\"1\", W/\"3\"", 3));
        assert!(!names("\"1\"", 3) && !names("3", 3));
    }

    proptest! {
        #[test]
        fn any_tags_are_read_or_refused(tags in "[\"W/*,0-9 ]{0,24}") {
            let _ = (names(&tags, 3), version_of(&tags));
        }
    }
}
