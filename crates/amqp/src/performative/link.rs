//! Attach, detach, flow: links and their credit.

use super::fault::Fault;
use super::fields::{Fields, need, or_null, put_raw};
use super::terminus::Terminus;
use crate::error::DecodeError;
use crate::types::{Raw, put_bool, put_described_list, put_null, put_str, put_ubyte, put_uint, put_ulong};

/// The role of one end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Sends deliveries.
    Sender,
    /// Receives them.
    Receiver,
}

impl Role {
    /// The role at the other end.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Role::Sender => Role::Receiver,
            Role::Receiver => Role::Sender,
        }
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Self, DecodeError> {
        Ok(if fields.flag("role")? {
            Role::Receiver
        } else {
            Role::Sender
        })
    }

    pub(super) fn put(self, buf: &mut Vec<u8>) {
        put_bool(buf, self == Role::Receiver);
    }

    pub(super) fn read(fields: &mut Fields<'_>) -> Result<Self, DecodeError> {
        Self::decode(fields)
    }
}

/// How a link's sender settles; numbers as on the wire, unknown ones are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SenderSettleMode(pub u8);

impl SenderSettleMode {
    /// Deliveries stay unsettled until the receiver's outcome.
    pub const UNSETTLED: Self = Self(0);
    /// Deliveries are settled when sent.
    pub const SETTLED: Self = Self(1);
    /// Either, the default.
    pub const MIXED: Self = Self(2);
}

/// How a link's receiver settles; numbers as on the wire, unknown ones are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiverSettleMode(pub u8);

impl ReceiverSettleMode {
    /// It settles at once, with its outcome.
    pub const FIRST: Self = Self(0);
    /// It waits for the sender to settle after its outcome.
    pub const SECOND: Self = Self(1);
}

/// The start of a link, or the answer to one. The `unsettled` map is never sent and ignored when received.
#[derive(Debug, Clone, PartialEq)]
pub struct Attach<'a> {
    /// Unique within session and role.
    pub name: &'a str,
    /// The sender's number for the link.
    pub handle: u32,
    /// The role of the sender of this frame.
    pub role: Role,
    /// How the link's sender settles.
    pub snd_settle_mode: SenderSettleMode,
    /// How the link's receiver settles.
    pub rcv_settle_mode: ReceiverSettleMode,
    /// Where messages come from, undecoded; see [`Attach::source`].
    pub source_raw: Option<Raw<'a>>,
    /// Where messages go to, undecoded; see [`Attach::target`].
    pub target_raw: Option<Raw<'a>>,
    /// Mandatory when `role` is sender.
    pub initial_delivery_count: Option<u32>,
    /// The largest message that is taken, bytes; absent and 0 mean no limit.
    pub max_message_size: Option<u64>,
    /// Capabilities that are wished for: a symbol or an array of them, undecoded.
    pub desired_capabilities: Option<Raw<'a>>,
    /// A map with symbol keys, undecoded; see [`Attach::property`].
    pub properties: Option<Raw<'a>>,
}

impl<'a> Attach<'a> {
    pub(super) fn decode(fields: &mut Fields<'a>) -> Result<Self, DecodeError> {
        let name = need(fields.text("name")?, "name")?;
        let handle = need(fields.u32("handle")?, "handle")?;
        let role = Role::decode(fields)?;
        let snd_settle_mode = fields
            .u8("snd-settle-mode")?
            .map_or(SenderSettleMode::MIXED, SenderSettleMode);
        let rcv_settle_mode = fields
            .u8("rcv-settle-mode")?
            .map_or(ReceiverSettleMode::FIRST, ReceiverSettleMode);
        let source_raw = fields.raw()?;
        let target_raw = fields.raw()?;
        fields.skip(2)?;
        let initial_delivery_count = fields.u32("initial-delivery-count")?;
        let max_message_size = fields.u64("max-message-size")?;
        fields.skip(1)?;
        let desired_capabilities = fields.raw()?;
        let properties = fields.raw()?;
        Ok(Self {
            name,
            handle,
            role,
            snd_settle_mode,
            rcv_settle_mode,
            source_raw,
            target_raw,
            initial_delivery_count,
            max_message_size,
            desired_capabilities,
            properties,
        })
    }

    /// Appends the performative, 14 fields; offered capabilities are null.
    pub fn encode(&self, buf: &mut Vec<u8>) {
        put_described_list(buf, 0x12, 14, |buf| {
            put_str(buf, self.name);
            put_uint(buf, self.handle);
            self.role.put(buf);
            put_ubyte(buf, self.snd_settle_mode.0);
            put_ubyte(buf, self.rcv_settle_mode.0);
            put_raw(buf, self.source_raw);
            put_raw(buf, self.target_raw);
            put_null(buf);
            put_null(buf);
            or_null(buf, self.initial_delivery_count, put_uint);
            or_null(buf, self.max_message_size, put_ulong);
            put_null(buf);
            put_raw(buf, self.desired_capabilities);
            put_raw(buf, self.properties);
        });
    }

