//! What the door offers, as an OpenAPI document.

use std::sync::LazyLock;

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use hyper::body::Bytes;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, OpenApi, Ref, ResponseBuilder};
use utoipa::{Modify, OpenApi as _};

use super::problem::Told;
use super::{about, gswarm, key, read, service, transaction, watch, write};

/// The document.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "Shoal", description = "Keys, values, versions and changes of a Shoal cluster. Every answer that is no \
        success is a Problem. Unknown parameters and fields are refused."),
    paths(
        key::get, key::put, key::patch, key::delete,
        read::list, read::count, read::many, read::all,
        write::write, watch::watch,
        transaction::begin, transaction::get, transaction::list, transaction::write, transaction::commit,
        transaction::roll_back,
        service::list, service::keep, service::end,
        about::health, about::status,
        gswarm::value::write, gswarm::value::write_extended, gswarm::value::read, gswarm::value::read_extended,
        gswarm::pool::list, gswarm::pool::create, gswarm::pool::get, gswarm::pool::delete, gswarm::pool::move_chunk,
        gswarm::pool::transfer, gswarm::pool::refer, gswarm::pool::unrefer, gswarm::task::tasks, gswarm::task::task,
        gswarm::task::cancel,
        gswarm::value::release, gswarm::send::send, gswarm::send::send_extended,
        gswarm::storage::stats, gswarm::storage::set_max_memory, gswarm::storage::move_key,
        gswarm::storage::location, gswarm::storage::locations,
        get,
    ),
    components(schemas(Told)),
    modifiers(&Everywhere),
)]
struct Described;

/// What holds for every operation.
struct Everywhere;

impl Modify for Everywhere {
    fn modify(&self, document: &mut OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document.components.get_or_insert_default().add_security_scheme("token", scheme);
        // A node on loopback may have no token.
        let none = SecurityRequirement::default();
        document.security = Some(vec![none, SecurityRequirement::new("token", Vec::<String>::new())]);
        for path in document.paths.paths.values_mut() {
            let operations =
                [&mut path.get, &mut path.put, &mut path.post, &mut path.delete, &mut path.patch];
            operations.into_iter().flatten().for_each(answer_for_all);
        }
    }
}

fn answer_for_all(operation: &mut Operation) {
    let answers = [
        ("400", "The request cannot be understood"),
        ("401", "The token is missing or wrong"),
        ("403", "A web page of another origin asks"),
        ("431", "The head of the request is too large"),
        ("500", "The node or its disk failed"),
        ("503", "The catalog cannot be reached, or the node has too much to do"),
    ];
    for (status, description) in answers {
        let problem = Content::new(Some(Ref::from_schema_name("Problem")));
        // Such a head is not read, so that its answer has no body.
        let answer = ResponseBuilder::new().description(description);
        let answer = if status == "431" { answer } else { answer.content("application/json", problem) };
        operation.responses.responses.entry(status.into()).or_insert_with(|| answer.build().into());
    }
}

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    let document = Described::openapi().to_json();
    document.expect("a document of texts, numbers and lists can be written").into()
});

/// Gives this document.
#[utoipa::path(
    get, path = "/openapi.json", operation_id = "getDocument", tag = "node",
    responses((status = 200, description = "This document", body = serde_json::Value))
)]
pub(super) async fn get() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], DOCUMENT.clone())
}
