//! What must hold for any bytes from a peer, a client or a disk.
//!
//! Each target takes bytes and panics when a promise is broken: nothing else panics, what decodes is within the
//! limits, and what decodes encodes to the same value again. The targets run in two ways: under libFuzzer, in the
//! crate above this one, and over mutated [`seeds`] in `cargo test`.
#![forbid(unsafe_code)]

pub mod seeds; // inputs that reach deep

use engine::Footer;
use flow::bitmap::Bitmap;
use flow::chunk::Descriptor;
use flow::limits::{FRAME_BODY_MAX, PIECE_SIZE_MAX, PIECES_MAX};
use flow::verify::frame_checksum_of;
use flow::wire::frame::HEADER_LENGTH;
use flow::wire::handshake::{Token, challenge, check, prove};
use flow::wire::{Header, Message};
use plan::manifest::{Manifest, decode_files, encode_files};

/// A name and what is called with any bytes.
pub type Target = (&'static str, fn(&[u8]));

/// Every target, by name.
pub const TARGETS: [Target; 5] = [
    ("frame", frame),
    ("message", message),
    ("descriptor", descriptor),
    ("manifest", manifest),
    ("footer", footer),
];

/// Bytes as they come off a socket: frame after frame, each checked before the next is looked for.
pub fn frame(mut bytes: &[u8]) {
    while let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LENGTH>() {
        let Ok(header) = Header::decode(header, FRAME_BODY_MAX) else { return };
        let Some((body, rest)) = rest.split_at_checked(header.length as usize) else { return };
        if let Ok(message) = Message::decode(&header, body) {
            assert_comes_back(&message);
        }
        bytes = rest;
    }
}

/// A body with a right checksum, of the type that the first two bytes name: what an attacker sends.
pub fn message(bytes: &[u8]) {
    let Some((number, body)) = bytes.split_first_chunk() else { return };
    let header = Header::for_body(u16::from_le_bytes(*number), 0, 0, body);
    let Ok(message) = Message::decode(&header, body) else { return };
    assert_comes_back(&message);
    if let Message::Hello(hello) = message {
        let token = Token::new("a token of some length");
        let Ok(challenge) = challenge(&hello, &token, 1, [0; 32]) else { return };
        let proof = prove(&hello, &challenge, &token).expect("an answer with the same token proves it");
        assert_eq!(check(&hello, &challenge, &proof, &token), Ok(()));
    }
}

/// The body of a chunk's description: what a receiver learns from any peer.
pub fn descriptor(bytes: &[u8]) {
    const DESCRIPTION: u16 = 28;
    let header = Header::for_body(DESCRIPTION, 0, 0, bytes);
    let Ok(Message::Description(description)) = Message::decode(&header, bytes) else { return };
    let descriptor = description.descriptor;
    assert_pieces_cover(&descriptor);
    let _ = (descriptor.digest(), descriptor.is_consistent());
    // The checksums serve as the words of a bitmap that a peer states.
    if let Some(map) = Bitmap::from_words(descriptor.geometry.pieces(), descriptor.checksums) {
        assert_eq!(map.iter().count() + map.missing().count(), map.len() as usize);
    }
}

/// The root of a key's manifest, or a list of files.
pub fn manifest(bytes: &[u8]) {
    let decoded = Manifest::decode(bytes);
    if let Ok(manifest) = &decoded {
        assert_eq!(Manifest::decode(&manifest.encode()).as_ref(), Ok(manifest));
        let _ = manifest.all_chunks().count();
    }
    if let Ok(files) = decode_files(bytes) {
        assert_eq!(decode_files(&encode_files(&files)).as_ref(), Ok(&files));
        for seed in seeds::manifests() {
            let _ = seed.check_files(&files);
        }
    }
}

/// The end of a chunk's file: as it is, and sealed with a right checksum, as a hostile disk would have it. The
/// first eight bytes say how long the whole file is.
pub fn footer(bytes: &[u8]) {
    let Some((file_length, bytes)) = bytes.split_first_chunk() else { return };
    let file_length = u64::from_le_bytes(*file_length);
    for bytes in [bytes, &sealed_footer(bytes)] {
        let _ = Footer::length_from_tail(bytes, file_length);
        let Ok(footer) = Footer::decode(bytes, file_length) else { continue };
        assert!(footer.descriptor.is_consistent(), "a footer that decodes is consistent");
        assert_pieces_cover(&footer.descriptor);
        assert_eq!(Footer::decode(&Footer::encode(&footer.descriptor), file_length), Ok(footer));
    }
}

fn sealed_footer(bytes: &[u8]) -> Vec<u8> {
    const TAIL: usize = 16;
    let mut sealed = bytes[..bytes.len().saturating_sub(TAIL)].to_vec();
    let length = (sealed.len() + TAIL).next_multiple_of(4096);
    sealed.resize(length - TAIL, 0);
    sealed.extend_from_slice(&(length as u64).to_le_bytes());
    let checksum = frame_checksum_of(&sealed);
    sealed.extend_from_slice(&checksum.to_le_bytes());
    sealed.extend_from_slice(b"SHCF");
    sealed
}

fn assert_comes_back(message: &Message) {
    let frame = message.encode(0, 0);
    let (header, body) = frame.split_first_chunk().expect("a frame begins with a header");
    let header = Header::decode(header, u32::MAX).expect("a header that was encoded decodes");
    assert_eq!(Message::decode(&header, body).as_ref(), Ok(message));
}

fn assert_pieces_cover(descriptor: &Descriptor) {
    let geometry = descriptor.geometry;
    assert!(geometry.pieces() <= PIECES_MAX && geometry.piece_size() <= PIECE_SIZE_MAX);
    let covered: u64 = (0..geometry.pieces()).map(|piece| u64::from(geometry.length(piece))).sum();
    assert_eq!(covered, geometry.size(), "pieces cover their chunk");
    let _ = (geometry.offset(u32::MAX), geometry.length(u32::MAX));
}
