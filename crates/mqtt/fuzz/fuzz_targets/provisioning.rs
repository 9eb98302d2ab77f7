//! User names and topics of devices that register: nothing panics, and what is echoed cannot break a reply's topic.
#![no_main]

use holdfast_mqtt::provisioning::{ProvisioningLogin, ProvisioningRequest, reply_topic};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    if let Some(login) = ProvisioningLogin::parse(input) {
        assert!(!login.id_scope.is_empty() && !login.id_scope.contains('/'));
    }
    if let Ok(request) = ProvisioningRequest::parse(input) {
        let topic = reply_topic(200, request.rid(), Some(3));
        // Clients split it at these.
        assert_eq!(topic.matches('$').count(), 2);
        assert_eq!(topic.matches('/').count(), 4);
    }
});
