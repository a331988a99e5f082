//! Bytes of pieces, for clients without an arena.

use flow::limits::PIECE_SIZE_MAX;
use flow::verify::checksum_of;
use flow::wire::session::*;
use flow::wire::{HeaderError, Message};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

use super::Session;
use crate::failure;
use crate::frames::FrameError;

/// Pieces that one answer carries at most. Each is held in memory until the client has taken it.
const PIECES_PER_ANSWER: u32 = 8;

/// Reads the payload of a [`PieceBytes`] straight into the slot of its piece. Whatever is wrong with the request, the
/// payload is read to its end, so that the next frame is found; a payload longer than a piece ends the connection.
pub(super) async fn receive(
    session: &Session,
    reader: &mut (impl AsyncBufRead + Unpin),
    bytes: PieceBytes,
) -> Result<Result<FilledPiece, Failure>, FrameError> {
    let PieceBytes { handle, piece, length, checksum } = bytes;
    if length > PIECE_SIZE_MAX {
        return Err(HeaderError::Length { length, limit: PIECE_SIZE_MAX }.into());
    }
    let slot = match slot_for(session, handle, piece, length).await {
        Ok(slot) => slot,
        Err(failure) => {
            skip(reader, length as usize).await?;
            return Ok(Err(failure));
        }
    };
    let Some(mut slot) = session.node.mapping.writer(slot.offset, length as usize) else {
        skip(reader, length as usize).await?;
        return Ok(Err(failure::conflict(format!("piece {piece} is being written already"), "")));
    };
    reader.read_exact(&mut slot).await?;
    if checksum_of(&slot) != checksum {
        let text = format!("piece {piece} was damaged on its way to the node");
        let (code, hint) = (FailureCode::Corrupt, "put the data again".into());
        return Ok(Err(Failure { code, message: text, hint }));
    }
    Ok(Ok(FilledPiece { piece, length, checksum }))
}

/// Answers a [`PieceNext`] with the pieces themselves, and lets go of them when they are sent.
pub(super) async fn send(session: &Session, request: u64, next: PieceNext) -> Result<Message, Failure> {
    let PieceNext { handle, first, count, limit } = next;
    let sending = session.holdings.check_reading(handle)?;
    let (engine, limit) = (&session.node.engine, limit.clamp(1, PIECES_PER_ANSWER));
    let slots = engine.next(handle, first, count, limit).await.map_err(|error| error.failure())?;
    // The chunk may have been closed since, and its slots with it; it is not closed while this is held.
    let _sending = sending.read().await;
    session.holdings.check_reading(handle)?;
    for slot in &slots {
        let SlotRef { piece, length, offset } = *slot;
        let payload = session.node.mapping.read(offset, length as usize);
        let payload = payload.ok_or_else(|| failure::internal("a piece lies outside the arena"))?;
        let message = PieceBytes { handle, piece, length, checksum: checksum_of(payload) };
        if !session.replies.send_payload(request, &message.into(), payload).await {
            break;
        }
    }
    let pieces = slots.iter().map(|slot| slot.piece).collect();
    engine.release(handle, pieces).await.map_err(|error| error.failure())?;
    Ok(PieceViews { slots: Vec::new() }.into())
}

async fn slot_for(session: &Session, handle: u64, piece: u32, length: u32) -> Result<SlotRef, Failure> {
    session.holdings.check_writing(handle)?;
    let slots = session.node.engine.lease(handle, piece, 1).await.map_err(|error| error.failure())?;
    let slot = slots.first().ok_or_else(|| failure::internal("a lease of one slot gave none"))?;
    if length == 0 || length > slot.length {
        let text = format!("piece {piece} is sent with {length} bytes where 1 to {} belong", slot.length);
        return Err(failure::invalid(text, ""));
    }
    Ok(*slot)
}

async fn skip(reader: &mut (impl AsyncBufRead + Unpin), mut length: usize) -> Result<(), FrameError> {
    while length > 0 {
        let there = reader.fill_buf().await?.len().min(length);
        if there == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        reader.consume(there);
        length -= there;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipping_finds_the_next_frame() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut bytes: &[u8] = b"payload, then more";
            skip(&mut bytes, 8).await.unwrap();
            assert_eq!(bytes, b" then more");
            assert!(skip(&mut bytes, 100).await.is_err());
        });
    }
}
