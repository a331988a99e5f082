//! Chunks that clients read.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use flow::bitmap::Bitmap;
use flow::swarm::Priority;
use flow::wire::control::TrackerPeer;
use flow::wire::session::{ChunkOpened, ChunkReference, Device, SlotRef};
use memory::SharedLease;

use super::Shard;
use super::replica::Replica;
use crate::EngineError;

/// Pieces read from NVMe or a GPU ahead of what a client asks for.
const READ_AHEAD: usize = 8;

/// A chunk that a client has open.
pub(super) struct Reading {
    replica: Rc<Replica>,
    given: RefCell<Bitmap>,
    /// Pieces that the client may look at.
    held: RefCell<HashMap<u32, SharedLease>>,
    failed: RefCell<Option<EngineError>>,
}

impl Shard {
    pub(super) fn open(
        self: Rc<Self>,
        chunk: &ChunkReference,
        priority: Priority,
        known: &[TrackerPeer],
    ) -> Result<ChunkOpened, EngineError> {
        let replica = self.replica_for(chunk)?;
        let local_pieces = replica.state.borrow().have.count();
        if !replica.is_complete() {
            self.start_fetch(&replica, Device::Dram, priority);
            self.begin_with(&chunk.id, known);
        }
        replica.readers.set(replica.readers.get() + 1);
        replica.last_used.set(self.number());
        let handle = self.handle();
        let given = RefCell::new(Bitmap::new(chunk.geometry.pieces()));
        let reading = Reading { replica, given, held: RefCell::default(), failed: RefCell::default() };
        self.readings.borrow_mut().insert(handle, Rc::new(reading));
        Ok(ChunkOpened { handle, local_pieces })
    }

    pub(super) async fn next(
        self: Rc<Self>,
        handle: u64,
        first: u32,
        count: u32,
        limit: u32,
    ) -> Result<Vec<SlotRef>, EngineError> {
        loop {
            let reading = self.reading(handle)?;
            let round = reading.replica.changed.round();
            let end = first.saturating_add(count).min(reading.replica.geometry.pieces());
            let slots = reading.take(first, end, limit.max(1));
            if !slots.is_empty() || reading.is_given(first, end) {
                return Ok(slots);
            }
            if let Some(error) = reading.failed.borrow().clone() {
                return Err(error);
            }
            self.read_ahead(&reading, first, end);
            if reading.replica.changed.round() == round {
                reading.replica.changed.after(round).await;
            }
        }
    }

    /// Every piece that was not given out before, once all of them were in memory. Of those that come from other nodes it waits for
    /// the last, since by then many others have come: looking at each as it comes would keep the core from receiving them.
    pub(super) async fn whole(self: Rc<Self>, handle: u64) -> Result<Vec<SlotRef>, EngineError> {
        let reading = self.reading(handle)?;
        let pieces = reading.replica.geometry.pieces();
        let mut slots = reading.take(0, pieces, pieces);
        loop {
            let last = reading.given.borrow().missing().last();
            let Some(last) = last else { return Ok(slots) };
            let is_coming = !reading.replica.state.borrow().have.contains(last);
            let (first, count) = if is_coming { (last, 1) } else { (0, pieces) };
            slots.extend(self.clone().next(handle, first, count, pieces).await?);
            slots.extend(reading.take(0, pieces, pieces));
        }
    }

    pub(super) fn release(&self, handle: u64, pieces: &[u32]) -> Result<(), EngineError> {
        let reading = self.reading(handle)?;
        let mut held = reading.held.borrow_mut();
        pieces.iter().for_each(|piece| drop(held.remove(piece)));
        Ok(())
    }

    pub(super) fn close(self: Rc<Self>, handle: u64) -> Result<(), EngineError> {
        if let Some(reading) = self.readings.borrow_mut().remove(&handle) {
            reading.replica.readers.set(reading.replica.readers.get() - 1);
            reading.replica.changed.notify();
            self.end_fetch_if_unwanted(&reading.replica);
        }
        Ok(())
    }

    /// Starts to load the next pieces that are on NVMe or a GPU only. Whether one is missing altogether decides the fetch.
    fn read_ahead(self: &Rc<Self>, reading: &Rc<Reading>, first: u32, end: u32) {
        let replica = &reading.replica;
        let (loads, is_missing) = {
            let (state, given) = (replica.state.borrow(), reading.given.borrow());
            let wanted =
                (first..end).filter(|&piece| !given.contains(piece) && state.dram[piece as usize].is_none());
            let ahead = wanted.clone().filter(|&piece| state.is_stored(piece)).take(READ_AHEAD);
            let loads: Vec<u32> = ahead.filter(|&piece| !state.loading.contains(piece)).collect();
            (loads, wanted.into_iter().any(|piece| !state.have.contains(piece)))
        };
        for piece in loads {
            let (shard, reading) = (self.clone(), reading.clone());
            glommio::spawn_local(async move {
                if let Err(error) = shard.piece(&reading.replica, piece).await {
                    *reading.failed.borrow_mut() = Some(error);
                    reading.replica.changed.notify();
                }
            })
            .detach();
        }
        if is_missing && !self.fetches.borrow().contains_key(&replica.id) {
            let error = self.fetch_failure(replica);
            *reading.failed.borrow_mut() = Some(error);
            replica.changed.notify();
        }
    }

    fn reading(&self, handle: u64) -> Result<Rc<Reading>, EngineError> {
        self.readings.borrow().get(&handle).cloned().ok_or(EngineError::NoHandle(handle))
    }
}

impl Reading {
    /// Gives out up to `limit` pieces of `first..end` that are in memory and were not given out before.
    fn take(&self, first: u32, end: u32, limit: u32) -> Vec<SlotRef> {
        let state = self.replica.state.borrow();
        let (mut given, mut held) = (self.given.borrow_mut(), self.held.borrow_mut());
        let mut slots = Vec::new();
        for piece in first..end {
            if slots.len() as u32 == limit {
                break;
            }
            if given.contains(piece) {
                continue;
            }
            if let Some(lease) = &state.dram[piece as usize] {
                slots.push(SlotRef { piece, length: lease.length(), offset: lease.offset() });
                held.insert(piece, lease.clone());
                given.insert(piece);
            }
        }
        slots
    }

    fn is_given(&self, first: u32, end: u32) -> bool {
        let given = self.given.borrow();
        (first..end).all(|piece| given.contains(piece))
    }
}
