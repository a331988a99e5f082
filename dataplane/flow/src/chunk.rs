//! What a chunk is, how it is cut into pieces, and what vouches for it.

use std::fmt;
use std::str::FromStr;

use rkyv::rancor::{Fallible, Source};
use rkyv::{Archive, Deserialize, Serialize};

use crate::limits::{CHUNK_SIZE_MAX, PIECE_SIZE_MAX, PIECE_SIZE_MIN, PIECES_PER_CHUNK};

/// Names a chunk by its content: the BLAKE3 digest of its bytes, the same as `b3sum` prints. A chunk that was written
/// without one has a name that no other has, which [`ChunkId::is_digest`] tells from a digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Archive, Serialize, Deserialize)]
pub struct ChunkId(pub [u8; 32]);

/// The second half of a name that is no digest. One digest in 2^128 ends like it.
const NO_DIGEST: [u8; 16] = *b"shoal:no-digest\0";

impl ChunkId {
    /// A name that says nothing of the bytes. `random` must be so, and is what makes it differ from all others.
    pub fn unique(random: [u8; 16]) -> Self {
        let mut id = [0; 32];
        id[..16].copy_from_slice(&random);
        id[16..].copy_from_slice(&NO_DIGEST);
        Self(id)
    }

    /// Whether the name is the digest of the bytes.
    pub fn is_digest(&self) -> bool {
        self.0[16..] != NO_DIGEST
    }

    /// A number spread evenly over all chunks, the same on every node: it chooses shards.
    pub fn spread(&self) -> u64 {
        let mut head = [0; 8];
        head.copy_from_slice(&self.0[..8]);
        u64::from_le_bytes(head)
    }

    /// The shard of a node with `shards` shards that owns this chunk.
    pub fn shard(&self, shards: u16) -> u16 {
        (self.spread() % u64::from(shards.max(1))) as u16
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A text that is not the 64 hexadecimal digits of a chunk id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a chunk id: 64 hexadecimal digits are wanted, as `shoal chunk ls` prints them")]
pub struct ChunkIdError(pub String);

impl FromStr for ChunkId {
    type Err = ChunkIdError;

    fn from_str(text: &str) -> Result<Self, ChunkIdError> {
        let wrong = || ChunkIdError(text.chars().take(80).collect());
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut id = [0; 32];
        for (at, byte) in id.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).map_err(|_| wrong())?;
        }
        Ok(ChunkId(id))
    }
}

/// How a chunk of `size` bytes is cut into pieces of `piece_size` bytes; the last may be shorter.
///
/// A geometry is always within the limits: one that a peer states otherwise does not decode. A list of what holds
/// one is marked `#[rkyv(with = Map<Identity>)]`, as a plain list that breaks off leaks what it allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct Geometry {
    size: u64,
    piece_size: u32,
}

impl<D> Deserialize<Geometry, D> for ArchivedGeometry
where
    D: Fallible<Error: Source> + ?Sized,
{
    fn deserialize(&self, _: &mut D) -> Result<Geometry, D::Error> {
        Geometry::new(self.size.into(), self.piece_size.into()).map_err(Source::new)
    }
}

/// A size or piece size outside the limits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a chunk of {size} bytes in pieces of {piece_size} bytes is outside the limits: \
     1 byte to 1 TiB, in pieces of a power of two from 1 MiB to 16 MiB"
)]
pub struct GeometryError {
    /// Bytes of the chunk.
    pub size: u64,
    /// Bytes of a piece.
    pub piece_size: u32,
}

impl Geometry {
    /// The geometry of a chunk of `size` bytes with the piece size that suits it: size/1024, as a power of
    /// two from 1 MiB to 16 MiB.
    pub fn of(size: u64) -> Result<Self, GeometryError> {
        let wanted = size.div_ceil(PIECES_PER_CHUNK).max(1).next_power_of_two();
        let piece_size = wanted.clamp(PIECE_SIZE_MIN.into(), PIECE_SIZE_MAX.into()) as u32;
        Self::new(size, piece_size)
    }

