use std::borrow::Cow;

use holdfast_model::{Property, PropertyValue, TelemetryMessage};
use proptest::prelude::*;

use super::*;
use crate::codec::{Publish, QoS};
use crate::violation::Violation;

fn parsed(bag: &str) -> TelemetryMessage<'_> {
    let mut message = TelemetryMessage::default();
    parse(bag, &mut message).expect("valid");
    message
}

fn properties<'m>(message: &'m TelemetryMessage<'_>) -> Vec<(&'m str, Option<&'m str>)> {
    let value = |value: &'m PropertyValue<'_>| match value {
        PropertyValue::Text(text) => Some(&**text),
        _ => None,
    };
    message
        .properties
        .iter()
        .map(|property| (&*property.name, value(&property.value)))
        .collect()
}

#[test]
fn conformance_vector_6() {
    let message = parsed("$.ct=application%2fjson&k&e=&p=a+b/");
    assert_eq!(message.system.content_type.as_deref(), Some("application/json"));
    assert_eq!(properties(&message), [("k", None), ("e", Some("")), ("p", Some("a+b"))]);
}

#[test]
fn a_bag_as_python_writes_it() {
    let bag = "%24.mid=id%201&%24.cid=c%2F1&%24.uid=u&%24.ct=application%2Fjson&%24.ce=utf-8\
               &%24.exp=2030-01-01T00%3A00%3A00Z&a%20b=c%26d%3De%2F%C3%A9";
    let message = parsed(bag);
    let system = &message.system;
    assert_eq!(system.message_id.as_deref(), Some("id 1"));
    assert_eq!(system.correlation_id.as_deref(), Some("c/1"));
    assert_eq!(system.user_id.as_deref(), Some(&b"u"[..]));
    assert_eq!(system.content_type.as_deref(), Some("application/json"));
    assert_eq!(system.content_encoding.as_deref(), Some("utf-8"));
    assert_eq!(system.absolute_expiry_ms, Some(1_893_456_000_000));
    assert_eq!(properties(&message), [("a b", Some("c&d=e/é"))]);
}

#[test]
fn a_bag_as_node_writes_it() {
    let bag = "%24.mid=id%201&%24.cid=c%2F1&%24.uid=u&%24.to=x&%24.ct=application%2Fjson&%24.ce=utf-8\
               &%24.exp=2030-03-17T17%3A46%3A40.000Z&a%20b'(=c%26d%3De%2F%C3%A9&%24.sub=comp1";
    let message = parsed(bag);
    assert_eq!(message.system.to.as_deref(), Some("x"));
    assert_eq!(message.system.component.as_deref(), Some("comp1"));
    assert_eq!(message.system.absolute_expiry_ms, Some(1_900_000_000_000));
    assert_eq!(properties(&message), [("a b'(", Some("c&d=e/é"))]);
    let message = parsed("%24.on=output1&k=v/");
    assert_eq!(message.system.output_name.as_deref(), Some("output1"));
    assert_eq!(properties(&message), [("k", Some("v"))]);
}

#[test]
fn keys_with_a_raw_dollar_are_the_same_keys() {
    // Java writes `$.mid`; a client may escape more than it must.
    for key in ["$.mid", "%24.mid", "%24%2emid", "$.m%69d", "%24.m%69d"] {
        let bag = format!("{key}=7");
        let message = parsed(&bag);
        assert_eq!(message.system.message_id.as_deref(), Some("7"), "{key}");
        assert!(message.properties.is_empty());
    }
}

#[test]
fn each_system_key_has_its_field() {
    let message = parsed("$.ctime=2030&$.ifid=urn:azureiot:Security:SecurityAgent:1&$.schema=s&$.cdid=x&$.cmid=y");
    assert_eq!(message.system.creation_time.as_deref(), Some("2030"));
    assert_eq!(
        message.system.interface_id.as_deref(),
        Some("urn:azureiot:Security:SecurityAgent:1")
    );
    assert_eq!(message.system.message_schema.as_deref(), Some("s"));
    assert!(
        message.properties.is_empty(),
        "the connection's own ids are not the device's to say"
    );
    // Null and empty differ; unknown keys and times that are none are kept under their decoded names.
    assert_eq!(parsed("$.mid&$.cid=").system.message_id, None);
    assert_eq!(parsed("$.mid&$.cid=").system.correlation_id.as_deref(), Some(""));
    let message = parsed("%24.diagid=1&$.x=2&%24.exp=tomorrow&%24");
    assert_eq!(message.system.absolute_expiry_ms, None);
    let expected = [
        ("$.diagid", Some("1")),
        ("$.x", Some("2")),
        ("$.exp", Some("tomorrow")),
        ("$", None),
    ];
    assert_eq!(properties(&message), expected);
}

