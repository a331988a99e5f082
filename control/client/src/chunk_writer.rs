//! One chunk: slots leased, filled, sealed.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use flow::chunk::{ChunkId, Descriptor, Geometry};
use flow::verify::checksum_of;
use flow::wire::catalog::{CatalogWrite, CatalogWritten};
use flow::wire::session::{
    ChunkAbort, ChunkBegin, ChunkBegun, ChunkCommit, ChunkCreate, ChunkCreated, ChunkSeal, ChunkSealed, Done,
    FilledPiece, PieceBytes, PieceFill, SlotLease, SlotLeased, SlotRef,
};
use memory::SlotWriter;

use crate::ClientError;
use crate::connection::{Connection, Pending};

/// Bytes of slots that are leased ahead of need.
const LEASED_AHEAD: u32 = 32 << 20;
/// Most pieces whose slots are leased ahead.
const LEASED_PIECES_MAX: u32 = 16;
/// Bytes of filled pieces that the node is told of at once: a message for each of 1 MiB takes 5 to 10 ms of processor time
/// per GB.
const TOLD_AT_ONCE: u32 = 8 << 20;
/// Filled pieces that the node may still be busy with, for instance writing them to NVMe.
const FILLS_UNDER_WAY: u32 = 32;

/// A chunk that is being written. Several threads may fill pieces of it. Unless it is sealed, the node forgets it when
/// the value is dropped, which must be after the last [`Slot`].
pub(crate) struct ChunkWriter<'c> {
    connection: &'c Connection,
    handle: u64,
    geometry: Geometry,
    slots: Mutex<Slots<'c>>,
    fills: Mutex<Fills<'c>>,
    /// So many filled pieces the node is told of at once.
    told_at_once: usize,
    /// Whether slots are waited for.
    waits: AtomicBool,
    sealed: AtomicBool,
}

/// Where the bytes of one piece go.
pub(crate) struct Slot<'c> {
    piece: u32,
    place: Place<'c>,
}

enum Place<'c> {
    Arena(SlotWriter<'c>),
    Buffer(Vec<u8>),
}

/// The pieces that were not given out yet.
struct Slots<'c> {
    next: u32,
    leased: VecDeque<SlotRef>,
    asked: Option<Pending<'c>>,
    buffers: Vec<Vec<u8>>,
}

/// The pieces that were filled.
#[derive(Default)]
struct Fills<'c> {
    /// Those that the node was not told of.
    untold: Vec<FilledPiece>,
    /// What it was told, and has not answered as far as is known.
    told: VecDeque<Pending<'c>>,
    /// Pieces and their checksums.
    checksums: Vec<(u32, u64)>,
}

impl<'c> ChunkWriter<'c> {
    /// Begins a chunk of this size, or of at most this size.
    pub(crate) fn create(
        connection: &'c Connection,
        geometry: Geometry,
        durable: bool,
    ) -> Result<Self, ClientError> {
        let request = ChunkCreate { size: geometry.size(), piece_size: geometry.piece_size(), durable };
        let ChunkCreated { handle } = connection.call(request)?;
        Ok(Self::of(connection, geometry, handle))
    }

    /// As [`ChunkWriter::create`], with slots for all pieces as far as the node has memory for them at once. It must share its
    /// memory.
    pub(crate) fn begin(
        connection: &'c Connection,
        geometry: Geometry,
        durable: bool,
    ) -> Result<Self, ClientError> {
        let (size, piece_size) = (geometry.size(), geometry.piece_size());
        let prepared = if durable { None } else { connection.take_prepared(geometry)? };
        let ChunkBegun { handle, slots } = match prepared {
            Some(begun) => begun,
            None => connection.call(ChunkBegin { size, piece_size, durable, count: geometry.pieces() })?,
        };
        let mut writer = Self::of(connection, geometry, handle);
        if !durable {
            // It has nothing to do with them before the chunk is sealed.
            writer.told_at_once = usize::MAX;
        }
        writer.take(&mut lock(&writer.slots), slots)?;
        Ok(writer)
    }

    fn of(connection: &'c Connection, geometry: Geometry, handle: u64) -> Self {
        let slots = Slots { next: 0, leased: VecDeque::new(), asked: None, buffers: Vec::new() };
        let at_once =
            if connection.shares_memory() { (TOLD_AT_ONCE / geometry.piece_size()).max(1) } else { 1 };
        Self {
            connection,
            handle,
            geometry,
            slots: Mutex::new(slots),
            fills: Mutex::default(),
            told_at_once: at_once as usize,
            waits: AtomicBool::new(false),
            sealed: AtomicBool::new(false),
        }
    }

