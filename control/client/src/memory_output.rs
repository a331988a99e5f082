//! Memory that receives its bytes in order.

use std::io::{self, Write};

use memory::copy_past_cache;

/// Writes into memory, past the cache: whoever gets gigabytes does not look at them at once.
pub(crate) struct MemoryOutput<'m> {
    rest: &'m mut [u8],
    length: usize,
}

impl<'m> MemoryOutput<'m> {
    /// Writes into `memory` from its beginning on.
    pub(crate) fn new(memory: &'m mut [u8]) -> Self {
        Self { length: memory.len(), rest: memory }
    }
}

impl Write for MemoryOutput<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.rest.len() {
            let text = format!("the memory given has only {} bytes", self.length);
            return Err(io::Error::new(io::ErrorKind::WriteZero, text));
        }
        let (part, rest) = std::mem::take(&mut self.rest).split_at_mut(bytes.len());
        copy_past_cache(part, bytes);
        self.rest = rest;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