#[test]
fn one_trailing_slash_and_one_leading_question_mark_do_not_belong_to_the_bag() {
    assert_eq!(properties(&parsed("/")), []);
    assert_eq!(properties(&parsed("?/")), []);
    assert_eq!(properties(&parsed("?a=1/")), [("a", Some("1"))]);
    assert_eq!(properties(&parsed("??a=1//")), [("?a", Some("1/"))]);
    assert_eq!(properties(&parsed("a=b/c&d/e")), [("a", Some("b/c")), ("d/e", None)]);
}

#[test]
fn the_last_of_two_equal_names_counts() {
    assert_eq!(properties(&parsed("a=1&b=2&a=3&%61")), [("a", None), ("b", Some("2"))]);
    assert_eq!(properties(&parsed("A=1&a=2")), [("A", Some("1")), ("a", Some("2"))]);
    assert_eq!(parsed("$.mid=1&%24.mid=2").system.message_id.as_deref(), Some("2"));
    assert_eq!(parsed("$.mid=1&%24.mid").system.message_id, None);
}

#[test]
fn empty_pairs_are_ignored_and_bad_escapes_stay() {
    assert_eq!(properties(&parsed("&&a=1&&")), [("a", Some("1"))]);
    assert_eq!(
        properties(&parsed("a=100%&b=%zz&c=%4")),
        [("a", Some("100%")), ("b", Some("%zz")), ("c", Some("%4"))]
    );
    assert_eq!(properties(&parsed("a=b=c")), [("a", Some("b=c"))]);
}

#[test]
fn names_that_the_hub_stamps_are_dropped() {
    let bag = "iothub-ack=full&iothub-operation=x&iothub-message-source=x&iothub-enqueuedtime=1\
               &iothub-connection-device-id=other&iothub%2Dconnection-auth-method=x&iothub-connection-module-id=x\
               &iothub-connection-auth-generation-id=1&dt-dataschema=dtmi:x;1\
               &iothub-creation-time-utc=2030&iothub-MessageType=x&mine=1";
    let message = parsed(bag);
    let names: Vec<_> = message.properties.iter().map(|property| &*property.name).collect();
    assert_eq!(names, ["iothub-creation-time-utc", "iothub-MessageType", "mine"]);
}

#[test]
fn values_without_escapes_are_borrowed() {
    let message = parsed("%24.mid=abc&name=value&%24.x=1");
    assert!(matches!(message.system.message_id, Some(Cow::Borrowed("abc"))));
    let property = &message.properties[0];
    assert!(matches!(property.name, Cow::Borrowed("name")));
    assert!(matches!(property.value, PropertyValue::Text(Cow::Borrowed("value"))));
}

#[test]
fn text_that_is_not_utf8_after_decoding_is_a_violation() {
    for bag in ["a=%ff", "%ff=1", "$.mid=%c3%28", "%24.%ff"] {
        assert_eq!(
            parse(bag, &mut TelemetryMessage::default()),
            Err(Violation::BagUtf8),
            "{bag}"
        );
    }
}

#[test]
fn a_message_id_has_at_most_128_characters() {
    let longest = format!("$.mid={}", "é".repeat(128));
    assert!(parse(&longest, &mut TelemetryMessage::default()).is_ok());
    let long = format!("$.mid={}", "x".repeat(129));
    assert_eq!(
        parse(&long, &mut TelemetryMessage::default()),
        Err(Violation::MessageIdTooLong)
    );
}

