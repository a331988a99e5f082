//! Streams come back as they were.

use std::io::Cursor;

use client::kv::Consistency;
use client::{Access, ChunkId, ClientError, GetOptions, Naming, PutOptions, Silent, Source};
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

#[test]
fn memory_of_any_length_returns_with_its_labels() {
    for node in [FakeNode::local(), FakeNode::tcp()] {
        let client = std::sync::Arc::new(node.connect());
        for length in [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 20 << 20, (60 << 20) + 5] {
            let bytes = noise(length, 4);
            let labels = vec![("type".to_owned(), "raw".to_owned())];
            let options = PutOptions { labels: labels.clone(), ..PutOptions::default() };
            let put = client.put("k", Source::Memory(Box::new(bytes.clone())), &options, &Silent).unwrap();
            assert_eq!((put.size, put.files), (length as u64, 1));
            let verify = GetOptions { verify: true, ..GetOptions::default() };
            let mut got = Vec::new();
            client.get_to_writer("k", &mut got, &verify, &Silent).unwrap();
            assert!(got == bytes, "{length} bytes");
            let open = client.open("k", Consistency::Quorum).unwrap();
            assert_eq!((open.labels(), open.size()), (&labels[..], length as u64));
            for from in [0, 1, (1 << 20) - 1, length / 2, length].into_iter().filter(|&from| from <= length) {
                let mut part = vec![7; (length - from).min(3 << 20)];
                open.read(from as u64, &mut part).unwrap();
                assert!(part == bytes[from..from + part.len()], "{length} bytes from {from}");
            }
            assert!(open.read(length as u64, &mut [0]).is_err());
        }
    }
}

#[test]
fn memory_without_a_digest_is_a_chunk_of_its_own_that_nothing_is_compared_with() {
    for node in [FakeNode::local(), FakeNode::tcp()] {
        let client = node.connect();
        let options = PutOptions { naming: Naming::Unique, ..PutOptions::default() };
        for length in [0, 1, (3 << 20) + 5] {
            let bytes = noise(length, 4);
            let put = || {
                let source = Source::Memory(Box::new(bytes.clone()));
                let put = client.put("k", source, &options, &Silent).unwrap();
                assert_eq!((put.size, put.new_bytes), (length as u64, length as u64));
                node.manifest("k").chunks.iter().map(|chunk| ChunkId(chunk.id)).collect::<Vec<_>>()
            };
            let (first, second) = (put(), put());
            assert!(first.iter().chain(&second).all(|id| !id.is_digest()));
            assert!(length == 0 || first != second);
            let mut got = Vec::new();
            client.get_to_writer("k", &mut got, &GetOptions::default(), &Silent).unwrap();
            assert!(got == bytes, "{length} bytes");
        }
        let verify = GetOptions { verify: true, ..GetOptions::default() };
        let mut got = Vec::new();
        let to_writer = client.get_to_writer("k", &mut got, &verify, &Silent).unwrap_err();
        let folder = tempfile::tempdir().unwrap();
        let to_file = client.get("k", folder.path(), &verify, &Silent).unwrap_err();
        for error in [to_writer, to_file] {
            assert!(
                matches!(&error, ClientError::NoDigest(_)) && error.to_string().contains("--verify"),
                "{error}"
            );
        }
        assert!(got.is_empty() && folder.path().read_dir().unwrap().next().is_none());
    }
}

#[test]
fn a_view_is_the_bytes_and_lets_go_of_them() {
    let node = FakeNode::local();
    let client = std::sync::Arc::new(node.connect());
    let put = |bytes: &Vec<u8>| {
        client.put("k", Source::Memory(Box::new(bytes.clone())), &PutOptions::default(), &Silent).unwrap()
    };
    let bytes = noise((5 << 20) + 77, 4);
    put(&bytes);
    for access in [Access::ReadOnly, Access::CopyOnWrite] {
        let view = client.open("k", Consistency::Quorum).unwrap().view(access).unwrap().unwrap();
        put(&noise(1 << 20, 5));
        assert!(view.is_held() && *view == bytes[..]);
        put(&bytes);
    }
    // More than views may take of the memory of a node has to be read.
    put(&noise(40 << 20, 6));
    let open = client.open("k", Consistency::Quorum).unwrap();
    assert!(open.view(Access::ReadOnly).unwrap().is_none());
    let mut all = vec![0; 40 << 20];
    open.read(0, &mut all).unwrap();
    assert!(all == noise(40 << 20, 6));
}

#[test]
fn nothing_is_seen_in_place_over_tcp() {
    let node = FakeNode::tcp();
    let client = std::sync::Arc::new(node.connect());
    let source = Source::Memory(Box::new(noise(3 << 20, 4)));
    client.put("k", source, &PutOptions::default(), &Silent).unwrap();
    let open = client.open("k", Consistency::Quorum).unwrap();
    assert!(open.view(Access::ReadOnly).unwrap().is_none());
}

#[test]
fn memory_of_a_few_mebibytes_takes_two_questions_and_one_when_it_is_put_again() {
    let node = FakeNode::local();
    let client = node.connect();
    let put = |length: usize, volatile| {
        // What was asked before has been answered then.
        client.kv().get("k").unwrap();
        let (sender, asked) = std::sync::mpsc::channel();
        node.set_mood(move |message| {
            sender.send(message.name()).unwrap();
            None
        });
        let bytes = noise(length, 4);
        let options = PutOptions { naming: Naming::Unique, volatile, ..PutOptions::default() };
        client.put("k", Source::Memory(Box::new(bytes.clone())), &options, &Silent).unwrap();
        client.kv().get("k").unwrap();
        node.set_mood(|_| None);
        let mut got = Vec::new();
        client.get_to_writer("k", &mut got, &GetOptions::default(), &Silent).unwrap();
        assert!(got == bytes, "{length} bytes");
        let asked: Vec<_> = asked.iter().collect();
        let [first @ .., "CatalogGet"] = &asked[..] else { panic!("{asked:?}") };
        first.to_vec()
    };
    for length in [1, 8_000_000, 16 << 20] {
        let durable = put(length, false);
        assert!(durable[0] == "ChunkBegin" && durable.ends_with(&["ChunkCommit"]), "{durable:?}");
        let fresh = put(length, true);
        let fresh = fresh.strip_prefix(&["ChunkAbort"]).unwrap_or(&fresh);
        assert_eq!(fresh, ["ChunkBegin", "ChunkCommit", "ChunkPrepare"], "{length} bytes");
        assert_eq!(put(length, true), ["ChunkCommit", "ChunkPrepare"], "{length} bytes");
        let durable = put(length, false);
        assert!(durable[0] == "ChunkBegin" && durable.ends_with(&["ChunkCommit"]), "{durable:?}");
    }
    // Of each of the sizes but the last one, what was prepared was given up for the next.
    assert_eq!(node.state().aborted, 2);
}
