//! Bags as they are written: system properties first, one `=` per pair, everything escaped (Spec §4.2 rules 2–5).

use holdfast_model::{PropertyValue, TelemetryMessage};

use super::format_utc;
use crate::escape;

/// Appends pairs, with `&` between them.
pub(super) struct Writer<'o> {
    out: &'o mut String,
    first: bool,
}

impl<'o> Writer<'o> {
    pub(super) fn new(out: &'o mut String) -> Self {
        Self { out, first: true }
    }

    fn separate(&mut self) {
        if !std::mem::replace(&mut self.first, false) {
            self.out.push('&');
        }
    }

    /// `key` is written as it is.
    pub(super) fn system(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.separate();
            self.out.push_str(key);
            self.out.push('=');
            escape::encode(value, self.out);
        }
    }

    pub(super) fn time(&mut self, key: &str, ms: Option<i64>) {
        if let Some(ms) = ms {
            let mut text = String::new();
            format_utc(&mut text, ms);
            self.system(key, Some(&text));
        }
    }

    /// Null is the bare name. Values that MQTT cannot carry are left out.
    pub(super) fn application(&mut self, name: &str, value: &PropertyValue<'_>) {
        let value = match value {
            PropertyValue::Null => None,
            PropertyValue::Text(text) => Some(text),
            PropertyValue::Amqp(_) => return,
        };
        self.separate();
        escape::encode(name, self.out);
        if let Some(value) = value {
            self.out.push('=');
            escape::encode(value, self.out);
        }
    }
}

/// Appends the bag of a telemetry message as a device sends it; nothing when it has no properties.
///
/// A `user_id` that is not UTF-8 and AMQP-typed values are left out: MQTT has no form for them.
pub fn write(message: &TelemetryMessage<'_>, out: &mut String) {
    let system = &message.system;
    let mut writer = Writer::new(out);
    writer.system("%24.on", system.output_name.as_deref());
    writer.system("%24.mid", system.message_id.as_deref());
    writer.system("%24.cid", system.correlation_id.as_deref());
    writer.system(
        "%24.uid",
        system
            .user_id
            .as_deref()
            .and_then(|bytes| std::str::from_utf8(bytes).ok()),
    );
    writer.system("%24.to", system.to.as_deref());
    writer.system("%24.ct", system.content_type.as_deref());
    writer.system("%24.ce", system.content_encoding.as_deref());
    writer.time("%24.exp", system.absolute_expiry_ms);
    writer.system("%24.ctime", system.creation_time.as_deref());
    writer.system("%24.sub", system.component.as_deref());
    writer.system("%24.ifid", system.interface_id.as_deref());
    writer.system("%24.schema", system.message_schema.as_deref());
    for property in &message.properties {
        writer.application(&property.name, &property.value);
    }
}
