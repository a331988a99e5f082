//! What the door offers, as an OpenAPI document.

use std::sync::LazyLock;

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use hyper::body::Bytes;
use utoipa::openapi::path::Operation;
use utoipa::openapi::path::Parameter;
use utoipa::openapi::schema::{AdditionalProperties, Object, OneOf, Schema, SchemaType, Type};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, OpenApi, Ref, RefOr, ResponseBuilder};
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
        gswarm::pool::transfer, gswarm::reference::refer, gswarm::reference::unrefer, gswarm::task::tasks, gswarm::task::task,
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
        let schemas = &mut document.components.get_or_insert_default().schemas;
        if let Some(RefOr::T(Schema::OneOf(operation))) = schemas.get_mut("Operation") {
            operation.items.iter_mut().for_each(close);
        }
        for (name, ways) in ALTERNATIVES {
            if let Some(schema) = schemas.get_mut(name) {
                offer(schema, ways);
            }
        }
        document.security = Some(vec![none, SecurityRequirement::new("token", Vec::<String>::new())]);
        for path in document.paths.paths.values_mut() {
            let operations =
                [&mut path.get, &mut path.put, &mut path.post, &mut path.delete, &mut path.patch];
            for operation in operations.into_iter().flatten() {
                operation.parameters.iter_mut().flatten().for_each(never_null);
                answer_for_all(operation);
            }
        }
    }
}

/// A parameter may be left out, which has no other spelling.
fn never_null(parameter: &mut RefOr<Parameter>) {
    if let RefOr::T(Parameter { schema: Some(RefOr::T(Schema::Object(object))), .. }) = parameter
        && let SchemaType::Array(types) = &mut object.schema_type
    {
        types.retain(|kind| *kind != Type::Null);
        if let [only] = &types[..] {
            object.schema_type = SchemaType::Type(only.clone());
        }
    }
}

/// Says that an object has no other fields.
fn close(schema: &mut RefOr<Schema>) {
    if let RefOr::T(Schema::Object(object)) = schema {
        object.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
    }
}

/// Schemas of which some fields stand for others: the sets of fields of which one must be there, and no other of them.
const ALTERNATIVES: [(&str, &[&[&str]]); 5] = [
    ("Put", &[&["value"], &["value_base64"]]),
    ("PutOperation", &[&["value"], &["value_base64"]]),
    ("Expiry", &[&["ttl_ms"], &["extend_ms"], &["persist"]]),
    ("ExpireOperation", &[&["ttl_ms"], &["extend_ms"], &["persist"]]),
    ("Condition", &[&["key", "version"], &["key", "unchanged_since"], &["prefix", "unchanged_since"]]),
];

/// Makes of an object one of several, each with one way to say it.
fn offer(schema: &mut RefOr<Schema>, ways: &[&[&str]]) {
    let RefOr::T(Schema::Object(whole)) = schema else { return };
    let description = whole.description.take();
    let items = ways.iter().map(|way| Schema::Object(with_way(whole.clone(), way, ways)).into()).collect();
    *schema = Schema::OneOf(OneOf { items, description, ..OneOf::new() }).into();
}

fn with_way(mut object: Object, way: &[&str], ways: &[&[&str]]) -> Object {
    object.properties.retain(|name, _| {
        let is_alternative = ways.iter().any(|way| way.contains(&name.as_str()));
        !is_alternative || way.contains(&name.as_str())
    });
    object.required.extend(way.iter().map(|&name| name.to_owned()));
    if let Some(RefOr::T(Schema::Object(persist))) = object.properties.get_mut("persist") {
        persist.enum_values = Some(vec![true.into()]);
    }
    object
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
