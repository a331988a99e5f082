//! Writing and reading chunks, and the keys that keep them.

use std::sync::Arc;

use flow::chunk::ChunkId;
use flow::limits::PIECES_PER_CHUNK;
use flow::swarm::Priority;
use flow::wire::Message;
use flow::wire::catalog::{
    CatalogContent, CatalogOperation, CatalogPut, CatalogReason, CatalogRefused, CatalogWrite, SnapshotOpen,
    SnapshotOpened,
};
use flow::wire::session::*;
use plan::manifest::Manifest;

use super::{Bytes, Session};
use crate::{failure, keys, kv, operate, trackers};

/// Slots that are leased or given out with one answer.
const SLOTS_PER_ANSWER: u32 = PIECES_PER_CHUNK as u32;

impl Session {
    pub(super) async fn create(self: &Arc<Self>, create: ChunkCreate) -> Result<Message, Failure> {
        let ChunkCreate { size, piece_size, durable } = create;
        let begun = self.begin_writing(ChunkBegin { size, piece_size, durable, count: 0 }).await?;
        Ok(ChunkCreated { handle: begun.handle }.into())
    }

    pub(super) async fn begin_chunk(self: &Arc<Self>, begin: ChunkBegin) -> Result<Message, Failure> {
        self.check_arena("ChunkBegin")?;
        Ok(self.begin_writing(begin).await?.into())
    }

    async fn begin_writing(self: &Arc<Self>, begin: ChunkBegin) -> Result<ChunkBegun, Failure> {
        self.node.check_takes_chunks()?;
        self.holdings.check_room()?;
        let session = self.clone();
        let begun = carried_out(async move {
            let ChunkBegin { size, piece_size, durable, count } = begin;
            let device = if durable { Device::Nvme } else { Device::Dram };
            let count = count.min(SLOTS_PER_ANSWER);
            let engine::Begun { handle, slots } =
                session.node.engine.begin(size, piece_size, device, count).await?;
            if !session.holdings.add_writing(handle, durable, Some(session.node.activity.begin())) {
                session.node.engine.abort(handle).await?;
            }
            Ok(ChunkBegun { handle, slots })
        });
        begun.await
    }

    /// Begins a chunk that may never be written, for which the node does not wait when it stops.
    pub(super) async fn prepare_chunk(self: &Arc<Self>, prepare: ChunkPrepare) -> Result<Message, Failure> {
        self.check_arena("ChunkPrepare")?;
        self.node.check_takes_chunks()?;
        self.holdings.check_room()?;
        let session = self.clone();
        let begun = carried_out(async move {
            let ChunkPrepare { size, piece_size } = prepare;
            let engine::Begun { handle, slots } = session.node.engine.prepare(size, piece_size).await?;
            if !session.holdings.add_writing(handle, false, None) {
                session.node.engine.abort(handle).await?;
            }
            Ok(ChunkBegun { handle, slots })
        });
        Ok(begun.await?.into())
    }

    pub(super) async fn lease_slots(&self, lease: SlotLease) -> Result<Message, Failure> {
        self.check_arena("SlotLease")?;
        let SlotLease { handle, first, count } = lease;
        self.holdings.check_writing(handle)?;
        let slots = self.node.engine.lease(handle, first, count.min(SLOTS_PER_ANSWER)).await;
        Ok(SlotLeased { slots: slots.map_err(|error| error.failure())? }.into())
    }

    pub(super) async fn fill_in_arena(&self, fill: PieceFill) -> Result<Message, Failure> {
        self.check_arena("PieceFill")?;
        self.fill(fill.handle, fill.pieces).await
    }

    pub(super) async fn fill(&self, handle: u64, pieces: Vec<FilledPiece>) -> Result<Message, Failure> {
        self.holdings.check_writing(handle)?;
        done(self.node.engine.fill(handle, pieces).await)
    }

    pub(super) async fn seal(self: &Arc<Self>, seal: ChunkSeal) -> Result<Message, Failure> {
        Ok(self.fill_and_seal(Vec::new(), seal).await?.into())
    }

    /// Fills, seals and commits, each only when what comes before is done.
    pub(super) async fn commit_chunk(self: &Arc<Self>, commit: ChunkCommit) -> Result<Message, Failure> {
        let ChunkCommit { handle, pieces, id, size, write } = commit;
        if !pieces.is_empty() {
            self.check_arena("ChunkCommit with pieces")?;
        }
        // Who shares this node's memory shares its machine, and ends with what is in memory alone.
        let early = matches!(self.bytes, Bytes::InArena)
            && self.holdings.writes_volatile(handle)
            && is_about_alone(&write, id);
        self.fill_and_seal(pieces, ChunkSeal { handle, id, size }).await?;
        let answer = self.write_as(write, early).await?;
        if let Message::CatalogRefused(refused) = &answer
            && was_not_done(refused)
        {
            // Nobody is going to refer to it but who has sealed the same bytes as well.
            self.let_go(id, self.holdings.remove_one_sealed(&id));
            self.node.collector.hurry();
        }
        Ok(answer)
    }

