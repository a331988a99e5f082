//! Requests over HTTP.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use serde_json::Value;
use ureq::http::{Method, Request, Response};
use ureq::{Agent, Body};

use crate::node::Node;

/// Longest that a request may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A client of a node's HTTP door. It keeps its connections.
#[derive(Clone)]
pub struct Http {
    agent: Agent,
    base: String,
    headers: Vec<(String, String)>,
}

/// What was answered.
#[derive(Debug, Clone)]
pub struct Answer {
    what: String,
    /// The status.
    pub status: u16,
    /// The headers, with names in small letters.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Http {
    /// A client of this node.
    pub fn at(node: &Node) -> Self {
        Self::to(node.address())
    }

    /// A client of whoever listens at `HOST:PORT`.
    pub fn to(address: &str) -> Self {
        let settings = Agent::config_builder().http_status_as_error(false).timeout_global(Some(LIMIT));
        let agent = settings.max_redirects(0).build().into();
        Self { agent, base: format!("http://{address}"), headers: Vec::new() }
    }

    /// This client, with one more header in each request.
    pub fn with(&self, name: &str, value: &str) -> Self {
        let mut other = self.clone();
        other.headers.push((name.into(), value.into()));
        other
    }

    /// Asks for a path, with its query.
    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, None)
    }

    /// Puts bytes.
    pub fn put(&self, path: &str, body: impl AsRef<[u8]>) -> Answer {
        self.ask("PUT", path, Some(body.as_ref()))
    }

    /// Deletes.
    pub fn delete(&self, path: &str) -> Answer {
        self.ask("DELETE", path, None)
    }

    /// Sends JSON.
    pub fn json(&self, method: &str, path: &str, body: &Value) -> Answer {
        self.with("content-type", "application/json").ask(method, path, Some(body.to_string().as_bytes()))
    }

    /// Sends any request.
    pub fn ask(&self, method: &str, path: &str, body: Option<&[u8]>) -> Answer {
        self.read(format!("{method} {path}"), self.send(method, path, body))
    }

    fn read(&self, what: String, mut response: Response<Body>) -> Answer {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let headers = response.headers().iter();
        let headers =
            headers.map(|(name, value)| (name.as_str().to_owned(), text(value.as_bytes()))).collect();
        let body = response.body_mut().with_config().limit(1 << 30).read_to_vec();
        let body = body.unwrap_or_else(|error| panic!("{what}: the body breaks off: {error}"));
        Answer { what, status: response.status().as_u16(), headers, body }
    }

    /// Begins to read server-sent events; the answer instead when it is none of them.
    pub fn events(&self, path: &str) -> Result<Events, Answer> {
        let response = self.send("GET", path, None);
        if response.status() != 200 {
            return Err(self.read(format!("GET {path}"), response));
        }
        Ok(Events { lines: Box::new(BufReader::new(response.into_body().into_reader())) })
    }

    fn send(&self, method: &str, path: &str, body: Option<&[u8]>) -> Response<Body> {
        let method: Method = method.parse().expect("the method is one");
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let sent = match body {
            None => self.agent.run(request.body(()).expect("the request is one")),
            Some(body) => self.agent.run(request.body(body).expect("the request is one")),
        };
        sent.unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}

impl Answer {
    /// Panics unless it has this status.
    #[track_caller]
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}: {}", self.what, String::from_utf8_lossy(&self.body));
        self
    }

    /// The body as JSON.
    #[track_caller]
    pub fn value(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{}: no JSON: {error}: {text}", self.what))
    }

    /// Panics unless it has this status, and a problem of this code that is told in full.
    #[track_caller]
    pub fn fails(self, status: u16, code: &str) -> Value {
        let problem = self.is(status).value();
        assert_eq!(problem["code"], code, "{problem}");
        assert!(
            problem["hint"].is_string() && problem["message"].as_str().is_some_and(|text| text.len() > 8)
        );
        problem
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// Server-sent events as they come.
pub struct Events {
    lines: Box<dyn BufRead + Send>,
}

/// One event. What only tells where the stream is has no name and no data.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// What kind.
    pub name: String,
    /// Its id.
    pub id: Option<u64>,
    /// What it says.
    pub data: Value,
}

impl Events {
    /// The next event that says something; `None` when the stream has ended.
    pub fn next_event(&mut self) -> Option<Event> {
        loop {
            let event = self.next_sign()?;
            if !event.data.is_null() {
                return Some(event);
            }
        }
    }

    /// The next event, also one that only tells where the stream is; `None` when the stream has ended.
    pub fn next_sign(&mut self) -> Option<Event> {
        let (mut name, mut id, mut data) = (String::new(), None, Value::Null);
        loop {
            let mut line = String::new();
            // A connection that breaks ends the stream as well.
            if self.lines.read_line(&mut line).unwrap_or(0) == 0 {
                return None;
            }
            let line = line.trim_end_matches(['\r', '\n']);
            if let Some(text) = line.strip_prefix("event: ") {
                name = text.into();
            } else if let Some(text) = line.strip_prefix("id: ") {
                id = Some(text.parse().expect("an id is a revision"));
            } else if let Some(text) = line.strip_prefix("data: ") {
                data = serde_json::from_str(text).expect("the data of an event is JSON");
            } else if line.is_empty() && (id.is_some() || !data.is_null()) {
                return Some(Event { name, id, data });
            }
        }
    }
}
