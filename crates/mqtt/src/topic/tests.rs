use holdfast_model::{DeviceId, ModuleId};
use proptest::prelude::*;

use super::*;
use crate::subscriptions::{Channel, ChannelSet};
use crate::violation::Violation;

fn device(id: &str) -> IdentityId {
    IdentityId::device(DeviceId::parse(id).expect("valid"))
}

fn module(device: &str, module: &str) -> IdentityId {
    IdentityId::module(
        DeviceId::parse(device).expect("valid"),
        ModuleId::parse(module).expect("valid"),
    )
}

#[test]
fn telemetry_topics_give_their_bag_raw_with_or_without_the_final_slash() {
    let rows = [
        ("devices/dev-1/messages/events", ""),
        ("devices/dev-1/messages/events/", ""),
        ("devices/dev-1/messages/events//", "/"),
        ("devices/dev-1/messages/events/a=b/c=d", "a=b/c=d"),
        ("devices/dev-1/messages/events/p=a+b#/", "p=a+b#/"),
    ];
    for (topic, bag) in rows {
        assert_eq!(
            DeviceTopic::parse(&device("dev-1"), topic),
            Ok(DeviceTopic::Events { bag }),
            "{topic}"
        );
    }
    // Conformance vector 7.
    let topic = "devices/dev-1/modules/mod1/messages/events//";
    assert_eq!(
        DeviceTopic::parse(&module("dev-1", "mod1"), topic),
        Ok(DeviceTopic::Events { bag: "/" })
    );
}

#[test]
fn ids_are_compared_literally_before_any_wildcard() {
    for id in ["a+b", "#", "$iothub", "+", "a#b", "%24", "?x=1&y"] {
        let Ok(id) = DeviceId::parse(id) else { continue };
        let topic = format!("devices/{id}/messages/events/k=v");
        assert_eq!(
            DeviceTopic::parse(&IdentityId::device(id), &topic),
            Ok(DeviceTopic::Events { bag: "k=v" })
        );
    }
}

#[test]
fn topics_of_other_identities_are_foreign() {
    let rows = [
        "devices/dev-2/messages/events/",
        "devices/dev-11/messages/events/",
        "devices/dev/messages/events/",
        "devices/DEV-1/messages/events/",
        "Devices/dev-1/messages/events/",
        "/devices/dev-1/messages/events/",
        "devices//messages/events/",
        "devices/dev-1/messages/eventsX",
        "devices/dev-1/messages/devicebound/",
        "devices/dev-1/modules/mod1/messages/events/",
        "devices/dev-1/files/",
        "$iothub/twin/res/200/?$rid=1",
        "$iothub/streams/POST/x",
        "$iothub/twin/GETX/?$rid=1",
        "$iothub/twin/GET/$rid=1",
        "$iothub/telemetry",
        "$iothub/credentials/POST/other/?$rid=5",
        "$dps/registrations/PUT/iotdps-register/?$rid=1",
        "x",
    ];
    for topic in rows {
        assert_eq!(
            DeviceTopic::parse(&device("dev-1"), topic),
            Err(Violation::ForeignTopic),
            "{topic}"
        );
    }
    // A module publishes on its own form only, and not on its sibling's.
    for topic in [
        "devices/dev-1/messages/events/",
        "devices/dev-1/modules/mod2/messages/events/",
    ] {
        assert_eq!(
            DeviceTopic::parse(&module("dev-1", "mod1"), topic),
            Err(Violation::ForeignTopic),
            "{topic}"
        );
    }
}

#[test]
fn wildcards_outside_the_own_id_and_the_bag_are_named_as_such() {
    for topic in [
        "devices/+/messages/events/",
        "devices/#",
        "#",
        "$iothub/twin/GET/?$rid=a+b",
        "$iothub/twin/GET/#",
    ] {
        assert_eq!(
            DeviceTopic::parse(&device("dev-1"), topic),
            Err(Violation::WildcardInTopic),
            "{topic}"
        );
    }
}

