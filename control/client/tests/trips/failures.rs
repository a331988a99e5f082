//! When something fails, it is said clearly and nothing half remains.

use std::fs;
use std::io::{self, Cursor, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use client::{Address, Client, ClientError, GetOptions, Progress, PutOptions, Silent, Source, Token};
use flow::wire::Message;
use flow::wire::session::FailureCode;

use crate::fake_node::{FakeNode, Fault};
use crate::trees::noise;

fn put_file(node: &FakeNode, client: &Client, folder: &Path, length: usize) {
    let source = folder.join("source");
    fs::write(&source, noise(length, 8)).unwrap();
    client.put("k", Source::Path(source), &PutOptions::default(), &Silent).unwrap();
    assert_eq!(node.state().keys["k"].len(), 1);
}

#[test]
fn a_refused_piece_leaves_the_key_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let node = FakeNode::local();
    let client = node.connect();
    put_file(&node, &client, folder.path(), 30 << 20);
    let mut fills = 0;
    node.set_mood(move |message| {
        fills += u32::from(matches!(message, Message::PieceFill(_)));
        (fills == 3).then_some(Fault::Refuse(FailureCode::DiskFull))
    });
    let source = folder.path().join("source");
    let error = client.put("k", Source::Path(source), &PutOptions::default(), &Silent).unwrap_err();
    assert_eq!((error.code(), error.hint()), (Some(FailureCode::DiskFull), Some("try harder")));
    node.set_mood(|_| None);
    client
        .get(
            "k",
            &folder.path().join("target"),
            &GetOptions { verify: true, ..GetOptions::default() },
            &Silent,
        )
        .unwrap();
    drop(client);
    assert_eq!(node.state().aborted, 1);
    assert_eq!(node.state().keys["k"].len(), 1);
    node.join();
}

#[test]
fn a_node_that_goes_away_is_named_and_nothing_half_remains() {
    for fault in [|| Fault::Close, || Fault::Garbage, || Fault::Misanswer] {
        let folder = tempfile::tempdir().unwrap();
        let node = FakeNode::local();
        let client = node.connect();
        put_file(&node, &client, folder.path(), 60 << 20);
        let mut asked = 0;
        node.set_mood(move |message| {
            asked += u32::from(matches!(message, Message::PieceNext(_)));
            (asked >= 3).then(fault)
        });
        let error =
            client.get("k", &folder.path().join("target"), &GetOptions::default(), &Silent).unwrap_err();
        assert!(error.to_string().contains("the node fake"), "{error}");
        let names: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["source"], "{error}");
    }
}

/// Changes a file when so many bytes have been read.
struct Meddler {
    left: Mutex<i64>,
    file: fs::File,
    meddle: fn(&fs::File),
}

impl Progress for Meddler {
    fn start(&self, _total_bytes: Option<u64>) {}

    fn advance(&self, bytes: u64) {
        let mut left = self.left.lock().unwrap();
        if *left > 0 && *left <= bytes as i64 {
            (self.meddle)(&self.file);
        }
        *left -= bytes as i64;
    }

    fn finish(&self) {}
}

#[test]
fn a_file_that_changes_while_it_is_read_is_not_put() {
    let shrink: fn(&fs::File) = |file| file.set_len(100).unwrap();
    let grow: fn(&fs::File) = |file| file.set_len(50 << 20).unwrap();
    let change: fn(&fs::File) = |file| file.write_all_at(b"changed", 7).unwrap();
    for (length, meddle) in
        [(20 << 20, shrink), (20 << 20, grow), (20 << 20, change), (2 << 20, shrink), (2 << 20, grow)]
    {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        fs::write(&source, noise(length, 8)).unwrap();
        let file = fs::OpenOptions::new().write(true).open(&source).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        let node = FakeNode::local();
        let client = node.connect();
        let meddler = Meddler { left: Mutex::new(1), file, meddle };
        let error = client.put("k", Source::Path(source), &PutOptions::default(), &meddler).unwrap_err();
        assert!(matches!(error, ClientError::Changed(_)), "{error}");
        assert!(node.state().keys.is_empty());
        drop(client);
        node.join();
    }
}

