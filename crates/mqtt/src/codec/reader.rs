//! Reads fields from exactly one packet: nothing behind its end can be reached.

use crate::violation::Violation;

/// The unread rest of a packet's body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[inline]
    pub(crate) const fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    #[inline]
    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// All that is left.
    #[inline]
    pub(crate) fn take_rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    #[inline]
    pub(crate) const fn peek_rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Violation> {
        let (head, tail) = self.rest.split_at_checked(count).ok_or(Violation::Truncated)?;
        self.rest = tail;
        Ok(head)
    }

    #[inline]
    pub(crate) fn byte(&mut self) -> Result<u8, Violation> {
        let (&[byte], tail) = self.rest.split_first_chunk::<1>().ok_or(Violation::Truncated)?;
        self.rest = tail;
        Ok(byte)
    }

    #[inline]
    pub(crate) fn two_bytes(&mut self) -> Result<u16, Violation> {
        let (&bytes, tail) = self.rest.split_first_chunk::<2>().ok_or(Violation::Truncated)?;
        self.rest = tail;
        Ok(u16::from_be_bytes(bytes))
    }

    /// A packet id, which is never 0.
    #[inline]
    pub(crate) fn packet_id(&mut self) -> Result<u16, Violation> {
        match self.two_bytes()? {
            0 => Err(Violation::PacketIdZero),
            id => Ok(id),
        }
    }

    /// Bytes with a two-byte length before them.
    #[inline]
    pub(crate) fn binary(&mut self) -> Result<&'a [u8], Violation> {
        let length = self.two_bytes()?;
        self.take(usize::from(length))
    }

    /// UTF-8 text without NUL, with a two-byte length before it.
    #[inline]
    pub(crate) fn text(&mut self) -> Result<&'a str, Violation> {
        let bytes = self.binary()?;
        let text = std::str::from_utf8(bytes).map_err(|_| Violation::InvalidUtf8)?;
        if has_nul(bytes) { Err(Violation::Nul) } else { Ok(text) }
    }
}

/// Written without an early exit so that the compiler makes vector code of it; topics are short.
#[inline]
fn has_nul(bytes: &[u8]) -> bool {
    bytes.iter().fold(false, |found, &byte| found | (byte == 0))
}