#[test]
fn twin_topics_of_every_sdk_are_understood() {
    let me = device("d");
    let parse = |topic| DeviceTopic::parse(&me, topic);
    // Python and Node: a UUID; C: a counter.
    let rid = "0e1d2c3b-0000-4000-8000-123456789abc";
    let topic = format!("$iothub/twin/GET/?$rid={rid}");
    assert_eq!(DeviceTopic::parse(&me, &topic), Ok(DeviceTopic::TwinGet { rid }));
    let patch = |rid, version| Ok(DeviceTopic::TwinPatch { rid, version });
    let base = "$iothub/twin/PATCH/properties/reported";
    assert_eq!(
        parse("$iothub/twin/PATCH/properties/reported/?$rid=7"),
        patch(Some("7"), None)
    );
    assert_eq!(
        parse("$iothub/twin/PATCH/properties/reported/?$rid=7&$version=3"),
        patch(Some("7"), Some(3))
    );
    assert_eq!(
        parse("$iothub/twin/PATCH/properties/reported/?$version=3&$rid=7"),
        patch(Some("7"), Some(3))
    );
    // Escapes in the id are the client's own business.
    assert_eq!(
        parse("$iothub/twin/PATCH/properties/reported/?$rid=a%2fb/c"),
        patch(Some("a%2fb/c"), None)
    );
    // Without an id a patch is applied silently; a GET makes no sense.
    assert_eq!(parse(base), patch(None, None));
    assert_eq!(parse("$iothub/twin/PATCH/properties/reported/"), patch(None, None));
    assert_eq!(
        parse("$iothub/twin/PATCH/properties/reported/?$rid="),
        patch(None, None)
    );
    for topic in [
        "$iothub/twin/GET",
        "$iothub/twin/GET/",
        "$iothub/twin/GET/?",
        "$iothub/twin/GET/?$rid=",
        "$iothub/twin/GET/?x=1",
    ] {
        assert_eq!(parse(topic), Err(Violation::RequestIdMissing), "{topic}");
    }
    for version in ["", "x", "-1", "1.0", "18446744073709551616"] {
        let topic = format!("{base}/?$rid=1&$version={version}");
        assert_eq!(
            DeviceTopic::parse(&me, &topic),
            Err(Violation::VersionNumber),
            "{topic}"
        );
    }
}

#[test]
fn a_request_id_has_at_most_256_bytes() {
    let me = device("d");
    let topic = format!("$iothub/twin/GET/?$rid={}", "r".repeat(256));
    assert!(DeviceTopic::parse(&me, &topic).is_ok());
    assert_eq!(
        DeviceTopic::parse(&me, &format!("{topic}r")),
        Err(Violation::RequestIdTooLong)
    );
}

#[test]
fn a_method_response_has_any_32_bit_status_and_an_id() {
    let me = device("d");
    let parse = |topic| DeviceTopic::parse(&me, topic);
    let response = |status| Ok(DeviceTopic::MethodResponse { status, rid: "1f" });
    assert_eq!(parse("$iothub/methods/res/200/?$rid=1f"), response(200));
    assert_eq!(parse("$iothub/methods/res/-2147483648/?$rid=1f"), response(i32::MIN));
    assert_eq!(parse("$iothub/methods/res/0/?$rid=1f"), response(0));
    for status in ["", "x", "2147483648", "1.5"] {
        let topic = format!("$iothub/methods/res/{status}/?$rid=1");
        assert_eq!(DeviceTopic::parse(&me, &topic), Err(Violation::MethodStatus), "{topic}");
    }
    assert_eq!(parse("$iothub/methods/res/200"), Err(Violation::RequestIdMissing));
    assert_eq!(parse("$iothub/methods/res/200/"), Err(Violation::RequestIdMissing));
}

#[test]
fn a_request_for_a_certificate_has_an_id() {
    let parse = |topic| DeviceTopic::parse(&device("d"), topic);
    let topic = "$iothub/credentials/POST/issueCertificate/?$rid=a%2F5";
    assert_eq!(parse(topic), Ok(DeviceTopic::IssueCertificate { rid: "a%2F5" }));
    let mut written = String::new();
    DeviceTopic::IssueCertificate { rid: "a%2F5" }.write(&device("d"), &mut written);
    assert_eq!(written, topic);
    let missing = parse("$iothub/credentials/POST/issueCertificate/");
    assert_eq!(missing, Err(Violation::RequestIdMissing));
}

