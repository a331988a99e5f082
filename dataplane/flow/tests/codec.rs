//! Frames and messages under any input: what is encoded decodes to the same, and what is not, never panics.
#![allow(clippy::unwrap_used)]

mod samples;

use flow::bitmap::Bitmap;
use flow::chunk::{ChunkId, Descriptor, Geometry};
use flow::limits::{
    FRAME_BODY_MAX, GPUS_MAX, HANDSHAKE_BODY_MAX, KEY_LENGTH_MAX, LIST_ENTRIES_MAX, NAME_LENGTH_MAX,
    NODES_MAX, PIECE_SIZE_MAX, PIECES_MAX,
};
use flow::wire::catalog::{
    CatalogCondition, CatalogContent, CatalogGet, CatalogOperation, CatalogPut, CatalogWrite, KeyVersion,
    ReadConsistency,
};
use flow::wire::control::{
    GpuPieces, MembersChanged, Membership, NodeRecord, NodeState, ReplicaRecord, ReplicaReport,
};
use flow::wire::data::{Description, Grant, Interest, Want};
use flow::wire::frame::{FLAG_MORE, HEADER_LENGTH, VERSION};
use flow::wire::handshake::{Challenge, Hello, Role, Token, challenge, check, prove};
use flow::wire::session::ChunkListing;
use flow::wire::{Header, HeaderError, Message, MessageError};
use proptest::prelude::*;

fn split(frame: &[u8]) -> (&[u8; HEADER_LENGTH], &[u8]) {
    frame.split_first_chunk().unwrap()
}

/// Decodes a body whose checksum is right, as an attacker would send it. What decodes must encode to the same
/// value again.
fn decode_hostile(number: u16, body: &[u8]) -> Result<Message, MessageError> {
    let message = Message::decode(&Header::for_body(number, 0, 0, body), body)?;
    let frame = message.encode(0, 0);
    let (header, body) = split(&frame);
    let header = Header::decode(header, u32::MAX).unwrap();
    assert_eq!(Message::decode(&header, body).as_ref(), Ok(&message));
    Ok(message)
}

