//! Frames and their performatives (AMQP 1.0 part 2): what a device writes, and what it looks at in answers.

use anyhow::{Context, Result, bail, ensure};

use super::value::{
    Value, Values, put_bool, put_descriptor, put_list, put_null, put_string, put_ubyte, put_uint, put_ushort,
};

/// Without SASL: the first bytes of a connection that authenticates by `$cbs`.
pub(crate) const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\x00\x01\x00\x00";
/// The largest frame that a device takes.
pub(crate) const MAX_FRAME: u32 = 64 * 1024;
/// A frame without a performative: the sender is alive.
pub(crate) const EMPTY_FRAME: [u8; 8] = [0, 0, 0, 8, 2, 0, 0, 0];

const HEADER_BYTES: usize = 8;
const OPEN: u8 = 0x10;
const BEGIN: u8 = 0x11;
const ATTACH: u8 = 0x12;
const FLOW: u8 = 0x13;
const TRANSFER: u8 = 0x14;
const DISPOSITION: u8 = 0x15;
const DETACH: u8 = 0x16;
const END: u8 = 0x17;
const CLOSE: u8 = 0x18;
const ACCEPTED: u8 = 0x24;

/// The direction of a link, as the device sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The device sends.
    Sender,
    /// The device receives.
    Receiver,
}

/// A performative of the server, as far as a device looks at it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Reply<'a> {
    /// The connection is open; the server's idle time-out in milliseconds.
    Open { idle_timeout: Option<u64> },
    /// The session that the device has begun on `remote_channel` is there.
    Begin { remote_channel: u64, incoming_window: u64 },
    /// A link is attached; `is_refused` when a detach with the reason follows.
    Attach {
        name: &'a [u8],
        handle: u64,
        is_refused: bool,
    },
    /// Credit of a link or of the session.
    Flow {
        next_incoming: u64,
        incoming_window: u64,
        /// Handle, delivery count and credit.
        link: Option<(u64, u64, u64)>,
    },
    /// A message, whole.
    Transfer {
        handle: u64,
        delivery: u64,
        is_settled: bool,
        message: &'a [u8],
    },
    /// Outcomes of the device's deliveries.
    Disposition { first: u64, last: u64, outcome: Outcome },
    /// A link has ended.
    Detach { handle: u64, reason: String },
    /// A session has ended.
    End { reason: String },
    /// The connection has ended.
    Close { reason: String },
    /// A sign of life.
    Empty,
}

/// What became of deliveries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// They are stored.
    Accepted,
    /// Anything else, with the condition of its error.
    Not(String),
}

/// Takes the first whole frame of `input`: its channel, what it says, and its bytes; `None` when more has to be read.
pub(crate) fn first_frame(input: &[u8]) -> Result<Option<(u16, Reply<'_>, usize)>> {
    let Some((head, _)) = input.split_at_checked(HEADER_BYTES) else {
        return Ok(None);
    };
    let size = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
    ensure!(
        (HEADER_BYTES as u32..=MAX_FRAME).contains(&size),
        "the server sent a frame of {size} bytes"
    );
    let Some((frame, _)) = input.split_at_checked(size as usize) else {
        return Ok(None);
    };
    let body = frame
        .get(usize::from(head[4]) * 4..)
        .context("a frame that ends in its header")?;
    let channel = u16::from_be_bytes([head[6], head[7]]);
    Ok(Some((channel, parse(body)?, frame.len())))
}

fn parse(body: &[u8]) -> Result<Reply<'_>> {
    if body.is_empty() {
        return Ok(Reply::Empty);
    }
    let mut values = Values(body);
    let Value::Described(code, list) = values.next()? else {
        bail!("a frame without a performative");
    };
    let Value::Items(count, fields) = Values(list).next()? else {
        bail!("a performative that is no list");
    };
    let mut fields = Fields {
        left: count,
        values: Values(fields),
    };
    let code = u8::try_from(code).unwrap_or_default();
    Ok(match code {
        OPEN => Reply::Open {
            idle_timeout: fields.nth(4)?.unsigned(),
        },
        BEGIN => Reply::Begin {
            remote_channel: fields
                .nth(0)?
                .unsigned()
                .context("a session that the device has not begun")?,
            incoming_window: fields.nth(1)?.unsigned().unwrap_or_default(),
        },
        ATTACH => {
            let name = fields.nth(0)?.text().context("a link without a name")?;
            let handle = fields.nth(0)?.unsigned().unwrap_or_default();
            // The server's role follows; it is refused when the server's own terminus is missing.
            let server_receives = fields.nth(0)? == Value::Bool(true);
            let (source, target) = (fields.nth(2)?, fields.nth(0)?);
            let own = if server_receives { target } else { source };
            Reply::Attach {
                name,
                handle,
                is_refused: own == Value::Null,
            }
        }
        FLOW => {
            let number = |value: Value<'_>| value.unsigned().unwrap_or_default();
            let next_incoming = number(fields.nth(0)?);
            let incoming_window = number(fields.nth(0)?);
            let handle = fields.nth(2)?.unsigned();
            let (delivery_count, credit) = (number(fields.nth(0)?), number(fields.nth(0)?));
            Reply::Flow {
                next_incoming,
                incoming_window,
                link: handle.map(|handle| (handle, delivery_count, credit)),
            }
        }
        TRANSFER => {
            let handle = fields.nth(0)?.unsigned().unwrap_or_default();
            let delivery = fields.nth(0)?.unsigned().unwrap_or_default();
            let is_settled = fields.nth(2)? == Value::Bool(true);
            ensure!(
                fields.nth(0)? != Value::Bool(true),
                "a message in several frames, which no load has"
            );
            Reply::Transfer {
                handle,
                delivery,
                is_settled,
                message: values.0,
            }
        }
        DISPOSITION => {
            let first = fields.nth(1)?.unsigned().context("a disposition of nothing")?;
            let last = fields.nth(0)?.unsigned().unwrap_or(first);
            Reply::Disposition {
                first,
                last,
                outcome: outcome(fields.nth(1)?)?,
            }
        }
        DETACH => Reply::Detach {
            handle: fields.nth(0)?.unsigned().unwrap_or_default(),
            reason: reason(fields.nth(1)?)?,
        },
        END => Reply::End {
            reason: reason(fields.nth(0)?)?,
        },
        CLOSE => Reply::Close {
            reason: reason(fields.nth(0)?)?,
        },
        other => bail!("the server sent the performative {other:#04x}"),
    })
}