    /// Whether there are slots for all pieces.
    pub(crate) fn has_all_slots(&self) -> bool {
        lock(&self.slots).next == self.geometry.pieces()
    }

    /// How the chunk is cut.
    pub(crate) fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The slot of the next piece; waits until the node has memory for it. `None` when all were given out.
    pub(crate) fn next_slot(&self) -> Result<Option<Slot<'c>>, ClientError> {
        let mut slots = lock(&self.slots);
        if !self.connection.shares_memory() {
            return Ok(self.next_buffer(&mut slots));
        }
        let Some(slot) = self.next_leased(&mut slots)? else { return Ok(None) };
        drop(slots);
        let writer = self.connection.slots()?.writer(slot.offset, slot.length as usize);
        let writer = writer
            .ok_or_else(|| self.connection.protocol("it leases a slot outside its arena, or one twice"))?;
        Ok(Some(Slot { piece: slot.piece, place: Place::Arena(writer) }))
    }

    fn next_buffer(&self, slots: &mut Slots<'c>) -> Option<Slot<'c>> {
        let piece = slots.next;
        let length = self.geometry.length(piece) as usize;
        if length == 0 {
            return None;
        }
        slots.next += 1;
        let mut buffer = slots.buffers.pop().unwrap_or_default();
        buffer.resize(length, 0);
        Some(Slot { piece, place: Place::Buffer(buffer) })
    }

    fn next_leased(&self, slots: &mut Slots<'c>) -> Result<Option<SlotRef>, ClientError> {
        loop {
            if let Some(slot) = slots.leased.pop_front() {
                if slots.asked.is_none() && slots.leased.len() <= self.window() as usize / 2 {
                    self.ask(slots)?;
                }
                return Ok(Some(slot));
            }
            if slots.asked.is_none() {
                self.ask(slots)?;
            }
            let Some(asked) = slots.asked.take() else { return Ok(None) };
            // The node may need the memory of what is filled, which it can write to NVMe: it is told of all that is, and of
            // what others fill meanwhile.
            self.waits.store(true, Ordering::Relaxed);
            self.tell(&mut lock(&self.fills))?;
            let answer = asked.wait();
            self.waits.store(false, Ordering::Relaxed);
            let SlotLeased { slots: leased } = answer?;
            if leased.is_empty() {
                return Err(self.connection.protocol("it leases no slot"));
            }
            self.take(slots, leased)?;
        }
    }

    /// Takes slots for the pieces that come next.
    fn take(&self, slots: &mut Slots<'c>, leased: Vec<SlotRef>) -> Result<(), ClientError> {
        for (slot, piece) in leased.iter().zip(slots.next..) {
            if slot.piece != piece || slot.length != self.geometry.length(piece) || slot.length == 0 {
                return Err(self.connection.protocol("it leases slots that were not asked for"));
            }
        }
        slots.next += leased.len() as u32;
        slots.leased.extend(leased);
        Ok(())
    }

    /// Asks for the next slots, if there are pieces left.
    fn ask(&self, slots: &mut Slots<'c>) -> Result<(), ClientError> {
        let first = slots.next;
        let count = (self.geometry.pieces() - first).min(self.window());
        if count > 0 {
            slots.asked = Some(self.connection.send(SlotLease { handle: self.handle, first, count })?);
        }
        Ok(())
    }

    fn window(&self) -> u32 {
        (LEASED_AHEAD / self.geometry.piece_size()).clamp(1, LEASED_PIECES_MAX)
    }

    /// Hands the first `length` bytes of a slot to the node; does not wait until the node has dealt with them.
    pub(crate) fn fill(&self, slot: Slot<'c>, length: usize) -> Result<(), ClientError> {
        let checksum = checksum_of(&slot[..length]);
        self.fill_checked(slot, length, checksum)
    }

    /// As [`ChunkWriter::fill`], of bytes whose checksum is known.
    pub(crate) fn fill_checked(
        &self,
        slot: Slot<'c>,
        length: usize,
        checksum: u64,
    ) -> Result<(), ClientError> {
        let (piece, length) = (slot.piece, length as u32);
        let at_once = self.told_at_once;
        let mut fills;
        match slot.place {
            Place::Arena(writer) => {
                drop(writer);
                fills = lock(&self.fills);
                fills.checksums.push((piece, checksum));
                fills.untold.push(FilledPiece { piece, length, checksum });
                if fills.untold.len() < at_once && !self.waits.load(Ordering::Relaxed) {
                    return Ok(());
                }
                self.tell(&mut fills)?;
            }
            Place::Buffer(buffer) => {
                let request = PieceBytes { handle: self.handle, piece, length, checksum };
                let pending = self.connection.send_with_payload(request, &buffer[..length as usize])?;
                lock(&self.slots).buffers.push(buffer);
                fills = lock(&self.fills);
                fills.checksums.push((piece, checksum));
                fills.told.push_back(pending);
            }
        }
        let most = (FILLS_UNDER_WAY as usize / at_once).max(1);
        let oldest = if fills.told.len() > most { fills.told.pop_front() } else { None };
        drop(fills);
        oldest.map_or(Ok(()), |oldest| oldest.wait::<Done>().map(drop))
    }

    /// Tells the node of all that is filled.
    fn tell(&self, fills: &mut Fills<'c>) -> Result<(), ClientError> {
        let pieces = std::mem::take(&mut fills.untold);
        if !pieces.is_empty() {
            fills.told.push_back(self.connection.send(PieceFill { handle: self.handle, pieces })?);
        }
        Ok(())
    }

    /// Asks to seal the chunk, after all that is filled has been dealt with.
    pub(crate) fn seal(&self, id: ChunkId, size: u64) -> Result<Pending<'c>, ClientError> {
        let mut fills = lock(&self.fills);
        self.tell(&mut fills)?;
        let told = std::mem::take(&mut fills.told);
        drop(fills);
        told.into_iter().try_for_each(|fill| fill.wait::<Done>().map(drop))?;
        self.connection.send(ChunkSeal { handle: self.handle, id, size })
    }

    /// The digest of the descriptor that the chunk has when it is sealed under this id, all pieces being filled.
    pub(crate) fn descriptor_digest(&self, id: ChunkId) -> [u8; 32] {
        let mut checksums = lock(&self.fills).checksums.clone();
        checksums.sort_unstable_by_key(|(piece, _)| *piece);
        let checksums = checksums.into_iter().map(|(_, checksum)| checksum).collect();
        Descriptor { id, geometry: self.geometry, checksums }.digest()
    }

    /// Seals the chunk, all pieces being filled, and then commits the write that makes it part of a key.
    pub(crate) fn commit(&self, id: ChunkId, write: CatalogWrite) -> Result<CatalogWritten, ClientError> {
        let mut fills = lock(&self.fills);
        let (pieces, told) = (std::mem::take(&mut fills.untold), std::mem::take(&mut fills.told));
        drop(fills);
        told.into_iter().try_for_each(|fill| fill.wait::<Done>().map(drop))?;
        let (handle, size) = (self.handle, self.geometry.size());
        let answer = self.connection.call(ChunkCommit { handle, pieces, id, size, write });
        // What the catalog refuses has been sealed.
        let is_sealed = matches!(answer, Ok(_) | Err(ClientError::Catalog(_)));
        self.sealed.store(is_sealed, Ordering::Release);
        answer
    }

    /// Waits for the answer to [`ChunkWriter::seal`].
    pub(crate) fn sealed(&self, seal: Pending<'c>, size: u64) -> Result<ChunkSealed, ClientError> {
        let sealed: ChunkSealed = seal.wait()?;
        self.sealed.store(true, Ordering::Release);
        let fits = sealed.geometry.size() == size
            && Geometry::new(size, sealed.geometry.piece_size()) == Ok(sealed.geometry);
        if fits { Ok(sealed) } else { Err(self.connection.protocol("it seals a chunk of another size")) }
    }
}

impl Drop for ChunkWriter<'_> {
    fn drop(&mut self) {
        if !self.sealed.load(Ordering::Acquire) {
            // When the connection has ended, the node forgets the chunk by itself.
            let _ = self.connection.send(ChunkAbort { handle: self.handle });
        }
    }
}

impl Slot<'_> {
    /// Where the piece begins in a chunk of this geometry, in bytes.
    pub(crate) fn offset(&self, geometry: Geometry) -> u64 {
        geometry.offset(self.piece)
    }
}

impl Deref for Slot<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.place {
            Place::Arena(writer) => writer,
            Place::Buffer(buffer) => buffer,
        }
    }
}

impl DerefMut for Slot<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.place {
            Place::Arena(writer) => writer,
            Place::Buffer(buffer) => buffer,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
