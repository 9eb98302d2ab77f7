//! The open batch of one core and partition: records are encoded into it as they arrive.

use bytes::{BufMut, Bytes};
use holdfast_model::{
    AuthMethod, GenerationId, IdentityId, Incarnation, MessageSource, NodeId, PropertyValue, TelemetryMessage,
    UnixMillis,
};
use thiserror::Error;

use super::fields::{entry, property, record};
use super::wire::{encode_bytes, encode_number, encode_varint, field_bytes};
use super::{
    COMMAND_VERSION, Effect, HEADER_BYTES, Leadership, MAX_ENTRY_BYTES, MAX_RECORD_BYTES, StreamId, TELEMETRY_VERSION,
};

/// The smallest and largest buffer that a batch begins with; in between it is as large as the last batch and a quarter.
const MIN_BUFFER_BYTES: usize = 512;
const MAX_BUFFER_BYTES: usize = 256 << 10;
/// An entry may keep this much unused memory, or its own size if that is more; beyond it the buffer is cut.
const MAX_SLACK_BYTES: usize = 4 << 10;
/// Bytes of the fields of the owner.
const OWNER_BYTES: usize = 18;

/// The sender of a message and its authentication, which the sender cannot forge (Spec query-and-routing §12).
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The device or module.
    pub identity: &'a IdentityId,
    /// The generation of that identity: a re-created device has another.
    pub generation: &'a GenerationId,
    /// The credential of its connection.
    pub auth: AuthMethod,
    /// The model id given at connect (`dt-dataschema`).
    pub model_id: Option<&'a str>,
}

/// An event of the hub itself about an identity (Spec query-and-routing §14).
#[derive(Debug, Clone, Copy)]
pub struct HubEvent<'a, 'm> {
    /// Its kind.
    pub source: MessageSource,
    /// The device or module.
    pub identity: &'a IdentityId,
    /// Body and properties.
    pub message: &'a TelemetryMessage<'m>,
    /// When it happened.
    pub time: UnixMillis,
}

/// The header fields of a batch that is being closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// The stream that the batch belongs to.
    pub stream: StreamId,
    /// Its number within the stream, from 1.
    pub batch_number: u64,
    /// The leader's proposal of the enqueued time.
    pub enqueued: UnixMillis,
}

impl BatchHeader {
    /// The header of an entry that the owner writes for itself: no stream counts it.
    #[must_use]
    pub const fn of_owner(enqueued: UnixMillis) -> Self {
        Self {
            stream: StreamId {
                gateway_node: NodeId(0),
                incarnation: Incarnation(0),
                core: 0,
            },
            batch_number: 0,
            enqueued,
        }
    }
}

/// Why a message or an effect was not added to a batch; the batch is as before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PushError {
    /// Close the batch and push again.
    #[error("the batch is full")]
    BatchFull,
    /// No batch can hold the message; the limits of the protocols are far lower.
    #[error("the record has {bytes} bytes; the limit is {MAX_RECORD_BYTES}")]
    RecordTooLarge {
        /// Its encoded size.
        bytes: usize,
    },
    /// The batch has effects of another leadership. Close it and push again.
    #[error("the batch has effects of {0}")]
    OtherLeadership(Leadership),
    /// No entry can carry the effect.
    #[error("the effect cannot be stored: {0}")]
    InvalidEffect(&'static str),
}

/// Encodes messages into the entry that will be proposed. Reusable: [`Self::close`] leaves an empty batch.
#[derive(Debug, Default)]
pub struct BatchWriter {
    buffer: Vec<u8>,
    records: u32,
    last_batch_bytes: usize,
    /// The leadership of the effects; `None` without effects.
    owner: Option<Leadership>,
    /// The encoded effects, which follow the records.
    effects: Vec<u8>,
}

