//! Who may ask.
//!
//! Where the node has a token, each request must show it. Where it has none, anybody who reaches the port may ask, which on
//! loopback is whoever works on the machine; but a browser there also runs pages of strangers, who must not.

use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::{HeaderMap, StatusCode, Uri};
use flow::wire::handshake::Token;

use super::input::header;
use super::problem::{Code, Problem};
use crate::node::Identity;

/// What is asked of requests.
pub(super) struct Guard {
    token: Token,
    asks_for_token: bool,
    /// Hosts, beside addresses and `localhost`, under which this node is known on its own machine; `None` when it is open to
    /// others anyway.
    local_names: Option<Vec<String>>,
}

impl Guard {
    pub(super) fn of(identity: &Identity) -> Self {
        let asks_for_token = !identity.token.is_of("");
        let host = host_of(&identity.address).to_ascii_lowercase();
        let uname = rustix::system::uname();
        let local = identity.listens_locally && !asks_for_token;
        let names = vec![host, uname.nodename().to_string_lossy().to_ascii_lowercase()];
        Self { token: identity.token.clone(), asks_for_token, local_names: local.then_some(names) }
    }

    /// Refuses a request whose sender may not ask.
    pub(super) fn check(&self, request: &Request) -> Result<(), Problem> {
        let headers = request.headers();
        if self.asks_for_token {
            return self.check_token(headers);
        }
        self.check_origin(headers, request.uri())
    }

    fn check_token(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let shown = header(headers, &AUTHORIZATION)?.and_then(|text| {
            let (scheme, token) = text.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token)
        });
        if shown.is_some_and(|token| self.token.is_of(token)) {
            return Ok(());
        }
        let text =
            if shown.is_some() { "the token is not the cluster's" } else { "the request shows no token" };
        let hint = "send the header Authorization: Bearer TOKEN, with what the node's --token-file holds";
        Err(Problem::new(StatusCode::UNAUTHORIZED, Code::Unauthorized, text, hint))
    }

    /// Refuses what a page of another origin makes a browser send (Fetch Standard, 3.1), also where its name was made to
    /// lead here.
    fn check_origin(&self, headers: &HeaderMap, uri: &Uri) -> Result<(), Problem> {
        let host = match uri.authority() {
            Some(authority) => Some(authority.as_str()),
            None => header(headers, &HOST)?,
        };
        let refused =
            |text: &str, hint: &str| Err(Problem::new(StatusCode::FORBIDDEN, Code::CrossOrigin, text, hint));
        if let Some(origin) = header(headers, &ORIGIN)? {
            let same = origin.split_once("://").is_some_and(|(_, place)| Some(place) == host);
            if !same {
                return refused("a page of another origin asks", "give the node a token with --token-file");
            }
        }
        match (&self.local_names, host) {
            (Some(names), Some(host)) if !is_local(host_of(host), names) => {
                let hint = "ask for localhost, or for the address that the node listens on";
                refused("the header Host names a place that is not this machine", hint)
            }
            _ => Ok(()),
        }
    }
}

/// The host of `HOST:PORT`, or of a host alone.
fn host_of(place: &str) -> &str {
    match place.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => place,
    }
}

fn is_local(host: &str, names: &[String]) -> bool {
    let host = host.to_ascii_lowercase();
    let is_address = host.starts_with('[') || host.parse::<std::net::Ipv4Addr>().is_ok();
    is_address || host == "localhost" || host.ends_with(".localhost") || names.contains(&host)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::header::HeaderName;

    use super::*;

    fn guard(token: &str, is_local: bool) -> Guard {
        Guard {
            token: Token::new(token),
            asks_for_token: !token.is_empty(),
            local_names: is_local.then(|| vec!["node7".into()]),
        }
    }

    fn check(guard: &Guard, lines: &[(&str, &str)]) -> Option<Code> {
        let mut request = Request::builder().uri("/v1/kv");
        for &(name, value) in lines {
            request = request.header(name.parse::<HeaderName>().unwrap(), value);
        }
        guard.check(&request.body(Body::empty()).unwrap()).err().map(|problem| problem.code)
    }

    #[test]
    fn where_there_is_a_token_it_must_be_shown() {
        let guard = guard("swordfish-swordfish", false);
        assert_eq!(check(&guard, &[("authorization", "Bearer swordfish-swordfish")]), None);
        assert_eq!(check(&guard, &[("authorization", "bearer  swordfish-swordfish ")]), None);
        for line in
            ["Bearer swordfish", "Bearer ", "Bearer", "Basic swordfish-swordfish", "swordfish-swordfish"]
        {
            assert_eq!(check(&guard, &[("authorization", line)]), Some(Code::Unauthorized), "{line}");
        }
        assert_eq!(check(&guard, &[]), Some(Code::Unauthorized));
    }

    #[test]
    fn pages_of_strangers_may_not_ask() {
        let guard = guard("", true);
        for host in
            ["127.0.0.1:9015", "[::1]:9015", "localhost", "LOCALHOST:1", "a.localhost:1", "Node7:9015"]
        {
            assert_eq!(check(&guard, &[("host", host)]), None, "{host}");
        }
        let refused = Some(Code::CrossOrigin);
        assert_eq!(check(&guard, &[("host", "stranger.example:9015")]), refused);
        let host = ("host", "localhost:9015");
        assert_eq!(check(&guard, &[host, ("origin", "http://localhost:9015")]), None);
        for origin in ["http://stranger.example", "http://localhost", "null", ""] {
            assert_eq!(check(&guard, &[host, ("origin", origin)]), refused, "{origin}");
        }
    }

    #[test]
    fn where_everybody_may_come_any_name_will_do() {
        assert_eq!(check(&guard("", false), &[("host", "node7.cluster.example:9015")]), None);
    }
}
