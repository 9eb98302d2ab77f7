//! Any text as a topic, a filter and a property bag: no panic, both grammars hold in both directions, and nothing
//! reaches another identity.
#![no_main]

use holdfast_model::{DeviceId, IdentityId, ModuleId, PropertyValue, TelemetryMessage};
use holdfast_mqtt::bag;
use holdfast_mqtt::topic::{DeviceTopic, HubTopic, channels};
use libfuzzer_sys::fuzz_target;

fn identities() -> [IdentityId; 3] {
    let device = |id| DeviceId::parse(id).expect("valid");
    [
        IdentityId::device(device("d")),
        IdentityId::device(device("a+#$")),
        IdentityId::module(device("d"), ModuleId::parse("m").expect("valid")),
    ]
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let identities = identities();
    let mut owners = 0;
    for identity in &identities {
        if let Ok(topic) = DeviceTopic::parse(identity, text) {
            let mut written = String::new();
            topic.write(identity, &mut written);
            assert_eq!(DeviceTopic::parse(identity, &written), Ok(topic));
            if let DeviceTopic::Events { bag } = topic {
                owners += 1;
                check_bag(bag);
            }
        }
        if let Some(topic) = HubTopic::parse(identity, text) {
            let mut written = String::new();
            topic.write(identity, &mut written);
            assert_eq!(HubTopic::parse(identity, &written), Some(topic));
        }
        let _ = channels(identity, text);
    }
    assert!(owners <= 1, "one topic belongs to one identity");
    check_bag(text);
});

fn check_bag(text: &str) {
    let _ = bag::parse_utc(text);
    let mut message = TelemetryMessage::default();
    if bag::parse(text, &mut message).is_err() {
        return;
    }
    // Payload aside, a bag cannot say more than it is long, but for the fixed size of a time and a kept prefix.
    assert!(message.size() <= text.len() * 3 + 16);
    let mut names: Vec<_> = message.properties.iter().map(|property| &*property.name).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "names are unique");
    let mut written = String::new();
    bag::write(&message, &mut written);
    let mut again = TelemetryMessage::default();
    bag::parse(&written, &mut again).expect("what was parsed can be written");
    assert_eq!(again.system, message.system);
    // A pair of nothing at all cannot be written.
    let kept = |message: &TelemetryMessage<'_>| {
        message.properties.iter().filter(|p| !(p.name.is_empty() && p.value == PropertyValue::Null)).count()
    };
    assert_eq!(kept(&again), kept(&message));
}