    /// A geometry as a peer, a file or a client states it.
    pub fn new(size: u64, piece_size: u32) -> Result<Self, GeometryError> {
        let fits = (1..=CHUNK_SIZE_MAX).contains(&size)
            && piece_size.is_power_of_two()
            && (PIECE_SIZE_MIN..=PIECE_SIZE_MAX).contains(&piece_size)
            && size.div_ceil(piece_size.into()) <= crate::limits::PIECES_MAX.into();
        if fits { Ok(Self { size, piece_size }) } else { Err(GeometryError { size, piece_size }) }
    }

    /// Bytes of the chunk.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of every piece but the last.
    pub fn piece_size(&self) -> u32 {
        self.piece_size
    }

    /// How many pieces there are.
    pub fn pieces(&self) -> u32 {
        self.size.div_ceil(self.piece_size.into()) as u32
    }

    /// Where piece `index` begins in the chunk, in bytes.
    pub fn offset(&self, index: u32) -> u64 {
        u64::from(index) * u64::from(self.piece_size)
    }

    /// Bytes of piece `index`; zero past the end.
    pub fn length(&self, index: u32) -> u32 {
        self.size.saturating_sub(self.offset(index)).min(self.piece_size.into()) as u32
    }
}

/// All that is needed to receive a chunk and know that it is right: its name, its cut, and the CRC-64/NVME of
/// every piece.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Descriptor {
    /// The chunk.
    pub id: ChunkId,
    /// How it is cut.
    pub geometry: Geometry,
    /// CRC-64/NVME of each piece, in order.
    pub checksums: Vec<u64>,
}

impl Descriptor {
    /// Whether the parts fit together: each piece has a checksum.
    pub fn is_consistent(&self) -> bool {
        self.checksums.len() == self.geometry.pieces() as usize
    }

    /// BLAKE3 over geometry and checksums. A manifest records it, so that a descriptor may be taken from any
    /// peer.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.geometry.size.to_le_bytes());
        hasher.update(&self.geometry.piece_size.to_le_bytes());
        for checksum in &self.checksums {
            hasher.update(&checksum.to_le_bytes());
        }
        hasher.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn piece_size_follows_the_chunk() {
        let piece = |size| Geometry::of(size).unwrap().piece_size();
        assert_eq!(piece(1), 1 << 20);
        assert_eq!(piece(1 << 30), 1 << 20);
        assert_eq!(piece((1 << 30) + 1), 2 << 20);
        assert_eq!(piece(4 << 30), 4 << 20);
        assert_eq!(piece(1 << 40), 16 << 20);
        assert!(Geometry::of(0).is_err() && Geometry::of((1 << 40) + 1).is_err());
    }

    #[test]
    fn the_last_piece_is_the_rest() {
        let cut = Geometry::of((3 << 20) + 5).unwrap();
        assert_eq!(cut.pieces(), 4);
        assert_eq!((cut.length(2), cut.length(3), cut.length(4)), (1 << 20, 5, 0));
    }

    #[test]
    fn names_that_are_no_digests_are_told_from_those_that_are() {
        let (one, other) = (ChunkId::unique([1; 16]), ChunkId::unique([2; 16]));
        assert!(!one.is_digest() && !other.is_digest());
        assert_ne!((one, one.spread()), (other, other.spread()));
        assert_eq!(one.to_string().parse(), Ok(one));
        assert!(ChunkId(blake3::hash(b"bytes").into()).is_digest());
    }

    #[test]
    fn ids_read_back_what_they_print() {
        let id = ChunkId(std::array::from_fn(|at| at as u8 * 7));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("xyz".parse::<ChunkId>().is_err());
        assert!("é".repeat(32).parse::<ChunkId>().is_err());
    }
}
