//! The nine AMQP performatives and the five SASL frames: borrowed decode, full-length encode.
//!
//! Invariants (Spec amqp §2): decoding takes list0, list8, list32, shortened lists, numeric and symbolic descriptors;
//! encoding writes `00 53 code` and every field, trailing ones as null.
//! Not here: the effect of the frames (`connection`).

mod control;
mod fault;
mod fields;
mod link;
mod sasl;
mod terminus;
mod transfer;

pub use control::{Begin, Open, encode_close, encode_end};
pub(crate) use fault::put_properties;
pub use fault::{Fault, InfoValue};
pub use link::{Attach, Detach, Flow, ReceiverSettleMode, Role, SenderSettleMode};
pub use sasl::{SaslFrame, SaslInit, encode_challenge, encode_mechanisms, encode_outcome, encode_response};
pub use terminus::{Source, Target, Terminus};
pub use transfer::{Disposition, Outcome, Transfer};

pub(crate) use terminus::{Filter, put_full_terminus};

use crate::error::DecodeError;
use crate::types::Reader;
use fields::Fields;

/// A decoded AMQP frame body.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "named as in AMQP 1.0 §2.7")]
pub enum Performative<'a> {
    Open(Open<'a>),
    Begin(Begin),
    Attach(Attach<'a>),
    Flow(Flow),
    Transfer(Transfer<'a>),
    Disposition(Disposition<'a>),
    Detach(Detach<'a>),
    End(Option<Fault<'a>>),
    Close(Option<Fault<'a>>),
}

/// Decodes the performative of an AMQP frame's body; the rest is the payload (of a transfer).
///
/// # Errors
/// [`DecodeError`]: malformed, an unknown performative, a mandatory field missing.
pub fn decode(body: &[u8]) -> Result<(Performative<'_>, &[u8]), DecodeError> {
    let mut reader = Reader::new(body);
    let (code, mut fields) = Fields::described(&mut reader)?;
    let performative = match code {
        0x10 => Performative::Open(Open::decode(&mut fields)?),
        0x11 => Performative::Begin(Begin::decode(&mut fields)?),
        0x12 => Performative::Attach(Attach::decode(&mut fields)?),
        0x13 => Performative::Flow(Flow::decode(&mut fields)?),
        0x14 => Performative::Transfer(Transfer::decode(&mut fields)?),
        0x15 => Performative::Disposition(Disposition::decode(&mut fields)?),
        0x16 => Performative::Detach(Detach::decode(&mut fields)?),
        0x17 => Performative::End(control::decode_error(&mut fields)?),
        0x18 => Performative::Close(control::decode_error(&mut fields)?),
        _ => return Err(DecodeError::WrongType("performative")),
    };
    Ok((performative, reader.rest()))
}
