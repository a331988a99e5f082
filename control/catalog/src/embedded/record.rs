//! How a value lies on disk: one byte of format, a CRC-32C, then postcard.
//!
//! The checksum also covers the table and the key, so that a value that turns up in the wrong place is damage too.
//! The engine has checksums of its own; these tell bit rot from truth wherever it happened.

use crc_fast::{CrcAlgorithm, Digest};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The format that [`seal`] writes. Every format keeps the first five bytes. Format 1 was of catalogs that knew manifests
/// alone; what they hold is not read.
const FORMAT: u8 = 2;
const HEADER_LENGTH: usize = 5;
/// Bytes that most records take without their tail: room for them is made at once.
const VALUE_LENGTH: usize = 256;

/// Why bytes are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordError {
    Damaged,
    Format(u8),
}

/// The bytes for `value`, followed by `tail` as it is.
pub(crate) fn seal<T: Serialize>(table: &str, key: &[u8], value: &T, tail: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(VALUE_LENGTH + tail.len());
    bytes.extend_from_slice(&[FORMAT, 0, 0, 0, 0]);
    let mut bytes = postcard::to_extend(value, bytes)
        .expect("a record holds only numbers and strings, which always serialise");
    bytes.extend_from_slice(tail);
    let checksum = checksum_of(table, key, FORMAT, &bytes[HEADER_LENGTH..]);
    bytes[1..HEADER_LENGTH].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Reads what [`seal`] wrote: the value and the tail.
pub(crate) fn open<'a, T: DeserializeOwned>(
    table: &str,
    key: &[u8],
    bytes: &'a [u8],
) -> Result<(T, &'a [u8]), RecordError> {
    let (header, body) = bytes.split_at_checked(HEADER_LENGTH).ok_or(RecordError::Damaged)?;
    let checksum = checksum_of(table, key, header[0], body);
    match header[0] {
        _ if header[1..] != checksum.to_le_bytes() => Err(RecordError::Damaged),
        FORMAT => postcard::take_from_bytes(body).map_err(|_| RecordError::Damaged),
        format => Err(RecordError::Format(format)),
    }
}

fn checksum_of(table: &str, key: &[u8], format: u8, body: &[u8]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(table.as_bytes());
    digest.update(&(key.len() as u64).to_le_bytes());
    digest.update(key);
    digest.update(&[format]);
    digest.update(body);
    digest.finalize() as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_value_in_another_place_is_damage() {
        let bytes = seal("t", b"k", &7_u64, b"tail");
        assert_eq!(open::<u64>("t", b"k", &bytes), Ok((7, b"tail".as_slice())));
        assert_eq!(open::<u64>("t", b"j", &bytes), Err(RecordError::Damaged));
        assert_eq!(open::<u64>("u", b"k", &bytes), Err(RecordError::Damaged));
    }

    #[test]
    fn another_format_is_told_from_damage() {
        let mut bytes = seal("t", b"k", &7_u64, b"");
        bytes[0] = 3;
        assert_eq!(open::<u64>("t", b"k", &bytes), Err(RecordError::Damaged));
        let checksum = checksum_of("t", b"k", 3, &bytes[HEADER_LENGTH..]);
        bytes[1..HEADER_LENGTH].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(open::<u64>("t", b"k", &bytes), Err(RecordError::Format(3)));
        let format_1 = [1, 80, 32, 69, 37, 0xac, 2, b'z'];
        assert_eq!(open::<u64>("t", b"k", &format_1), Err(RecordError::Format(1)));
    }

    /// The bytes of format 2, so that no change of this file changes what old catalogs hold.
    #[test]
    fn format_2_is_what_it_was() {
        assert_eq!(seal("t", b"k", &300_u64, b"z"), GOLDEN);
        assert_eq!(open::<u64>("t", b"k", &GOLDEN), Ok((300, b"z".as_slice())));
    }

    /// The checksum was computed by a bitwise CRC-32C (polynomial 0x82f63b78) apart from this code.
    const GOLDEN: [u8; 8] = [2, 105, 169, 103, 71, 0xac, 2, b'z'];

    proptest! {
        #[test]
        fn any_damage_is_noticed(
            value: (u64, String), tail: Vec<u8>, at: prop::sample::Index, flip in 1..=255_u8,
        ) {
            let mut bytes = seal("t", b"k", &value, &tail);
            prop_assert_eq!(open::<(u64, String)>("t", b"k", &bytes), Ok((value, tail.as_slice())));
            let at = at.index(bytes.len());
            prop_assert!(open::<(u64, String)>("t", b"k", &bytes[..at]).is_err());
            bytes[at] ^= flip;
            prop_assert_eq!(open::<(u64, String)>("t", b"k", &bytes), Err(RecordError::Damaged));
        }

        #[test]
        fn hostile_bytes_are_refused(bytes: Vec<u8>) {
            prop_assert!(open::<(u64, String)>("t", b"k", &bytes).is_err());
        }
    }
}