#[test]
fn filters_of_every_sdk_open_their_channel() {
    use Channel::{C2d, Credentials, Desired, Inputs, Methods, TwinRes};
    let twin = ChannelSet::only(TwinRes).with(Desired);
    let device_rows = [
        ("devices/dev-1/messages/devicebound/#", ChannelSet::only(C2d)),
        ("devices/dev-1/messages/devicebound", ChannelSet::only(C2d)),
        ("devices/dev-1/messages/devicebound/", ChannelSet::only(C2d)),
        ("devices/dev-1/messages/devicebound/+", ChannelSet::only(C2d)),
        ("devices/+/messages/devicebound/#", ChannelSet::only(C2d)),
        ("$iothub/twin/res/#", ChannelSet::only(TwinRes)),
        ("$iothub/twin/PATCH/properties/desired/#", ChannelSet::only(Desired)),
        ("$iothub/twin/PATCH/#", ChannelSet::only(Desired)),
        ("$iothub/methods/POST/#", ChannelSet::only(Methods)),
        ("$iothub/methods/POST/reboot/#", ChannelSet::only(Methods)),
        ("$iothub/methods/POST/+/#", ChannelSet::only(Methods)),
        ("$iothub/methods/#", ChannelSet::only(Methods)),
        ("$iothub/twin/#", twin),
        ("$iothub/credentials/res/#", ChannelSet::only(Credentials)),
        ("$iothub/credential/res/#", ChannelSet::only(Credentials)),
        ("$iothub/#", twin.with(Methods).with(Credentials)),
    ];
    for (filter, expected) in device_rows {
        assert_eq!(channels(&device("dev-1"), filter), Ok(expected), "{filter}");
    }
    let module_rows = [
        // Conformance vector 18.
        (
            "devices/dev-1/modules/mod1/messages/devicebound/#",
            ChannelSet::only(C2d),
        ),
        ("devices/dev-1/modules/mod1/inputs/#", ChannelSet::only(Inputs)),
        ("devices/dev-1/modules/mod1/inputs/input1/#", ChannelSet::only(Inputs)),
        ("devices/dev-1/modules/mod1/#", ChannelSet::only(Inputs)),
        ("$iothub/methods/POST/#", ChannelSet::only(Methods)),
    ];
    for (filter, expected) in module_rows {
        assert_eq!(channels(&module("dev-1", "mod1"), filter), Ok(expected), "{filter}");
    }
    let odd = device("a+#$");
    assert_eq!(
        channels(&odd, "devices/a+#$/messages/devicebound/#"),
        Ok(ChannelSet::only(C2d))
    );
}

#[test]
fn filters_that_reach_beyond_the_identity_are_foreign() {
    let rows = [
        "#",
        "+/#",
        "/#",
        "$iothub",
        "$iothub/twin/res",
        "$iothub/twin/res/200/#",
        "$iothub/+/res/#",
        "$iothub/tw/#",
        "$iothub/methods/POST/a/b/#",
        "$iothub/methods/POST//#",
        "$iothub/methods/POST/a#/#",
        "$iothub/streams/POST/#",
        "$iothub/credentials/POST/#",
        "$dps/registrations/res/#",
        "devices/#",
        "devices/+/#",
        "devices/dev-1/#",
        "devices/dev-1/messages/#",
        "devices/dev-1/messages/events/#",
        "devices/dev-2/messages/devicebound/#",
        "devices/+/messages/devicebound/x",
        "devices/+/modules/+/inputs/#",
        "devices/dev-1/modules/mod1/inputs/#",
    ];
    for filter in rows {
        assert_eq!(
            channels(&device("dev-1"), filter),
            Err(Violation::ForeignFilter),
            "{filter}"
        );
    }
    let rows = [
        "devices/dev-1/messages/devicebound/#",
        "devices/+/messages/devicebound/#",
        "devices/dev-1/modules/mod2/#",
        "devices/dev-1/modules/mod1",
        "devices/dev-1/modules/+/inputs/#",
        "devices/dev-1/modules/mod1/inputs/a/b/#",
    ];
    for filter in rows {
        assert_eq!(
            channels(&module("dev-1", "mod1"), filter),
            Err(Violation::ForeignFilter),
            "{filter}"
        );
    }
}

