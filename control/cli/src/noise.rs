//! Pseudo-random bytes: they do not compress, and no two runs make the same.

use std::io::{self, Read};

/// A stream of so many bytes that a seed determines.
pub struct Noise {
    generator: fastrand::Rng,
    left: u64,
}

impl Noise {
    /// `length` bytes.
    pub fn new(seed: u64, length: u64) -> Self {
        Self { generator: fastrand::Rng::with_seed(seed), left: length }
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

/// `length` bytes at once; `None` when there is no memory for them.
pub fn bytes(seed: u64, length: u64) -> Option<Vec<u8>> {
    let length = usize::try_from(length).ok()?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length).ok()?;
    bytes.resize(length, 0);
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    Some(bytes)
}

/// A seed that no other run has.
pub fn fresh_seed() -> u64 {
    // Without a random source the clock is different enough: the seed keeps nothing secret.
    getrandom::u64().unwrap_or_else(|_| fastrand::u64(..))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_as_long_as_wanted_and_repeats_by_seed() {
        let read = |seed| {
            let mut bytes = Vec::new();
            Noise::new(seed, 100_003).read_to_end(&mut bytes).unwrap();
            bytes
        };
        assert_eq!(read(7).len(), 100_003);
        assert_eq!(read(7), read(7));
        assert_ne!(read(7), read(8));
    }
}
