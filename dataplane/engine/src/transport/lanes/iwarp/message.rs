//! What the ends of a lane send each other beside the bytes, and the memory for it.

use std::sync::Arc;

use ::verbs::{Access, Mapping, MemoryRegion, ProtectionDomain, Segment};

use crate::transport::lanes::error::LaneError;

/// Bytes of a message: four numbers of 32 bits, the lowest byte first.
const LENGTH: u32 = 16;

/// The first number.
const ACKNOWLEDGEMENT: u32 = 1;
const WRITTEN: u32 = 2;

/// What one end tells the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message {
    /// How many writes of the other end have arrived here since the lane was connected, by 2³².
    pub(super) arrived: u32,
    /// The bytes of this write are there.
    pub(super) written: Option<Written>,
}

/// A write that was done before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) tag: u32,
    pub(super) length: u32,
}

impl Message {
    fn encode(self) -> [u8; LENGTH as usize] {
        let (kind, Written { tag, length }) = match self.written {
            Some(written) => (WRITTEN, written),
            None => (ACKNOWLEDGEMENT, Written { tag: 0, length: 0 }),
        };
        let mut bytes = [0; LENGTH as usize];
        let numbers = [kind, tag, length, self.arrived];
        bytes.chunks_exact_mut(4).zip(numbers).for_each(|(place, number)| {
            place.copy_from_slice(&number.to_le_bytes());
        });
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let numbers: [u8; LENGTH as usize] = bytes.try_into().ok()?;
        let number = |at: usize| {
            let [a, b, c, d] = [0, 1, 2, 3].map(|byte| numbers[4 * at + byte]);
            u32::from_le_bytes([a, b, c, d])
        };
        let [kind, tag, length, arrived] = [number(0), number(1), number(2), number(3)];
        match kind {
            WRITTEN => Some(Self { arrived, written: Some(Written { tag, length }) }),
            ACKNOWLEDGEMENT if (tag, length) == (0, 0) => Some(Self { arrived, written: None }),
            _ => None,
        }
    }
}

/// Memory for the messages of one lane, apart from the arena: a place for each that is posted.
pub(super) struct Places {
    mapping: Arc<Mapping>,
    region: Arc<MemoryRegion>,
}

impl Places {
    pub(super) fn register(domain: &Arc<ProtectionDomain>, count: usize) -> Result<Self, LaneError> {
        let mapping = Arc::new(Mapping::anonymous(count.max(1) * LENGTH as usize)?);
        let access = Access { local_write: true, ..Access::default() };
        let region = MemoryRegion::register(domain, mapping.clone(), access)?;
        Ok(Self { mapping, region })
    }

    /// A place to receive into.
    pub(super) fn vacant(&self, place: usize) -> Result<Segment, LaneError> {
        Ok(self.region.segment(place as u64 * u64::from(LENGTH), LENGTH)?)
    }

    /// A place with a message to send.
    pub(super) fn filled(&self, place: usize, message: Message) -> Result<Segment, LaneError> {
        self.mapping.write(place * LENGTH as usize, &message.encode());
        self.vacant(place)
    }

    /// The message that was received into a place, if it is one.
    pub(super) fn received(&self, place: usize, bytes: u32) -> Option<Message> {
        let length = bytes.min(LENGTH + 1) as usize;
        Message::decode(&self.mapping.read(place * LENGTH as usize, length))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn messages_come_back_as_they_were(arrived: u32, tag: u32, length: u32, has_written: bool) {
            let message = Message { arrived, written: has_written.then_some(Written { tag, length }) };
            prop_assert_eq!(Message::decode(&message.encode()), Some(message));
        }

        #[test]
        fn any_bytes_are_a_message_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            if let Some(message) = Message::decode(&bytes) {
                prop_assert_eq!(&message.encode()[..], &bytes[..]);
            }
        }
    }

    #[test]
    fn the_bytes_of_a_message_do_not_change() {
        let message = Message { arrived: 4, written: Some(Written { tag: 0x0102_0304, length: 16 }) };
        assert_eq!(message.encode(), [2, 0, 0, 0, 4, 3, 2, 1, 16, 0, 0, 0, 4, 0, 0, 0]);
    }
}