#[test]
fn the_hubs_topics_are_spelled_as_the_sdks_want_them() {
    let me = device("dev-1");
    let write = |topic: HubTopic<'_>, identity: &IdentityId| {
        let mut out = String::new();
        topic.write(identity, &mut out);
        out
    };
    let rows = [
        (
            HubTopic::CloudToDevice { bag: "%24.to=x" },
            "devices/dev-1/messages/devicebound/%24.to=x",
        ),
        (
            HubTopic::TwinResponse {
                status: 204,
                rid: "r1",
                version: Some(5),
            },
            "$iothub/twin/res/204/?$rid=r1&$version=5",
        ),
        (
            HubTopic::TwinResponse {
                status: 400,
                rid: "r1",
                version: None,
            },
            "$iothub/twin/res/400/?$rid=r1",
        ),
        (
            HubTopic::Desired { version: 9 },
            "$iothub/twin/PATCH/properties/desired/?$version=9",
        ),
        (
            HubTopic::Method {
                name: "reboot",
                rid: "1f",
            },
            "$iothub/methods/POST/reboot/?$rid=1f",
        ),
    ];
    for (topic, expected) in rows {
        let text = write(topic, &me);
        assert_eq!(text, expected);
        // C# drops empty segments and then wants five (rule 1).
        assert!(
            text.split('/').filter(|segment| !segment.is_empty()).count() >= 5,
            "{text}"
        );
    }
}

fn identity() -> impl Strategy<Value = IdentityId> {
    let id = "[A-Za-z0-9:.+%_#*?!(),=@;$'-]{1,20}";
    (id, proptest::option::of(id)).prop_filter_map("an id", |(device, module)| {
        let device = DeviceId::parse(&device).ok()?;
        match module {
            None => Some(IdentityId::device(device)),
            Some(module) => Some(IdentityId::module(device, ModuleId::parse(&module).ok()?)),
        }
    })
}

proptest! {
    #[test]
    fn a_written_device_topic_parses_to_itself(
        identity in identity(),
        kind in 0..4u8,
        rid in "[^&+#\0]{1,60}",
        version: Option<u64>,
        has_rid: bool,
        status: i32,
        bag in "[^\0]{0,60}",
    ) {
        let rid = rid.as_str();
        let topic = match kind {
            0 => DeviceTopic::Events { bag: &bag },
            1 => DeviceTopic::TwinGet { rid },
            2 => DeviceTopic::TwinPatch { rid: has_rid.then_some(rid), version },
            _ => DeviceTopic::MethodResponse { status, rid },
        };
        let mut text = String::new();
        topic.write(&identity, &mut text);
        prop_assert_eq!(DeviceTopic::parse(&identity, &text), Ok(topic));
    }

    #[test]
    fn a_written_hub_topic_parses_to_itself(
        identity in identity(),
        kind in 0..4u8,
        rid in "[^&\0]{1,60}",
        name in "[^/\0]{1,20}",
        version: u64,
        has_version: bool,
        status in 100..1000u16,
        bag in "[^\0]{0,60}",
    ) {
        let (rid, optional) = (rid.as_str(), has_version.then_some(version));
        let topic = match kind {
            0 => HubTopic::CloudToDevice { bag: &bag },
            1 => HubTopic::TwinResponse { status, rid, version: optional },
            2 => HubTopic::Desired { version },
            _ => HubTopic::Method { name: &name, rid },
        };
        let mut text = String::new();
        topic.write(&identity, &mut text);
        prop_assert_eq!(HubTopic::parse(&identity, &text), Some(topic));
    }

    #[test]
    fn no_identity_can_publish_as_another(one in identity(), other in identity(), bag in "[a-z/&=]{0,20}") {
        prop_assume!(one != other);
        let mut text = String::new();
        DeviceTopic::Events { bag: &bag }.write(&other, &mut text);
        prop_assert!(DeviceTopic::parse(&one, &text).is_err());
        let mut filter = String::new();
        HubTopic::CloudToDevice { bag: "#" }.write(&other, &mut filter);
        prop_assert!(channels(&one, &filter).is_err() || filter == "devices/+/messages/devicebound/#");
    }

    #[test]
    fn noise_does_not_panic(identity in identity(), text in "\\PC{0,60}", tail in "[/?$&=a-z0-9#+-]{0,40}") {
        for text in [text.clone(), format!("$iothub/{tail}"), format!("devices/{}/{tail}", identity.device)] {
            let _ = DeviceTopic::parse(&identity, &text);
            let _ = HubTopic::parse(&identity, &text);
            let _ = channels(&identity, &text);
        }
    }
}
