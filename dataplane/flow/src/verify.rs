//! Checksums of pieces and digests of chunks.

use crc_fast::{CrcAlgorithm, checksum};

use crate::chunk::ChunkId;

/// CRC-64/NVME of the bytes of a piece (NVM Express NVM Command Set specification, 64b CRC).
pub fn checksum_of(bytes: &[u8]) -> u64 {
    checksum(CrcAlgorithm::Crc64Nvme, bytes)
}

/// Computes the checksum of a piece from its bytes, given in order.
pub struct Checksum {
    digest: crc_fast::Digest,
}

impl Default for Checksum {
    fn default() -> Self {
        Self { digest: crc_fast::Digest::new(CrcAlgorithm::Crc64Nvme) }
    }
}

impl Checksum {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
    }

    /// CRC-64/NVME of the bytes taken so far.
    pub fn finish(&self) -> u64 {
        self.digest.finalize()
    }
}

/// CRC-32C of the bytes of a frame (RFC 3720, Castagnoli).
pub fn frame_checksum_of(bytes: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// Computes a chunk's id from its bytes, given in order.
#[derive(Default)]
pub struct Digest {
    hasher: blake3::Hasher,
}

impl Digest {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// The id of the bytes taken so far.
    pub fn finish(&self) -> ChunkId {
        ChunkId(self.hasher.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The catalogue value of CRC-64/NVME for "123456789" (reveng catalogue of parametrised CRC algorithms).
    #[test]
    fn checksums_match_their_catalogue_values() {
        assert_eq!(checksum_of(b"123456789"), 0xae8b_1486_0a79_9888);
        assert_eq!(frame_checksum_of(b"123456789"), 0xe306_9283);
        let mut checksum = Checksum::default();
        [&b"1234"[..], b"", b"56789"].into_iter().for_each(|part| checksum.update(part));
        assert_eq!(checksum.finish(), 0xae8b_1486_0a79_9888);
    }
}
