//! The calls of gswarm's data API.

use std::time::Duration;

use serde_json::Value;
use ureq::http::Response;
use ureq::{Agent, Body};

use crate::failure::Failure;
use crate::global::Global;

/// How long a server may take to be reached.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take to begin its answer: a large value may have to go elsewhere first.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);
/// Largest answer, in bytes.
const ANSWER_SIZE_MAX: u64 = 3 << 30;

/// A server of gswarm's, or a node.
pub struct Server {
    agent: Agent,
    base: String,
    token: Option<String>,
}

/// A key behind the beginning of a path.
pub fn path(beginning: &str, key: &str) -> String {
    let mut path = beginning.to_owned();
    for byte in key.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b':' => path.push(byte.into()),
            _ => path.push_str(&format!("%{byte:02X}")),
        }
    }
    path
}

impl Server {
    /// The server at `HOST:PORT`, or at such a URL.
    pub fn at(host: &str, global: &Global) -> Result<Self, Failure> {
        let base = match host.contains("://") {
            true => host.trim_end_matches('/').to_owned(),
            false => format!("http://{}", host.trim_end_matches('/')),
        };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(ANSWER_TIMEOUT));
        Ok(Self { agent: config.build().into(), base, token: global.token_text()? })
    }

    pub fn get(&self, path: &str) -> Result<Value, Failure> {
        let request = self.agent.get(self.url(path));
        self.read(self.show_token(request).call())
    }

    pub fn delete(&self, path: &str) -> Result<Value, Failure> {
        let request = self.agent.delete(self.url(path));
        self.read(self.show_token(request).call())
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let request = self.agent.post(self.url(path)).header("content-type", "application/json");
        self.read(self.show_token(request).send(body.to_string().as_bytes()))
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn show_token<Any>(&self, request: ureq::RequestBuilder<Any>) -> ureq::RequestBuilder<Any> {
        match &self.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    fn read(&self, answer: Result<Response<Body>, ureq::Error>) -> Result<Value, Failure> {
        let unreachable = |error: &dyn std::fmt::Display| Failure::Server {
            place: self.base.clone(),
            message: error.to_string(),
            code: None,
        };
        let mut answer = answer.map_err(|error| unreachable(&error))?;
        let status = answer.status().as_u16();
        let body = answer.body_mut().with_config().limit(ANSWER_SIZE_MAX).read_to_vec();
        let body = body.map_err(|error| unreachable(&error))?;
        let value: Option<Value> = serde_json::from_slice(&body).ok();
        if answer.status().is_success()
            && let Some(value) = value
        {
            return Ok(value);
        }
        let told = value.as_ref().and_then(|value| {
            let text = value.get("detail").or(value.get("message"))?;
            Some(text.as_str().map_or_else(|| text.to_string(), str::to_owned))
        });
        let message = told.unwrap_or_else(|| format!("it answered with status {status} and no JSON"));
        Err(Failure::Server { place: self.base.clone(), message, code: Some(status) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_key_is_one_part_of_a_path() {
        assert_eq!(path("/read/", "user:123"), "/read/user:123");
        assert_eq!(path("/read/", "a/b ?%é."), "/read/a%2Fb%20%3F%25%C3%A9%2E");
    }
}
