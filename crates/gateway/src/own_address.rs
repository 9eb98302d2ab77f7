//! The address of an identity's own messages, as senders and readers see it (Spec amqp §6).

use holdfast_model::IdentityId;
use holdfast_mqtt::escape;

/// `/devices/{id}[/modules/{id}]/messages/{channel}`, with escapes in the ids.
pub(crate) fn own_address(identity: &IdentityId, channel: &str) -> String {
    let mut address = "/devices/".to_owned();
    escape::encode(identity.device.as_str(), &mut address);
    if let Some(module) = &identity.module {
        address.push_str("/modules/");
        escape::encode(module.as_str(), &mut address);
    }
    address.push_str("/messages/");
    address.push_str(channel);
    address
}

#[cfg(test)]
mod tests {
    use holdfast_model::{DeviceId, ModuleId};

    use super::*;

    #[test]
    fn ids_are_escaped_and_modules_have_their_own() {
        let device = DeviceId::parse("a+b").expect("an id");
        let module = ModuleId::parse("m#").expect("an id");
        let device_only = IdentityId::device(device.clone());
        assert_eq!(own_address(&device_only, "events"), "/devices/a%2Bb/messages/events");
        assert_eq!(
            own_address(&IdentityId::module(device, module), "devicebound"),
            "/devices/a%2Bb/modules/m%23/messages/devicebound"
        );
    }
}