#[test]
fn a_message_has_at_most_256_application_properties() {
    let bag: String = (0..256).map(|n| format!("p{n}&")).collect();
    assert_eq!(parsed(&bag).properties.len(), 256);
    // Another value for a name that is there already needs no more room.
    assert_eq!(parsed(&format!("{bag}p7=1&iothub-ack=full")).properties.len(), 256);
    let more = format!("{bag}more");
    assert_eq!(
        parse(&more, &mut TelemetryMessage::default()),
        Err(Violation::TooManyProperties)
    );
}

#[test]
fn flags_of_a_publish_are_recorded_and_cannot_be_faked() {
    let publish = Publish {
        retain: true,
        qos: QoS::AtLeastOnce,
        payload: b"x",
        ..Publish::default()
    };
    let message = telemetry("mqtt-retain=no&a=1", &publish).expect("valid");
    assert_eq!(properties(&message), [("mqtt-retain", Some("true")), ("a", Some("1"))]);
    let publish = Publish { dup: true, ..publish };
    let message = telemetry("", &publish).expect("valid");
    assert_eq!(
        properties(&message),
        [("mqtt-retain", Some("true")), ("mqtt-dup", Some("true"))]
    );
    let message = telemetry("", &Publish::default()).expect("valid");
    assert_eq!((message.payload, properties(&message)), (&[][..], vec![]));
}

#[test]
fn payload_and_properties_together_have_at_most_262144_bytes() {
    // Counted: payload, values of system properties, names and values of the sender's own. Not counted: system keys.
    let bag = "$.mid=12345&name=value&null";
    let payload = vec![0; 262_144 - 5 - 9 - 4];
    let publish = Publish {
        payload: &payload,
        ..Publish::default()
    };
    let message = telemetry(bag, &publish).expect("just fits");
    assert_eq!(message.size(), 262_144);
    let payload = vec![0; payload.len() + 1];
    let publish = Publish {
        payload: &payload,
        ..Publish::default()
    };
    assert_eq!(telemetry(bag, &publish), Err(Violation::MessageTooLarge(262_145)));
    // The hub's own properties do not make a message of the largest size too large.
    let payload = vec![0; 262_144];
    let publish = Publish {
        payload: &payload,
        retain: true,
        ..Publish::default()
    };
    assert!(telemetry("", &publish).is_ok());
    assert_eq!(parsed("$.exp=2030-01-01&$.uid=ab").size(), 8 + 2);
}

#[test]
fn times_are_read_in_every_dialect_of_the_sdks() {
    let noon = Some(1_893_499_200_000);
    let rows = [
        ("2030-01-01T12:00:00Z", noon),
        ("2030-01-01T12:00:00", noon),
        ("2030-01-01T12:00:00z", noon),
        ("2030-01-01 12:00:00", noon),
        ("2030-01-01 12:00:00+00:00", noon),
        ("2030-01-01T12:00", noon),
        ("2030-01-01T14:00:00+02:00", noon),
        ("2030-01-01T14:00:00.000000+0200", noon),
        ("2030-01-01T07:00:00-05", noon),
        ("2030-01-01T12:00:00.0000000Z", noon),
        (" 2030-01-01T12:00:00Z ", noon),
        ("2030-01-01T12:00:00.1239Z", Some(1_893_499_200_123)),
        ("2030-01-01", Some(1_893_456_000_000)),
        ("1970-01-01T00:00:00Z", Some(0)),
        ("1969-12-31T23:59:59.5Z", Some(-500)),
        ("0001-01-01T00:00:00Z", Some(-62_135_596_800_000)),
        ("9999-12-31T23:59:59.9999999Z", Some(253_402_300_799_999)),
        ("2024-02-29", Some(1_709_164_800_000)),
        ("2000-02-29", Some(951_782_400_000)),
        ("2016-12-31T23:59:60Z", Some(1_483_228_800_000)),
    ];
    for (text, ms) in rows {
        assert_eq!(parse_utc(text), ms, "{text}");
    }
    let wrong = [
        "",
        "x",
        "2030",
        "2030-01",
        "2030-1-1",
        "2030-13-01",
        "2030-00-01",
        "2030-01-32",
        "2030-01-00",
        "2023-02-29",
        "1900-02-29",
        "0000-01-01",
        "2030-01-01T",
        "2030-01-01T12",
        "2030-01-01T24:00:00",
        "2030-01-01T12:60:00",
        "2030-01-01T12:00:61",
        "2030-01-01T12:00:00.",
        "2030-01-01T12:00:00.1234567890",
        "2030-01-01T12:00:00.x",
        "2030-01-01T12:00:00+15:00",
        "2030-01-01T12:00:00+1",
        "2030-01-01T12:00:00ZZ",
        "2030-01-01T12:00Z.5",
        "2030/01/01",
        "1893456000",
        "éééééééééééé",
        "+030-01-01",
    ];
    for text in wrong {
        assert_eq!(parse_utc(text), None, "{text}");
    }
}

