//! One record read in place.

use holdfast_model::{AuthMethod, MessageSource, UnixMillis};

use super::fields::{property, record};
use super::wire::{Corrupt, Cursor};

/// A stored message; every text and byte slice lies in the entry.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RecordView<'a> {
    /// `iothub-message-source`; `None` when a later version wrote a source that this one does not know.
    pub source: Option<MessageSource>,
    /// `iothub-connection-device-id`.
    pub device_id: &'a str,
    /// `iothub-connection-module-id`.
    pub module_id: Option<&'a str>,
    /// `iothub-connection-auth-generation-id`; empty in events of the hub.
    pub generation_id: &'a str,
    /// `iothub-connection-auth-method`; `None` when a later version wrote a method that this one does not know.
    pub auth: Option<AuthMethod>,
    /// `dt-dataschema`.
    pub model_id: Option<&'a str>,
    /// `iothub-enqueuedtime`: when the hub received the message.
    pub received: UnixMillis,
    /// The body.
    pub payload: &'a [u8],
    /// `message-id`.
    pub message_id: Option<&'a str>,
    /// `correlation-id`.
    pub correlation_id: Option<&'a str>,
    /// `user-id`.
    pub user_id: Option<&'a [u8]>,
    /// `to`.
    pub to: Option<&'a str>,
    /// `content-type`.
    pub content_type: Option<&'a str>,
    /// `content-encoding`.
    pub content_encoding: Option<&'a str>,
    /// `absolute-expiry-time`, milliseconds since 1970.
    pub absolute_expiry_ms: Option<i64>,
    /// `iothub-creation-time-utc`.
    pub creation_time: Option<&'a str>,
    /// `dt-subject`.
    pub component: Option<&'a str>,
    /// `iothub-interface-id`.
    pub interface_id: Option<&'a str>,
    /// The output of a module's message.
    pub output_name: Option<&'a str>,
    /// `iothub-message-schema`.
    pub message_schema: Option<&'a str>,
    properties: Properties<'a>,
}

impl<'a> RecordView<'a> {
    /// Reads one record: the bytes of a `TelemetryRecord`, all of them.
    ///
    /// Checks everything that it hands out, the properties included; allocates nothing.
    ///
    /// # Errors
    /// [`Corrupt`] names the first byte that makes no sense.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Corrupt> {
        let mut view = Self::empty();
        let mut cursor = Cursor::new(bytes);
        while !cursor.is_at_end() {
            let start = cursor.offset();
            match cursor.tag()? {
                record::DEVICE_ID => view.device_id = cursor.text()?,
                record::MODULE_ID => view.module_id = Some(cursor.text()?).filter(|text| !text.is_empty()),
                record::GENERATION_ID => view.generation_id = cursor.text()?,
                record::AUTH_METHOD => view.auth = auth_method(cursor.varint()?),
                record::RECEIVED => view.received = UnixMillis(cursor.varint()?),
                record::PAYLOAD => view.payload = cursor.bytes()?,
                record::MESSAGE_ID => view.message_id = Some(cursor.text()?),
                record::CORRELATION_ID => view.correlation_id = Some(cursor.text()?),
                record::USER_ID => view.user_id = Some(cursor.bytes()?),
                record::TO => view.to = Some(cursor.text()?),
                record::CONTENT_TYPE => view.content_type = Some(cursor.text()?),
                record::CONTENT_ENCODING => view.content_encoding = Some(cursor.text()?),
                record::ABSOLUTE_EXPIRY => view.absolute_expiry_ms = Some(cursor.varint()?.cast_signed()),
                record::CREATION_TIME => view.creation_time = Some(cursor.text()?),
                record::MODEL_ID => view.model_id = Some(cursor.text()?).filter(|text| !text.is_empty()),
                record::COMPONENT => view.component = Some(cursor.text()?),
                record::INTERFACE_ID => view.interface_id = Some(cursor.text()?),
                record::OUTPUT_NAME => view.output_name = Some(cursor.text()?),
                record::SOURCE => view.source = MessageSource::from_number(cursor.varint()?),
                record::MESSAGE_SCHEMA => view.message_schema = Some(cursor.text()?),
                record::PROPERTY => {
                    PropertyView::parse(cursor.bytes()?).map_err(|inner| Corrupt {
                        offset: start + inner.offset,
                        what: inner.what,
                    })?;
                    if view.properties.count == 0 {
                        view.properties.rest = &bytes[start..];
                    }
                    view.properties.count += 1;
                }
                other => cursor.skip(other)?,
            }
        }
        if view.source != Some(MessageSource::Telemetry) {
            view.auth = None;
        }
        Ok(view)
    }

    /// The sender's own properties, in the order sent.
    #[must_use]
    pub fn properties(&self) -> Properties<'a> {
        self.properties
    }

    fn empty() -> Self {
        Self {
            source: Some(MessageSource::Telemetry),
            device_id: "",
            module_id: None,
            generation_id: "",
            auth: auth_method(0),
            model_id: None,
            received: UnixMillis(0),
            payload: &[],
            message_id: None,
            correlation_id: None,
            user_id: None,
            to: None,
            content_type: None,
            content_encoding: None,
            absolute_expiry_ms: None,
            creation_time: None,
            component: None,
            interface_id: None,
            output_name: None,
            message_schema: None,
            properties: Properties { rest: &[], count: 0 },
        }
    }
}

fn auth_method(number: u64) -> Option<AuthMethod> {
    u32::try_from(number).ok().and_then(AuthMethod::from_number)
}

/// One property of the sender's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PropertyView<'a> {
    /// Case-sensitive.
    pub name: &'a str,
    /// Its value.
    pub value: PropertyValueView<'a>,
}

/// A property's value as stored; see [`holdfast_model::PropertyValue`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PropertyValueView<'a> {
    /// Present without a value.
    Null,
    /// Text.
    Text(&'a str),
    /// One AMQP-encoded primitive, as sent.
    Amqp(&'a [u8]),
}

impl<'a> PropertyView<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, Corrupt> {
        let mut view = Self {
            name: "",
            value: PropertyValueView::Null,
        };
        let mut cursor = Cursor::new(bytes);
        while !cursor.is_at_end() {
            match cursor.tag()? {
                property::NAME => view.name = cursor.text()?,
                property::TEXT => view.value = PropertyValueView::Text(cursor.text()?),
                property::AMQP => view.value = PropertyValueView::Amqp(cursor.bytes()?),
                other => cursor.skip(other)?,
            }
        }
        Ok(view)
    }
}

/// The properties of one record; its length is known beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Properties<'a> {
    /// From the first property that has not been handed out to the end of the record.
    rest: &'a [u8],
    count: usize,
}

impl<'a> Iterator for Properties<'a> {
    type Item = PropertyView<'a>;

    fn next(&mut self) -> Option<PropertyView<'a>> {
        let mut cursor = Cursor::new(self.rest);
        while self.count > 0 && !cursor.is_at_end() {
            // The record has been checked as a whole, so that the two `ok` hide nothing.
            let tag = cursor.tag().ok()?;
            if tag == record::PROPERTY {
                let view = PropertyView::parse(cursor.bytes().ok()?).ok()?;
                self.rest = &self.rest[cursor.offset()..];
                self.count -= 1;
                return Some(view);
            }
            cursor.skip(tag).ok()?;
        }
        None
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.count, Some(self.count))
    }
}

impl ExactSizeIterator for Properties<'_> {}
