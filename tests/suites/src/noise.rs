//! Bytes that look random and are the same each time.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

/// Bytes that are made and written at once.
const BLOCK: usize = 1 << 20;

/// Bytes that do not compress, the same for the same seed, of any length.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    generator(seed).fill(&mut bytes);
    bytes
}

/// BLAKE3's output, as that library is optimised in every profile.
fn generator(seed: u64) -> blake3::OutputReader {
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof()
}

/// Writes a file of noise in little memory, and gives its BLAKE3 digest.
pub fn write_noise(path: &Path, seed: u64, length: u64) -> [u8; 32] {
    let mut file = File::create(path).expect("a file of noise can be created");
    let mut source = Noise::new(seed, length);
    let mut hasher = blake3::Hasher::new();
    let mut block = vec![0; BLOCK];
    loop {
        let filled = source.read(&mut block).expect("noise never fails");
        if filled == 0 {
            return hasher.finalize().into();
        }
        hasher.update(&block[..filled]);
        file.write_all(&block[..filled]).expect("a file of noise can be written");
    }
}

/// A stream of noise that ends after so many bytes.
pub struct Noise {
    generator: blake3::OutputReader,
    left: u64,
}

impl Noise {
    /// A stream of the `length` bytes that [`noise`] makes of the seed.
    pub fn new(seed: u64, length: u64) -> Self {
        Self { generator: generator(seed), left: length }
    }
}

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.left.min(buffer.len() as u64) as usize;
        self.generator.fill(&mut buffer[..length]);
        self.left -= length as u64;
        Ok(length)
    }
}
