//! The topics of the hub: publish topics of devices, subscription filters, and topics of the hub's own messages.
//!
//! Why: one hand-written grammar, parse and format side by side and tested against each other; a second opinion on
//! topics anywhere else would be a hole in the fence between devices. Wire facts: Spec device-mqtt §4, §5.1.
//! Invariants: ids are compared literally, as raw bytes, with the connection's own id *before* any wildcard is
//! considered, because ids may contain `+`, `#` and `$`; nothing here allocates when parsing.
//! Not here: the property bag ([`crate::bag`]), the MQTT 5 topics of Spec §13.

mod device;
mod filter;
mod hub;
mod request;

pub use device::DeviceTopic;
pub use filter::channels;
pub use hub::HubTopic;
pub use request::{RequestId, Version};

use holdfast_model::IdentityId;

/// The rest of the topic behind `devices/{d}` or `devices/{d}/modules/{m}` of exactly this identity.
#[inline]
fn own<'a>(identity: &IdentityId, topic: &'a str) -> Option<&'a str> {
    let rest = topic.strip_prefix("devices/")?.strip_prefix(identity.device.as_str())?;
    match &identity.module {
        None => Some(rest),
        Some(module) => rest.strip_prefix("/modules/")?.strip_prefix(module.as_str()),
    }
}

/// Appends `devices/{d}` or `devices/{d}/modules/{m}`.
fn write_own(identity: &IdentityId, out: &mut String) {
    out.push_str("devices/");
    out.push_str(identity.device.as_str());
    if let Some(module) = &identity.module {
        out.push_str("/modules/");
        out.push_str(module.as_str());
    }
}

#[cfg(test)]
mod tests;
