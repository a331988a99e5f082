//! Transactions: reads of one revision, and writes that are carried out together.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use catalog::{CatalogError, Isolation};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;
use super::entry::{Detail, EntryShown};
use super::input::{InBody, InPath, InQuery};
use super::key::KeyText;
use super::problem::{Code, Problem, Told};
use super::read::{ListGiven, PageShown};
use super::write::{OperationGiven, WrittenShown, read_operations};

/// Time that a transaction may take for which no other is given.
const TIMEOUT_DEFAULT_MS: u64 = 30_000;

/// What a transaction shall be.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = Begin)]
#[serde(deny_unknown_fields)]
pub(super) struct BeginGiven {
    /// `read_committed`, `snapshot`, which is the default, or `serializable`; the names of SQL are taken too.
    #[schema(pattern = "^(read_committed|snapshot|serializable)$")]
    isolation: Option<String>,
    /// Milliseconds after which it is rolled back; 30,000 when absent.
    #[schema(minimum = 1, maximum = 600_000)]
    timeout_ms: Option<u64>,
}

/// A transaction that is open, on this node alone.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Begun {
    /// Its id. Whoever knows it may use the transaction.
    id: String,
    /// Milliseconds after which it is rolled back.
    timeout_ms: u64,
}

/// What a transaction shall write.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Add {
    /// The operations; a later one on the same key replaces or continues an earlier one.
    #[serde(rename = "do")]
    #[schema(max_items = 128)]
    operations: Vec<OperationGiven>,
}

/// What was added to a transaction.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Added {
    /// How many operations.
    added: usize,
}

/// The end of a transaction.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RolledBack {
    /// Always true.
    rolled_back: bool,
}

/// Begins a transaction on this node. Nobody sees what it writes before it is committed.
#[utoipa::path(
    post, path = "/v1/transactions", operation_id = "beginTransaction", tag = "transactions",
    request_body = BeginGiven,
    responses(
        (status = 201, description = "It is open", body = Begun),
        (status = 400, description = "The request cannot be understood", body = Told),
        (status = 408, description = "The body did not come in time", body = Told),
        (status = 413, description = "The body is too large", body = Told),
        (status = 415, description = "The body is not JSON", body = Told),
    )
)]
pub(super) async fn begin(
    State(api): State<Api>,
    InBody { value: BeginGiven { isolation, timeout_ms }, .. }: InBody<BeginGiven>,
) -> Result<(StatusCode, Json<Begun>), Problem> {
    let isolation: Isolation = isolation.map_or(Ok(Isolation::default()), |text| text.parse())?;
    let timeout_ms = timeout_ms.unwrap_or(TIMEOUT_DEFAULT_MS);
    let begun = api.node.transactions.begin(api.catalog.clone(), isolation, timeout_ms).await;
    let number = begun.map_err(|error| match error {
        CatalogError::TooLarge { .. } => Problem::busy(error.to_string()),
        error => error.into(),
    })?;
    Ok((StatusCode::CREATED, Json(Begun { id: format!("{number:016x}"), timeout_ms })))
}

/// Reads a key in a transaction, its own writes included.
#[utoipa::path(
    get, path = "/v1/transactions/{id}/kv/{key}", operation_id = "getKeyInTransaction", tag = "transactions",
    params(
        ("id" = String, Path, description = ID_TEXT, pattern = "^[0-9a-f]{16}$"),
        ("key" = inline(KeyText), Path, description = "The key"),
    ),
    responses(
        (status = 200, description = "The entry; of what the transaction has written, its version is 0", body = EntryShown),
        (status = 404, description = "There is no such key, or the transaction is not open", body = Told),
        (status = 410, description = "The transaction took too long, or what it reads from is not kept any more", body = Told),
        (status = 413, description = "It reads more than a serializable transaction may", body = Told),
    )
)]
pub(super) async fn get(
    State(api): State<Api>,
    InPath((id, key)): InPath<(String, String)>,
) -> Result<Json<EntryShown>, Problem> {
    let found = api.node.transactions.get(number(&id)?, std::slice::from_ref(&key)).await?;
    let entry = found.into_iter().next().flatten().ok_or_else(|| Problem::no_key(&key))?;
    Ok(Json(EntryShown::of(entry, Detail::Full)))
}

