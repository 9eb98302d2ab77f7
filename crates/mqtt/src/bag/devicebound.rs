//! The bag of a cloud-to-device message, as devices have seen it from Azure (Spec device-mqtt §6, §4.2).

use super::write::Writer;
use holdfast_model::PropertyValue;

/// The properties of a cloud-to-device message.
#[derive(Debug, Clone, Copy, Default)]
pub struct Devicebound<'a> {
    /// Milliseconds since 1970; only when the sender has set it.
    pub expiry_ms: Option<i64>,
    /// `%24.cid`.
    pub correlation_id: Option<&'a str>,
    /// `%24.mid`.
    pub message_id: Option<&'a str>,
    /// `%24.to`, always there.
    pub to: &'a str,
    /// `%24.ct`.
    pub content_type: Option<&'a str>,
    /// `%24.ce`.
    pub content_encoding: Option<&'a str>,
    /// `%24.uid`, if it is text.
    pub user_id: Option<&'a str>,
    /// The word of `iothub-ack`, lower case.
    pub ack: Option<&'a str>,
}

/// Appends the bag: system properties in Azure's order, then the application's; null is the bare name (§4.2 rule 20).
pub fn devicebound<'a>(
    system: &Devicebound<'_>,
    application: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
    out: &mut String,
) {
    let mut writer = Writer::new(out);
    writer.time("%24.exp", system.expiry_ms);
    writer.system("%24.cid", system.correlation_id);
    writer.system("%24.mid", system.message_id);
    writer.system("%24.to", Some(system.to));
    writer.system("%24.ct", system.content_type);
    writer.system("%24.ce", system.content_encoding);
    writer.system("%24.uid", system.user_id);
    writer.system("iothub-ack", system.ack);
    for (name, value) in application {
        let value = value.map_or(PropertyValue::Null, |value| PropertyValue::Text(value.into()));
        writer.application(name, &value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_stand_in_the_order_of_azure_and_are_escaped() {
        let mut out = String::new();
        let system = Devicebound {
            expiry_ms: Some(1_910_732_800_000),
            correlation_id: Some("c/1"),
            message_id: Some("m 1"),
            to: "/devices/d%2B1/messages/devicebound",
            content_type: Some("application/json"),
            content_encoding: Some("utf-8"),
            user_id: Some("u"),
            ack: Some("full"),
        };
        devicebound(
            &system,
            [("a b", Some("c&d=e/é?#+")), ("null", None), ("empty", Some(""))],
            &mut out,
        );
        assert_eq!(
            out,
            "%24.exp=2030-07-19T23%3A06%3A40.0000000Z&%24.cid=c%2F1&%24.mid=m%201\
             &%24.to=%2Fdevices%2Fd%252B1%2Fmessages%2Fdevicebound&%24.ct=application%2Fjson&%24.ce=utf-8&%24.uid=u\
             &iothub-ack=full&a%20b=c%26d%3De%2F%C3%A9%3F%23%2B&null&empty="
        );
    }

    #[test]
    fn absent_properties_are_left_out_and_the_address_never() {
        let mut out = String::new();
        let system = Devicebound {
            to: "/x",
            ..Devicebound::default()
        };
        devicebound(&system, [], &mut out);
        assert_eq!(out, "%24.to=%2Fx");
    }
}