proptest! {
    #[test]
    fn any_message_comes_back(seed: u64, flags: u32, request_id: u64) {
        for message in samples::all(seed) {
            let frame = message.encode(flags, request_id);
            let (bytes, body) = split(&frame);
            let header = Header::decode(bytes, FRAME_BODY_MAX).unwrap();
            prop_assert_eq!((header.flags, header.request_id), (flags, request_id));
            prop_assert_eq!(header.message_type, message.number());
            prop_assert_eq!(Message::decode(&header, body), Ok(message));
        }
    }

    #[test]
    fn any_header_comes_back(message_type: u16, flags: u32, length: u32, request_id: u64, body_checksum: u32) {
        let header = Header { version: VERSION, message_type, flags, length, request_id, body_checksum };
        prop_assert_eq!(Header::decode(&header.encode(), u32::MAX), Ok(header));
        let limited = Header::decode(&header.encode(), FRAME_BODY_MAX);
        prop_assert_eq!(limited.is_ok(), length <= FRAME_BODY_MAX);
    }

    #[test]
    fn random_headers_are_refused(bytes: [u8; HEADER_LENGTH]) {
        prop_assert!(Header::decode(&bytes, FRAME_BODY_MAX).is_err());
    }

    #[test]
    fn random_bodies_are_errors_or_values(number in 0u16..200, body in prop::collection::vec(any::<u8>(), 0..300)) {
        let known = Message::ALL.iter().any(|(known, _)| *known == number);
        let outcome = decode_hostile(number, &body);
        prop_assert_eq!(outcome == Err(MessageError::UnknownType(number)), !known);
    }

    #[test]
    fn damaged_bodies_are_errors_or_values(seed: u64, damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        for message in samples::all(seed) {
            let frame = message.encode(0, 0);
            let mut body = split(&frame).1.to_vec();
            if body.is_empty() {
                continue;
            }
            for (at, byte) in &damage {
                let at = at.index(body.len());
                body[at] = *byte;
            }
            let _ = decode_hostile(message.number(), &body);
            body.truncate(damage[0].0.index(body.len()));
            let _ = decode_hostile(message.number(), &body);
        }
    }

    #[test]
    fn a_body_of_another_type_is_an_error_or_a_value(seed: u64, number in 0u16..200) {
        for message in samples::all(seed) {
            let frame = message.encode(0, 0);
            let _ = decode_hostile(number, split(&frame).1);
        }
    }

    #[test]
    fn bitmaps_of_a_peer_hold_what_they_count(len in 0u32..300, words in prop::collection::vec(any::<u64>(), 0..6)) {
        let Some(map) = Bitmap::from_words(len, words) else { return Ok(()) };
        prop_assert_eq!(map.iter().count() as u32, map.count());
        prop_assert_eq!(map.missing().count() as u32, len - map.count());
        prop_assert!(map.iter().all(|index| index < len));
        prop_assert_eq!(Bitmap::from_words(len, map.words().to_vec()), Some(map));
    }

    #[test]
    fn hellos_of_a_peer_are_answered_or_refused(seed: u64, node: u64) {
        let Message::Hello(hello) = samples::all(seed).swap_remove(0) else { unreachable!("Hello is the first") };
        let token = Token::new("a token of some length");
        let Ok(challenge) = challenge(&hello, &token, node, [1; 32]) else { return Ok(()) };
        let proof = prove(&hello, &challenge, &token).unwrap();
        prop_assert_eq!(check(&hello, &challenge, &proof, &token), Ok(()));
        let other = Challenge { node: challenge.node ^ 1, ..challenge };
        prop_assert!(prove(&hello, &other, &token).is_err());
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    let message = samples::all(1).swap_remove(0);
    let frame = message.encode(FLAG_MORE, 9);
    for bit in 0..frame.len() * 8 {
        let mut damaged = frame.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let (header, body) = split(&damaged);
        let outcome = Header::decode(header, FRAME_BODY_MAX);
        match bit / 8 {
            0..4 => assert!(matches!(outcome, Err(HeaderError::Magic(_))), "bit {bit}"),
            4..HEADER_LENGTH => assert_eq!(outcome, Err(HeaderError::Checksum), "bit {bit}"),
            _ => assert_eq!(
                Message::decode(&outcome.unwrap(), body),
                Err(MessageError::Checksum(1)),
                "bit {bit}"
            ),
        }
    }
}

#[test]
fn other_versions_and_large_bodies_are_refused() {
    let mut header = Header::for_body(1, 0, 0, &[]);
    header.length = FRAME_BODY_MAX + 1;
    let refused = HeaderError::Length { length: FRAME_BODY_MAX + 1, limit: FRAME_BODY_MAX };
    assert_eq!(Header::decode(&header.encode(), FRAME_BODY_MAX), Err(refused));
    for version in [0, VERSION + 1, u16::MAX] {
        header.version = version;
        assert_eq!(Header::decode(&header.encode(), FRAME_BODY_MAX), Err(HeaderError::Version(version)));
    }
}

#[test]
fn a_body_of_another_length_than_announced_is_refused() {
    let frame = samples::all(1).swap_remove(0).encode(0, 0);
    let (header, body) = split(&frame);
    let header = Header::decode(header, FRAME_BODY_MAX).unwrap();
    assert_eq!(Message::decode(&header, &body[1..]), Err(MessageError::Checksum(1)));
    assert_eq!(Message::decode(&header, &[]), Err(MessageError::Checksum(1)));
}

#[test]
fn a_geometry_outside_the_limits_does_not_decode() {
    let geometry = Geometry::new(5 << 20, 1 << 20).unwrap();
    let opened = Message::from(flow::wire::session::ChunkSealed { geometry, descriptor_digest: [7; 32] });
    let frame = opened.encode(0, 0);
    let body = split(&frame).1;
    let find = |bytes: &[u8]| body.windows(bytes.len()).position(|window| window == bytes).unwrap();
    let (size, piece_size) = (find(&(5u64 << 20).to_le_bytes()), find(&(1u32 << 20).to_le_bytes()));
    let altered = |at: usize, bytes: &[u8]| {
        let mut body = body.to_vec();
        body[at..at + bytes.len()].copy_from_slice(bytes);
        decode_hostile(opened.number(), &body)
    };
    assert_eq!(altered(size, &(5u64 << 20).to_le_bytes()), Ok(opened.clone()));
    for wrong in [0, u64::MAX, (1 << 40) + 1] {
        assert_eq!(altered(size, &wrong.to_le_bytes()), Err(MessageError::Malformed(opened.number())));
    }
    for wrong in [0u32, 1, (1 << 20) + 1, 32 << 20, u32::MAX] {
        assert_eq!(altered(piece_size, &wrong.to_le_bytes()), Err(MessageError::Malformed(opened.number())));
    }
}

#[test]
fn the_largest_messages_fit_their_frames() {
    let chunk = ChunkId([9; 32]);
    let words = || vec![u64::MAX; PIECES_MAX.div_ceil(64) as usize];
    let geometry = Geometry::new(u64::from(PIECES_MAX) * u64::from(PIECE_SIZE_MAX), PIECE_SIZE_MAX).unwrap();
    let checksums = vec![u64::MAX; PIECES_MAX as usize];
    let record = NodeRecord {
        node: 1,
        name: "n".repeat(NAME_LENGTH_MAX),
        address: "a".repeat(NAME_LENGTH_MAX + 6),
        rack: "r".repeat(NAME_LENGTH_MAX),
        shards: 1,
        incarnation: 1,
        state: NodeState::Alive,
        head: false,
        memory_limit: 1,
        memory_used: 1,
        nvme_used: 1,
    };
    let key = "k".repeat(KEY_LENGTH_MAX);
    let replica = ReplicaRecord {
        chunk,
        geometry,
        descriptor_digest: [1; 32],
        node: 1,
        dram_pieces: 1,
        nvme_pieces: 1,
        gpus: vec![GpuPieces { gpu: 1, pieces: 1 }; GPUS_MAX],
        pinned: true,
        fetching: true,
    };
    let page = |entries: usize| vec![replica.clone(); entries];
    let entries = LIST_ENTRIES_MAX as usize;
    let silent = vec!["n".repeat(NAME_LENGTH_MAX); NODES_MAX];
    let condition = CatalogCondition::Version(KeyVersion { key: key.clone(), version: 1 });
    let labels = vec![("n".repeat(256), "v".repeat(256)); 32];
    let content = CatalogContent::Value(vec![0; (1400 << 10) / 128]);
    let put = CatalogPut { key: key.clone(), content, ttl_ms: Some(1), owner: Some("o".repeat(256)), labels };
    let (conditions, operations) = (vec![condition; 128], vec![CatalogOperation::Put(put); 128]);
    let largest: [Message; 9] = [
        CatalogWrite { conditions, operations }.into(),
        CatalogGet { keys: vec![key; 1024], consistency: ReadConsistency::All, snapshot: 1 }.into(),
        Interest { chunk, pieces: PIECES_MAX, have: words(), reply: true }.into(),
        Grant { chunk, grant: 1, want: Want::LeastSent(words()) }.into(),
        Description { descriptor: Descriptor { id: chunk, geometry, checksums } }.into(),
        Membership { epoch: 1, cluster: 1, nodes: vec![record.clone(); NODES_MAX], forgotten: 1 }.into(),
        MembersChanged {
            since: 1,
            epoch: 1,
            cluster: 1,
            nodes: vec![record; NODES_MAX],
            gone: vec![1; NODES_MAX],
            forgotten: 1,
        }
        .into(),
        ReplicaReport { more: true, replicas: page(entries) }.into(),
        ChunkListing { more: true, replicas: page(entries + NODES_MAX), silent }.into(),
    ];
    for message in largest {
        let length = message.encode(0, 0).len() - HEADER_LENGTH;
        assert!(length <= FRAME_BODY_MAX as usize, "{} takes {length} bytes", message.name());
    }
    let hello = Message::from(Hello::new(Role::Client, 1, 1, [0; 32]));
    assert!(hello.encode(0, 0).len() - HEADER_LENGTH <= HANDSHAKE_BODY_MAX as usize);
}
