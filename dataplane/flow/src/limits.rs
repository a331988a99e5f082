//! Every bound of the data plane, in one place.
//!
//! A bound is a promise: nothing a peer, a client or a file says can make a node hold more than this.

/// Smallest piece, in bytes.
pub const PIECE_SIZE_MIN: u32 = 1 << 20;
/// Largest piece, in bytes.
pub const PIECE_SIZE_MAX: u32 = 16 << 20;
/// Pieces that a chunk is cut into as long as the piece size is free to grow.
pub const PIECES_PER_CHUNK: u64 = 1024;
/// Largest chunk, in bytes: 1 TiB.
pub const CHUNK_SIZE_MAX: u64 = 1 << 40;
/// Most pieces of one chunk: a chunk of the largest size in pieces of the largest size.
pub const PIECES_MAX: u32 = (CHUNK_SIZE_MAX / PIECE_SIZE_MAX as u64) as u32;

/// Files larger than this are cut into several chunks by `put`, so that several shards share the work. Bytes.
pub const FILE_CHUNK_SIZE: u64 = 4 << 30;
/// Files up to this size are packed together into one chunk by `put`. Bytes.
pub const PACKED_FILE_SIZE_MAX: u64 = 4 << 20;
/// Target size of a chunk of packed files. Bytes.
pub const PACK_SIZE: u64 = 64 << 20;

/// Largest body of a frame, in bytes.
pub const FRAME_BODY_MAX: u32 = 8 << 20;
/// Largest body of a frame before the peer has proved itself, in bytes.
pub const HANDSHAKE_BODY_MAX: u32 = 4 << 10;
/// Longest key, in bytes.
pub const KEY_LENGTH_MAX: usize = 1024;
/// Longest node name, in bytes.
pub const NAME_LENGTH_MAX: usize = 64;
/// Largest manifest root, in bytes; larger lists of files move into a chunk of their own.
pub const MANIFEST_ROOT_MAX: usize = 1 << 20;
/// Most GPUs of one node that are devices.
pub const GPUS_MAX: usize = 16;
/// Largest number of list entries returned at once.
pub const LIST_ENTRIES_MAX: u32 = 10_000;

/// Peers that the tracker names to a receiver, and the most a receiver keeps.
pub const PEERS_PER_RECEIVER: usize = 24;
/// As [`PEERS_PER_RECEIVER`], of a node whose peers are all on its own host. No link is full there, so that what sources cost is
/// all that counts: each is told of each piece.
pub const PEERS_ON_ONE_HOST: usize = 8;
/// Pieces that a fetch asks for by name at once where its peers are all on its own host: it copies them out of their memory by
/// itself, and waits for nothing but news and answers.
pub const PIECES_AT_ONCE_ON_ONE_HOST: usize = 4;
/// Connections that one shard has at once to shards of other nodes.
pub const CONNECTIONS_PER_SHARD: usize = 4352;
/// Connections of a shard beyond which none is taken that a peer asks for; the rest are for its own fetches.
pub const CONNECTIONS_ASKED_PER_SHARD: usize = 4096;
/// Pieces that one node sends of at once, over all chunks, and that a fetch asks for by name at once. The fewer, the sooner a piece
/// can be handed on; the more, the rarer is a link on which nothing happens to be sent.
pub const UPLOADS_AT_ONCE: usize = 3;
/// Peers that a source with nothing to send tells so.
pub const ROOM_TOLD: usize = 8;
/// Longest address of a worker of UCX, in bytes. With tens of devices they have a few hundred.
pub const WORKER_ADDRESS_MAX: usize = 16 << 10;
/// Grants that a receiver holds open towards one source.
pub const GRANTS_PER_PEER: usize = 4;
/// Grants that a receiver holds open over all sources of one chunk.
pub const GRANTS_PER_CHUNK: usize = 64;
/// Grants that a source queues for one receiver; more are declined.
pub const GRANTS_QUEUED_PER_PEER: usize = 128;
/// Bad pieces from one peer after which it is no longer asked.
pub const BAD_PIECES_PER_PEER: u32 = 3;
/// Members of one cluster.
pub const NODES_MAX: usize = 16_384;
/// Members of one swarm that a tracker remembers.
pub const SWARM_MEMBERS_MAX: usize = 16_384;
/// Operations of one client connection that run at once; more wait in the socket.
pub const CLIENT_OPERATIONS_AT_ONCE: usize = 256;
/// Chunks that clients have prepared and not written take at most one part in so many of a shard's memory.
pub const PREPARED_SHARE: u64 = 16;
/// Longest that a question for changes of the catalog is held, in milliseconds.
pub const CHANGES_WAIT_MAX_MS: u32 = 20_000;
/// A snapshot that nobody has read from for so long ends, in milliseconds.
pub const SNAPSHOT_IDLE_MS: u64 = 120_000;
/// Snapshots that a node keeps at once for others.
pub const SNAPSHOTS_MAX: usize = 4096;
/// Transactions that are open on a node at once.
pub const TRANSACTIONS_MAX: usize = 1024;
/// Transactions that one connection has open at once.
pub const TRANSACTIONS_PER_CONNECTION: usize = 64;
/// Client connections that a node serves at once.
pub const CLIENTS_MAX: usize = 1024;
/// Values up to this size are kept where their key is; larger ones become chunks. Bytes.
pub const INLINE_VALUE_MAX: usize = 64 << 10;
/// Values that one shard keeps at once. The least recently used go when there would be more.
pub const VALUES_PER_SHARD: usize = 4 << 20;