    async fn fill_and_seal(
        self: &Arc<Self>,
        pieces: Vec<FilledPiece>,
        seal: ChunkSeal,
    ) -> Result<ChunkSealed, Failure> {
        self.holdings.check_writing(seal.handle)?;
        let session = self.clone();
        let sealed = carried_out(async move {
            // From here on the chunk may be one that was here before; it must not be collected before its key is
            // committed.
            let (id, collector) = (seal.id, &session.node.collector);
            collector.hold(id).await;
            let sealed = session.seal_and_keep(pieces, seal).await;
            if sealed.is_err() {
                collector.release([id]);
            }
            sealed
        });
        sealed.await
    }

    /// Seals a chunk and keeps the handle that was opened with it, so that it is not evicted either before its key is
    /// committed.
    async fn seal_and_keep(
        &self,
        pieces: Vec<FilledPiece>,
        seal: ChunkSeal,
    ) -> Result<ChunkSealed, engine::EngineError> {
        let (ChunkSeal { handle, id, size }, engine) = (seal, &self.node.engine);
        let sealed = engine.fill_and_seal(handle, pieces, id, size).await?;
        self.holdings.remove_writing(handle);
        if !self.holdings.add_sealed(id, sealed.handle) {
            engine.close(sealed.handle).await?;
            return Err(engine::EngineError::NoHandle(handle));
        }
        let ChunkReference { geometry, descriptor_digest, .. } = sealed.chunk;
        Ok(ChunkSealed { geometry, descriptor_digest })
    }

    pub(super) async fn abort(&self, handle: u64) -> Result<Message, Failure> {
        self.holdings.check_writing(handle)?;
        let aborted = self.node.engine.abort(handle).await;
        self.holdings.remove_writing(handle);
        done(aborted)
    }

    pub(super) async fn open(self: &Arc<Self>, open: ChunkOpen) -> Result<Message, Failure> {
        self.open_chunk(open.chunk, open.priority).await.map(Message::from)
    }

    /// Opens a chunk, which is the connection's from then on.
    pub(super) async fn open_chunk(
        self: &Arc<Self>,
        chunk: ChunkReference,
        priority: Priority,
    ) -> Result<ChunkOpened, Failure> {
        self.node.activity.check_running()?;
        self.holdings.check_room()?;
        operate::check_geometry(chunk.geometry)?;
        let session = self.clone();
        let opened = carried_out(async move {
            let known = trackers::known_here(&session.node, chunk.id);
            let opened = session.node.engine.open_from(chunk, priority, known).await?;
            let (pieces, busy) = (chunk.geometry.pieces(), session.node.activity.begin());
            if !session.holdings.add_reading(opened.handle, pieces, busy) {
                session.node.engine.close(opened.handle).await?;
            }
            Ok(opened)
        });
        opened.await
    }

    pub(super) async fn next_views(&self, next: PieceNext) -> Result<Message, Failure> {
        let PieceNext { handle, first, count, limit } = next;
        self.holdings.check_reading(handle)?;
        let slots = self.node.engine.next(handle, first, count, limit.clamp(1, SLOTS_PER_ANSWER)).await;
        let slots = slots.map_err(|error| error.failure())?;
        self.holdings.show(handle, slots.len() as u32, || self.node.activity.begin_seeing());
        Ok(PieceViews { slots }.into())
    }

    pub(super) async fn release_pieces(&self, release: PieceRelease) -> Result<Message, Failure> {
        self.holdings.check_reading(release.handle)?;
        match self.bytes {
            Bytes::InArena => done(self.node.engine.release(release.handle, release.pieces).await),
            // They were released when they had been sent.
            Bytes::OnTheWire => Ok(Done {}.into()),
        }
    }

    pub(super) async fn close(&self, handle: u64) -> Result<Message, Failure> {
        let sending = self.holdings.check_reading(handle)?;
        let _nothing_is_sent = sending.write().await;
        let closed = self.node.engine.close(handle).await;
        self.holdings.remove_reading(handle);
        done(closed)
    }

    pub(super) async fn open_key(self: &Arc<Self>, open: KeyOpen) -> Result<Message, Failure> {
        if !open.lease {
            return keys::answer(&self.node, open.into()).await;
        }
        self.holdings.check_room()?;
        let session = self.clone();
        let opened = tokio::spawn(async move {
            let answer = keys::answer(&session.node, open.into()).await;
            if let Ok(Message::KeyEntry(KeyEntry { lease, .. })) = answer {
                session.node.leases.add(lease);
                if !session.holdings.add_lease(lease) {
                    keys::release(session.node.clone(), lease).await;
                }
            }
            answer
        });
        opened.await.unwrap_or_else(|_| Err(failure::internal("opening the key failed")))
    }

    pub(super) async fn release_lease(&self, lease: u64) -> Result<Message, Failure> {
        self.holdings.remove_lease(lease)?;
        self.node.leases.remove(lease);
        keys::answer(&self.node, LeaseRelease { lease }.into()).await
    }

