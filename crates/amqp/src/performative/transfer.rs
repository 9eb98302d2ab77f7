//! Transfer and disposition: deliveries and their outcomes.

use super::fault::Fault;
use super::fields::{Fields, need, or_null, put_raw};
use super::link::Role;
use crate::error::DecodeError;
use crate::types::{Raw, Reader, descriptor, put_binary, put_bool, put_described_list, put_null, put_ubyte, put_uint};

/// One frame of a delivery.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "named as in AMQP 1.0 §2.7.5")]
pub struct Transfer<'a> {
    pub handle: u32,
    pub delivery_id: Option<u32>,
    pub delivery_tag: Option<&'a [u8]>,
    pub message_format: Option<u32>,
    pub settled: Option<bool>,
    pub more: bool,
    pub rcv_settle_mode: Option<u8>,
    pub state: Option<Raw<'a>>,
    pub aborted: bool,
}

impl<'a> Transfer<'a> {
    pub(super) fn decode(fields: &mut Fields<'a>) -> Result<Self, DecodeError> {
        let handle = need(fields.u32("handle")?, "handle")?;
        let delivery_id = fields.u32("delivery-id")?;
        let delivery_tag = fields.binary("delivery-tag")?;
        let message_format = fields.u32("message-format")?;
        let settled = match fields.value()? {
            crate::types::Value::Null => None,
            crate::types::Value::Bool(settled) => Some(settled),
            _ => return Err(DecodeError::WrongType("settled")),
        };
        let more = fields.flag("more")?;
        let rcv_settle_mode = fields.u8("rcv-settle-mode")?;
        let state = fields.raw()?;
        let _resume = fields.flag("resume")?;
        let aborted = fields.flag("aborted")?;
        Ok(Self {
            handle,
            delivery_id,
            delivery_tag,
            message_format,
            settled,
            more,
            rcv_settle_mode,
            state,
            aborted,
        })
    }

    /// Appends the performative, 11 fields.
    pub fn encode(&self, buf: &mut Vec<u8>) {
        put_described_list(buf, 0x14, 11, |buf| {
            put_uint(buf, self.handle);
            or_null(buf, self.delivery_id, put_uint);
            or_null(buf, self.delivery_tag, put_binary);
            or_null(buf, self.message_format, put_uint);
            or_null(buf, self.settled, put_bool);
            put_bool(buf, self.more);
            or_null(buf, self.rcv_settle_mode, put_ubyte);
            put_raw(buf, self.state);
            put_bool(buf, false);
            put_bool(buf, self.aborted);
            put_bool(buf, false);
        });
    }
}

/// The outcome of a delivery.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Outcome<'a> {
    /// Taken.
    Accepted,
    /// Will never be taken.
    Rejected(Option<Fault<'a>>),
    /// Not taken, unchanged.
    Released,
    /// Not taken.
    Modified {
        /// Counts as a failed attempt.
        delivery_failed: bool,
        /// Must not come to this link again.
        undeliverable_here: bool,
    },
}

impl<'a> Outcome<'a> {
    /// `None` for states that are no outcome (`received`, unknown ones).
    ///
    /// # Errors
    /// [`DecodeError`] when it is malformed.
    pub fn decode(raw: Raw<'a>) -> Result<Option<Self>, DecodeError> {
        let (code, mut fields) = Fields::described(&mut Reader::new(raw.bytes()))?;
        Ok(match code {
            0x24 => Some(Outcome::Accepted),
            0x25 => Some(Outcome::Rejected(fields.raw()?.map(Fault::decode).transpose()?)),
            0x26 => Some(Outcome::Released),
            0x27 => Some(Outcome::Modified {
                delivery_failed: fields.flag("delivery-failed")?,
                undeliverable_here: fields.flag("undeliverable-here")?,
            }),
            _ => None,
        })
    }

    /// Appends the described list. Accepted and released, which have no fields, are `list0` inside a performative, as
    /// every client and service writes them.
    pub fn encode(&self, buf: &mut Vec<u8>) {
        match self {
            Outcome::Accepted => {
                descriptor(buf, 0x24);
                buf.push(0x45);
            }
            Outcome::Rejected(error) => {
                put_described_list(buf, 0x25, 1, |buf| {
                    or_null(buf, error.as_ref(), |buf, error| error.encode(buf))
                });
            }
            Outcome::Released => {
                descriptor(buf, 0x26);
                buf.push(0x45);
            }
            Outcome::Modified {
                delivery_failed,
                undeliverable_here,
            } => put_described_list(buf, 0x27, 3, |buf| {
                put_bool(buf, *delivery_failed);
                put_bool(buf, *undeliverable_here);
                put_null(buf);
            }),
        }
    }
}

/// The outcome of a range of deliveries of a session.
#[derive(Debug, Clone, PartialEq)]
pub struct Disposition<'a> {
    /// The role of the sender of this frame for these deliveries.
    pub role: Role,
    /// The first delivery-id.
    pub first: u32,
    /// The last one, inclusive.
    pub last: u32,
    /// Whether the sender of this frame forgets them.
    pub settled: bool,
    /// The outcome; absent with `settled` counts as accepted.
    pub outcome: Option<Outcome<'a>>,
}

impl<'a> Disposition<'a> {
    pub(super) fn decode(fields: &mut Fields<'a>) -> Result<Self, DecodeError> {
        let role = Role::read(fields)?;
        let first = need(fields.u32("first")?, "first")?;
        let last = fields.u32("last")?.unwrap_or(first);
        let settled = fields.flag("settled")?;
        let outcome = fields.raw()?.map(Outcome::decode).transpose()?.flatten();
        Ok(Self {
            role,
            first,
            last,
            settled,
            outcome,
        })
    }

    /// Appends the performative, 6 fields.
    pub fn encode(&self, buf: &mut Vec<u8>) {
        put_described_list(buf, 0x15, 6, |buf| {
            self.role.put(buf);
            put_uint(buf, self.first);
            put_uint(buf, self.last);
            put_bool(buf, self.settled);
            or_null(buf, self.outcome.as_ref(), |buf, outcome| outcome.encode(buf));
            put_bool(buf, false);
        });
    }
}
