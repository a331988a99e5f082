//! The header of every frame.
//!
//! | bytes | field |
//! |---|---|
//! | 0–3 | magic `SHOL` |
//! | 4–5 | protocol version |
//! | 6–7 | message type |
//! | 8–11 | flags |
//! | 12–15 | length of the body in bytes |
//! | 16–23 | request id |
//! | 24–27 | CRC-32C of the body |
//! | 28–31 | CRC-32C of bytes 0–27 |
//!
//! All numbers are little-endian.

use crate::verify::frame_checksum_of;

/// Length of a header in bytes.
pub const HEADER_LENGTH: usize = 32;
/// The first four bytes of every frame.
pub const MAGIC: [u8; 4] = *b"SHOL";
/// The newest protocol version this build speaks.
pub const VERSION: u16 = 1;
/// The oldest protocol version this build speaks.
pub const VERSION_MIN: u16 = 1;

/// Set on a frame that answers the request with the same id.
pub const FLAG_REPLY: u32 = 1;
/// Set on a reply that is followed by more replies to the same request.
pub const FLAG_MORE: u32 = 2;

/// What precedes a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Protocol version of the sender.
    pub version: u16,
    /// Type of the message in the body; see [`super::message`].
    pub message_type: u16,
    /// [`FLAG_REPLY`], [`FLAG_MORE`].
    pub flags: u32,
    /// Bytes of the body.
    pub length: u32,
    /// Chosen by who asks; an answer carries the same.
    pub request_id: u64,
    /// CRC-32C of the body.
    pub body_checksum: u32,
}

/// Why bytes are not the header of a frame that may be read on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Something else speaks on this connection.
    #[error(
        "the peer does not speak Shoal's protocol (its first bytes are {0:02x?}); check address and port"
    )]
    Magic([u8; 4]),
    /// The header was damaged on the way.
    #[error("a frame header fails its checksum; the connection is closed")]
    Checksum,
    /// A version this build does not know.
    #[error(
        "the peer speaks protocol version {0}, this build speaks {VERSION_MIN} to {VERSION}; upgrade the older side"
    )]
    Version(u16),
    /// A body larger than is allowed here.
    #[error("a frame announces a body of {length} bytes, at most {limit} are allowed here")]
    Length {
        /// What the header says.
        length: u32,
        /// What is allowed.
        limit: u32,
    },
}

impl Header {
    /// The header for `body`, which must not be longer than [`crate::limits::FRAME_BODY_MAX`].
    pub fn for_body(message_type: u16, flags: u32, request_id: u64, body: &[u8]) -> Self {
        Self {
            version: VERSION,
            message_type,
            flags,
            length: body.len() as u32,
            request_id,
            body_checksum: frame_checksum_of(body),
        }
    }

    /// The bytes as they are sent.
    pub fn encode(&self) -> [u8; HEADER_LENGTH] {
        let mut bytes = [0; HEADER_LENGTH];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&self.version.to_le_bytes());
        bytes[6..8].copy_from_slice(&self.message_type.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.flags.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.length.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.request_id.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.body_checksum.to_le_bytes());
        let checksum = frame_checksum_of(&bytes[..28]);
        bytes[28..32].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads a header and refuses what must not be read on; `limit` is the largest body allowed here.
    pub fn decode(bytes: &[u8; HEADER_LENGTH], limit: u32) -> Result<Self, HeaderError> {
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let magic = [bytes[0], bytes[1], bytes[2], bytes[3]];
        if magic != MAGIC {
            return Err(HeaderError::Magic(magic));
        }
        if u32_at(28) != frame_checksum_of(&bytes[..28]) {
            return Err(HeaderError::Checksum);
        }
        let version = u16_at(4);
        if !(VERSION_MIN..=VERSION).contains(&version) {
            return Err(HeaderError::Version(version));
        }
        let length = u32_at(12);
        if length > limit {
            return Err(HeaderError::Length { length, limit });
        }
        Ok(Self {
            version,
            message_type: u16_at(6),
            flags: u32_at(8),
            length,
            request_id: u64::from(u32_at(16)) | u64::from(u32_at(20)) << 32,
            body_checksum: u32_at(24),
        })
    }
}
