//! Services, which may own keys.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use catalog::{CatalogError, Service};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;
use super::input::{InBody, InPath};
use super::problem::{Code, Problem, Told};

/// How long a service lives.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct KeepGiven {
    /// Milliseconds from now, unless it is kept alive again.
    #[schema(minimum = 1, maximum = 3_155_760_000_000_u64)]
    ttl_ms: u64,
}

/// A service.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Service)]
pub(super) struct ServiceShown {
    /// Its name.
    name: String,
    /// Milliseconds that it lives unless it is kept alive.
    ttl_ms: u64,
    /// Milliseconds of them that are left.
    left_ms: u64,
    /// How many keys it owns.
    keys: u64,
}

/// The services that are alive.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Services {
    /// One after the other.
    services: Vec<ServiceShown>,
}

/// A service that lives on.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Kept {
    /// Its name.
    name: String,
    /// Milliseconds that it lives from now on.
    ttl_ms: u64,
}

/// A service that has ended.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Ended {
    /// How many keys it owned, all of which are removed.
    removed: u64,
}

/// Lists the services that are alive.
#[utoipa::path(
    get, path = "/v1/services", operation_id = "listServices", tag = "services",
    responses((status = 200, description = "The services", body = Services))
)]
pub(super) async fn list(State(api): State<Api>) -> Result<Json<Services>, Problem> {
    let shown =
        |Service { name, ttl_ms, left_ms, keys }: Service| ServiceShown { name, ttl_ms, left_ms, keys };
    let services = api.catalog.services().await?.into_iter().map(shown).collect();
    Ok(Json(Services { services }))
}

/// Registers a service, or keeps it alive. What it owns is removed when it is not kept alive in time.
#[utoipa::path(
    put, path = "/v1/services/{name}", operation_id = "keepService", tag = "services", request_body = KeepGiven,
    params(("name" = String, Path, description = "Its name, 1 to 256 bytes", min_length = 1, max_length = 256,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]+$")),
    responses(
        (status = 200, description = "It lives", body = Kept),
        (status = 400, description = "The request cannot be understood", body = Told),
        (status = 408, description = "The body did not come in time", body = Told),
        (status = 413, description = "The body is too large", body = Told),
        (status = 415, description = "The body is not JSON", body = Told),
    )
)]
pub(super) async fn keep(
    State(api): State<Api>,
    InPath(name): InPath<String>,
    InBody { value: KeepGiven { ttl_ms }, .. }: InBody<KeepGiven>,
) -> Result<Json<Kept>, Problem> {
    api.catalog.keep_service(&name, ttl_ms).await?;
    Ok(Json(Kept { name, ttl_ms }))
}

/// Ends a service, and removes what it owns.
#[utoipa::path(
    delete, path = "/v1/services/{name}", operation_id = "endService", tag = "services",
    params(("name" = String, Path, description = "Its name, 1 to 256 bytes", min_length = 1, max_length = 256,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]+$")),
    responses(
        (status = 200, description = "It has ended", body = Ended),
        (status = 400, description = "The request cannot be understood", body = Told),
        (status = 404, description = "There is no such service", body = Told),
    )
)]
pub(super) async fn end(
    State(api): State<Api>,
    InPath(name): InPath<String>,
) -> Result<Json<Ended>, Problem> {
    let removed = api.catalog.end_service(&name).await.map_err(|error| match error {
        CatalogError::NoService { .. } => Problem::new(
            StatusCode::NOT_FOUND,
            Code::NoService,
            error.to_string(),
            "GET /v1/services lists them",
        ),
        error => error.into(),
    })?;
    Ok(Json(Ended { removed }))
}
