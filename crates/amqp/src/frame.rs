//! Protocol headers and frames: cutting a byte stream into frame bodies, and the eight bytes in front of each.
//!
//! Invariants: every strict prefix of a legal frame is "need more"; a size beyond the limit is refused before its bytes
//! are waited for.

use crate::error::Violation;

/// The eight bytes that start the AMQP protocol proper.
pub const AMQP_HEADER: [u8; 8] = *b"AMQP\x00\x01\x00\x00";
/// The eight bytes that start a SASL negotiation.
pub const SASL_HEADER: [u8; 8] = *b"AMQP\x03\x01\x00\x00";

/// Bytes of a frame's header.
pub const HEADER_LEN: usize = 8;
/// The frame type of AMQP frames.
pub const TYPE_AMQP: u8 = 0;
/// The frame type of SASL frames.
pub const TYPE_SASL: u8 = 1;

/// One frame, cut out of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// [`TYPE_AMQP`] or [`TYPE_SASL`].
    pub kind: u8,
    /// The sender's channel number; meaningless in SASL frames.
    pub channel: u16,
    /// Performative and payload; empty in a heartbeat.
    pub body: &'a [u8],
}

/// Cuts the first frame off `input`: the frame and how many bytes it takes, or `None` when it is not all there.
///
/// # Errors
/// [`Violation::FrameTooLarge`] above `max_size` bytes, [`Violation::FrameHeader`] when the header is impossible.
pub fn decode(input: &[u8], max_size: u32) -> Result<Option<(Frame<'_>, usize)>, Violation> {
    let Some((size, rest)) = input.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let size = u32::from_be_bytes(*size);
    if size > max_size {
        return Err(Violation::FrameTooLarge(size));
    }
    if (size as usize) < HEADER_LEN {
        return Err(Violation::FrameHeader);
    }
    let Some((&[offset, kind, high, low], _)) = rest.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let start = usize::from(offset) * 4;
    if start < HEADER_LEN || start > size as usize || kind > TYPE_SASL {
        return Err(Violation::FrameHeader);
    }
    let Some(body) = input.get(start..size as usize) else {
        return Ok(None);
    };
    Ok(Some((
        Frame {
            kind,
            channel: u16::from_be_bytes([high, low]),
            body,
        },
        size as usize,
    )))
}

/// Appends one frame whose body `body` writes.
pub fn encode(buf: &mut Vec<u8>, kind: u8, channel: u16, body: impl FnOnce(&mut Vec<u8>)) {
    let start = begin(buf, kind, channel);
    body(buf);
    finish(buf, start);
}

/// Appends the header of a frame whose size is not known yet; returns where it starts, for [`finish`].
pub(crate) fn begin(buf: &mut Vec<u8>, kind: u8, channel: u16) -> usize {
    let start = buf.len();
    let [high, low] = channel.to_be_bytes();
    buf.extend_from_slice(&[0, 0, 0, 0, 2, kind, high, low]);
    start
}

/// Patches the size of the frame that starts at `start` and reaches to the end of `buf`.
pub(crate) fn finish(buf: &mut [u8], start: usize) {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "frames are cut to the peer's 32-bit maximum"
    )]
    let size = (buf.len() - start) as u32;
    buf[start..start + 4].copy_from_slice(&size.to_be_bytes());
}
