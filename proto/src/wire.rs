//! Bytes: encoding, decoding with limits, and frames. The only file that names `bincode`.
//!
//! The encoding is bincode 2's standard configuration: integers little-endian and of variable
//! length (below 251 one byte; else 251, 252 or 253 and then 2, 4 or 8 bytes), sequences as a
//! count and their items, structs as their fields in order. Golden vectors in
//! `tests/golden` freeze it, so the codec behind it can be exchanged (ADR 0001).

use serde::{Deserialize, Serialize};

use crate::limits::{FRAME_HEADER_MAX, FRAME_TO_AGENT_MAX};

/// No decoding reads more than this, whatever the bytes announce.
const DECODE_MAX: usize = FRAME_TO_AGENT_MAX;

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<DECODE_MAX>()
}

/// Why bytes were refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They are not of the expected form, are cut, or pass a limit.
    #[error("malformed, cut, or past a limit")]
    Malformed,
    /// They decode, and then go on.
    #[error("{extra} bytes too many behind a message")]
    Trailing {
        /// Bytes that were left over.
        extra: usize,
    },
}

/// Encodes a value.
///
/// # Panics
/// Never for the types of this crate: each is a plain tree of bounded values.
#[must_use]
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(value, bincode::config::standard())
        .expect("every wire type encodes")
}

/// Decodes a value from all of the bytes.
///
/// # Errors
/// When the bytes are not exactly one value.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, DecodeError> {
    let (value, used) = bincode::serde::borrow_decode_from_slice(bytes, config())
        .map_err(|_| DecodeError::Malformed)?;
    match bytes.len() - used {
        0 => Ok(value),
        extra => Err(DecodeError::Trailing { extra }),
    }
}

/// Decodes a value from the beginning of the bytes; what follows is not looked at.
///
/// # Errors
/// When the bytes do not begin with such a value.
pub fn decode_prefix<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, DecodeError> {
    bincode::serde::borrow_decode_from_slice(bytes, config())
        .map(|(value, _)| value)
        .map_err(|_| DecodeError::Malformed)
}

/// Decodes a value from all of some bytes that this program wrote itself and whose checksum the
/// caller has compared: files of any size. Never for what came from a network.
///
/// # Errors
/// When the bytes are not exactly one value.
pub fn decode_own_file<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, DecodeError> {
    let config = bincode::config::standard();
    let (value, used) = bincode::serde::borrow_decode_from_slice(bytes, config)
        .map_err(|_| DecodeError::Malformed)?;
    match bytes.len() - used {
        0 => Ok(value),
        extra => Err(DecodeError::Trailing { extra }),
    }
}

/// A frame: what kind of message, and its encoded body. On the wire: the tag, the body's length
/// as a varint, the body. A reader skips a tag that it does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Kind of message, by number: see [`crate::message::Tag`].
    pub tag: u8,
    /// The encoded message.
    pub body: Vec<u8>,
}

impl Frame {
    /// The frame as bytes.
    ///
    /// # Panics
    /// When the body is longer than `u32::MAX`, far beyond any limit of this protocol.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.body.len()).expect("bodies are bounded far below 4 GiB");
        let mut bytes = Vec::with_capacity(FRAME_HEADER_MAX + self.body.len());
        bytes.push(self.tag);
        bytes.extend(encode(&length));
        bytes.extend(&self.body);
        bytes
    }
}

/// A peer's frame is longer than it may be. The session is over: what follows cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame with tag {tag} announces {length} bytes; at most {max} are allowed")]
pub struct FrameTooLong {
    /// Its tag.
    pub tag: u8,
    /// The length it announced.
    pub length: u64,
    /// The limit.
    pub max: usize,
}

/// Cuts a stream of bytes into frames.
#[derive(Debug)]
pub struct Deframer {
    buffer: Vec<u8>,
    taken: usize,
    max: usize,
}

impl Deframer {
    /// A reader of frames with bodies of at most `max` bytes.
    #[must_use]
    pub const fn new(max: usize) -> Self {
        Self { buffer: Vec::new(), taken: 0, max }
    }

    /// Takes bytes as they arrive. Callers read in pieces no larger than a window and call
    /// [`Deframer::next_frame`] until it is empty, so the buffer holds one frame and one piece.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.taken > 0 {
            self.buffer.drain(..self.taken);
            self.taken = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if it has arrived.
    ///
    /// # Errors
    /// When a frame announces a body past the limit: before any of it is kept.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameTooLong> {
        let rest = self.buffer.get(self.taken..).unwrap_or_default();
        let Some((&tag, behind_tag)) = rest.split_first() else { return Ok(None) };
        let Some((length, width)) = varint(behind_tag) else { return Ok(None) };
        if length > self.max as u64 {
            return Err(FrameTooLong { tag, length, max: self.max });
        }
        let start = 1 + width;
        let end = start + length as usize;
        let Some(body) = rest.get(start..end) else { return Ok(None) };
        let frame = Frame { tag, body: body.to_vec() };
        self.taken += end;
        Ok(Some(frame))
    }

    /// Bytes that have arrived and belong to no whole frame yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.buffer.len() - self.taken
    }
}

/// A length and how many bytes it took; `None` while its bytes have not all arrived. The forms for
/// wider integers are no lengths: they read as one that no limit allows.
fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let (first, rest) = bytes.split_first()?;
    let little_endian = |width: usize| {
        let bytes = rest.get(..width)?;
        let value = bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        Some((value, 1 + width))
    };
    match first {
        0..=250 => Some((u64::from(*first), 1)),
        251 => little_endian(2),
        252 => little_endian(4),
        _ => Some((u64::MAX, 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_in_whatever_pieces() {
        let frames: Vec<_> = [0usize, 1, 250, 251, 70_000]
            .iter()
            .map(|n| Frame { tag: 7, body: vec![9; *n] })
            .collect();
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::to_bytes).collect();
        for piece in [1, 3, 1000, 100_000] {
            let mut deframer = Deframer::new(70_000);
            let mut got = Vec::new();
            for piece in bytes.chunks(piece) {
                deframer.push(piece);
                while let Some(frame) = deframer.next_frame().unwrap() {
                    got.push(frame);
                }
            }
            assert!(got == frames && deframer.pending() == 0);
        }
    }

    #[test]
    fn a_long_frame_is_refused_at_its_header() {
        let mut deframer = Deframer::new(100);
        deframer.push(&[3, 252, 0, 0, 0, 1]);
        let refused = deframer.next_frame();
        assert_eq!(refused, Err(FrameTooLong { tag: 3, length: 1 << 24, max: 100 }));
        let mut deframer = Deframer::new(100);
        deframer.push(&[3, 253]);
        assert!(deframer.next_frame().is_err());
    }

    #[test]
    fn trailing_bytes_are_an_error() {
        assert_eq!(decode::<u64>(&[5]), Ok(5));
        assert_eq!(decode::<u64>(&[5, 0]), Err(DecodeError::Trailing { extra: 1 }));
        assert_eq!(decode::<u64>(&[253, 1]), Err(DecodeError::Malformed));
    }
}
