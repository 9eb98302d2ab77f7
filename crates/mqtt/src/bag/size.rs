//! How large a message is (Spec query-and-routing §12).

use holdfast_model::{PropertyValue, TelemetryMessage};

use crate::limits::MAX_TELEMETRY_BYTES;
use crate::violation::Violation;

/// Bytes of a timestamp, in whatever form it was sent.
const TIMESTAMP_BYTES: usize = 8;

/// The message's size, bytes: payload, values of system properties, names and values of application properties.
#[must_use]
pub fn message_size(message: &TelemetryMessage<'_>) -> usize {
    let system = &message.system;
    let texts = [
        &system.message_id,
        &system.correlation_id,
        &system.to,
        &system.content_type,
        &system.content_encoding,
        &system.creation_time,
        &system.component,
        &system.interface_id,
        &system.output_name,
        &system.message_schema,
    ];
    let mut size = message.payload.len();
    size += texts.into_iter().flatten().map(|text| text.len()).sum::<usize>();
    size += system.user_id.as_ref().map_or(0, |bytes| bytes.len());
    size += system.absolute_expiry_ms.map_or(0, |_| TIMESTAMP_BYTES);
    for property in &message.properties {
        size += property.name.len()
            + match &property.value {
                PropertyValue::Null => 0,
                PropertyValue::Text(text) => text.len(),
                PropertyValue::Amqp(bytes) => bytes.len(),
            };
    }
    size
}

/// Refuses messages above 262,144 bytes.
///
/// # Errors
/// [`Violation::MessageTooLarge`] with the size.
pub fn check_size(message: &TelemetryMessage<'_>) -> Result<(), Violation> {
    match message_size(message) {
        size if size <= MAX_TELEMETRY_BYTES => Ok(()),
        size => Err(Violation::MessageTooLarge(u32::try_from(size).unwrap_or(u32::MAX))),
    }
}
