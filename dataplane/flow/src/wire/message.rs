//! The list of all messages and their numbers.

use rkyv::rancor;
use rkyv::util::AlignedVec;

use super::catalog::*;
use super::control::*;
use super::data::*;
use super::frame::{HEADER_LENGTH, Header};
use super::handshake::{Challenge, Hello, Proof, Refuse, Welcome};
use super::lane::*;
use super::session::*;
use super::values::*;
use crate::verify::frame_checksum_of;

/// Why a body is not the message its header announces.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The number is not in the list.
    #[error("message type {0} is unknown to this build; upgrade the older side")]
    UnknownType(u16),
    /// The body was damaged on the way.
    #[error("the body of a message of type {0} fails its checksum")]
    Checksum(u16),
    /// The body is not an archive of this type.
    #[error("the body of a message of type {0} is malformed")]
    Malformed(u16),
}

macro_rules! messages {
    ($($number:literal $name:ident,)*) => {
        /// Any message. The wire carries the number and the body of the variant, never this enum.
        #[derive(Debug, Clone, PartialEq)]
        #[allow(missing_docs)]
        pub enum Message {
            $($name($name),)*
        }

        $(impl From<$name> for Message {
            fn from(message: $name) -> Self {
                Message::$name(message)
            }
        }

        impl TryFrom<Message> for $name {
            type Error = Message;

            fn try_from(message: Message) -> Result<Self, Message> {
                match message {
                    Message::$name(message) => Ok(message),
                    other => Err(other),
                }
            }
        })*

        impl Message {
            /// Every message: its number and its name, by number.
            pub const ALL: &[(u16, &str)] = &[$(($number, stringify!($name)),)*];

            /// The number that stands in the header.
            pub fn number(&self) -> u16 {
                match self {
                    $(Message::$name(_) => $number,)*
                }
            }

            /// The name, for logs and errors.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Message::$name(_) => stringify!($name),)*
                }
            }

            fn encode_body(&self) -> AlignedVec {
                match self {
                    $(Message::$name(message) => rkyv::to_bytes::<rancor::Error>(message)
                        .expect("a message holds only vectors, strings and numbers, which always serialise"),)*
                }
            }

            fn decode_body(number: u16, body: &[u8]) -> Result<Self, MessageError> {
                match number {
                    $($number => rkyv::from_bytes::<$name, rancor::Error>(body)
                        .map(Message::$name)
                        .map_err(|_| MessageError::Malformed(number)),)*
                    _ => Err(MessageError::UnknownType(number)),
                }
            }
        }
    };
}

messages! {
    1 Hello,
    2 Challenge,
    3 Proof,
    4 Welcome,
    5 Refuse,
    6 Failure,
    7 Done,

    20 Interest,
    21 Have,
    22 Leave,
    23 Grant,
    24 Revoke,
    25 Decline,
    26 PieceData,
    27 Describe,
    28 Description,
    29 PiecePart,
    30 MemoryOffer,
    31 MemoryMapped,
    32 PieceAt,
    33 PieceTaken,
    35 LaneClosed,
    36 LaneGrant,
    37 PieceWritten,
    38 LaneOpen,
    39 Preference,

    40 Join,
    41 Membership,
    43 TrackerAnnounce,
    44 TrackerJoin,
    45 TrackerPeers,
    46 ReplicaQuery,
    47 ReplicaReport,
    48 Beat,
    49 MembersChanged,

    50 Coming,
    51 Room,

    62 KeyOpen,
    63 KeyEntry,
    64 LeaseRelease,
    65 KeyList,
    66 KeyListing,
    67 KeyRemove,
    68 KeyRemoved,
    69 ChunkReferences,
    70 ChunkReferenced,
    71 FileOpen,
    72 FileOpened,

    80 ChunkCreate,
    81 ChunkCreated,
    82 SlotLease,
    83 SlotLeased,
    84 PieceFill,
    85 ChunkSeal,
    86 ChunkSealed,
    87 ChunkAbort,
    89 ChunkOpened,
    90 PieceNext,
    91 PieceViews,
    92 PieceRelease,
    93 ChunkClose,
    95 ChunkFetched,
    96 ChunkVerify,
    97 ChunkVerified,
    98 PieceBytes,
    99 ChunkOpen,
    100 ChunkFetch,
    101 ChunkBegin,
    102 ChunkBegun,
    103 ChunkCommit,
    104 ChunkPrepare,

    110 ChunkList,
    111 ChunkListing,
    112 ChunkPin,
    113 ChunkPlace,
    114 ChunkRemove,
    115 NodeList,
    116 NodeListing,
    117 NodeDrain,
    118 StatusQuery,
    119 Status,

    120 CatalogGet,
    121 CatalogFound,
    122 CatalogScan,
    123 CatalogPage,
    124 CatalogCount,
    125 CatalogCounted,
    126 CatalogWrite,
    127 CatalogWritten,
    128 CatalogChanges,
    129 CatalogChanged,
    130 CatalogServices,
    131 CatalogServiceListing,
    132 ServiceKeep,
    133 ServiceEnd,
    134 SnapshotOpen,
    135 SnapshotOpened,
    136 SnapshotClose,
    137 TransactionBegin,
    138 TransactionBegun,
    139 TransactionGet,
    140 TransactionScan,
    141 TransactionWrite,
    142 TransactionCommit,
    143 TransactionRollback,
    144 CatalogLease,
    145 CatalogLeased,
    146 CatalogRenew,
    147 CatalogRenewed,
    148 CatalogRefused,

    160 ValueRead,
    161 ValueFound,
    162 ValueWrite,
    163 ValueRelease,
    164 ValueReleased,
    165 ValueMove,
    166 ValueMoved,
}

impl Message {
    /// The whole frame: header and body. A payload, if any, follows it on the wire.
    pub fn encode(&self, flags: u32, request_id: u64) -> Vec<u8> {
        let body = self.encode_body();
        let header = Header::for_body(self.number(), flags, request_id, &body);
        let mut frame = Vec::with_capacity(HEADER_LENGTH + body.len());
        frame.extend_from_slice(&header.encode());
        frame.extend_from_slice(&body);
        frame
    }

    /// The message that `header` announces, from its body as it came off the wire.
    pub fn decode(header: &Header, body: &[u8]) -> Result<Self, MessageError> {
        if body.len() != header.length as usize || frame_checksum_of(body) != header.body_checksum {
            return Err(MessageError::Checksum(header.message_type));
        }
        Self::decode_body(header.message_type, body)
    }
}
