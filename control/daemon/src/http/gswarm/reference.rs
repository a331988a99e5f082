//! Who needs a chunk of the pool, so that it is not deleted without force.

use axum::Json;
use axum::extract::{Path, State};

use super::pool::{Message, check_words};
use super::refusal::{Address, Refusal, Told};
use crate::http::Api;
use crate::pool;

/// References of one chunk.
const REFERENCES_MAX: usize = 24;

/// Says that somebody needs a chunk, so that it is not deleted without force.
#[utoipa::path(
    put, path = "/api/v1/data/{chunk_id}/references/{name}", operation_id = "gswarmAddReference", tag = "gswarm",
    params(("chunk_id" = String, Path, description = "The chunk's id"), ("name" = String, Path, description = "Who needs it")),
    responses(
        (status = 200, description = "It is noted", body = Message),
        (status = 400, description = "The chunk has as many references as it may", body = Told),
        (status = 404, description = "There is no such chunk", body = Told),
        (status = 422, description = "This cannot be a name", body = Told),
    )
)]
pub(in crate::http) async fn refer(
    State(api): State<Api>,
    Address(Path((id, name))): Address<Path<(String, String)>>,
) -> Result<Json<Message>, Refusal> {
    check_words(&[("name", &name)])?;
    let record = pool::change(&api.node, &id, |record| {
        if !record.references.contains(&name) && record.references.len() < REFERENCES_MAX {
            record.references.push(name.clone());
        }
        Ok(())
    });
    if !record.await?.references.contains(&name) {
        return Err(Refusal::bad(format!("chunk '{id}' has {REFERENCES_MAX} references, which is the most")));
    }
    Ok(Json(Message { status: "success", message: format!("'{name}' refers to '{id}'") }))
}

/// Says that somebody does not need a chunk any more.
#[utoipa::path(
    delete, path = "/api/v1/data/{chunk_id}/references/{name}", operation_id = "gswarmRemoveReference", tag = "gswarm",
    params(("chunk_id" = String, Path, description = "The chunk's id"), ("name" = String, Path, description = "Who needed it")),
    responses(
        (status = 200, description = "It is noted", body = Message),
        (status = 404, description = "There is no such chunk", body = Told),
        (status = 422, description = "This cannot be an address", body = Told),
    )
)]
pub(in crate::http) async fn unrefer(
    State(api): State<Api>,
    Address(Path((id, name))): Address<Path<(String, String)>>,
) -> Result<Json<Message>, Refusal> {
    let changed = pool::change(&api.node, &id, |record| {
        record.references.retain(|known| *known != name);
        Ok(())
    });
    changed.await?;
    Ok(Json(Message { status: "success", message: format!("'{name}' does not refer to '{id}'") }))
}