    /// The source, if there is one.
    ///
    /// # Errors
    /// [`DecodeError`] when it is no terminus.
    pub fn source(&self) -> Result<Option<Terminus<'a>>, DecodeError> {
        self.source_raw.map(Terminus::decode).transpose()
    }

    /// The target, if there is one.
    ///
    /// # Errors
    /// [`DecodeError`] when it is no terminus.
    pub fn target(&self) -> Result<Option<Terminus<'a>>, DecodeError> {
        self.target_raw.map(Terminus::decode).transpose()
    }

    /// The address at the far end as the sender of this frame sees it: its target when it sends, else its source.
    ///
    /// # Errors
    /// [`DecodeError`] when that terminus cannot be decoded.
    pub fn address(&self) -> Result<Option<&'a str>, DecodeError> {
        let terminus = match self.role {
            Role::Sender => self.target()?,
            Role::Receiver => self.source()?,
        };
        Ok(terminus.and_then(|terminus| terminus.address))
    }

    /// The value of a link property.
    ///
    /// # Errors
    /// [`DecodeError`] when the map is malformed up to the entry sought.
    pub fn property(&self, key: &str) -> Result<Option<crate::types::Value<'a>>, DecodeError> {
        match self.properties.map(Raw::value).transpose()? {
            Some(crate::types::Value::Map(map)) => map.get(key),
            _ => Ok(None),
        }
    }

    /// Whether a capability is among the desired ones.
    ///
    /// # Errors
    /// [`DecodeError`] when the field is malformed up to the one sought.
    pub fn desires(&self, capability: &str) -> Result<bool, DecodeError> {
        match self.desired_capabilities.map(Raw::value).transpose()? {
            Some(crate::types::Value::Array(array)) => {
                for item in array.iter() {
                    if item?.text() == Some(capability) {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Some(value) => Ok(value.text() == Some(capability)),
            None => Ok(false),
        }
    }
}

/// The end of a link.
#[derive(Debug, Clone, PartialEq)]
pub struct Detach<'a> {
    /// The sender's handle.
    pub handle: u32,
    /// Whether the link is closed, not only detached.
    pub closed: bool,
    /// Why.
    pub error: Option<Fault<'a>>,
}

impl<'a> Detach<'a> {
    pub(super) fn decode(fields: &mut Fields<'a>) -> Result<Self, DecodeError> {
        Ok(Self {
            handle: need(fields.u32("handle")?, "handle")?,
            closed: fields.flag("closed")?,
            error: fields.raw()?.map(Fault::decode).transpose()?,
        })
    }

    /// Appends the performative, 3 fields.
    pub fn encode(&self, buf: &mut Vec<u8>) {
        put_described_list(buf, 0x16, 3, |buf| {
            put_uint(buf, self.handle);
            put_bool(buf, self.closed);
            or_null(buf, self.error.as_ref(), |buf, error| error.encode(buf));
        });
    }
}

/// Windows of a session and, with a handle, the credit of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "named as in AMQP 1.0 §2.7.4")]
pub struct Flow {
    pub next_incoming_id: Option<u32>,
    pub incoming_window: u32,
    pub next_outgoing_id: u32,
    pub outgoing_window: u32,
    pub handle: Option<u32>,
    pub delivery_count: Option<u32>,
    pub link_credit: Option<u32>,
    pub available: Option<u32>,
    pub drain: bool,
    pub echo: bool,
}

impl Flow {
    pub(super) fn decode(fields: &mut Fields<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            next_incoming_id: fields.u32("next-incoming-id")?,
            incoming_window: need(fields.u32("incoming-window")?, "incoming-window")?,
            next_outgoing_id: need(fields.u32("next-outgoing-id")?, "next-outgoing-id")?,
            outgoing_window: need(fields.u32("outgoing-window")?, "outgoing-window")?,
            handle: fields.u32("handle")?,
            delivery_count: fields.u32("delivery-count")?,
            link_credit: fields.u32("link-credit")?,
            available: fields.u32("available")?,
            drain: fields.flag("drain")?,
            echo: fields.flag("echo")?,
        })
    }

    /// Appends the performative, 11 fields.
    pub fn encode(&self, buf: &mut Vec<u8>) {
        put_described_list(buf, 0x13, 11, |buf| {
            or_null(buf, self.next_incoming_id, put_uint);
            put_uint(buf, self.incoming_window);
            put_uint(buf, self.next_outgoing_id);
            put_uint(buf, self.outgoing_window);
            or_null(buf, self.handle, put_uint);
            or_null(buf, self.delivery_count, put_uint);
            or_null(buf, self.link_credit, put_uint);
            or_null(buf, self.available, put_uint);
            put_bool(buf, self.drain);
            put_bool(buf, self.echo);
            put_null(buf);
        });
    }
}
