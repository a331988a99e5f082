//! Pieces between nodes of one host: the receiver copies them out of the sender's memory.
//!
//! Each side offers its arena on every connection. Whoever can map it says so, and is told from then on where pieces
//! lie. The sender keeps a piece as it is until the receiver says that it does not look any more, or the connection
//! ends; what a receiver copied after that fails its checksum. Everything else is as over TCP, which stays the way for
//! messages, and for pieces where memory cannot be mapped: another user's node, or one in another container.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use flow::wire::data::{MemoryMapped, MemoryOffer, PieceAt, PieceData, PieceTaken};
use futures_lite::future::yield_now;
use memory::Mapping;

use super::Shard;
use super::counters::add;
use super::mesh::Connection;
use crate::transport::{ConnectionError, Copying, Writer};
use crate::{Event, Sharing};

/// Bytes that are copied before other tasks of the shard have a turn.
const TURN: usize = 4 << 20;

impl Shard {
    /// Tells a peer how to reach this node's memory, should it be on this host.
    pub(super) fn offer_memory(&self, writer: &Writer) {
        if let Some(Sharing { boot_id, socket }) = self.config.sharing.clone() {
            writer.message(MemoryOffer { boot_id, socket });
        }
    }

    pub(super) fn on_memory_offer(&self, connection: &Rc<Connection>, offer: MemoryOffer) {
        let is_here = self.config.sharing.as_ref().is_some_and(|ours| ours.boot_id == offer.boot_id);
        if !is_here || connection.memory.borrow().is_some() {
            return;
        }
        let number = self.number();
        self.mesh.borrow_mut().mapping.insert(number, connection.clone());
        let (peer, socket) = (connection.peer.node, PathBuf::from(offer.socket));
        self.tell(Event::Map { shard: self.index, connection: number, peer, socket });
    }

    pub(super) fn on_mapped(&self, number: u64, memory: Option<Arc<Mapping>>) {
        let connection = self.mesh.borrow_mut().mapping.remove(&number);
        if let (Some(connection), Some(memory)) = (connection, memory) {
            *connection.memory.borrow_mut() = Some(memory);
            connection.writer.message(MemoryMapped {});
        }
    }

    /// Copies a piece from where the peer says that it lies, if it is wanted.
    pub(super) async fn copy_piece(
        self: &Rc<Self>,
        connection: &Connection,
        place: PieceAt,
    ) -> Result<(), ConnectionError> {
        let memory = connection.memory.borrow().clone();
        let PieceAt { chunk, grant, piece, length, checksum, offset } = place;
        let bytes = memory.as_ref().and_then(|memory| memory.read(offset, length as usize));
        let bytes = bytes.ok_or(ConnectionError::Protocol("a piece lies where no memory is shared"))?;
        let head = PieceData { chunk, grant, piece, length, checksum, part: length };
        let Some((underway, filling)) = self.place_for(connection.peer, &head) else {
            add(&self.counters.pieces_unwanted, 1);
            connection.writer.message(PieceTaken { grant });
            return Ok(());
        };
        let mut copying = Copying::new(filling);
        for turn in bytes.chunks(TURN) {
            copying.take(turn);
            yield_now().await;
        }
        let filling = copying.finish();
        connection.writer.message(PieceTaken { grant });
        add(&self.counters.bytes_received_shm, length.into());
        self.on_piece_received(underway, connection.peer.node, &head, filling);
        Ok(())
    }
}
