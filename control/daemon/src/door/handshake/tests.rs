use flow::wire::Header;
use flow::wire::frame::{HEADER_LENGTH, VERSION};
use flow::wire::handshake::Challenge;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

const NODE: NodeId = 77;

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

fn token() -> Token {
    Token::new("swordfish-swordfish")
}

/// A socket whose other end is accepting with [`token`], and how that went.
async fn dial() -> (TcpStream, tokio::task::JoinHandle<Result<Hello, GreetingError>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let accepting = tokio::spawn(async move {
        let (mut peer, _) = listener.accept().await.unwrap();
        let accepted = accept(&mut peer, &token(), NODE).await;
        if accepted.is_ok() {
            welcome(&mut peer, Welcome { name: "seven".into(), arena_size: 0, shards: 2 }).await.unwrap();
        }
        accepted
    });
    (stream, accepting)
}

/// What the acceptor says to bytes that are no greeting; the connection must end after it.
async fn refusal_of(bytes: &[u8]) -> String {
    let (mut stream, accepting) = dial().await;
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let message = frames::read_message(&mut stream, HANDSHAKE_BODY_MAX).await.unwrap();
    assert!(accepting.await.unwrap().is_err());
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(rest.is_empty(), "bytes follow the refusal");
    match message {
        Message::Refuse(refuse) => refuse.reason,
        other => panic!("{} instead of a refusal", other.name()),
    }
}

fn hello() -> Hello {
    Hello::new(Role::Control, 5, NODE, [3; 32])
}

#[test]
fn who_knows_the_token_is_welcome() {
    run(async {
        let (mut stream, accepting) = dial().await;
        let (node, welcome) = greet(&mut stream, &token(), Role::Control, 5, NODE).await.unwrap();
        assert_eq!((node, welcome.name.as_str(), welcome.shards), (NODE, "seven", 2));
        assert_eq!(accepting.await.unwrap().unwrap().node, 5);
    });
}

#[test]
fn garbage_is_refused() {
    run(async {
        let reason = refusal_of(&[b'x'; HEADER_LENGTH]).await;
        assert!(reason.contains("does not speak"), "{reason}");
        let reason = refusal_of(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert!(reason.contains("does not speak"), "{reason}");
    });
}

#[test]
fn an_oversized_header_is_refused_before_its_body() {
    run(async {
        let mut header = Header::for_body(1, 0, 0, &[]);
        header.length = HANDSHAKE_BODY_MAX + 1;
        let reason = refusal_of(&header.encode()).await;
        assert!(reason.contains("at most"), "{reason}");
    });
}

#[test]
fn another_version_is_refused() {
    run(async {
        let mut header = Header::for_body(1, 0, 0, &[]);
        header.version = VERSION + 1;
        let reason = refusal_of(&header.encode()).await;
        assert!(reason.contains("upgrade"), "{reason}");
        let mut newer = hello();
        (newer.version_min, newer.version_max) = (VERSION + 1, VERSION + 9);
        let reason = refusal_of(&Message::from(newer).encode(0, 0)).await;
        assert!(reason.contains("upgrade"), "{reason}");
    });
}

#[test]
fn messages_out_of_order_are_refused() {
    run(async {
        let reason = refusal_of(&Message::from(flow::wire::session::NodeList {}).encode(0, 0)).await;
        assert!(reason.contains("NodeList"), "{reason}");
    });
}

#[test]
fn a_wrong_node_is_refused() {
    run(async {
        let (mut stream, accepting) = dial().await;
        let error = greet(&mut stream, &token(), Role::Control, 5, NODE + 1).await.unwrap_err();
        assert!(error.to_string().contains("passed to another node"), "{error}");
        assert!(accepting.await.unwrap().is_err());
    });
}

#[test]
fn a_wrong_token_is_refused_by_both_sides() {
    run(async {
        let (mut stream, accepting) = dial().await;
        let error = greet(&mut stream, &Token::new("other"), Role::Client, 0, 0).await.unwrap_err();
        assert!(matches!(error, GreetingError::Handshake(HandshakeError::Token)), "{error}");
        assert!(matches!(
            accepting.await.unwrap(),
            Err(GreetingError::Handshake(HandshakeError::Refused(_)))
        ));

        let (mut stream, accepting) = dial().await;
        send(&mut stream, hello()).await.unwrap();
        let challenge = frames::read_message(&mut stream, HANDSHAKE_BODY_MAX).await.unwrap();
        assert!(Challenge::try_from(challenge).is_ok());
        send(&mut stream, handshake::Proof { proof: [0; 32] }).await.unwrap();
        let answer = frames::read_message(&mut stream, HANDSHAKE_BODY_MAX).await.unwrap();
        assert!(matches!(answer, Message::Refuse(Refuse { reason }) if reason.contains("--token-file")));
        assert!(accepting.await.unwrap().is_err());
    });
}

#[test]
fn a_silent_peer_is_let_go() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let (mut ours, _theirs) = tokio::io::duplex(64);
        assert!(matches!(accept(&mut ours, &token(), NODE).await, Err(GreetingError::Timeout)));
    });
}
