//! Bodies of any size, and what stands in them.
//!
//! A value is not parsed into anything: the text that was sent is found in the body, and kept. So it comes back as it was,
//! and a large one costs no more memory than its bytes.

use std::collections::HashMap;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http_body_util::BodyExt;
use hyper::body::Bytes;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use tokio::sync::OwnedSemaphorePermit;

use super::refusal::{Refusal, wrong};
use crate::http::Api;

/// Largest body, in bytes.
pub(in crate::http) const BODY_SIZE_MAX: usize = 2 << 30;
/// What a body has beside its value, in bytes: more than that is a body whose value is counted too large.
const AROUND_VALUE_MAX: u64 = 1 << 20;
/// How long the sender of a body may pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long a body waits for memory that others hold.
const ROOM_TIMEOUT: Duration = Duration::from_secs(10);
/// Memory that is counted at once for a body whose length is not told, in KiB.
const STEP_KIB: usize = 1 << 10;

/// The fields of an object, each as the text that it is.
pub(in crate::http) struct Fields {
    body: Bytes,
    texts: HashMap<&'static str, Bytes>,
    wrong: Vec<Value>,
    /// The memory that the body came in counts until the answer is ready.
    _room: OwnedSemaphorePermit,
}

/// The names of all fields that mean something.
const NAMES: [&str; 20] = [
    "key",
    "value",
    "serialized_value",
    "type",
    "data",
    "persist",
    "location",
    "ttl_ms",
    "destination",
    "url",
    "target",
    "source_location",
    "source",
    "device",
    "format",
    "target_device",
    "target_node",
    "delete_source",
    "priority",
    "metadata",
];

impl FromRequest<Api> for Fields {
    type Rejection = Refusal;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Refusal> {
        let kind =
            request.headers().get(CONTENT_TYPE).map(|kind| kind.to_str().unwrap_or("").to_ascii_lowercase());
        let kind = kind.as_deref().map(|kind| kind.split(';').next().unwrap_or_default().trim().to_owned());
        if kind.is_some_and(|kind| !(kind == "application/json" || kind.ends_with("+json"))) {
            let text = "Input should be a valid dictionary or object to extract fields from; send the header \
                        Content-Type: application/json";
            return Err(Refusal::unprocessable(vec![wrong(
                "model_attributes_type",
                &["body"],
                text,
                Value::Null,
            )]));
        }
        let (body, room) = receive(api, request).await?;
        let texts = fields_of(&body)?;
        Ok(Self { body, texts, wrong: Vec::new(), _room: room })
    }
}

impl Fields {
    /// A field that must be a text.
    pub(super) fn text(&mut self, name: &'static str) -> String {
        if !self.texts.contains_key(name) {
            self.miss(name);
            return String::new();
        }
        self.optional_text(name).unwrap_or_default()
    }

    /// A field that is a text if it is there and not null.
    pub(super) fn optional_text(&mut self, name: &'static str) -> Option<String> {
        let text = self.texts.get(name).filter(|text| text.as_ref() != b"null")?;
        match serde_json::from_slice(text) {
            Ok(Value::String(text)) => return Some(text),
            _ => self.find_wrong("string_type", name, "Input should be a valid string"),
        }
        None
    }

    /// A key, which must be there.
    pub(super) fn key(&mut self) -> String {
        let key = self.text("key");
        if self.wrong.is_empty()
            && let Err(error) = crate::values::check_name(&key)
        {
            self.wrong.push(super::refusal::wrong_key(error, &["body", "key"]));
        }
        key
    }

    /// A field that is true or false if it is there, in any of the ways that pydantic takes.
    pub(super) fn optional_switch(&mut self, name: &'static str) -> Option<bool> {
        let text = self.texts.get(name).filter(|text| text.as_ref() != b"null")?;
        let told = String::from_utf8_lossy(text).trim_matches('"').to_ascii_lowercase();
        match told.as_str() {
            "true" | "1" | "yes" | "on" | "t" | "y" => return Some(true),
            "false" | "0" | "no" | "off" | "f" | "n" => return Some(false),
            _ => self.find_wrong(
                "bool_parsing",
                name,
                "Input should be a valid boolean, unable to interpret input",
            ),
        }
        None
    }

    /// A field that is a positive whole number if it is there.
    pub(super) fn optional_number(&mut self, name: &'static str) -> Option<u64> {
        let text = self.texts.get(name).filter(|text| text.as_ref() != b"null")?;
        match whole_number(text) {
            Some(number) if number > 0 => return Some(number),
            _ => self.find_wrong("int_type", name, "Input should be a positive integer"),
        }
        None
    }