impl BatchWriter {
    /// An empty batch; allocates with the first push.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Messages in the batch.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.records
    }

    /// Nothing has been pushed since the last [`Self::close`].
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records == 0 && self.owner.is_none()
    }

    /// Bytes that the entry would have if it were closed now; 0 when empty.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let owner = if self.owner.is_some() { OWNER_BYTES } else { 0 };
        self.buffer.len() + owner + self.effects.len()
    }

    /// Appends one message that the hub received at `received`.
    ///
    /// # Errors
    /// [`PushError`]; nothing was appended.
    pub fn push(
        &mut self,
        origin: &Origin<'_>,
        message: &TelemetryMessage<'_>,
        received: UnixMillis,
    ) -> Result<(), PushError> {
        self.push_record(|buffer| encode_record(buffer, origin, message, received))
    }

    /// Appends an event that the owner has decided in the leadership `owner`; in any other one the entry is no part of the
    /// stream of events.
    ///
    /// # Errors
    /// [`PushError`]; nothing was appended.
    pub fn push_event(&mut self, owner: Leadership, event: &HubEvent<'_, '_>) -> Result<(), PushError> {
        self.check_owner(owner)?;
        self.push_record(|buffer| encode_event(buffer, event))?;
        self.owner = Some(owner);
        Ok(())
    }

    #[inline]
    fn push_record(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> Result<(), PushError> {
        let before = self.buffer.len();
        if before == 0 {
            self.open();
        }
        let buffer = &mut self.buffer;
        buffer.extend_from_slice(&[entry::RECORD.to_le_bytes()[0], 0x80, 0x80, 0]);
        let start = buffer.len();
        encode(buffer);
        // Measuring afterwards costs nothing per message; the excess is bounded by a message that is in memory anyway.
        let bytes = buffer.len() - start;
        if bytes > MAX_RECORD_BYTES {
            buffer.truncate(before);
            return Err(PushError::RecordTooLarge { bytes });
        }
        if self.bytes() > MAX_ENTRY_BYTES && (self.records > 0 || self.owner.is_some()) {
            self.buffer.truncate(before);
            return Err(PushError::BatchFull);
        }
        let length = bytes.to_le_bytes();
        // Always three varint bytes of 7 bits each; the first two have the continuation bit.
        let buffer = &mut self.buffer;
        buffer[start - 3] = length[0] | 0x80;
        buffer[start - 2] = (length[1] << 1) | (length[0] >> 7) | 0x80;
        buffer[start - 1] = ((length[2] << 2) | (length[1] >> 6)) & 0x7f;
        self.records += 1;
        Ok(())
    }

    /// Appends an effect that was computed in the leadership `owner`. It takes effect after all records of the entry.
    ///
    /// # Errors
    /// [`PushError`]; nothing was appended.
    pub fn push_effect(&mut self, owner: Leadership, effect: &Effect<'_>) -> Result<(), PushError> {
        self.check_owner(owner)?;
        effect.check().map_err(PushError::InvalidEffect)?;
        let before = self.effects.len();
        let mut command = Vec::new();
        effect.encode(&mut command);
        encode_bytes(&mut self.effects, entry::COMMAND, &command);
        // The largest effect is far smaller than an entry, so that it fits an empty batch.
        if self.bytes() > MAX_ENTRY_BYTES && !self.is_empty() {
            self.effects.truncate(before);
            return Err(PushError::BatchFull);
        }
        self.owner = Some(owner);
        Ok(())
    }

    fn check_owner(&self, owner: Leadership) -> Result<(), PushError> {
        match self.owner.filter(|other| *other != owner) {
            Some(other) => Err(PushError::OtherLeadership(other)),
            None => Ok(()),
        }
    }

    /// Writes the header and hands the entry out; the writer is empty again. Without effects the entry has version 1.
    pub fn close(&mut self, header: BatchHeader) -> Bytes {
        if self.buffer.is_empty() {
            self.open();
        }
        let mut entry_bytes = std::mem::take(&mut self.buffer);
        let version = match self.owner.take() {
            Some(owner) => {
                encode_fixed64(&mut entry_bytes, entry::OWNER_TERM, owner.term.0);
                encode_fixed64(&mut entry_bytes, entry::OWNER_NODE, owner.node.0);
                entry_bytes.append(&mut self.effects);
                COMMAND_VERSION
            }
            None => TELEMETRY_VERSION,
        };
        entry_bytes[..HEADER_BYTES].copy_from_slice(&header_bytes(version, &header, self.records));
        self.last_batch_bytes = entry_bytes.len();
        self.records = 0;
        if entry_bytes.capacity() - entry_bytes.len() > MAX_SLACK_BYTES.max(entry_bytes.len()) {
            entry_bytes.shrink_to_fit();
        }
        Bytes::from(entry_bytes)
    }

    /// Drops everything pushed since the last [`Self::close`].
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.effects.clear();
        self.owner = None;
        self.records = 0;
    }

    fn open(&mut self) {
        if self.buffer.capacity() == 0 {
            let expected = self.last_batch_bytes + self.last_batch_bytes / 4;
            self.buffer
                .reserve_exact(expected.clamp(MIN_BUFFER_BYTES, MAX_BUFFER_BYTES));
        }
        self.buffer.resize(HEADER_BYTES, 0);
    }
}

