//! Frames in.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use flow::limits::FRAME_BODY_MAX;
use flow::wire::frame::HEADER_LENGTH;
use flow::wire::{Header, Message};

use super::ConnectionError;
use super::filling::{Filling, STEP};
use crate::ring::DataRing;

/// Bytes received at a time while the next header is looked for. What of it belongs to a payload is copied, so it is
/// small beside a piece.
const STAGE_LENGTH: usize = 4096;

/// Reads frames, and between them payloads, from one connection.
pub(crate) struct Reader {
    ring: DataRing,
    socket: Rc<OwnedFd>,
    stage: Vec<u8>,
    start: usize,
    end: usize,
}

impl Reader {
    pub(crate) fn new(ring: DataRing, socket: Rc<OwnedFd>) -> Self {
        Self { ring, socket, stage: vec![0; STAGE_LENGTH], start: 0, end: 0 }
    }

    /// The next message. After a `PieceData` or `PiecePart` its payload must be taken before the next call.
    pub(crate) async fn next(&mut self) -> Result<Message, ConnectionError> {
        self.fill(HEADER_LENGTH).await?;
        let bytes = self.stage[self.start..].first_chunk().ok_or(ConnectionError::Closed)?;
        let header = Header::decode(bytes, FRAME_BODY_MAX)?;
        self.start += HEADER_LENGTH;
        let length = header.length as usize;
        self.fill(length).await?;
        let message = Message::decode(&header, &self.stage[self.start..self.start + length])?;
        self.start += length;
        if self.stage.len() > STAGE_LENGTH && self.end - self.start <= STAGE_LENGTH {
            let rest = self.stage[self.start..self.end].to_vec();
            (self.start, self.end) = (0, rest.len());
            self.stage = rest;
            self.stage.resize(STAGE_LENGTH, 0);
        }
        Ok(message)
    }

    /// Receives the next `length` bytes of a piece, which its slot must have room for.
    pub(crate) async fn payload_into(
        &mut self,
        filling: Filling,
        length: u32,
    ) -> Result<Filling, ConnectionError> {
        let Filling { mut lease, mut checksum, mut received } = filling;
        let end = received + length;
        let staged = (self.end - self.start).min(length as usize);
        let staged = &self.stage[self.start..self.start + staged];
        lease.as_mut_slice()[received as usize..][..staged.len()].copy_from_slice(staged);
        checksum.update(staged);
        self.start += staged.len();
        received += staged.len() as u32;
        while received < end {
            let to = end.min(received + STEP);
            let (result, (_, returned)) = self.ring.receive_piece(&self.socket, lease, received, to).await;
            lease = returned;
            let count = result?;
            if count == 0 {
                return Err(ConnectionError::Closed);
            }
            checksum.update(&lease.as_slice()[received as usize..(received + count) as usize]);
            received += count;
        }
        Ok(Filling { lease, checksum, received })
    }

    /// Drops `length` bytes of payload that nobody wants any more.
    pub(crate) async fn skip_payload(&mut self, length: u32) -> Result<(), ConnectionError> {
        let mut left = length as usize;
        loop {
            let staged = (self.end - self.start).min(left);
            self.start += staged;
            left -= staged;
            if left == 0 {
                return Ok(());
            }
            self.fill(1).await?;
        }
    }

    /// Waits until at least `wanted` bytes are staged.
    async fn fill(&mut self, wanted: usize) -> Result<(), ConnectionError> {
        if self.end - self.start >= wanted {
            return Ok(());
        }
        self.stage.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        if self.stage.len() < wanted {
            self.stage.resize(wanted, 0);
        }
        while self.end < wanted {
            let stage = std::mem::take(&mut self.stage);
            let (result, (_, stage)) = self.ring.receive_some(&self.socket, stage, self.end).await;
            self.stage = stage;
            match result? {
                0 => return Err(ConnectionError::Closed),
                count => self.end += count as usize,
            }
        }
        Ok(())
    }
}
