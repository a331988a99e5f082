//! Streams come back as they were.

use std::io::Cursor;

use client::{ClientError, GetOptions, PutOptions, Silent, Source};
use plan::manifest::Shape;

use crate::fake_node::FakeNode;
use crate::trees::noise;

fn round_trip(node: &FakeNode) {
    let client = node.connect();
    for length in [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 60 << 20] {
        let bytes = noise(length, 4);
        let source = Source::Reader(Box::new(Cursor::new(bytes.clone())));
        let put = client.put("stream", source, &PutOptions::default(), &Silent).unwrap();
        assert_eq!((put.size, put.files), (length as u64, 1));
        let mut got = Vec::new();
        client
            .get_to_writer("stream", &mut got, &GetOptions { verify: true, ..GetOptions::default() }, &Silent)
            .unwrap();
        assert!(got == bytes, "{length} bytes");
        let mut memory = vec![7; length + 3];
        let got = client
            .get_to_memory(
                "stream",
                &mut memory,
                &GetOptions { verify: true, ..GetOptions::default() },
                &Silent,
            )
            .unwrap();
        assert!(got.size == length as u64 && memory[..length] == bytes && memory[length..] == [7; 3]);
    }
    assert_eq!(node.manifest("stream").shape, Shape::Stream);
    assert_eq!(node.state().aborted, 0);
}

#[test]
fn streams_of_any_length_return_over_shared_memory() {
    round_trip(&FakeNode::local());
}

#[test]
fn streams_of_any_length_return_over_tcp() {
    round_trip(&FakeNode::tcp());
}

#[test]
fn memory_without_room_is_refused() {
    let node = FakeNode::local();
    let client = node.connect();
    let source = Source::Reader(Box::new(Cursor::new(noise(3 << 20, 4))));
    client.put("k", source, &PutOptions::default(), &Silent).unwrap();
    let mut memory = vec![0; 2 << 20];
    let error = client.get_to_memory("k", &mut memory, &GetOptions::default(), &Silent).unwrap_err();
    assert!(matches!(&error, ClientError::Output(_)) && error.to_string().contains("2097152"), "{error}");
}

#[test]
fn a_stream_can_become_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let node = FakeNode::local();
    let client = node.connect();
    let source = Source::Reader(Box::new(Cursor::new(b"bytes".to_vec())));
    client.put("a/key", source, &PutOptions::default(), &Silent).unwrap();
    client
        .get("a/key", folder.path(), &GetOptions { verify: true, ..GetOptions::default() }, &Silent)
        .unwrap();
    assert_eq!(std::fs::read(folder.path().join("key")).unwrap(), b"bytes");
}

#[test]
fn a_tree_is_no_stream() {
    let folder = tempfile::tempdir().unwrap();
    let node = FakeNode::local();
    let client = node.connect();
    client.put("k", Source::Path(folder.path().into()), &PutOptions::default(), &Silent).unwrap();
    let error = client.get_to_writer("k", &mut Vec::new(), &GetOptions::default(), &Silent).unwrap_err();
    assert!(matches!(error, ClientError::NotOneFile(_)), "{error}");
}