/// The header fields in order; each is a tag of one byte and a little-endian number.
fn header_bytes(version: u32, header: &BatchHeader, records: u32) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    let mut rest = &mut bytes[..];
    rest.put_u8(entry::VERSION.to_le_bytes()[0]);
    rest.put_u32_le(version);
    rest.put_u8(entry::GATEWAY_NODE.to_le_bytes()[0]);
    rest.put_u64_le(header.stream.gateway_node.get());
    rest.put_u8(entry::INCARNATION.to_le_bytes()[0]);
    rest.put_u64_le(header.stream.incarnation.get());
    rest.put_u8(entry::CORE.to_le_bytes()[0]);
    rest.put_u32_le(header.stream.core);
    rest.put_u8(entry::BATCH_NUMBER.to_le_bytes()[0]);
    rest.put_u64_le(header.batch_number);
    rest.put_u8(entry::ENQUEUED_TIME.to_le_bytes()[0]);
    rest.put_u64_le(header.enqueued.0);
    rest.put_u8(entry::RECORD_COUNT.to_le_bytes()[0]);
    rest.put_u32_le(records);
    debug_assert!(rest.is_empty(), "the header has exactly HEADER_BYTES");
    bytes
}

fn encode_fixed64(buffer: &mut Vec<u8>, tag: u32, value: u64) {
    buffer.push(tag.to_le_bytes()[0]);
    buffer.extend_from_slice(&value.to_le_bytes());
}

fn encode_identity(buffer: &mut Vec<u8>, identity: &IdentityId) {
    encode_bytes(buffer, record::DEVICE_ID, identity.device.as_str().as_bytes());
    if let Some(module) = &identity.module {
        encode_bytes(buffer, record::MODULE_ID, module.as_str().as_bytes());
    }
}

fn encode_event(buffer: &mut Vec<u8>, event: &HubEvent<'_, '_>) {
    encode_identity(buffer, event.identity);
    encode_number(buffer, record::SOURCE, event.source.number());
    encode_number(buffer, record::RECEIVED, event.time.0);
    encode_bytes(buffer, record::PAYLOAD, event.message.payload);
    encode_properties(buffer, event.message);
}

fn encode_record(buffer: &mut Vec<u8>, origin: &Origin<'_>, message: &TelemetryMessage<'_>, received: UnixMillis) {
    encode_identity(buffer, origin.identity);
    encode_bytes(buffer, record::GENERATION_ID, origin.generation.0.as_bytes());
    encode_number(buffer, record::AUTH_METHOD, u64::from(origin.auth.number()));
    encode_number(buffer, record::RECEIVED, received.0);
    encode_bytes(buffer, record::PAYLOAD, message.payload);
    if let Some(model_id) = origin.model_id {
        encode_bytes(buffer, record::MODEL_ID, model_id.as_bytes());
    }
    encode_properties(buffer, message);
}

fn encode_properties(buffer: &mut Vec<u8>, message: &TelemetryMessage<'_>) {
    let system = &message.system;
    let mut encode_text = |tag, text: &Option<std::borrow::Cow<'_, str>>| {
        if let Some(text) = text {
            encode_bytes(buffer, tag, text.as_bytes());
        }
    };
    encode_text(record::MESSAGE_ID, &system.message_id);
    encode_text(record::CORRELATION_ID, &system.correlation_id);
    encode_text(record::TO, &system.to);
    encode_text(record::CONTENT_TYPE, &system.content_type);
    encode_text(record::CONTENT_ENCODING, &system.content_encoding);
    encode_text(record::CREATION_TIME, &system.creation_time);
    encode_text(record::COMPONENT, &system.component);
    encode_text(record::INTERFACE_ID, &system.interface_id);
    encode_text(record::OUTPUT_NAME, &system.output_name);
    encode_text(record::MESSAGE_SCHEMA, &system.message_schema);
    if let Some(user) = &system.user_id {
        encode_bytes(buffer, record::USER_ID, user);
    }
    if let Some(expiry) = system.absolute_expiry_ms {
        encode_number(buffer, record::ABSOLUTE_EXPIRY, expiry.cast_unsigned());
    }
    for item in &message.properties {
        let (value_tag, value) = value_bytes(&item.value);
        let mut length = field_bytes(property::NAME, item.name.len());
        if value_tag != 0 {
            length += field_bytes(value_tag, value.len());
        }
        encode_varint(buffer, u64::from(record::PROPERTY));
        encode_varint(buffer, length as u64);
        encode_bytes(buffer, property::NAME, item.name.as_bytes());
        if value_tag != 0 {
            encode_bytes(buffer, value_tag, value);
        }
    }
}

/// The field of a property's value and its content; tag 0 = null, no field at all.
fn value_bytes<'a>(value: &'a PropertyValue<'_>) -> (u32, &'a [u8]) {
    match value {
        PropertyValue::Null => (0, &[]),
        PropertyValue::Text(text) => (property::TEXT, text.as_bytes()),
        PropertyValue::Amqp(bytes) => (property::AMQP, bytes),
    }
}