struct Broken(usize);

impl Read for Broken {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::Error::other("the pipe burst"));
        }
        self.0 -= 1;
        buffer.fill(1);
        Ok(buffer.len())
    }
}

#[test]
fn a_stream_that_breaks_is_not_put() {
    for reads in [0, 5] {
        let node = FakeNode::local();
        let client = node.connect();
        let source = Source::Reader(Box::new(Broken(reads)));
        let error = client.put("k", source, &PutOptions::default(), &Silent).unwrap_err();
        assert!(error.to_string().contains("the pipe burst"), "{error}");
        assert!(node.state().keys.is_empty());
        drop(client);
        node.join();
    }
}

#[test]
fn a_reader_that_stops_listening_ends_the_get() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let node = FakeNode::local();
    let client = node.connect();
    let source = Source::Reader(Box::new(Cursor::new(noise(8 << 20, 1))));
    client.put("k", source, &PutOptions::default(), &Silent).unwrap();
    let error = client.get_to_writer("k", &mut Full, &GetOptions::default(), &Silent).unwrap_err();
    assert!(matches!(error, ClientError::Output(_)), "{error}");
}

/// Cancels as soon as bytes move.
struct Impatient<'c>(&'c Client);

impl Progress for Impatient<'_> {
    fn start(&self, _total_bytes: Option<u64>) {}

    fn advance(&self, _bytes: u64) {
        self.0.cancel();
    }

    fn finish(&self) {
        panic!("what was cancelled finished");
    }
}

#[test]
fn what_is_cancelled_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let node = FakeNode::local();
    let client = node.connect();
    put_file(&node, &client, folder.path(), 60 << 20);
    let target = folder.path().join("target");
    let error = client.get("k", &target, &GetOptions::default(), &Impatient(&client)).unwrap_err();
    assert!(matches!(error, ClientError::Cancelled), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn what_is_no_node_is_told_apart() {
    let node = FakeNode::tcp();
    let wrong = Client::connect(&node.address, Some(&Token::new("another token"))).err().unwrap();
    assert!(wrong.to_string().contains("token"), "{wrong}");
    node.join();

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap().to_string());
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").unwrap();
        // Everything is read, so that the answer is not lost to a reset.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let foreign = Client::connect(&address, None).err().unwrap();
    assert!(foreign.to_string().contains("does not speak Shoal's protocol"), "{foreign}");
    answering.join().unwrap();
    let nobody = Client::connect(&address, None).err().unwrap();
    assert!(matches!(nobody, ClientError::Connect { .. }), "{nobody}");
}

#[test]
fn memory_that_is_refused_at_the_end_leaves_the_key_as_it_was() {
    for asked in ["ChunkBegin", "ChunkCommit"] {
        let node = FakeNode::local();
        let client = node.connect();
        let put = || {
            let source = Source::Memory(Box::new(noise(3 << 20, 1)));
            client.put("k", source, &PutOptions { volatile: true, ..PutOptions::default() }, &Silent)
        };
        let refuse = |asked: &'static str| {
            node.set_mood(move |message| {
                (message.name() == asked).then_some(Fault::Refuse(FailureCode::MemoryFull))
            })
        };
        refuse("ChunkPrepare");
        put().unwrap();
        // What was asked before has been answered then.
        client.kv().get("k").unwrap();
        refuse(asked);
        assert_eq!(put().unwrap_err().code(), Some(FailureCode::MemoryFull));
        node.set_mood(|_| None);
        // What was asked before has been answered then.
        client.kv().get("k").unwrap();
        drop(client);
        assert_eq!(node.state().keys["k"].len(), 1);
        assert_eq!(node.state().aborted, u32::from(asked == "ChunkCommit"));
        node.join();
    }
}

