//! Any message, drawn from a seed.
//!
//! The golden vectors depend on what is drawn here: a change of [`Draw`] changes all of them. Fields and list
//! entries are drawn in order, so that a new message type changes no vector of another.

use flow::chunk::{ChunkId, Descriptor, Geometry};
use flow::swarm::Priority;
use flow::wire::Message;
use flow::wire::catalog::*;
use flow::wire::control::*;
use flow::wire::data::*;
use flow::wire::handshake::*;
use flow::wire::lane::*;
use flow::wire::session::*;
use flow::wire::values::*;

/// The messages of every type, drawn from one seed.
pub fn all(seed: u64) -> Vec<Message> {
    MAKERS.iter().map(|make| make(&mut Draw::new(seed))).collect()
}

/// A sequence of numbers (SplitMix64), the same for ever.
pub struct Draw {
    state: u64,
}

impl Draw {
    fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ self.state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

trait Sample {
    fn sample(draw: &mut Draw) -> Self;
}

macro_rules! numbers {
    ($($number:ty)*) => {
        $(impl Sample for $number {
            fn sample(draw: &mut Draw) -> Self {
                draw.next() as $number
            }
        })*
    };
}

numbers! { u8 u16 u32 u64 }

impl Sample for bool {
    fn sample(draw: &mut Draw) -> Self {
        draw.below(2) == 1
    }
}

impl Sample for String {
    fn sample(draw: &mut Draw) -> Self {
        // Up to eight bytes an archive keeps a text in place, beyond it elsewhere.
        let alphabet = ['a', 'Z', '7', '/', '.', ' ', 'ß', '魚'];
        let length = draw.below(20);
        (0..length).map(|_| alphabet[draw.below(8) as usize]).collect()
    }
}

impl<T: Sample> Sample for Vec<T> {
    fn sample(draw: &mut Draw) -> Self {
        (0..draw.below(4)).map(|_| T::sample(draw)).collect()
    }
}

impl<T: Sample> Sample for Option<T> {
    fn sample(draw: &mut Draw) -> Self {
        bool::sample(draw).then(|| T::sample(draw))
    }
}

impl<A: Sample, B: Sample> Sample for (A, B) {
    fn sample(draw: &mut Draw) -> Self {
        (A::sample(draw), B::sample(draw))
    }
}

impl<const LENGTH: usize> Sample for [u8; LENGTH] {
    fn sample(draw: &mut Draw) -> Self {
        std::array::from_fn(|_| u8::sample(draw))
    }
}

impl Sample for ChunkId {
    fn sample(draw: &mut Draw) -> Self {
        ChunkId(Sample::sample(draw))
    }
}

impl Sample for Geometry {
    fn sample(draw: &mut Draw) -> Self {
        let piece_size = 1 << (20 + draw.below(5));
        Geometry::new(1 + draw.below(1 << 36), piece_size).unwrap()
    }
}

impl Sample for Descriptor {
    fn sample(draw: &mut Draw) -> Self {
        let geometry = Geometry::new(1 + draw.below(8 << 20), 1 << 20).unwrap();
        let checksums = (0..geometry.pieces()).map(|_| draw.next()).collect();
        Descriptor { id: Sample::sample(draw), geometry, checksums }
    }
}

macro_rules! choices {
    ($($name:ident { $($choice:expr,)* })*) => {
        $(impl Sample for $name {
            fn sample(draw: &mut Draw) -> Self {
                let choices: &[fn(&mut Draw) -> $name] = &[$($choice,)*];
                choices[draw.below(choices.len() as u64) as usize](draw)
            }
        })*
    };
}

choices! {
    Role { |_| Role::Client, |_| Role::Control, |draw| Role::Data(Sample::sample(draw)), }
    NodeState { |_| NodeState::Alive, |_| NodeState::Draining, |_| NodeState::Dead, }
    Holding { |_| Holding::Complete, |_| Holding::Partial, |_| Holding::None, }
    Want { |draw| Want::Piece(Sample::sample(draw)), |draw| Want::LeastSent(Sample::sample(draw)), }
    LaneAddress {
        |draw| LaneAddress::QueuePair(Sample::sample(draw)), |draw| LaneAddress::Listener(Sample::sample(draw)),
        |draw| LaneAddress::Worker(Sample::sample(draw)),
    }
    ReadConsistency {
        |_| ReadConsistency::One, |_| ReadConsistency::Quorum, |_| ReadConsistency::Serial, |_| ReadConsistency::All,
    }
    CatalogContent {
        |draw| CatalogContent::Value(Sample::sample(draw)), |draw| CatalogContent::Manifest(Sample::sample(draw)),
    }
    CatalogCondition {
        |draw| CatalogCondition::Version(Sample::sample(draw)), |draw| CatalogCondition::Unchanged(Sample::sample(draw)),
    }
    CatalogExpiry {
        |draw| CatalogExpiry::In(draw.next()), |draw| CatalogExpiry::Later(draw.next()), |_| CatalogExpiry::Never,
    }
    CatalogOperation {
        |draw| CatalogOperation::Put(Sample::sample(draw)), |draw| CatalogOperation::Delete(Sample::sample(draw)), |draw| CatalogOperation::Expire(Sample::sample(draw)),
    }
    CatalogStart {
        |_| CatalogStart::Now, |draw| CatalogStart::After(draw.next()), |draw| CatalogStart::At(draw.next()),
    }
    CatalogSelector {
        |draw| CatalogSelector::Key(Sample::sample(draw)), |draw| CatalogSelector::Prefix(Sample::sample(draw)),
        |draw| CatalogSelector::Glob(Sample::sample(draw)),
    }
    CatalogChangeKind {
        |draw| CatalogChangeKind::Put(Sample::sample(draw)), |draw| CatalogChangeKind::Delete(draw.next()),
        |draw| CatalogChangeKind::Expire(draw.next()), |draw| CatalogChangeKind::OwnerEnded(draw.next()),
    }
    TransactionIsolation {
        |_| TransactionIsolation::ReadCommitted, |_| TransactionIsolation::Snapshot,
        |_| TransactionIsolation::Serializable,
    }
    CatalogReason {
        |draw| CatalogReason::Conflict(Sample::sample(draw)),
        |draw| CatalogReason::Changed(Sample::sample(draw)),
        |draw| CatalogReason::NoKey(Sample::sample(draw)),
        |draw| CatalogReason::NoExpiry(Sample::sample(draw)),
        |draw| CatalogReason::NoService(Sample::sample(draw)),
        |draw| CatalogReason::ChangesGone(Sample::sample(draw)),
        |draw| CatalogReason::SnapshotGone(Sample::sample(draw)),
        |draw| CatalogReason::TransactionGone(Sample::sample(draw)),
        |draw| CatalogReason::Unreachable(Sample::sample(draw)), |_| CatalogReason::Other,
    }
    ValueKind { |_| ValueKind::Json, |_| ValueKind::Pickle, }
    ValueKeep { |_| ValueKeep::Memory, |_| ValueKeep::Pinned, |_| ValueKeep::Durable, |draw| ValueKeep::Gpu(Sample::sample(draw)), }
    ValueContent {
        |draw| ValueContent::Inline(Sample::sample(draw)), |draw| ValueContent::Chunk(Sample::sample(draw)),
    }
    Priority { |_| Priority::Low, |_| Priority::Normal, |_| Priority::High, |_| Priority::Critical, }
    Device { |_| Device::Dram, |_| Device::Nvme, |draw| Device::Gpu(Sample::sample(draw)), |_| Device::AnyGpu, }
    // A code that came later is not among them: it would be drawn in place of others, and vectors that hold one would change.
    FailureCode {
        |_| FailureCode::Invalid, |_| FailureCode::NotFound, |_| FailureCode::Conflict, |_| FailureCode::MemoryFull,
        |_| FailureCode::DiskFull, |_| FailureCode::Corrupt, |_| FailureCode::Unavailable,
        |_| FailureCode::Draining, |_| FailureCode::Io, |_| FailureCode::Internal,
    }
}

macro_rules! parts {
    ($($name:ident { $($field:ident)* })*) => {
        $(impl Sample for $name {
            fn sample(_draw: &mut Draw) -> Self {
                $name { $($field: Sample::sample(_draw),)* }
            }
        })*
    };
}

macro_rules! messages {
    ($($name:ident { $($field:ident)* })*) => {
        parts! { $($name { $($field)* })* }

        const MAKERS: &[fn(&mut Draw) -> Message] = &[$(|draw| Message::$name(Sample::sample(draw)),)*];
    };
}

parts! {
    QueuePairAddress { gid lid queue_pair packet_sequence_number mtu_bytes key base length }
    ListenerAddress { ip port token key base length }
    WorkerAddress { address token }
    ShardPair { from to }
    NodeRecord {
        node name address rack shards incarnation state head memory_limit memory_used nvme_used
    }
    TrackerPeer { node complete near }
    ReplicaRecord { chunk geometry descriptor_digest node dram_pieces nvme_pieces gpus pinned fetching }
    GpuPieces { gpu pieces }
    GpuRecord { index name uuid bus memory_bytes limit_bytes used_bytes is_emulated }
    KeySummary { key version created_ms size files }
    SlotRef { piece length offset }
    ChunkInMemory { handle slots }
    FilledPiece { piece length checksum }
    ChunkReference { id geometry descriptor_digest }
    ValueRecord { kind keep ttl_ms content }
    CatalogEntry {
        key version revision created_ms updated_ms expires_ms owner labels size files content
    }
    CatalogChange { revision at_ms key kind }
    KeyVersion { key version }
    UnchangedSince { prefix exact revision }
    CatalogPut { key content ttl_ms owner labels }
    CatalogExpire { key when }
    VersionConflict { key expected found }
    ChangesKept { asked kept }
    TryAgain { retry_ms maybe_done }
    ServiceRecord { name ttl_ms left_ms keys }
}

messages! {
    Hello { version_min version_max role node expected_node nonce }
    Challenge { version node nonce proof }
    Proof { proof }
    Welcome { name arena_size shards }
    Refuse { reason }
    Failure { code message hint }
    Done {}

    Interest { chunk pieces have reply }
    Have { chunk pieces }
    Leave { chunk }
    Grant { chunk grant want }
    Revoke { grant }
    Decline { chunk grant }
    PieceData { chunk grant piece length checksum part }
    Describe { chunk }
    Description { descriptor }
    PiecePart { grant part }
    MemoryOffer { boot_id socket }
    MemoryMapped {}
    PieceAt { chunk grant piece length checksum offset }
    PieceTaken { grant }
    LaneClosed { lane }
    LaneGrant { chunk grant want lane tag offset length }
    PieceWritten { chunk grant piece length }
    LaneOpen { lane answers rail address }
    Preference { chunk priority }

    Join { record }
    Membership { epoch cluster nodes forgotten }
    TrackerAnnounce { node holdings }
    TrackerJoin { chunk node limit }
    TrackerPeers { chunk peers }
    ReplicaQuery { chunk after limit }
    ReplicaReport { replicas more }
    Beat { node incarnation epoch memory_limit memory_used nvme_used leases }
    MembersChanged { since epoch cluster nodes gone forgotten }

    Coming { chunk piece importer }
    Room { chunk }

    KeyOpen { key lease }
    KeyEntry { key version revision created_ms manifest lease }
    LeaseRelease { lease }
    KeyList { prefix after limit }
    KeyListing { keys more }
    KeyRemove { key recursive }
    KeyRemoved { count }
    ChunkReferences { chunks }
    ChunkReferenced { referenced }
    FileOpen { key priority view_max }
    FileOpened { entry lease chunks }

    ChunkCreate { size piece_size durable }
    ChunkCreated { handle }
    SlotLease { handle first count }
    SlotLeased { slots }
    PieceFill { handle pieces }
    ChunkSeal { handle id size }
    ChunkSealed { geometry descriptor_digest }
    ChunkAbort { handle }
    ChunkOpened { handle local_pieces }
    PieceNext { handle first count limit }
    PieceViews { slots }
    PieceRelease { handle pieces }
    ChunkClose { handle }
    ChunkFetched {
        elapsed_us pieces_local pieces_from_origin pieces_from_peers pieces_corrupt pieces_duplicate progress
    }
    ChunkVerify { id }
    ChunkVerified { digest }
    PieceBytes { handle piece length checksum }
    ChunkOpen { chunk priority }
    ChunkFetch { chunk device priority }
    ChunkBegin { size piece_size durable count }
    ChunkBegun { handle slots }
    ChunkCommit { handle pieces id size write }
    ChunkPrepare { size piece_size }

    ChunkList { chunk after }
    ChunkListing { replicas silent more }
    ChunkPin { id pinned node }
    ChunkPlace { id node device remove_source from }
    ChunkRemove { id node device force }
    NodeList {}
    NodeListing { epoch nodes }
    NodeDrain { node }
    StatusQuery {}
    Status { node findings counters gpus }

    CatalogGet { keys consistency snapshot }
    CatalogFound { revision entries stale }
    CatalogScan { prefix after limit contents consistency snapshot }
    CatalogPage { revision entries next }
    CatalogCount { prefix consistency }
    CatalogCounted { count }
    CatalogWrite { conditions operations }
    CatalogWritten { revision versions }
    CatalogChanges { start selector wait_ms size_limit }
    CatalogChanged { changes position }
    CatalogServices {}
    CatalogServiceListing { services }
    ServiceKeep { name ttl_ms }
    ServiceEnd { name }
    SnapshotOpen {}
    SnapshotOpened { snapshot revision }
    SnapshotClose { snapshot }
    TransactionBegin { isolation timeout_ms }
    TransactionBegun { transaction }
    TransactionGet { transaction keys }
    TransactionScan { transaction prefix after limit contents }
    TransactionWrite { transaction operations }
    TransactionCommit { transaction }
    TransactionRollback { transaction }
    CatalogLease { key }
    CatalogLeased { entry lease }
    CatalogRenew { leases }
    CatalogRenewed { gone }
    CatalogRefused { failure reason }

    ValueRead { key }
    ValueFound { value used_ms }
    ValueWrite { key value if_absent }
    ValueRelease { key }
    ValueReleased { was_there }
    ValueMove { key keep }
    ValueMoved { before }
}
