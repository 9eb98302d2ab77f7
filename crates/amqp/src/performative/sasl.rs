//! The SASL frames of both roles (AMQP 1.0 §5.3, Spec amqp §1.2).

use super::fields::{Fields, need, or_null};
use crate::error::DecodeError;
use crate::types::{
    Reader, Value, array_of_symbols, put_binary, put_described_list, put_null, put_str, put_symbol, put_ubyte,
};

/// The init frame of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaslInit<'a> {
    /// The mechanism that it chose.
    pub mechanism: &'a str,
    /// For PLAIN: `authzid NUL user NUL password`.
    pub initial_response: Option<&'a [u8]>,
    /// The host that it addresses.
    pub hostname: Option<&'a str>,
}

impl<'a> SaslInit<'a> {
    /// User and password of PLAIN.
    #[must_use]
    pub fn plain(&self) -> Option<(&'a str, &'a str)> {
        let response = std::str::from_utf8(self.initial_response?).ok()?;
        let mut parts = response.splitn(3, '\0').skip(1);
        Some((parts.next()?, parts.next()?))
    }

    /// Appends the frame's body, 3 fields.
    pub fn encode(&self, buf: &mut Vec<u8>) {
        put_described_list(buf, 0x41, 3, |buf| {
            put_symbol(buf, self.mechanism);
            or_null(buf, self.initial_response, put_binary);
            or_null(buf, self.hostname, put_str);
        });
    }
}

/// A decoded SASL frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SaslFrame<'a> {
    /// The server's offer: a symbol or an array of them.
    Mechanisms(Value<'a>),
    /// The client's choice.
    Init(SaslInit<'a>),
    /// The server's verdict; 0 is success.
    Outcome(u8),
    /// The server's challenge, which none of our clients' mechanisms has.
    Challenge(&'a [u8]),
    /// The client's answer to a challenge.
    Response(&'a [u8]),
}

impl<'a> SaslFrame<'a> {
    /// Decodes a frame's body.
    ///
    /// # Errors
    /// [`DecodeError`]: malformed, or no SASL frame.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let (code, mut fields) = Fields::described(&mut Reader::new(body))?;
        Ok(match code {
            0x40 => SaslFrame::Mechanisms(fields.value()?),
            0x41 => SaslFrame::Init(SaslInit {
                mechanism: need(fields.text("mechanism")?, "mechanism")?,
                initial_response: fields.binary("initial-response")?,
                hostname: fields.text("hostname")?,
            }),
            0x42 => SaslFrame::Challenge(need(fields.binary("challenge")?, "challenge")?),
            0x43 => SaslFrame::Response(need(fields.binary("response")?, "response")?),
            0x44 => SaslFrame::Outcome(need(fields.u8("code")?, "code")?),
            _ => return Err(DecodeError::WrongType("sasl frame")),
        })
    }
}

/// Appends the offer, 1 field, always an array.
pub fn encode_mechanisms<'a>(buf: &mut Vec<u8>, mechanisms: impl IntoIterator<Item = &'a str>) {
    put_described_list(buf, 0x40, 1, |buf| array_of_symbols(buf, mechanisms));
}

/// Appends a challenge, 1 field.
pub fn encode_challenge(buf: &mut Vec<u8>, challenge: &[u8]) {
    put_described_list(buf, 0x42, 1, |buf| put_binary(buf, challenge));
}

/// Appends the answer to a challenge, 1 field.
pub fn encode_response(buf: &mut Vec<u8>, response: &[u8]) {
    put_described_list(buf, 0x43, 1, |buf| put_binary(buf, response));
}

/// Appends the verdict, 2 fields.
pub fn encode_outcome(buf: &mut Vec<u8>, code: u8) {
    put_described_list(buf, 0x44, 2, |buf| {
        put_ubyte(buf, code);
        put_null(buf);
    });
}