/// Lists keys in a transaction, its own writes included.
#[utoipa::path(
    get, path = "/v1/transactions/{id}/kv", operation_id = "listKeysInTransaction", tag = "transactions",
    params(("id" = String, Path, description = ID_TEXT, pattern = "^[0-9a-f]{16}$"), ListGiven),
    responses(
        (status = 200, description = "A page of entries", body = PageShown),
        (status = 404, description = "The transaction is not open", body = Told),
        (status = 410, description = "The transaction took too long, or what it reads from is not kept any more", body = Told),
        (status = 413, description = "It reads more than a serializable transaction may", body = Told),
    )
)]
pub(super) async fn list(
    State(api): State<Api>,
    InPath(id): InPath<String>,
    InQuery(given): InQuery<ListGiven>,
) -> Result<Json<PageShown>, Problem> {
    let number = number(&id)?;
    let scan = given.read()?;
    let page = api.node.transactions.scan(number, &scan).await?;
    Ok(Json(PageShown::of(page, &scan.prefix)))
}

/// Adds operations to a transaction. Those before one that is refused are added.
#[utoipa::path(
    post, path = "/v1/transactions/{id}/write", operation_id = "writeInTransaction", tag = "transactions",
    request_body = Add,
    params(("id" = String, Path, description = ID_TEXT, pattern = "^[0-9a-f]{16}$")),
    responses(
        (status = 200, description = "They are added", body = Added),
        (status = 404, description = "The transaction is not open, or a key that shall expire is deleted by it", body = Told),
        (status = 408, description = "The body did not come in time", body = Told),
        (status = 409, description = "What shall be extended does not expire", body = Told),
        (status = 410, description = "The transaction took too long", body = Told),
        (status = 413, description = "These are more operations than fit", body = Told),
        (status = 415, description = "The body is not JSON", body = Told),
    )
)]
pub(super) async fn write(
    State(api): State<Api>,
    InPath(id): InPath<String>,
    InBody { value: Add { operations }, .. }: InBody<Add>,
) -> Result<Json<Added>, Problem> {
    let operations = read_operations(operations)?;
    let added = operations.len();
    api.node.transactions.write(number(&id)?, operations).await?;
    Ok(Json(Added { added }))
}

/// Carries a transaction out, all of it or nothing, and ends it however that turns out. The versions are in the order of the
/// keys.
#[utoipa::path(
    post, path = "/v1/transactions/{id}/commit", operation_id = "commitTransaction", tag = "transactions",
    params(("id" = String, Path, description = ID_TEXT, pattern = "^[0-9a-f]{16}$")),
    responses(
        (status = 200, description = "It is done, and durable", body = WrittenShown),
        (status = 404, description = "The transaction is not open, or a key that shall expire is not there", body = Told),
        (status = 409, description = "What it depends on was changed, so that nothing is", body = Told),
        (status = 410, description = "The transaction took too long", body = Told),
    )
)]
pub(super) async fn commit(
    State(api): State<Api>,
    InPath(id): InPath<String>,
) -> Result<Json<WrittenShown>, Problem> {
    Ok(Json(api.node.transactions.commit(number(&id)?).await?.into()))
}

/// Ends a transaction without a trace.
#[utoipa::path(
    delete, path = "/v1/transactions/{id}", operation_id = "rollBackTransaction", tag = "transactions",
    params(("id" = String, Path, description = ID_TEXT, pattern = "^[0-9a-f]{16}$")),
    responses(
        (status = 200, description = "Nothing has happened", body = RolledBack),
        (status = 404, description = "The transaction is not open", body = Told),
    )
)]
pub(super) async fn roll_back(
    State(api): State<Api>,
    InPath(id): InPath<String>,
) -> Result<Json<RolledBack>, Problem> {
    let number = number(&id)?;
    if !api.node.transactions.roll_back(number) {
        return Err(CatalogError::NoTransaction { number }.into());
    }
    Ok(Json(RolledBack { rolled_back: true }))
}

const ID_TEXT: &str = "The id that the transaction was given when it began";

fn number(id: &str) -> Result<u64, Problem> {
    let is_id = id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = u64::from_str_radix(id, 16).ok().filter(|_| is_id);
    number.ok_or_else(|| {
        let text = "what stands in the path is no id of a transaction";
        Problem::new(StatusCode::NOT_FOUND, Code::NoTransaction, text, "POST /v1/transactions gives one")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_sixteen_digits() {
        assert_eq!(number("00000000000000ff").ok(), Some(255));
        for id in ["", "ff", "+0000000000000ff", "00000000000000fg", "000000000000000ff"] {
            assert_eq!(number(id).map_err(|problem| problem.code), Err(Code::NoTransaction), "{id}");
        }
    }
}
