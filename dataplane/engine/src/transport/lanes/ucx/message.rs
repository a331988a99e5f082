//! What passes between two workers.

/// What a message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Data for the slot that was granted under the tag.
    Piece,
    /// The data has arrived.
    Taken,
    /// The data was not wanted.
    Refused,
    /// The lane is closed.
    Closed,
    /// Nothing: it can be sent when the endpoint has reached the peer.
    Hello,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Piece, Self::Taken, Self::Refused, Self::Closed, Self::Hello];
}

/// The header of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) token: u64,
    pub(super) kind: Kind,
    pub(super) tag: u32,
    /// Bytes of the piece, of which none still takes one of data.
    pub(super) bytes: u32,
}

const MESSAGE_BYTES: usize = 17;

impl Message {
    pub(super) fn encode(self) -> [u8; MESSAGE_BYTES] {
        let mut bytes = [0; MESSAGE_BYTES];
        bytes[..8].copy_from_slice(&self.token.to_le_bytes());
        bytes[8] = self.kind as u8;
        bytes[9..13].copy_from_slice(&self.tag.to_le_bytes());
        bytes[13..].copy_from_slice(&self.bytes.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; MESSAGE_BYTES] = bytes.try_into().ok()?;
        let (token, rest) = bytes.split_first_chunk()?;
        let (kind, rest) = rest.split_first()?;
        let (tag, rest) = rest.split_first_chunk()?;
        let kind = Kind::ALL.into_iter().find(|known| *known as u8 == *kind)?;
        let (token, tag) = (u64::from_le_bytes(*token), u32::from_le_bytes(*tag));
        Some(Self { token, kind, tag, bytes: u32::from_le_bytes(*rest.first_chunk()?) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn messages_come_back(token: u64, tag: u32, bytes: u32, kind in 0..Kind::ALL.len()) {
            let kind = Kind::ALL[kind];
            let message = Message { token, kind, tag, bytes };
            prop_assert_eq!(Message::decode(&message.encode()), Some(message));
        }

        #[test]
        fn any_bytes_are_decoded_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some(message) = Message::decode(&bytes) {
                prop_assert_eq!(&message.encode()[..], &bytes[..]);
            }
        }
    }
}
