//! A client that says what no honest client says.

use std::io::{Read, Write};
use std::net::TcpStream;

use flow::limits::FRAME_BODY_MAX;
use flow::wire::frame::HEADER_LENGTH;
use flow::wire::handshake::{self, Hello, Role, Token};
use flow::wire::{Header, Message};
use suites::Node;

/// A connection over TCP whose handshake is over.
pub(crate) struct Wire(TcpStream);

impl Wire {
    pub(crate) fn open(node: &Node) -> Self {
        let mut wire = Self(TcpStream::connect(node.address()).unwrap());
        let hello = Hello::new(Role::Client, 0, 0, [7; 32]);
        let Message::Challenge(challenge) = wire.ask(hello.clone()) else { panic!("no challenge") };
        let proof = handshake::prove(&hello, &challenge, &Token::new("")).unwrap();
        assert!(matches!(wire.ask(proof), Message::Welcome(_)));
        wire
    }

    pub(crate) fn ask(&mut self, message: impl Into<Message>) -> Message {
        self.0.write_all(&message.into().encode(0, 1)).unwrap();
        let mut header = [0; HEADER_LENGTH];
        self.0.read_exact(&mut header).unwrap();
        let header = Header::decode(&header, FRAME_BODY_MAX).unwrap();
        let mut body = vec![0; header.length as usize];
        self.0.read_exact(&mut body).unwrap();
        Message::decode(&header, &body).unwrap()
    }
}
