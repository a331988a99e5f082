//! A server that gives bytes in all ways in which servers do, also within TLS.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

/// What is asked for.
pub struct Asked {
    /// The path, with its query, as it was sent.
    pub path: String,
    /// The header `Host`.
    pub host: String,
}

/// What is given.
pub enum Gives {
    /// All of the bytes, after their number.
    All(Vec<u8>),
    /// Fewer bytes than their number says.
    Cut(Vec<u8>, usize),
    /// Bytes whose end alone is marked.
    Chunked(Vec<u8>),
    /// Bytes whose end alone is marked, and which end before that.
    CutChunked(Vec<u8>),
    /// Bytes whose end is the end of the connection.
    Unmarked(Vec<u8>),
    /// The address of the bytes.
    Elsewhere(String),
    /// A status and nothing else.
    Status(u16),
}

/// Serves one request after the other; gives its address.
pub fn serve(gives: impl Fn(&Asked) -> Gives + Send + 'static) -> String {
    accept(move |stream| answer(stream, &gives))
}

/// Serves within TLS, with a certificate of its own that is written to a file.
pub fn serve_securely(certificate: &Path, gives: impl Fn(&Asked) -> Gives + Send + 'static) -> String {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
    std::fs::write(certificate, made.cert.pem()).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let key = made.signing_key.serialize_der().try_into().unwrap();
    let config = Arc::new(builder.with_single_cert(vec![made.cert.der().clone()], key).unwrap());
    accept(move |stream| {
        answer(StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream), &gives);
    })
}

fn accept(serve: impl Fn(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            serve(stream);
        }
    });
    address
}

/// Answers one request. Who asks may be gone, so that failures are nobody's business.
fn answer(stream: impl Read + Write, gives: &impl Fn(&Asked) -> Gives) {
    let mut stream = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        match stream.read_line(&mut line) {
            Ok(length) if length > 2 => lines.push(line.trim().to_owned()),
            Ok(2) => break,
            _ => return,
        }
    }
    let path = lines[0].split(' ').nth(1).unwrap_or_default().to_owned();
    let host =
        lines.iter().find_map(|line| line.to_ascii_lowercase().strip_prefix("host: ").map(str::to_owned));
    let gives = gives(&Asked { path, host: host.unwrap_or_default() });
    let bytes = text_of(gives);
    let _ = stream.get_mut().write_all(&bytes).and_then(|()| stream.get_mut().flush());
}

fn text_of(gives: Gives) -> Vec<u8> {
    let (head, body) = match gives {
        Gives::All(bytes) => (format!("200 OK\r\nContent-Length: {}", bytes.len()), bytes),
        Gives::Cut(bytes, length) => (format!("200 OK\r\nContent-Length: {length}"), bytes),
        Gives::Chunked(bytes) => ("200 OK\r\nTransfer-Encoding: chunked".to_owned(), chunked(&bytes, true)),
        Gives::CutChunked(bytes) => {
            ("200 OK\r\nTransfer-Encoding: chunked".to_owned(), chunked(&bytes, false))
        }
        Gives::Unmarked(bytes) => ("200 OK".to_owned(), bytes),
        Gives::Elsewhere(url) => (format!("302 Found\r\nContent-Length: 0\r\nLocation: {url}"), Vec::new()),
        Gives::Status(status) => (format!("{status} No\r\nContent-Length: 0"), Vec::new()),
    };
    let mut text = format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").into_bytes();
    text.extend_from_slice(&body);
    text
}

fn chunked(bytes: &[u8], to_end: bool) -> Vec<u8> {
    let mut text = Vec::new();
    for part in bytes.chunks(70_001) {
        text.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
        text.extend_from_slice(part);
        text.extend_from_slice(b"\r\n");
    }
    if to_end {
        text.extend_from_slice(b"0\r\n\r\n");
    }
    text
}
