//! Golden vectors: the exact bytes of one frame of every message type.
//!
//! Each file in `golden/` holds one frame as hexadecimal digits: the header on the first line, the body below.
//! Nodes of different builds talk to each other, so these bytes never change. A message that must carry something
//! else is a message of another type, with another number.
//!
//! `SHOAL_WRITE_GOLDEN=1 cargo test -p flow --test golden` writes the files that are missing. It overwrites none:
//! delete a file first, which is right only for a type that no release has spoken.
#![allow(clippy::unwrap_used)]

mod samples;

use std::fs;
use std::path::{Path, PathBuf};

use flow::limits::FRAME_BODY_MAX;
use flow::wire::frame::HEADER_LENGTH;
use flow::wire::{Header, Message};

/// Chosen so that in no message a list or text is empty or an option absent, and the vectors are short.
const SEED: u64 = 15568;
const REQUEST_ID: u64 = 0x0102_0304_0506_0708;

#[test]
fn frames_are_what_they_always_were() {
    let write = std::env::var_os("SHOAL_WRITE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    for message in samples::all(SEED) {
        let frame = message.encode(flow::wire::frame::FLAG_REPLY, REQUEST_ID);
        let path = folder().join(file_name(message.number(), message.name()));
        if write && !path.exists() {
            fs::write(&path, to_text(&frame)).unwrap();
        }
        match fs::read_to_string(&path) {
            Err(error) => wrong.push(format!(
                "{}: {error}; SHOAL_WRITE_GOLDEN=1 writes the vector of an added type",
                path.display()
            )),
            Ok(text) if text != to_text(&frame) => wrong.push(format!(
                "{}: the bytes of {} changed. A message type never changes, because the other side may be of another \
                 build: take the change back, or make it a type of its own with a number of its own",
                path.display(),
                message.name()
            )),
            Ok(text) => assert_eq!(decode(&from_text(&text)), message, "{}", path.display()),
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_number_has_a_vector_and_every_vector_a_number() {
    let sampled: Vec<_> =
        samples::all(SEED).iter().map(|message| (message.number(), message.name())).collect();
    assert_eq!(sampled, Message::ALL, "tests/samples/mod.rs lists every message, by number");
    assert!(Message::ALL.is_sorted_by(|left, right| left.0 < right.0), "a number names one message");

    let mut expected: Vec<_> = Message::ALL.iter().map(|(number, name)| file_name(*number, name)).collect();
    let entries = fs::read_dir(folder()).unwrap();
    let mut found: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    expected.sort();
    found.sort();
    assert_eq!(
        found, expected,
        "a message that is removed leaves its number unused and takes its vector along"
    );
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn file_name(number: u16, name: &str) -> String {
    format!("{number:02}-{name}.hex")
}

fn decode(frame: &[u8]) -> Message {
    let (header, body) = frame.split_first_chunk::<HEADER_LENGTH>().unwrap();
    let header = Header::decode(header, FRAME_BODY_MAX).unwrap();
    assert_eq!(header.request_id, REQUEST_ID);
    Message::decode(&header, body).unwrap()
}

fn to_text(frame: &[u8]) -> String {
    let line = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n";
    frame.chunks(HEADER_LENGTH).map(line).collect()
}

fn from_text(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}
