//! Writes: what is put, deleted and made to expire, under which conditions.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use catalog::{Condition, Content, Expiry, Operation, Put, Write, Written};
use flow::wire::catalog::CatalogWrite;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;
use super::entry::value_bytes;
use super::input::{InBody, Object, object, objects, present};
use super::key::KeyText;
use super::problem::{Problem, Told};
use crate::kv::translate;

/// Operations that are carried out together, at one revision, if all conditions hold; otherwise nothing is changed.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = Write)]
#[serde(deny_unknown_fields)]
pub(super) struct WriteGiven {
    /// What must hold; at most 128.
    #[serde(default, rename = "if", deserialize_with = "objects")]
    #[schema(max_items = 128)]
    conditions: Vec<ConditionGiven>,
    /// What is done; at most 128, of which no two name the same key.
    #[serde(default, rename = "do")]
    #[schema(max_items = 128)]
    operations: Vec<OperationGiven>,
}

/// What must hold at the moment of a write: 'key' and 'version', or 'unchanged_since' and one of 'key' and 'prefix'.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = Condition)]
#[serde(deny_unknown_fields)]
struct ConditionGiven {
    /// The key.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false, min_length = 1, max_length = 1024, pattern = r"^[^/\u0000]+(/[^/\u0000]+)*$")]
    key: Option<String>,
    /// All keys that begin with it.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    prefix: Option<String>,
    /// The version that the key has; 0 means that it is absent.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false, format = "uint64")]
    version: Option<u64>,
    /// The revision after which nothing was written, deleted or has expired.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false, format = "uint64")]
    unchanged_since: Option<u64>,
}

/// What is done to one key.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = Operation)]
#[serde(rename_all = "snake_case")]
pub(super) enum OperationGiven {
    /// Gives a key a new value; what is not named here is cleared.
    #[serde(deserialize_with = "object")]
    Put(PutOperation),
    /// Removes a key. One that is absent is left absent.
    #[serde(deserialize_with = "object")]
    Delete(DeleteOperation),
    /// Changes when a key expires, and nothing else.
    #[serde(deserialize_with = "object")]
    Expire(ExpireOperation),
}

/// A put. It has either 'value' or 'value_base64'.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PutOperation {
    /// The key.
    #[schema(value_type = KeyText)]
    key: String,
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
    /// The service that owns it. It must be registered.
    owner: Option<String>,
    /// What is said about it; at most 32.
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// A deletion.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DeleteOperation {
    /// The key.
    #[schema(value_type = KeyText)]
    key: String,
}

/// A change of when a key expires: one of 'ttl_ms', 'extend_ms' and 'persist'.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpireOperation {
    /// The key, which must be there.
    #[schema(value_type = KeyText)]
    key: String,
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

/// A write that was carried out, and is durable.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Written)]
pub(super) struct WrittenShown {
    /// Its revision. A write that changed nothing has the last one before it.
    revision: u64,
    /// The version that each operation made, in their order. Of a delete it is the version that was there, or 0.
    versions: Vec<u64>,
}

/// Carries out several operations together, or none of them.
#[utoipa::path(
    post, path = "/v1/write", operation_id = "write", tag = "keys", request_body = WriteGiven,
    responses(
        (status = 200, description = "It is done, and durable", body = WrittenShown),
        (status = 400, description = "The request cannot be understood", body = Told),
        (status = 404, description = "A key that shall expire is not there", body = Told),
        (status = 408, description = "The body did not come in time", body = Told),
        (status = 409, description = "A condition does not hold", body = Told),
        (status = 413, description = "The write is too large", body = Told),
        (status = 415, description = "The body is not JSON", body = Told),
    )
)]
pub(super) async fn write(
    State(api): State<Api>,
    InBody { value: given, .. }: InBody<WriteGiven>,
) -> Result<Json<WrittenShown>, Problem> {
    Ok(Json(api.catalog.write(given.read()?).await?.into()))
}

/// Reads the document that `POST /v1/write` takes, for a client that takes it too. The error says what is wrong with it.
pub fn parse_write(document: serde_json::Value) -> Result<CatalogWrite, String> {
    let given = serde_json::from_value::<Object<WriteGiven>>(document);
    let Object(given) = given.map_err(|error| error.to_string())?;
    let write = given.read().map_err(|problem| problem.message.clone())?;
    Ok(translate::write_to_wire(write))
}

impl WriteGiven {
    fn read(self) -> Result<Write, Problem> {
        let conditions = self.conditions.into_iter().map(ConditionGiven::read).collect::<Result<_, _>>()?;
        Ok(Write { conditions, operations: read_operations(self.operations)? })
    }
}

/// The operations that are meant.
pub(super) fn read_operations(given: Vec<OperationGiven>) -> Result<Vec<Operation>, Problem> {
    given.into_iter().map(OperationGiven::read).collect()
}

