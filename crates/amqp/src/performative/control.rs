//! Open, begin, end, close: the connection and its sessions.

use super::fault::Fault;
use super::fields::{Fields, need, or_null, put_raw};
use crate::error::DecodeError;
use crate::types::{Raw, put_described_list, put_null, put_str, put_uint, put_ushort};

/// How a peer introduces itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Open<'a> {
    /// Its name for itself.
    pub container_id: &'a str,
    /// The host that it addresses.
    pub hostname: Option<&'a str>,
    /// The largest frame that it takes, bytes; absent means 2³²−1.
    pub max_frame_size: Option<u32>,
    /// The highest channel that it takes; absent means 65,535.
    pub channel_max: Option<u16>,
    /// Its idle time-out, milliseconds: it closes the connection after this time without a frame.
    pub idle_time_out: Option<u32>,
    /// Capabilities that it wishes for, undecoded.
    pub desired_capabilities: Option<Raw<'a>>,
    /// Product, version and so on: a map with symbol keys, undecoded.
    pub properties: Option<Raw<'a>>,
}

impl<'a> Open<'a> {
    pub(super) fn decode(fields: &mut Fields<'a>) -> Result<Self, DecodeError> {
        let container_id = need(fields.text("container-id")?, "container-id")?;
        let hostname = fields.text("hostname")?;
        let max_frame_size = fields.u32("max-frame-size")?;
        let channel_max = fields.u16("channel-max")?;
        let idle_time_out = fields.u32("idle-time-out")?;
        fields.skip(3)?;
        let desired_capabilities = fields.raw()?;
        let properties = fields.raw()?;
        Ok(Self {
            container_id,
            hostname,
            max_frame_size,
            channel_max,
            idle_time_out,
            desired_capabilities,
            properties,
        })
    }

    /// Appends the performative, 10 fields.
    pub fn encode(&self, buf: &mut Vec<u8>) {
        put_described_list(buf, 0x10, 10, |buf| {
            put_str(buf, self.container_id);
            or_null(buf, self.hostname, put_str);
            or_null(buf, self.max_frame_size, put_uint);
            or_null(buf, self.channel_max, put_ushort);
            or_null(buf, self.idle_time_out, put_uint);
            put_null(buf);
            put_null(buf);
            put_null(buf);
            put_raw(buf, self.desired_capabilities);
            put_raw(buf, self.properties);
        });
    }
}

/// The begin of a session, or the answer to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begin {
    /// In an answer: the channel of the begin that is answered.
    pub remote_channel: Option<u16>,
    /// The id of the first transfer frame of the sender.
    pub next_outgoing_id: u32,
    /// Transfer frames that it takes.
    pub incoming_window: u32,
    /// Transfer frames that it may send.
    pub outgoing_window: u32,
    /// The highest handle that it takes; absent means 2³²−1.
    pub handle_max: Option<u32>,
}

impl Begin {
    pub(super) fn decode(fields: &mut Fields<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            remote_channel: fields.u16("remote-channel")?,
            next_outgoing_id: need(fields.u32("next-outgoing-id")?, "next-outgoing-id")?,
            incoming_window: need(fields.u32("incoming-window")?, "incoming-window")?,
            outgoing_window: need(fields.u32("outgoing-window")?, "outgoing-window")?,
            handle_max: fields.u32("handle-max")?,
        })
    }

    /// Appends the performative, 8 fields.
    pub fn encode(&self, buf: &mut Vec<u8>) {
        put_described_list(buf, 0x11, 8, |buf| {
            or_null(buf, self.remote_channel, put_ushort);
            put_uint(buf, self.next_outgoing_id);
            put_uint(buf, self.incoming_window);
            put_uint(buf, self.outgoing_window);
            or_null(buf, self.handle_max, put_uint);
            put_null(buf);
            put_null(buf);
            put_null(buf);
        });
    }
}

/// The one field of an end or a close.
pub(super) fn decode_error<'a>(fields: &mut Fields<'a>) -> Result<Option<Fault<'a>>, DecodeError> {
    fields.raw()?.map(Fault::decode).transpose()
}

/// Appends an end, 1 field.
pub fn encode_end(buf: &mut Vec<u8>, error: Option<&Fault<'_>>) {
    put_described_list(buf, 0x17, 1, |buf| or_null(buf, error, |buf, error| error.encode(buf)));
}

/// Appends a close, 1 field.
pub fn encode_close(buf: &mut Vec<u8>, error: Option<&Fault<'_>>) {
    put_described_list(buf, 0x18, 1, |buf| or_null(buf, error, |buf, error| error.encode(buf)));
}
