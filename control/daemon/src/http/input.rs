//! What a request says, read strictly: what is not understood is refused, never ignored.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Bytes;
use percent_encoding::percent_decode_str;
use plan::key::check_key;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use tokio::sync::OwnedSemaphorePermit;

use super::Api;
use super::problem::{Code, Problem};

/// Largest body that is JSON, in bytes: a batch of the largest size, with its values in base64.
pub(super) const JSON_SIZE_MAX: usize = 2 << 20;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a body waits for memory that others hold.
const ROOM_TIMEOUT: Duration = Duration::from_secs(2);

/// The parameters of a query.
pub(super) struct InQuery<T>(pub(super) T);

/// The parts of a path that have names.
pub(super) struct InPath<T>(pub(super) T);

/// The key at the end of a path.
pub(super) struct InKey(pub(super) String);

/// A body of JSON.
pub(super) struct InBody<T> {
    pub(super) value: T,
    /// The memory that it came in counts until the answer is ready.
    _room: OwnedSemaphorePermit,
}

/// The bytes of a body.
pub(super) struct Received {
    pub(super) bytes: Bytes,
    room: OwnedSemaphorePermit,
}

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for InQuery<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        // What is no UTF-8 would be taken for other characters.
        let text = percent_decode_str(parts.uri.query().unwrap_or_default()).decode_utf8();
        text.map_err(|_| Problem::bad("the query is not UTF-8", "encode each byte of UTF-8 as %XX"))?;
        let query = Query::try_from_uri(&parts.uri);
        query.map(|Query(value)| Self(value)).map_err(|error| Problem::bad(error.body_text(), SEE_DOCUMENT))
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for InPath<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::from_request_parts(parts, state).await;
        path.map(|Path(value)| Self(value)).map_err(|error| Problem::bad(error.body_text(), SEE_DOCUMENT))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for InKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let bad = |text: String| Problem::new(StatusCode::BAD_REQUEST, Code::BadKey, text, "");
        let Path(key) = path.map_err(|error| bad(error.body_text()))?;
        check_key(&key).map_err(|error| bad(error.to_string()))?;
        Ok(Self(key))
    }
}

impl<T: DeserializeOwned> FromRequest<Api> for InBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            let text = "the body must be JSON";
            let hint = "send the header Content-Type: application/json";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::BadMediaType, text, hint));
        }
        let (parts, body) = request.into_parts();
        let received = receive(api, &parts.headers, body, JSON_SIZE_MAX).await?;
        received.parse()
    }
}

/// What must be an object of JSON. By itself serde takes a list of the fields in their order as well.
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(fields)).map(Object)
            }
        }

        deserializer.deserialize_map(Fields(PhantomData))
    }
}

/// Reads an object where serde would take a list too.
pub(super) fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Object::deserialize(deserializer).map(|Object(value)| value)
}

/// Reads a list of objects.
pub(super) fn objects<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let objects = Vec::<Object<T>>::deserialize(deserializer)?;
    Ok(objects.into_iter().map(|Object(value)| value).collect())
}

/// Reads a field that may be left out but is not null where it stands, since null would be another way to leave it out.
pub(super) fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

const SEE_DOCUMENT: &str = "GET /openapi.json describes what may be said";

impl Received {
    /// The body as JSON.
    pub(super) fn parse<T: DeserializeOwned>(self) -> Result<InBody<T>, Problem> {
        let refused = |error: serde_json::Error| Problem::bad(format!("the body: {error}"), SEE_DOCUMENT);
        let Object(value) = serde_json::from_slice(&self.bytes).map_err(refused)?;
        Ok(InBody { value, _room: self.room })
    }
}

/// Reads a body of at most `limit` bytes.
pub(super) async fn receive(
    api: &Api,
    headers: &HeaderMap,
    body: Body,
    limit: usize,
) -> Result<Received, Problem> {
    let too_large = || {
        let hint = "put large data as files with `shoal put`, and split a batch";
        Problem::too_large(format!("the body has more than {limit} bytes"), hint)
    };
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let size: usize = announced.unwrap_or(limit);
    if size > limit {
        return Err(too_large());
    }
    let kib = u32::try_from(size.div_ceil(1024)).map_err(|_| too_large())?;
    let room = tokio::time::timeout(ROOM_TIMEOUT, api.bodies.clone().acquire_many_owned(kib)).await;
    let Ok(Ok(room)) = room else {
        return Err(Problem::busy("the bodies of other requests take all the memory there is for them"));
    };
    let collected = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, limit).collect()).await;
    let collected = collected.map_err(|_| {
        let text = format!("the body did not come within {} s", BODY_TIMEOUT.as_secs());
        Problem::new(StatusCode::REQUEST_TIMEOUT, Code::TooSlow, text, "")
    })?;
    match collected {
        Ok(collected) => Ok(Received { bytes: collected.to_bytes(), room }),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) => Err(Problem::bad(format!("the body cannot be read: {error}"), "")),
    }
}

/// Whether the body is said to be JSON.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// The text of a header that may stand there once.
pub(super) fn header<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, Problem> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            let text =
                value.to_str().map_err(|_| Problem::bad(format!("the header {name} is no text"), ""))?;
            Ok(Some(text.trim()))
        }
        _ => Err(Problem::bad(format!("the header {name} is there twice"), "send it once")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Pair {
        one: u8,
        two: Option<u8>,
    }

    #[test]
    fn an_object_is_no_list() {
        let read = |text| serde_json::from_str::<Object<Pair>>(text).map(|Object(pair)| (pair.one, pair.two));
        assert_eq!(read(r#"{"one": 1}"#).unwrap(), (1, None));
        for text in ["[1, 2]", "[1]", "1", "null", r#"{"one": 1, "three": 3}"#, r#"{"one": 1, "one": 1}"#] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
