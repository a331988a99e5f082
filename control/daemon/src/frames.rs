//! Frames over a stream.

use std::io;

use flow::limits::FRAME_BODY_MAX;
use flow::wire::frame::HEADER_LENGTH;
use flow::wire::{Header, HeaderError, Message, MessageError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Why no frame can be read any more. The connection has to end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error(transparent)]
    Damaged(MessageError),
}

/// One frame as it came.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) header: Header,
    /// The message, or why the body is none. What follows on the stream can be read either way.
    pub(crate) message: Result<Message, MessageError>,
}

/// Reads the next frame, with a body of at most `limit` bytes; `None` when the peer has ended the stream between
/// two frames. Not a byte past the frame is read.
pub(crate) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    limit: u32,
) -> Result<Option<Frame>, FrameError> {
    let mut header = [0; HEADER_LENGTH];
    if stream.read(&mut header[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut header[1..]).await?;
    let header = Header::decode(&header, limit)?;
    // The memory grows with what arrives, so that a header alone costs the sender more than it costs this node.
    let mut body = Vec::new();
    (&mut *stream).take(header.length.into()).read_to_end(&mut body).await?;
    if body.len() < header.length as usize {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    match Message::decode(&header, &body) {
        Err(error @ MessageError::Checksum(_)) => Err(FrameError::Damaged(error)),
        message => Ok(Some(Frame { header, message })),
    }
}

/// Reads the next frame when nothing but a message makes sense.
pub(crate) async fn read_message(
    stream: &mut (impl AsyncRead + Unpin),
    limit: u32,
) -> Result<Message, FrameError> {
    let frame = read(stream, limit).await?.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
    frame.message.map_err(FrameError::Damaged)
}

/// Writes one frame.
pub(crate) async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &Message,
    flags: u32,
    request_id: u64,
) -> io::Result<()> {
    stream.write_all(&message.encode(flags, request_id)).await?;
    stream.flush().await
}

/// Whether a peer may read the frame; a longer one would make it close the connection.
pub(crate) fn fits(frame: &[u8]) -> bool {
    frame.len() <= HEADER_LENGTH + FRAME_BODY_MAX as usize
}

#[cfg(test)]
mod tests {
    use flow::wire::frame::{FLAG_REPLY, MAGIC};
    use flow::wire::session::Done;
    use proptest::prelude::*;

    use super::*;

    fn read_all(mut bytes: &[u8], limit: u32) -> Result<Option<Frame>, FrameError> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(read(&mut bytes, limit))
    }

    #[test]
    fn a_frame_is_read_back() {
        let bytes = Message::from(Done {}).encode(FLAG_REPLY, 9);
        let frame = read_all(&bytes, 64).unwrap().unwrap();
        assert_eq!((frame.header.request_id, frame.message), (9, Ok(Done {}.into())));
        assert!(read_all(&[], 64).unwrap().is_none());
        assert!(matches!(read_all(&bytes[..bytes.len() - 1], 64), Err(FrameError::Io(_))));
    }

    #[test]
    fn an_unknown_type_can_be_read_past() {
        let header = Header::for_body(9999, 0, 1, b"abc");
        let bytes = [&header.encode()[..], b"abc"].concat();
        let frame = read_all(&bytes, 64).unwrap().unwrap();
        assert_eq!(frame.message, Err(MessageError::UnknownType(9999)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), shaped: bool) {
            let mut bytes = bytes;
            if shaped && bytes.len() >= 4 {
                bytes[..4].copy_from_slice(&MAGIC);
            }
            let _ = read_all(&bytes, 64);
        }
    }
}
