//! Bytes that the node reads from servers, over HTTP and over HTTP within TLS.

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_LENGTH, HOST, LOCATION, TRANSFER_ENCODING};
use hyper::rt::{Read, Write};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::ServerName;
use url::{Host, Url};

use super::{Driver, OutgoingError, PAUSE_MAX, Trust};

/// What a server answers when it is asked for bytes.
pub(crate) enum Answer {
    /// They come.
    Bytes(Download),
    /// They are elsewhere.
    Elsewhere(Url),
}

/// Bytes that come from a server.
pub(crate) struct Download {
    /// How many there are, if the server tells.
    pub(crate) length: Option<u64>,
    place: String,
    body: Incoming,
    rest: Bytes,
    _driver: Driver,
}

/// Begins to read what a URL names. The operator has allowed it, so that its place is not looked at.
pub(crate) async fn get(url: &Url, trust: &Trust) -> Result<Answer, OutgoingError> {
    let place = place_of(url);
    let failed = |message: String| OutgoingError::Unreachable { place: place.clone(), message };
    let late = |_| failed(format!("it did not answer within {} s", PAUSE_MAX.as_secs()));
    let asked = tokio::time::timeout(PAUSE_MAX, ask(url, trust)).await;
    let (answer, driver) = asked.map_err(late)?.map_err(failed)?;
    let told = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
    match answer.status().as_u16() {
        200 => {}
        301 | 302 | 303 | 307 | 308 if let Some(text) = told(LOCATION) => {
            let elsewhere = url.join(text).map_err(|_| failed("it sends on to what is no URL".into()))?;
            return Ok(Answer::Elsewhere(elsewhere));
        }
        _ => return Err(failed(format!("it answered with {}", answer.status()))),
    }
    let length = told(CONTENT_LENGTH).and_then(|text| text.parse().ok());
    let is_marked = told(TRANSFER_ENCODING).is_some_and(|text| text.eq_ignore_ascii_case("chunked"));
    if length.is_none() && !is_marked {
        // The end of the connection would be the end of the bytes, and also what breaks off ends so.
        return Err(failed("it says neither how many bytes there are nor where they end".into()));
    }
    Ok(Answer::Bytes(Download {
        length,
        place,
        body: answer.into_body(),
        rest: Bytes::new(),
        _driver: driver,
    }))
}

/// `HOST:PORT` of a URL.
fn place_of(url: &Url) -> String {
    format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default())
}

async fn ask(url: &Url, trust: &Trust) -> Result<(Response<Incoming>, Driver), String> {
    let host = match url.host() {
        Some(Host::Domain(name)) => name.to_owned(),
        Some(Host::Ipv4(ip)) => ip.to_string(),
        Some(Host::Ipv6(ip)) => ip.to_string(),
        None => return Err("the URL names no host".into()),
    };
    let port = url.port_or_known_default().unwrap_or(80);
    let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|error| error.to_string())?;
    if url.scheme() != "https" {
        return ask_over(TokioIo::new(stream), url).await;
    }
    let name = ServerName::try_from(host).map_err(|error| error.to_string())?;
    let secured = trust.connector().await?.connect(name, stream).await;
    let secured = secured.map_err(|error| format!("its certificate or TLS is not accepted: {error}"))?;
    ask_over(TokioIo::new(secured), url).await
}

async fn ask_over<S>(stream: S, url: &Url) -> Result<(Response<Incoming>, Driver), String>
where
    S: Read + Write + Send + Unpin + 'static,
{
    let shaken = hyper::client::conn::http1::handshake(stream).await;
    let (mut sender, connection) = shaken.map_err(|error| error.to_string())?;
    let driver = Driver(tokio::spawn(async move { drop(connection.await) }));
    let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let host = &url[url::Position::BeforeHost..url::Position::AfterPort];
    let request = Request::builder().uri(path).header(HOST, host).body(Empty::<Bytes>::new());
    let request = request.map_err(|error| error.to_string())?;
    let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
    Ok((answer, driver))
}

impl Download {
    /// The next bytes, at least one and at most so many; `None` at their end.
    pub(crate) async fn part(&mut self, most: usize) -> Result<Option<Bytes>, OutgoingError> {
        let failed = |message: String| OutgoingError::Unreachable { place: self.place.clone(), message };
        while self.rest.is_empty() {
            let frame = tokio::time::timeout(PAUSE_MAX, self.body.frame()).await;
            let frame = frame.map_err(|_| failed(format!("nothing came for {} s", PAUSE_MAX.as_secs())))?;
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|error| failed(format!("it broke off: {error}")))?;
            self.rest = frame.into_data().unwrap_or_default();
        }
        Ok(Some(self.rest.split_to(most.min(self.rest.len()))))
    }
}