    /// A field that is an object if it is there and not null.
    pub(super) fn optional_object(&mut self, name: &'static str) -> Option<Map<String, Value>> {
        let text = self.texts.get(name).filter(|text| text.as_ref() != b"null")?;
        match serde_json::from_slice(text) {
            Ok(Value::Object(fields)) => return Some(fields),
            _ => self.find_wrong("dict_type", name, "Input should be a valid dictionary"),
        }
        None
    }

    /// The text of a field of any type, which must be there.
    pub(super) fn raw(&mut self, name: &'static str) -> Bytes {
        match self.texts.get(name) {
            Some(text) => text.clone(),
            None => {
                self.miss(name);
                Bytes::new()
            }
        }
    }

    /// The fields of a field that is an object itself.
    pub(super) fn inner(&mut self, name: &'static str) -> HashMap<&'static str, Bytes> {
        let text = self.raw(name);
        if text.is_empty() {
            return HashMap::new();
        }
        fields_of(&text).unwrap_or_else(|_| {
            self.find_wrong("dict_type", name, "Input should be a valid dictionary");
            HashMap::new()
        })
    }

    /// Refuses the body if anything in it does not fit.
    pub(super) fn check(&mut self) -> Result<(), Refusal> {
        if self.wrong.is_empty() {
            Ok(())
        } else {
            Err(Refusal::unprocessable(std::mem::take(&mut self.wrong)))
        }
    }

    fn miss(&mut self, name: &'static str) {
        self.wrong.push(wrong("missing", &["body", name], "Field required", shown(&self.body)));
    }

    fn find_wrong(&mut self, kind: &str, name: &'static str, text: &str) {
        let input = self.texts.get(name).map_or(Value::Null, shown);
        self.wrong.push(wrong(kind, &["body", name], text, input));
    }
}

/// A number without a sign and a fraction, also where it is written with one that is zero, as `5.0` is an integer to JSON
/// Schema and to pydantic.
pub(super) fn whole_number(text: &[u8]) -> Option<u64> {
    let number: serde_json::Number = serde_json::from_slice(text).ok()?;
    // Beyond this, numbers with fractions have none left, and mean several integers.
    const EXACT_MAX: f64 = (1_u64 << 53) as f64;
    let whole = |number: &f64| number.fract() == 0.0 && (0.0..=EXACT_MAX).contains(number);
    number.as_u64().or_else(|| number.as_f64().filter(whole).map(|number| number as u64))
}

/// What was given, where it is short enough to be told again.
fn shown(text: &Bytes) -> Value {
    let short = (text.len() <= 256).then(|| serde_json::from_slice(text).ok());
    short.flatten().unwrap_or(Value::Null)
}

async fn receive(api: &Api, request: Request) -> Result<(Bytes, OwnedSemaphorePermit), Refusal> {
    let too_large =
        || Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a body has at most {BODY_SIZE_MAX} bytes"));
    let header = request.headers().get(CONTENT_LENGTH);
    let announced: Option<u64> = header.and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length| length > BODY_SIZE_MAX as u64) {
        return Err(too_large());
    }
    // What can never fit is read and dropped: a client that still sends would not see the answer.
    let limit = api.node.engine.values_limit().saturating_add(AROUND_VALUE_MAX);
    let mut body: Body = request.into_body();
    if announced.is_some_and(|length| length > limit) {
        return Err(refuse(&mut body).await);
    }
    let mut room =
        take_room(api, announced.map_or(STEP_KIB, |length| (length as usize).div_ceil(1024))).await?;
    let mut bytes = Vec::with_capacity(announced.unwrap_or_default() as usize);
    while let Some(data) = next_data(&mut body).await? {
        let length = bytes.len() + data.len();
        if length > BODY_SIZE_MAX {
            return Err(too_large());
        }
        if length as u64 > limit {
            drop((bytes, room));
            return Err(refuse(&mut body).await);
        }
        if length > room.num_permits() << 10 {
            let more = (length - (room.num_permits() << 10)).div_ceil(1024).next_multiple_of(STEP_KIB);
            room.merge(take_room(api, more).await?);
        }
        bytes.extend_from_slice(&data);
    }
    Ok((bytes.into(), room))
}