/// The fields of a list; those left out are null.
struct Fields<'a> {
    left: u32,
    values: Values<'a>,
}

impl<'a> Fields<'a> {
    /// The next field after `skipped` ones.
    fn nth(&mut self, skipped: u32) -> Result<Value<'a>> {
        for _ in 0..skipped {
            self.next()?;
        }
        self.next()
    }

    fn next(&mut self) -> Result<Value<'a>> {
        if self.left == 0 {
            return Ok(Value::Null);
        }
        self.left -= 1;
        self.values.next()
    }
}

fn outcome(state: Value<'_>) -> Result<Outcome> {
    Ok(match state {
        Value::Described(code, _) if code == u64::from(ACCEPTED) => Outcome::Accepted,
        Value::Described(code, list) => {
            let error = match Values(list).next()? {
                Value::Items(count, fields) if count > 0 => Values(fields).next()?,
                _ => Value::Null,
            };
            Outcome::Not(format!("outcome {code:#04x} {}", reason(error)?))
        }
        _ => Outcome::Not("no outcome".to_owned()),
    })
}

/// The condition of an error; descriptions name devices and times, so they are left out.
fn reason(error: Value<'_>) -> Result<String> {
    let Value::Described(_, list) = error else {
        return Ok("without an error".to_owned());
    };
    let Value::Items(count, fields) = Values(list).next()? else {
        bail!("an error that is no list");
    };
    let mut fields = Fields {
        left: count,
        values: Values(fields),
    };
    let condition = fields.next()?.text().unwrap_or_default();
    Ok(String::from_utf8_lossy(condition).into_owned())
}

/// Appends a frame on `channel`: a performative of `count` fields, then `payload`.
fn put_frame(out: &mut Vec<u8>, channel: u16, code: u8, count: u32, fields: impl FnOnce(&mut Vec<u8>), payload: &[u8]) {
    let at = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, 2, 0]);
    out.extend_from_slice(&channel.to_be_bytes());
    put_descriptor(out, code);
    put_list(out, count, fields);
    out.extend_from_slice(payload);
    let size = (out.len() - at) as u32;
    out[at..at + 4].copy_from_slice(&size.to_be_bytes());
}

pub(crate) fn put_open(out: &mut Vec<u8>, container: &str, host: &str) {
    let fields = |out: &mut Vec<u8>| {
        put_string(out, container);
        put_string(out, host);
        put_uint(out, MAX_FRAME);
        put_ushort(out, 8191);
        // No idle time-out of the device's own: signs of life are answered by TCP.
        put_null(out);
    };
    put_frame(out, 0, OPEN, 5, fields, &[]);
}

pub(crate) fn put_begin(out: &mut Vec<u8>, channel: u16) {
    let fields = |out: &mut Vec<u8>| {
        put_null(out);
        put_uint(out, 0);
        put_uint(out, u32::MAX / 2);
        put_uint(out, u32::MAX / 2);
        put_uint(out, 255);
    };
    put_frame(out, channel, BEGIN, 5, fields, &[]);
}

pub(crate) fn put_attach(out: &mut Vec<u8>, channel: u16, handle: u32, name: &str, role: Role, address: &str) {
    let terminus = |out: &mut Vec<u8>, code: u8, address: Option<&str>| {
        put_descriptor(out, code);
        match address {
            Some(address) => put_list(out, 1, |out| put_string(out, address)),
            None => put_list(out, 0, |_| {}),
        }
    };
    let is_receiver = role == Role::Receiver;
    let fields = |out: &mut Vec<u8>| {
        put_string(out, name);
        put_uint(out, handle);
        put_bool(out, is_receiver);
        put_ubyte(out, 0);
        put_ubyte(out, 0);
        terminus(out, 0x28, is_receiver.then_some(address));
        terminus(out, 0x29, (!is_receiver).then_some(address));
        put_null(out);
        put_null(out);
        put_uint(out, 0);
    };
    put_frame(out, channel, ATTACH, 10, fields, &[]);
}

