//! Where a worker is, in bytes that may have come from anywhere.

use crc_fast::{CrcAlgorithm, checksum};

use crate::Error;
use crate::load::Library;

/// Tells these bytes from others.
const MAGIC: [u8; 2] = [b'u', 1];
const PREFIX: usize = 4;
const SUFFIX: usize = 8;

/// The address of a worker, whole and of a version that this library understands.
///
/// UCX trusts the addresses that it is given and may end the process over one that is damaged. So its bytes travel with
/// the version of the library and a checksum. That finds damage, not malice: take addresses only from those who are
/// trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address(Vec<u8>);

/// Why bytes are no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// They are damaged, or something else.
    #[error("it is no address of a worker, or a damaged one")]
    Damaged,
    /// The address was made by another version of UCX, which may lay it out differently.
    #[error(
        "the other end has UCX {}.{} and this one {}.{}: install the same version on both", theirs.0, theirs.1, ours.0,
        ours.1
    )]
    OtherVersion {
        /// Major and minor version of the other end.
        theirs: (u8, u8),
        /// And of this one.
        ours: (u8, u8),
    },
}

impl Address {
    pub(crate) fn new(library: &Library, raw: &[u8]) -> Self {
        let (major, minor) = version(library);
        let mut bytes = Vec::with_capacity(PREFIX + raw.len() + SUFFIX);
        bytes.extend(MAGIC);
        bytes.extend([major, minor]);
        bytes.extend(raw);
        bytes.extend(checksum(CrcAlgorithm::Crc64Nvme, &bytes).to_le_bytes());
        Self(bytes)
    }

    /// Takes bytes for an address that a worker of another process gave by [`Address::as_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, AddressError> {
        let Ok(library) = Library::get() else { return Err(AddressError::Damaged) };
        Self::read(bytes, version(library))
    }

    fn read(bytes: &[u8], ours: (u8, u8)) -> Result<Self, AddressError> {
        let (body, sum) = bytes.split_last_chunk::<SUFFIX>().ok_or(AddressError::Damaged)?;
        let is_whole = checksum(CrcAlgorithm::Crc64Nvme, body) == u64::from_le_bytes(*sum);
        if !is_whole || body.len() <= PREFIX || !body.starts_with(&MAGIC) {
            return Err(AddressError::Damaged);
        }
        let theirs = (body[2], body[3]);
        if theirs != ours {
            return Err(AddressError::OtherVersion { theirs, ours });
        }
        Ok(Self(bytes.to_vec()))
    }

    /// Everything, to be sent to another process.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What the library made.
    pub(crate) fn raw(&self) -> &[u8] {
        &self.0[PREFIX..self.0.len() - SUFFIX]
    }
}

impl From<AddressError> for Error {
    fn from(error: AddressError) -> Self {
        Error::Address(error)
    }
}

fn version(library: &Library) -> (u8, u8) {
    let (major, minor) = library.version();
    (u8::try_from(major).unwrap_or(u8::MAX), u8::try_from(minor).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(version: (u8, u8), raw: &[u8]) -> Vec<u8> {
        let mut bytes = [&MAGIC[..], &[version.0, version.1], raw].concat();
        bytes.extend(checksum(CrcAlgorithm::Crc64Nvme, &bytes).to_le_bytes());
        bytes
    }

    #[test]
    fn what_is_whole_and_of_the_same_version_is_taken() {
        let bytes = whole((1, 13), b"somewhere");
        let address = Address::read(&bytes, (1, 13)).unwrap();
        assert_eq!((address.raw(), address.as_bytes()), (&b"somewhere"[..], &bytes[..]));
        let other = Address::read(&bytes, (1, 22)).unwrap_err();
        assert_eq!(other, AddressError::OtherVersion { theirs: (1, 13), ours: (1, 22) });
        assert!(other.to_string().contains("UCX 1.13 and this one 1.22"), "{other}");
    }

    #[test]
    fn no_damage_is_taken_for_an_address() {
        let bytes = whole((1, 13), b"somewhere");
        for at in 0..bytes.len() {
            assert_eq!(Address::read(&bytes[..at], (1, 13)), Err(AddressError::Damaged), "cut at {at}");
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert_eq!(Address::read(&damaged, (1, 13)), Err(AddressError::Damaged), "bit {bit} of {at}");
            }
        }
        assert_eq!(Address::read(&whole((1, 13), b""), (1, 13)), Err(AddressError::Damaged));
    }
}