#[test]
fn what_goes_wrong_with_a_chunk_that_was_prepared_is_said() {
    for fault in [|| Fault::Close, || Fault::Garbage, || Fault::Misanswer] {
        let node = FakeNode::local();
        let client = node.connect();
        let put = || {
            let source = Source::Memory(Box::new(noise(3 << 20, 1)));
            client.put("k", source, &PutOptions { volatile: true, ..PutOptions::default() }, &Silent)
        };
        node.set_mood(move |message| (message.name() == "ChunkPrepare").then(fault));
        assert_eq!(put().unwrap().version, 1, "it was done before anything was prepared");
        let error = put().unwrap_err();
        assert!(error.to_string().contains("the node fake"), "{error}");
        assert_eq!(node.state().keys["k"].len(), 1);
    }
}

#[test]
fn memory_that_a_node_does_not_take_is_said_to_be_its_fault() {
    for asked in ["ChunkBegin", "ChunkCommit"] {
        for fault in [|| Fault::Close, || Fault::Garbage, || Fault::Misanswer] {
            let node = FakeNode::local();
            let client = node.connect();
            node.set_mood(move |message| (message.name() == asked).then(fault));
            let source = Source::Memory(Box::new(noise(3 << 20, 1)));
            let error = client.put("k", source, &PutOptions::default(), &Silent).unwrap_err();
            assert!(error.to_string().contains("the node fake"), "{error}");
            assert!(node.state().keys.is_empty());
        }
    }
}

#[test]
fn threads_that_ask_at_once_get_their_own_answers() {
    for node in [FakeNode::local(), FakeNode::tcp()] {
        let client = node.connect();
        let kv = client.kv();
        for number in 0..8 {
            let key = format!("k{number}");
            for _ in 0..=number {
                let source = Source::Memory(Box::new(noise(10, 1)));
                client.put(&key, source, &PutOptions::default(), &Silent).unwrap();
            }
        }
        std::thread::scope(|scope| {
            for number in 0..8_u64 {
                scope.spawn(move || {
                    for _ in 0..300 {
                        let found = kv.get(&format!("k{number}")).unwrap().unwrap();
                        assert_eq!(found.version, number + 1);
                    }
                });
            }
        });
    }
}

#[test]
fn the_end_of_a_connection_is_noticed_while_nobody_waits() {
    for node in [FakeNode::local(), FakeNode::tcp()] {
        let client = node.connect();
        client.kv().get("k").unwrap();
        assert!(client.is_open());
        node.set_mood(|_| Some(Fault::Close));
        let asked = client.kv().get("k").unwrap_err();
        assert!(matches!(asked, ClientError::Closed { .. }), "{asked}");
        assert!(!client.is_open());
    }
    let node = FakeNode::local();
    let client = node.connect();
    node.end();
    while client.is_open() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn whoever_waits_for_an_answer_that_never_comes_can_be_told_to_stop() {
    for node in [FakeNode::local(), FakeNode::tcp()] {
        let client = std::sync::Arc::new(node.connect());
        node.set_mood(|_| Some(Fault::Ignore));
        let looks = std::rc::Rc::new(std::cell::Cell::new(0));
        let look = {
            let (looks, client) = (looks.clone(), client.clone());
            move || {
                looks.set(looks.get() + 1);
                if looks.get() == 3 {
                    client.cancel();
                }
                Duration::from_millis(1)
            }
        };
        let asked =
            client::looking(Duration::from_millis(1), std::rc::Rc::new(look), || client.kv().get("k"));
        assert!(matches!(asked, Err(ClientError::Cancelled)), "{asked:?}");
        assert_eq!(looks.get(), 3);
    }
    for node in [FakeNode::local(), FakeNode::tcp()] {
        let client = node.connect();
        let (sender, asked) = std::sync::mpsc::channel();
        node.set_mood(move |_| {
            sender.send(()).unwrap();
            Some(Fault::Ignore)
        });
        std::thread::scope(|scope| {
            let waiting: Vec<_> = (0..4).map(|_| scope.spawn(|| client.kv().get("k"))).collect();
            (0..4).for_each(|_| asked.recv().unwrap());
            client.cancel();
            for waiting in waiting {
                let ended = waiting.join().unwrap();
                assert!(matches!(ended, Err(ClientError::Cancelled)), "{ended:?}");
            }
        });
    }
}