/// The next bytes of a body; `None` at its end.
async fn next_data(body: &mut Body) -> Result<Option<Bytes>, Refusal> {
    loop {
        let frame = tokio::time::timeout(PAUSE_MAX, body.frame()).await;
        let frame = frame.map_err(|_| {
            let text = format!("nothing of the body came for {} s", PAUSE_MAX.as_secs());
            Refusal::new(StatusCode::REQUEST_TIMEOUT, text)
        })?;
        let Some(frame) = frame else { return Ok(None) };
        let frame = frame.map_err(|error| Refusal::bad(format!("the body cannot be read: {error}")))?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
}

/// Reads the rest of a body whose value does not fit; what is said of it.
async fn refuse(body: &mut Body) -> Refusal {
    let mut dropped = 0;
    while dropped <= BODY_SIZE_MAX
        && let Ok(Some(data)) = next_data(body).await
    {
        dropped += data.len();
    }
    crate::values::ValueError::Full.into()
}

async fn take_room(api: &Api, kib: usize) -> Result<OwnedSemaphorePermit, Refusal> {
    let kib = u32::try_from(kib).unwrap_or(u32::MAX);
    let room = tokio::time::timeout(ROOM_TIMEOUT, api.large_bodies.clone().acquire_many_owned(kib)).await;
    let busy = || {
        let text = "the bodies of other requests take all the memory there is for them; try again";
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text)
    };
    room.map_err(|_| busy())?.map_err(|_| busy())
}

/// The texts of the known fields of an object; of two with one name, the last.
fn fields_of(body: &Bytes) -> Result<HashMap<&'static str, Bytes>, Refusal> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let found = Texts.deserialize(&mut reader).and_then(|found| reader.end().map(|()| found));
    let found = found.map_err(|error| {
        let is_data = error.is_data();
        let kind = if is_data { "model_attributes_type" } else { "json_invalid" };
        let text = match is_data {
            true => "Input should be a valid dictionary or object to extract fields from".to_owned(),
            false => format!("JSON decode error: {error}"),
        };
        Refusal::unprocessable(vec![wrong(kind, &["body"], &text, Value::Null)])
    })?;
    Ok(found.into_iter().map(|(name, text)| (name, body.slice_ref(text.get().as_bytes()))).collect())
}

struct Texts;

impl<'de> DeserializeSeed<'de> for Texts {
    type Value = HashMap<&'static str, &'de RawValue>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Texts {
    type Value = HashMap<&'static str, &'de RawValue>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let mut texts = HashMap::new();
        // Names are texts of any kind, and only few of them mean something.
        while let Some(name) = fields.next_key::<std::borrow::Cow<'de, str>>()? {
            match NAMES.iter().find(|known| **known == name) {
                Some(known) => drop(texts.insert(*known, fields.next_value()?)),
                None => drop(fields.next_value::<IgnoredAny>()?),
            }
        }
        Ok(texts)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields(body: &str) -> Option<HashMap<&'static str, Bytes>> {
        fields_of(&Bytes::copy_from_slice(body.as_bytes())).ok()
    }

    #[test]
    fn values_are_found_as_they_were_sent() {
        let found =
            fields(r#"{"key": "a", "x": [1, {}], "value": {"b" :1.50, "b":"\ud800"}, "key":"c"} "#).unwrap();
        assert_eq!(found["key"].as_ref(), br#""c""#);
        assert_eq!(found["value"].as_ref(), br#"{"b" :1.50, "b":"\ud800"}"#);
        assert_eq!(found.len(), 2);
        for body in ["", "{", "[]", "null", "{\"key\": }", "{} x", "{\"key\": NaN}", "{\"key\": \"\u{1}\"}"] {
            assert!(fields(body).is_none(), "{body}");
        }
        let deep = format!("{{\"value\": {}1{}}}", "[".repeat(5000), "]".repeat(5000));
        assert_eq!(fields(&deep).unwrap()["value"].len(), 10_001);
    }

    #[test]
    fn whole_numbers_may_have_a_fraction_of_zero() {
        let of = |text: &str| whole_number(text.as_bytes());
        assert_eq!((of("5"), of("5.0"), of("5e3"), of("0")), (Some(5), Some(5), Some(5000), Some(0)));
        assert_eq!(of("18446744073709551615"), Some(u64::MAX));
        for text in ["", "-1", "5.5", "1e300", "-0.5", "true", "\"5\"", "5 5", "NaN"] {
            assert_eq!(of(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(body in "[\\[\\]{}:,\"a-z0-9. \\\\u-]{0,60}|\\{\"key\":\\PC{0,20}\\}") {
            if let Some(found) = fields(&body) {
                prop_assert!(found.values().all(|text| serde_json::from_slice::<&RawValue>(text).is_ok()));
            }
        }
    }
}