    /// Gives a lease back that nobody knows any more; nobody waits for it.
    pub(super) fn let_lease_go(&self, lease: u64) {
        if self.holdings.remove_lease(lease).is_ok() {
            tokio::spawn(keys::release(self.node.clone(), lease));
        }
    }

    /// Carries out a write, whose keys from then on keep the chunks that were sealed for them.
    pub(super) async fn write(&self, write: CatalogWrite) -> Result<Message, Failure> {
        self.write_as(write, false).await
    }

    async fn write_as(&self, write: CatalogWrite, early: bool) -> Result<Message, Failure> {
        let manifest = |operation: &CatalogOperation| match operation {
            CatalogOperation::Put(CatalogPut { content: CatalogContent::Manifest(root), .. }) => {
                Manifest::decode(root).ok()
            }
            _ => None,
        };
        let manifests: Vec<Manifest> = write.operations.iter().filter_map(manifest).collect();
        let written = match early {
            true => kv::write_early(&self.node, write).await,
            false => kv::answer(&self.node, write.into()).await?,
        };
        if matches!(written, Message::CatalogWritten(_)) {
            self.kept(&manifests);
        }
        Ok(written)
    }

    /// Lets go of sealed chunks that keys keep.
    fn kept(&self, manifests: &[Manifest]) {
        for chunk in manifests.iter().flat_map(Manifest::all_chunks) {
            let id = ChunkId(chunk.id);
            self.let_go(id, self.holdings.remove_sealed(&id));
        }
    }

    /// Undoes what keeps a sealed chunk, once for each of the handles that keep it.
    fn let_go(&self, id: ChunkId, handles: impl IntoIterator<Item = u64>) {
        for handle in handles {
            self.node.engine.close_soon(handle);
            self.node.collector.release([id]);
        }
    }

    /// Gives up everything that the connection held.
    pub(super) async fn end(&self) {
        let remains = self.holdings.end();
        if !remains.sealed.is_empty() {
            for (id, handles) in remains.sealed {
                self.let_go(id, handles);
            }
            self.node.collector.hurry();
        }
        let engine = &self.node.engine;
        for handle in remains.writing {
            let _ = engine.abort(handle).await;
        }
        for handle in remains.reading {
            let _ = engine.close(handle).await;
        }
        remains.snapshots.into_iter().for_each(|snapshot| self.node.snapshots.end(snapshot));
        for number in remains.transactions {
            self.node.transactions.roll_back(number);
        }
        for lease in remains.leases {
            tokio::spawn(keys::release(self.node.clone(), lease));
        }
    }

    pub(super) async fn open_snapshot(&self) -> Result<Message, Failure> {
        let answer = kv::answer(&self.node, SnapshotOpen {}.into()).await?;
        if let Message::SnapshotOpened(SnapshotOpened { snapshot, .. }) = answer
            && !self.holdings.add_snapshot(snapshot)
        {
            self.node.snapshots.end(snapshot);
            return Err(failure::invalid(
                "this connection has as many snapshots open as it may",
                "close some first",
            ));
        }
        Ok(answer)
    }

    pub(super) fn close_snapshot(&self, snapshot: u64) -> Result<Message, Failure> {
        if self.holdings.remove_snapshot(snapshot) {
            self.node.snapshots.end(snapshot);
        }
        Ok(Done {}.into())
    }

    fn check_arena(&self, request: &str) -> Result<(), Failure> {
        match self.bytes {
            Bytes::InArena => Ok(()),
            Bytes::OnTheWire => {
                let text = format!("{request} needs the arena, which this connection does not have");
                Err(failure::invalid(text, "send PieceBytes, or connect to the local socket"))
            }
        }
    }
}

/// Whether a write puts one key that consists of this chunk and does nothing else, so that it outlives nothing that the chunk
/// does not.
pub(super) fn is_about_alone(write: &CatalogWrite, chunk: ChunkId) -> bool {
    let [CatalogOperation::Put(CatalogPut { content: CatalogContent::Manifest(root), .. })] =
        &write.operations[..]
    else {
        return false;
    };
    Manifest::decode(root).is_ok_and(|manifest| manifest.all_chunks().all(|part| part.id == chunk.0))
}

/// Whether a write that was refused has surely changed nothing, and will not.
fn was_not_done(refused: &CatalogRefused) -> bool {
    let is_invalid = refused.failure.code == FailureCode::Invalid;
    is_invalid || matches!(refused.reason, CatalogReason::Conflict(_) | CatalogReason::Changed(_))
}

fn done(result: Result<(), engine::EngineError>) -> Result<Message, Failure> {
    result.map(|()| Done {}.into()).map_err(|error| error.failure())
}

/// Runs to its end even when the connection that asked is gone, so that whatever it opened finds an owner or is closed.
async fn carried_out<T: Send + 'static>(
    steps: impl Future<Output = Result<T, engine::EngineError>> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::spawn(steps).await {
        Ok(answer) => answer.map_err(|error| error.failure()),
        Err(_) => Err(failure::internal("carrying the request out failed")),
    }
}
