//! What MQTT 5 adds to each packet.

use super::*;

#[test]
fn mqtt_5_packets_carry_checked_properties() {
    // Session expiry 1, user property a=b; client id "d".
    let bytes = connect(5, 0x02, b"\x0c\x11\x00\x00\x00\x01\x26\x00\x01a\x00\x01b\x00\x01d");
    let Packet::Connect(packet) = decodes(&bytes, &Limits::NEW_CLIENT) else {
        panic!("CONNECT")
    };
    assert_eq!(packet.version, Version::V5);
    let properties: Vec<_> = packet.properties.iter().collect();
    assert_eq!(
        properties,
        [Property::Long(property_id::SESSION_EXPIRY, 1), Property::User("a", "b")]
    );
    // A password alone is lawful in MQTT 5.
    decodes(&connect(5, 0x40, b"\x00\x00\x01d\x00\x01p"), &Limits::NEW_CLIENT);

    let Packet::Publish(packet) = decodes(b"\x32\x0a\x00\x00\x00\x01\x03\x23\x00\x05hi", &CLIENT_5) else {
        panic!("PUBLISH")
    };
    assert_eq!((packet.topic, packet.payload), ("", &b"hi"[..]));
    assert!(packet.properties.has_topic_alias());

    assert_eq!(decodes(b"\x40\x02\x00\x01", &CLIENT_5), Packet::PubAck(Ack::new(1)));
    let Packet::PubAck(ack) = decodes(b"\x40\x03\x00\x01\x83", &CLIENT_5) else {
        panic!("PUBACK")
    };
    assert_eq!(ack.reason, 0x83);
    let Packet::Disconnect(packet) = decodes(b"\xe0\x01\x8e", &SERVER_5) else {
        panic!("DISCONNECT")
    };
    assert_eq!(packet.reason, 0x8e);
    let Packet::Auth(packet) = decodes(b"\xf0\x06\x19\x04\x15\x00\x01S", &CLIENT_5) else {
        panic!("AUTH")
    };
    assert_eq!(
        packet.properties.iter().next(),
        Some(Property::Text(property_id::AUTH_METHOD, "S"))
    );
    let Packet::UnsubAck(packet) = decodes(b"\xb0\x05\x00\x01\x00\x00\x11", &SERVER_5) else {
        panic!("UNSUBACK")
    };
    assert_eq!(packet.codes, [0, 0x11]);
    decodes(b"\x82\x07\x00\x01\x00\x00\x01a\x2d", &CLIENT_5);
    decodes(b"\x20\x06\x00\x84\x03\x21\x00\x10", &SERVER_5);
}

#[test]
fn each_rule_of_mqtt_5_has_its_violation() {
    let publish = PacketType::Publish;
    let rows: &[(&[u8], Limits, Violation)] = &[
        (b"\x30\x03\x00\x00\x00", CLIENT_5, Violation::EmptyTopic),
        (b"\x30\x05\x00\x01a\x01\x04", CLIENT_5, Violation::UnknownProperty(4)),
        (b"\x30\x05\x00\x01a\x01\x80", CLIENT_5, Violation::UnknownProperty(0x80)),
        (
            b"\x30\x09\x00\x01a\x05\x11\x00\x00\x00\x01",
            CLIENT_5,
            Violation::ForeignProperty(0x11, publish),
        ),
        (
            b"\x30\x08\x00\x01a\x04\x01\x00\x01\x00",
            CLIENT_5,
            Violation::RepeatedProperty(1),
        ),
        (b"\x30\x06\x00\x01a\x02\x01\x02", CLIENT_5, Violation::PropertyValue(1)),
        (
            b"\x30\x07\x00\x01a\x03\x23\x00\x00",
            CLIENT_5,
            Violation::PropertyValue(0x23),
        ),
        (
            b"\x30\x06\x00\x01a\x02\x0b\x00",
            CLIENT_5,
            Violation::PropertyValue(0x0b),
        ),
        // The block ends inside a property; what follows is payload and must not be read as its end.
        (b"\x30\x07\x00\x01a\x02\x23\x00\x05", CLIENT_5, Violation::Truncated),
        (b"\x30\x05\x00\x01a\x09\x23", CLIENT_5, Violation::Truncated),
        (
            b"\x30\x08\x00\x01a\x80\x80\x80\x80\x01",
            CLIENT_5,
            Violation::RemainingLength,
        ),
        (b"\x30\x05\x00\x01a\x80\x00", CLIENT_5, Violation::RemainingLength),
        (
            b"\x40\x03\x00\x01\x01",
            CLIENT_5,
            Violation::ReasonCode(PacketType::PubAck, 1),
        ),
        (
            b"\x82\x07\x00\x01\x00\x00\x01a\x30",
            CLIENT_5,
            Violation::SubscribeOptions(0x30),
        ),
        (
            b"\x82\x07\x00\x01\x00\x00\x01a\x40",
            CLIENT_5,
            Violation::SubscribeOptions(0x40),
        ),
        (b"\xf0\x01\x01", CLIENT_5, Violation::ReasonCode(PacketType::Auth, 1)),
    ];
    for (bytes, limits, violation) in rows {
        refuses(bytes, limits, *violation);
    }
}