/// Grants `credit` on the link `handle`, of which `received` deliveries have come.
pub(crate) fn put_credit(out: &mut Vec<u8>, channel: u16, handle: u32, received: u32, credit: u32) {
    let fields = |out: &mut Vec<u8>| {
        put_uint(out, received);
        put_uint(out, u32::MAX / 2);
        put_uint(out, 0);
        put_uint(out, u32::MAX / 2);
        put_uint(out, handle);
        put_uint(out, received);
        put_uint(out, credit);
    };
    put_frame(out, channel, FLOW, 7, fields, &[]);
}

/// Settles a delivery that was received, with `accepted`.
pub(crate) fn put_accepted(out: &mut Vec<u8>, channel: u16, delivery: u32) {
    let fields = |out: &mut Vec<u8>| {
        put_bool(out, true);
        put_uint(out, delivery);
        put_null(out);
        put_bool(out, true);
        put_descriptor(out, ACCEPTED);
        put_list(out, 0, |_| {});
    };
    put_frame(out, channel, DISPOSITION, 5, fields, &[]);
}

pub(crate) fn put_close(out: &mut Vec<u8>) {
    put_frame(out, 0, CLOSE, 0, |_| {}, &[]);
}

/// Appends a message; see [`Transfer::DELIVERY_AT`] for what is patched into copies of it.
pub(crate) fn put_transfer(
    out: &mut Vec<u8>,
    channel: u16,
    handle: u32,
    delivery: u32,
    is_settled: bool,
    message: &[u8],
) {
    let fields = |out: &mut Vec<u8>| {
        put_uint(out, handle);
        put_uint(out, delivery);
        // The tag: four bytes, since a tag identifies a delivery among those that are unsettled.
        out.extend_from_slice(&[0xa0, 4]);
        out.extend_from_slice(&delivery.to_be_bytes());
        put_uint(out, 0);
        put_bool(out, is_settled);
        put_bool(out, false);
    };
    put_frame(out, channel, TRANSFER, 6, fields, message);
}

/// Where the changing parts of a transfer are, counted from its first byte.
pub(crate) struct Transfer;

impl Transfer {
    /// The channel.
    pub(crate) const CHANNEL_AT: usize = 6;
    /// The delivery's number: after the header, the descriptor, the list's head, the handle, and the type.
    pub(crate) const DELIVERY_AT: usize = HEADER_BYTES + 3 + 9 + 5 + 1;
    /// The tag: after the number, its type and its length.
    pub(crate) const TAG_AT: usize = Self::DELIVERY_AT + 4 + 2;
}

#[cfg(test)]
mod tests {
    use super::super::value::put_binary;
    use super::*;

    #[test]
    fn a_transfer_has_its_parts_where_they_are_patched() {
        let mut message = Vec::new();
        put_descriptor(&mut message, 0x75);
        put_binary(&mut message, b"body");
        let mut frame = Vec::new();
        put_transfer(&mut frame, 0x0102, 3, 0x0a0b_0c0d, false, &message);
        assert_eq!(frame[Transfer::CHANNEL_AT..Transfer::CHANNEL_AT + 2], [1, 2]);
        for at in [Transfer::DELIVERY_AT, Transfer::TAG_AT] {
            assert_eq!(frame[at..at + 4], [0x0a, 0x0b, 0x0c, 0x0d]);
        }
        let (channel, reply, used) = first_frame(&frame).unwrap().unwrap();
        assert_eq!((channel, used), (0x0102, frame.len()));
        assert_eq!(
            reply,
            Reply::Transfer {
                handle: 3,
                delivery: 0x0a0b_0c0d,
                is_settled: false,
                message: &message
            }
        );
        for length in 0..frame.len() {
            assert!(first_frame(&frame[..length]).unwrap().is_none(), "cut at {length}");
        }
    }

    #[test]
    fn outcomes_and_errors_are_read() {
        let mut out = Vec::new();
        put_accepted(&mut out, 1, 9);
        let (_, reply, _) = first_frame(&out).unwrap().unwrap();
        let accepted = Reply::Disposition {
            first: 9,
            last: 9,
            outcome: Outcome::Accepted,
        };
        assert_eq!(reply, accepted);
        out.clear();
        let fields = |out: &mut Vec<u8>| {
            put_descriptor(out, 0x1d);
            put_list(out, 1, |out| super::super::value::put_symbol(out, "amqp:not-allowed"));
        };
        put_frame(&mut out, 0, CLOSE, 1, fields, &[]);
        let (_, reply, _) = first_frame(&out).unwrap().unwrap();
        let reason = "amqp:not-allowed".to_owned();
        assert_eq!(reply, Reply::Close { reason });
        assert!(
            first_frame(&[0, 0, 0, 7, 2, 0, 0, 0]).is_err(),
            "shorter than its header"
        );
        assert!(first_frame(&[0xff; 8]).is_err(), "longer than agreed");
    }
}