impl ConditionGiven {
    fn read(self) -> Result<Condition, Problem> {
        match self {
            Self { key: Some(key), prefix: None, version: Some(version), unchanged_since: None } => {
                Ok(Condition::Version { key, version })
            }
            Self { key: Some(prefix), prefix: None, version: None, unchanged_since: Some(revision) } => {
                Ok(Condition::Unchanged { prefix, exact: true, revision })
            }
            Self { key: None, prefix: Some(prefix), version: None, unchanged_since: Some(revision) } => {
                Ok(Condition::Unchanged { prefix, exact: false, revision })
            }
            _ => Err(Problem::bad(
                "a condition has 'key' and 'version', or 'unchanged_since' and one of 'key' and 'prefix'",
                "",
            )),
        }
    }
}

impl OperationGiven {
    fn read(self) -> Result<Operation, Problem> {
        Ok(match self {
            Self::Put(PutOperation { key, value, value_base64, ttl_ms, owner, labels }) => {
                let content = Content::Value(value_bytes(value, value_base64)?);
                Operation::Put(Put { key, content, ttl_ms, owner, labels })
            }
            Self::Delete(DeleteOperation { key }) => Operation::Delete { key },
            Self::Expire(ExpireOperation { key, ttl_ms, extend_ms, persist }) => {
                Operation::Expire { key, when: read_expiry(ttl_ms, extend_ms, persist)? }
            }
        })
    }
}

/// When a key shall expire, of which exactly one way is given.
pub(super) fn read_expiry(
    ttl_ms: Option<u64>,
    extend_ms: Option<u64>,
    persist: Option<bool>,
) -> Result<Expiry, Problem> {
    match (ttl_ms, extend_ms, persist) {
        (Some(ttl_ms), None, None) => Ok(Expiry::In(ttl_ms)),
        (None, Some(extend_ms), None) => Ok(Expiry::Later(extend_ms)),
        (None, None, Some(true)) => Ok(Expiry::Never),
        _ => Err(Problem::bad("an expiry is one of 'ttl_ms', 'extend_ms' and 'persist': true", "")),
    }
}

impl From<Written> for WrittenShown {
    fn from(Written { revision, versions }: Written) -> Self {
        Self { revision, versions }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn read(document: Value) -> Result<Write, String> {
        let Object(given) =
            serde_json::from_value::<Object<WriteGiven>>(document).map_err(|error| error.to_string())?;
        given.read().map_err(|problem| problem.message.clone())
    }

    #[test]
    fn a_write_is_conditions_and_operations() {
        let write = read(json!({
            "if": [{"key": "a", "version": 3}, {"prefix": "b/", "unchanged_since": 7}, {"key": "c", "unchanged_since": 8}],
            "do": [
                {"put": {"key": "a", "value": "x", "ttl_ms": 5, "labels": {"l": "m"}}},
                {"delete": {"key": "b"}},
                {"expire": {"key": "c", "persist": true}},
            ],
        }));
        let write = write.unwrap();
        let unchanged =
            |prefix: &str, exact, revision| Condition::Unchanged { prefix: prefix.into(), exact, revision };
        let version = Condition::Version { key: "a".into(), version: 3 };
        assert_eq!(write.conditions, [version, unchanged("b/", false, 7), unchanged("c", true, 8)]);
        let put = Put {
            ttl_ms: Some(5),
            labels: [("l".into(), "m".into())].into(),
            ..Put::new("a", Content::Value(b"x".into()))
        };
        let expire = Operation::Expire { key: "c".into(), when: Expiry::Never };
        assert_eq!(write.operations, [Operation::Put(put), Operation::Delete { key: "b".into() }, expire]);
    }

    #[test]
    fn what_is_ambiguous_or_unknown_is_refused() {
        let operation = |operation: Value| json!({"do": [operation]});
        let condition = |condition: Value| json!({"if": [condition], "do": []});
        for document in [
            json!([]),
            json!({"do": [], "x": 1}),
            operation(json!({"put": {"key": "a"}})),
            operation(json!({"put": {"value": "a"}})),
            operation(json!({"put": {"key": "a", "value": "a", "value_base64": null}})),
            operation(json!({"put": {"key": "a", "value": "a", "ttl_ms": -1}})),
            operation(json!({"put": {"key": "a", "value": "a", "ttl_ms": 1.5}})),
            operation(json!({"put": {"key": "a", "value": "a", "ttl": 1}})),
            operation(json!({"put": {"key": 7, "value": "a"}})),
            operation(json!({"put": ["a", "x", null, null, null, {}]})),
            operation(json!({"delete": ["a"]})),
            condition(json!(["a", null, 1, null])),
            operation(json!({"remove": {"key": "a"}})),
            operation(json!({"delete": {"key": "a"}, "put": {"key": "a", "value": ""}})),
            operation(json!({"expire": {"key": "a"}})),
            operation(json!({"expire": {"key": "a", "ttl_ms": 1, "persist": true}})),
            operation(json!({"expire": {"key": "a", "ttl_ms": 1, "persist": false}})),
            condition(json!({"key": "a"})),
            condition(json!({"key": "a", "version": 1, "unchanged_since": 1})),
            condition(json!({"key": "a", "prefix": "a", "unchanged_since": 1})),
            condition(json!({"prefix": "a", "version": 1})),
        ] {
            assert!(read(document.clone()).is_err(), "{document}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[\\[\\]{}:,\"a-z0-9.-]{0,80}") {
            if let Ok(given) = serde_json::from_str::<WriteGiven>(&text) {
                let _ = given.read();
            }
        }
    }
}