#[test]
fn times_are_written_as_dot_net_wants_them() {
    let rows = [
        (1_910_732_800_000, "2030-07-19T23:06:40.0000000Z"),
        (0, "1970-01-01T00:00:00.0000000Z"),
        (-1, "1969-12-31T23:59:59.9990000Z"),
        (i64::MIN, "0001-01-01T00:00:00.0000000Z"),
        (i64::MAX, "9999-12-31T23:59:59.9990000Z"),
    ];
    for (ms, expected) in rows {
        let mut text = String::new();
        format_utc(&mut text, ms);
        assert_eq!(text, expected);
    }
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{1,8}", "\\PC{0,12}", "[%&=/?#+$. ]{0,6}"]
}

fn message() -> impl Strategy<Value = TelemetryMessage<'static>> {
    let optional = || proptest::option::of(text().prop_map(Cow::<'static, str>::Owned));
    let system = (
        (optional(), optional(), optional(), optional(), optional(), optional()),
        (optional(), optional(), optional(), optional(), optional()),
        proptest::option::of(-62_135_596_800_000..253_402_300_800_000i64),
    );
    let properties = proptest::collection::btree_map(text(), proptest::option::of(text()), 0..6);
    (system, properties).prop_map(|((first, second, expiry), properties)| {
        let mut message = TelemetryMessage::default();
        let system = &mut message.system;
        let user_id;
        (
            system.message_id,
            system.correlation_id,
            user_id,
            system.to,
            system.content_type,
            system.content_encoding,
        ) = first;
        (
            system.creation_time,
            system.component,
            system.interface_id,
            system.output_name,
            system.message_schema,
        ) = second;
        system.user_id = user_id.map(|text| Cow::Owned(text.into_owned().into_bytes()));
        system.absolute_expiry_ms = expiry;
        for (name, value) in properties {
            // A name that begins like a system key is one; the empty name without a value is no pair.
            if name.starts_with("$.") || (name.is_empty() && value.is_none()) {
                continue;
            }
            let value = value.map_or(PropertyValue::Null, |text| PropertyValue::Text(Cow::Owned(text)));
            message.properties.push(Property {
                name: Cow::Owned(name),
                value,
            });
        }
        message
    })
}

proptest! {
    #[test]
    fn a_written_bag_parses_to_the_message_it_came_from(message in message()) {
        let mut bag = String::new();
        write(&message, &mut bag);
        prop_assert!(bag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~%&=".contains(&byte)), "{}", bag);
        let mut again = TelemetryMessage::default();
        parse(&bag, &mut again).expect("valid");
        prop_assert_eq!(&again.system, &message.system);
        prop_assert_eq!(again.properties.as_slice(), message.properties.as_slice());
    }

    #[test]
    fn a_time_that_was_written_is_read_as_itself(ms in -62_135_596_800_000..253_402_300_800_000i64) {
        let mut text = String::new();
        format_utc(&mut text, ms);
        prop_assert_eq!(parse_utc(&text), Some(ms));
    }

    #[test]
    fn noise_does_not_panic(bag in "\\PC{0,60}", escapes in "[%&=/?$.a-f0-9]{0,60}") {
        for bag in [bag, escapes] {
            let mut message = TelemetryMessage::default();
            if parse(&bag, &mut message).is_ok() {
                let mut written = String::new();
                write(&message, &mut written);
                let mut again = TelemetryMessage::default();
                parse(&written, &mut again).expect("what was parsed can be written");
                prop_assert_eq!(&again.system, &message.system);
            }
            let _ = parse_utc(&bag);
        }
    }
}
