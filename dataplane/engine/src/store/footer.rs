//! What describes a chunk at the end of its file.
//!
//! | bytes | field |
//! |---|---|
//! | 32 | chunk id |
//! | 8 | size of the chunk |
//! | 4 | size of a piece |
//! | 4 | format, 1 |
//! | 8 × pieces | CRC-64/NVME of each piece |
//! | … | zeros, so that the whole is a multiple of 4096 |
//! | 8 | length of the whole footer |
//! | 4 | CRC-32C of all bytes before this one |
//! | 4 | magic `SHCF` |
//!
//! All numbers are little-endian. The footer begins at the first multiple of 4096 past the last piece.

use flow::chunk::{ChunkId, Descriptor, Geometry};
use flow::verify::frame_checksum_of;

const ALIGNMENT: u64 = 4096;
const FORMAT: u32 = 1;
const MAGIC: [u8; 4] = *b"SHCF";
const FIXED: usize = 48;
const TAIL: usize = 16;

/// The description of a chunk at the end of its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footer {
    /// The chunk.
    pub descriptor: Descriptor,
}

/// Why the end of a file is not a footer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FooterError {
    /// It ends elsewhere, or is something else.
    #[error("it does not end with a chunk's footer; it was cut off or is another file")]
    Absent,
    /// A newer build wrote it.
    #[error("its footer has format {0}, this build reads format {FORMAT}; upgrade this node")]
    Format(u32),
    /// It is damaged.
    #[error("its footer fails its checksum")]
    Checksum,
    /// Its parts contradict each other.
    #[error("its footer contradicts itself or the length of the file")]
    Inconsistent,
}

impl Footer {
    /// Bytes of the footer of a chunk with `pieces` pieces.
    pub fn length(pieces: u32) -> u64 {
        ((FIXED + TAIL) as u64 + u64::from(pieces) * 8).next_multiple_of(ALIGNMENT)
    }

    /// The bytes of a footer.
    pub fn encode(descriptor: &Descriptor) -> Vec<u8> {
        let length = Self::length(descriptor.checksums.len() as u32);
        let mut bytes = Vec::with_capacity(length as usize);
        bytes.extend_from_slice(&descriptor.id.0);
        bytes.extend_from_slice(&descriptor.geometry.size().to_le_bytes());
        bytes.extend_from_slice(&descriptor.geometry.piece_size().to_le_bytes());
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend(descriptor.checksums.iter().flat_map(|checksum| checksum.to_le_bytes()));
        bytes.resize(length as usize - TAIL, 0);
        bytes.extend_from_slice(&length.to_le_bytes());
        let checksum = frame_checksum_of(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes.extend_from_slice(&MAGIC);
        bytes
    }

    /// How long the footer is, from the last bytes of a file of `file_length` bytes.
    pub fn length_from_tail(tail: &[u8], file_length: u64) -> Result<u64, FooterError> {
        let tail = tail.last_chunk::<TAIL>().ok_or(FooterError::Absent)?;
        let length = u64_at(tail, 0).ok_or(FooterError::Absent)?;
        let fits = (ALIGNMENT..=file_length).contains(&length) && length.is_multiple_of(ALIGNMENT);
        let possible = length <= Self::length(flow::limits::PIECES_MAX);
        if tail[12..] == MAGIC && fits && possible { Ok(length) } else { Err(FooterError::Absent) }
    }

    /// Reads the footer from its bytes, which are the last of a file of `file_length` bytes.
    pub fn decode(bytes: &[u8], file_length: u64) -> Result<Self, FooterError> {
        if Self::length_from_tail(bytes, file_length)? != bytes.len() as u64 {
            return Err(FooterError::Absent);
        }
        let sealed = bytes.len() - 8;
        if u32_at(bytes, sealed) != Some(frame_checksum_of(&bytes[..sealed])) {
            return Err(FooterError::Checksum);
        }
        Self::parse(bytes, file_length).ok_or(FooterError::Inconsistent)?
    }

    fn parse(bytes: &[u8], file_length: u64) -> Option<Result<Self, FooterError>> {
        let format = u32_at(bytes, 44)?;
        if format != FORMAT {
            return Some(Err(FooterError::Format(format)));
        }
        let geometry = Geometry::new(u64_at(bytes, 32)?, u32_at(bytes, 40)?).ok()?;
        let whole = Self::length(geometry.pieces());
        if whole != bytes.len() as u64 || geometry.size().next_multiple_of(ALIGNMENT) + whole != file_length {
            return None;
        }
        let id = ChunkId(*bytes.first_chunk()?);
        let checksums = (0..geometry.pieces() as usize).map(|piece| u64_at(bytes, FIXED + piece * 8));
        let checksums = checksums.collect::<Option<_>>()?;
        Some(Ok(Self { descriptor: Descriptor { id, geometry, checksums } }))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(size: u64) -> Descriptor {
        let geometry = Geometry::of(size).unwrap();
        let checksums = (0..geometry.pieces().into()).map(|piece: u64| piece * 77).collect();
        Descriptor { id: ChunkId([3; 32]), geometry, checksums }
    }

    #[test]
    fn a_footer_reads_back() {
        for size in [1, 4096, 1 << 30, (40 << 30) + 1] {
            let descriptor = descriptor(size);
            let bytes = Footer::encode(&descriptor);
            let file_length = size.next_multiple_of(4096) + bytes.len() as u64;
            assert_eq!(Footer::decode(&bytes, file_length), Ok(Footer { descriptor }));
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = Footer::encode(&descriptor(10 << 20));
        let file_length = (10 << 20) + bytes.len() as u64;
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x40;
            assert!(Footer::decode(&damaged, file_length).is_err(), "byte {at}");
        }
        assert!(Footer::decode(&bytes, file_length - 4096).is_err());
        assert!(Footer::decode(&[], 0).is_err());
    }
}
