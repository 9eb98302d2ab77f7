//! The bag of a cloud-to-device message (Spec §6, §4.2).

use holdfast_model::{DeviceId, Property};

use super::write::Writer;

/// What a cloud-to-device message says about itself; `None` = the sender did not set it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CloudBag<'a> {
    /// Milliseconds since 1970.
    pub absolute_expiry_ms: Option<i64>,
    /// `%24.cid`.
    pub correlation_id: Option<&'a str>,
    /// `%24.mid`.
    pub message_id: Option<&'a str>,
    /// `%24.uid`.
    pub user_id: Option<&'a str>,
    /// As the sender wrote it, in its casing; `None` = the device's own address.
    pub to: Option<&'a str>,
    /// `%24.ct`.
    pub content_type: Option<&'a str>,
    /// `%24.ce`.
    pub content_encoding: Option<&'a str>,
    /// `none`, `positive`, `negative` or `full`, lower case (rule 7).
    pub ack: Option<&'a str>,
    /// The sender's own, in order.
    pub properties: &'a [Property<'a>],
}

impl CloudBag<'_> {
    /// Appends the bag in the order that Azure uses. It is never empty: `%24.to` always stands (rule 1).
    pub fn write(&self, device: &DeviceId, out: &mut String) {
        let address;
        let to = match self.to {
            Some(to) => to,
            None => {
                address = format!("/devices/{device}/messages/devicebound");
                &address
            }
        };
        let mut writer = Writer::new(out);
        writer.time("%24.exp", self.absolute_expiry_ms);
        writer.system("%24.cid", self.correlation_id);
        writer.system("%24.mid", self.message_id);
        writer.system("%24.uid", self.user_id);
        writer.system("%24.to", Some(to));
        writer.system("%24.ct", self.content_type);
        writer.system("%24.ce", self.content_encoding);
        writer.system("iothub-ack", self.ack);
        for property in self.properties {
            writer.application(&property.name, &property.value);
        }
    }
}
