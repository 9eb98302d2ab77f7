//! Tables: one row per packet that must decode, and one per rule that can be broken.

mod generated;

use super::*;
use crate::login::LoginError;

const CLIENT: Limits = Limits::CLIENT;
const SERVER: Limits = Limits::SERVER;

#[track_caller]
fn decodes<'a>(input: &'a [u8], limits: &Limits) -> Packet<'a> {
    let (packet, used) = decode(input, limits).expect("valid").expect("complete");
    assert_eq!(used, input.len(), "all bytes are consumed");
    let mut again = Vec::new();
    encode(&mut again, &packet).expect("encodes");
    assert_eq!(again, input, "encodes to the same bytes");
    packet
}

#[track_caller]
fn refuses(input: &[u8], limits: &Limits, expected: Violation) {
    assert_eq!(decode(input, limits), Err(expected), "{input:02x?}");
}

/// A 3.1.1 CONNECT body behind protocol name, level and flags.
fn connect(level: u8, flags: u8, tail: &[u8]) -> Vec<u8> {
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', level, flags, 0, 60];
    body.extend_from_slice(tail);
    let mut packet = vec![0x10, u8::try_from(body.len()).expect("short")];
    packet.extend_from_slice(&body);
    packet
}

#[test]
fn a_sas_connect_has_flags_c0_without_clean_session_or_c2_with_it() {
    let bytes = connect(4, 0xc2, b"\x00\x05dev-1\x00\x04user\x00\x03sas");
    let Packet::Connect(packet) = decodes(&bytes, &Limits::NEW_CLIENT) else {
        panic!("CONNECT")
    };
    assert_eq!((packet.clean, packet.keep_alive), (true, 60));
    assert_eq!(
        (packet.client_id, packet.username, packet.password),
        ("dev-1", Some("user"), Some(&b"sas"[..]))
    );
    assert_eq!(packet.will, None);

    let bytes = connect(4, 0x80, b"\x00\x05dev-x\x00\x04user");
    let Packet::Connect(packet) = decodes(&bytes, &Limits::NEW_CLIENT) else {
        panic!("CONNECT")
    };
    assert_eq!((packet.clean, packet.password), (false, None));
}

#[test]
fn a_will_is_encoded_between_client_id_and_user_name() {
    let bytes = connect(4, 0x80 | 0x20 | 0x08 | 0x04, b"\x00\x01d\x00\x03t/x\x00\x02ab\x00\x01u");
    let Packet::Connect(packet) = decodes(&bytes, &Limits::NEW_CLIENT) else {
        panic!("CONNECT")
    };
    let will = packet.will.expect("will");
    assert_eq!(
        (will.topic, will.payload, will.qos, will.retain),
        ("t/x", &b"ab"[..], QoS::AtLeastOnce, true)
    );
    assert_eq!(packet.username, Some("u"));
}

#[test]
fn each_packet_of_a_client_decodes_and_encodes_to_the_same_bytes() {
    let publish = decodes(b"\x32\x09\x00\x03a/b\x00\x07hi", &CLIENT);
    let expected = Publish {
        qos: QoS::AtLeastOnce,
        topic: "a/b",
        packet_id: Some(7),
        payload: b"hi",
        ..Publish::default()
    };
    assert_eq!(publish, Packet::Publish(expected));
    let publish = decodes(b"\x31\x05\x00\x03a/b", &CLIENT);
    let expected = Publish {
        retain: true,
        topic: "a/b",
        ..Publish::default()
    };
    assert_eq!(publish, Packet::Publish(expected));
    assert_eq!(decodes(b"\x40\x02\x01\x02", &CLIENT), Packet::PubAck(0x102));
    assert_eq!(decodes(b"\x50\x02\x01\x02", &CLIENT), Packet::PubRec(0x102));
    assert_eq!(decodes(b"\x62\x02\x01\x02", &CLIENT), Packet::PubRel(0x102));
    assert_eq!(decodes(b"\x70\x02\x01\x02", &CLIENT), Packet::PubComp(0x102));
    assert_eq!(decodes(b"\xc0\x00", &CLIENT), Packet::PingReq);
    assert_eq!(decodes(b"\xe0\x00", &CLIENT), Packet::Disconnect);

    let Packet::Subscribe(packet) = decodes(b"\x82\x0c\x00\x01\x00\x03a/#\x02\x00\x01b\x00", &CLIENT) else {
        panic!("SUBSCRIBE")
    };
    let filters: Vec<_> = packet
        .filters
        .iter()
        .map(|filter| (filter.filter, filter.qos))
        .collect();
    assert_eq!(filters, [("a/#", QoS::ExactlyOnce), ("b", QoS::AtMostOnce)]);

    let Packet::Unsubscribe(packet) = decodes(b"\xa2\x0a\x00\x01\x00\x03a/#\x00\x01b", &CLIENT) else {
        panic!("UNSUBSCRIBE")
    };
    assert_eq!(packet.filters.iter().collect::<Vec<_>>(), ["a/#", "b"]);
}

#[test]
fn each_packet_of_a_server_decodes_and_encodes_to_the_same_bytes() {
    let bytes = connack(true, 0);
    let accepted = ConnAck {
        session_present: true,
        ..ConnAck::default()
    };
    assert_eq!(decodes(&bytes, &SERVER), Packet::ConnAck(accepted));
    let bytes = connack(false, 5);
    let refused = ConnAck {
        code: 5,
        ..ConnAck::default()
    };
    assert_eq!(decodes(&bytes, &SERVER), Packet::ConnAck(refused));
    assert_eq!(decodes(&puback(0x102), &SERVER), Packet::PubAck(0x102));
    assert_eq!(decodes(&pingresp(), &SERVER), Packet::PingResp);
    let bytes = unsuback(3);
    assert_eq!(decodes(&bytes, &SERVER), Packet::UnsubAck(3));
    let mut bytes = Vec::new();
    suback(&mut bytes, 3, &[1, 0, 0x80]).expect("encodes");
    let Packet::SubAck(packet) = decodes(&bytes, &SERVER) else {
        panic!("SUBACK")
    };
    assert_eq!((packet.packet_id, packet.codes), (3, &[1, 0, 0x80][..]));
}

#[test]
fn a_refused_connack_never_announces_a_session() {
    assert_eq!(connack(true, 5), [0x20, 2, 0, 5]);
    assert_eq!(connack(true, 0), [0x20, 2, 1, 0]);
}

#[test]
fn the_answers_to_unsupported_versions_are_spoken_in_the_clients_own_version() {
    assert_eq!(refusal(Violation::ProtocolLevel(3)), [0x20, 2, 0, 1]);
    assert_eq!(refusal(Violation::Mqtt5Disabled), [0x20, 3, 0, 0x84, 0]);
    assert_eq!(refusal(Violation::Truncated), [0_u8; 0]);
}

#[test]
fn every_refusal_of_a_connect_has_the_connack_of_the_catalogue() {
    use holdfast_model::RefusalReason;
    for (reason, expected) in [
        (RefusalReason::Version, ConnectCode::Version),
        (RefusalReason::Unconfirmed, ConnectCode::Unavailable),
        (RefusalReason::Draining, ConnectCode::Unavailable),
        (RefusalReason::Missing, ConnectCode::NotAuthorized),
        (RefusalReason::Expired, ConnectCode::NotAuthorized),
        (RefusalReason::Signature, ConnectCode::NotAuthorized),
        (RefusalReason::UnknownIdentity, ConnectCode::NotAuthorized),
        (RefusalReason::Disabled, ConnectCode::NotAuthorized),
        (RefusalReason::IdentityMismatch, ConnectCode::NotAuthorized),
        (RefusalReason::NoCertificate, ConnectCode::NotAuthorized),
    ] {
        assert_eq!(ConnectCode::for_error(reason.code()), expected, "{reason}");
    }
    assert_eq!(refusal(Violation::Login(LoginError::ApiVersion)), [0x20, 2, 0, 1]);
    assert_eq!(refusal(Violation::Login(LoginError::ClientIdMismatch)), [0x20, 2, 0, 5]);
}

#[test]
fn two_packets_in_one_buffer_are_cut_apart() {
    let input = b"\xc0\x00\x40\x02\x00\x01\xc0";
    let (first, used) = decode(input, &CLIENT).expect("valid").expect("complete");
    assert_eq!((first, used), (Packet::PingReq, 2));
    let (second, used) = decode(&input[2..], &CLIENT).expect("valid").expect("complete");
    assert_eq!((second, used), (Packet::PubAck(1), 4));
    assert_eq!(decode(&input[6..], &CLIENT), Ok(None));
}

#[test]
fn an_oversize_packet_is_refused_on_its_fixed_header() {
    // Conformance vector 17: 400,000 bytes announced, none sent.
    let limit = limits_of_any_packet();
    refuses(
        &[0x32, 0x80, 0xb5, 0x18],
        &CLIENT,
        Violation::PacketTooLarge {
            remaining: 400_000,
            limit,
        },
    );
    // One byte decides: the largest allowed packet is awaited, one more byte is not.
    assert_eq!(decode(&with_length(0x32, limit), &CLIENT), Ok(None));
    let too_large = Violation::PacketTooLarge {
        remaining: limit + 1,
        limit,
    };
    refuses(&with_length(0x32, limit + 1), &CLIENT, too_large);
    let limit = crate::limits::MAX_CONNECT_REMAINING_LENGTH;
    assert_eq!(decode(&with_length(0x10, limit), &Limits::NEW_CLIENT), Ok(None));
    let too_large = Violation::PacketTooLarge {
        remaining: limit + 1,
        limit,
    };
    refuses(&with_length(0x10, limit + 1), &Limits::NEW_CLIENT, too_large);
}

fn limits_of_any_packet() -> u32 {
    assert_eq!(MAX_REMAINING_LENGTH, 327_687);
    MAX_REMAINING_LENGTH
}

fn with_length(first: u8, remaining: u32) -> Vec<u8> {
    let mut bytes = vec![first];
    encode::variable(&mut bytes, remaining);
    bytes
}

#[test]
fn a_length_field_is_awaited_up_to_four_bytes_and_refused_at_the_fifth() {
    assert_eq!(decode(&[0x32], &CLIENT), Ok(None));
    assert_eq!(decode(&[0x32, 0x80], &CLIENT), Ok(None));
    assert_eq!(decode(&[0x32, 0xff, 0xff, 0x80], &CLIENT), Ok(None));
    refuses(&[0x32, 0xff, 0xff, 0xff, 0xff], &CLIENT, Violation::RemainingLength);
    refuses(
        &[0x32, 0x80, 0x80, 0x80, 0x80, 0x01],
        &CLIENT,
        Violation::RemainingLength,
    );
}

#[test]
fn a_length_padded_with_zero_groups_is_tolerated() {
    let (packet, used) = decode(&[0xc0, 0x80, 0x80, 0x00], &CLIENT)
        .expect("valid")
        .expect("complete");
    assert_eq!((packet, used), (Packet::PingReq, 4));
    let (packet, used) = decode(&[0x40, 0x82, 0x80, 0x80, 0x00, 0, 9], &CLIENT)
        .expect("valid")
        .expect("complete");
    assert_eq!((packet, used), (Packet::PubAck(9), 7));
}

#[test]
fn bytes_of_other_protocols_are_refused_on_the_first_byte() {
    let new = &Limits::NEW_CLIENT;
    refuses(&[0x16], new, Violation::HeaderFlags(PacketType::Connect)); // a TLS ClientHello
    refuses(b"G", new, Violation::FirstPacketNotConnect); // an HTTP GET
    refuses(b"A", new, Violation::FirstPacketNotConnect); // an AMQP header
    refuses(&[0x00], new, Violation::UnknownPacketType(0));
    refuses(&[0xf0], new, Violation::UnknownPacketType(15));
    refuses(&[0x30], new, Violation::FirstPacketNotConnect);
}

#[test]
fn packets_at_the_wrong_time_or_from_the_wrong_side_are_refused_on_their_first_byte() {
    refuses(&[0x10], &CLIENT, Violation::SecondConnect);
    for (first, packet_type) in [
        (0x20, PacketType::ConnAck),
        (0x90, PacketType::SubAck),
        (0xb0, PacketType::UnsubAck),
        (0xd0, PacketType::PingResp),
    ] {
        refuses(&[first], &CLIENT, Violation::WrongDirection(packet_type));
        refuses(&[first], &Limits::NEW_CLIENT, Violation::FirstPacketNotConnect);
    }
    for (first, packet_type) in [
        (0x10, PacketType::Connect),
        (0x82, PacketType::Subscribe),
        (0xa2, PacketType::Unsubscribe),
        (0xc0, PacketType::PingReq),
        (0xe0, PacketType::Disconnect),
    ] {
        refuses(&[first], &SERVER, Violation::WrongDirection(packet_type));
    }
    refuses(&[0xf0], &CLIENT, Violation::UnknownPacketType(15));
}

#[test]
fn reserved_header_flags_are_refused_for_every_type() {
    for number in 1..=14u8 {
        let packet_type = PacketType::from_number(number).expect("known");
        let Some(required) = packet_type.required_flags() else {
            continue;
        };
        for flags in (0..16u8).filter(|flags| *flags != required) {
            let sender = match packet_type {
                PacketType::Connect => Limits::NEW_CLIENT,
                PacketType::ConnAck | PacketType::SubAck | PacketType::UnsubAck | PacketType::PingResp => SERVER,
                _ => CLIENT,
            };
            refuses(&[number << 4 | flags], &sender, Violation::HeaderFlags(packet_type));
        }
    }
    for retain in [0, 1] {
        refuses(&[0x36 | retain], &CLIENT, Violation::PublishQos);
        refuses(&[0x3e | retain], &CLIENT, Violation::PublishQos);
        refuses(&[0x38 | retain], &CLIENT, Violation::PublishDup);
    }
}

#[test]
fn each_rule_of_connect_has_its_violation() {
    let new = &Limits::NEW_CLIENT;
    let rows: &[(Vec<u8>, Violation)] = &[
        (
            b"\x10\x0c\x00\x06MQIsdp\x03\xc0\x00\x3c".to_vec(),
            Violation::ProtocolLevel(3),
        ),
        (connect(3, 0xc0, b""), Violation::ProtocolLevel(3)),
        (connect(6, 0xc0, b""), Violation::ProtocolLevel(6)),
        // MQTT 5, with properties and a password without a user name, as it allows.
        (
            connect(5, 0x02, b"\x05\x11\x00\x00\x00\x01\x00\x01d"),
            Violation::Mqtt5Disabled,
        ),
        (connect(5, 0x40, b"\x00\x00\x01d\x00\x01p"), Violation::Mqtt5Disabled),
        (connect(0x84, 0xc0, b"\x00\x01d"), Violation::ProtocolLevel(0x84)),
        (
            b"\x10\x0a\x00\x04mqtt\x04\xc0\x00\x3c".to_vec(),
            Violation::ProtocolName,
        ),
        (b"\x10\x06\x00\x00\x04\xc0\x00\x3c".to_vec(), Violation::ProtocolName),
        (b"\x10\x00".to_vec(), Violation::Truncated),
        (connect(4, 0x01, b"\x00\x01d"), Violation::ConnectFlags),
        (connect(4, 0x20, b"\x00\x01d"), Violation::WillFlags),
        (connect(4, 0x08, b"\x00\x01d"), Violation::WillFlags),
        (connect(4, 0x1c, b"\x00\x01d\x00\x01t\x00\x00"), Violation::WillQos(3)),
        (connect(4, 0x04, b"\x00\x01d\x00\x00\x00\x00"), Violation::EmptyTopic),
        (
            connect(4, 0x40, b"\x00\x01d\x00\x01p"),
            Violation::PasswordWithoutUsername,
        ),
        (connect(4, 0x80, b"\x00\x01d"), Violation::Truncated),
        (connect(4, 0x80, b"\x00\x01d\x00\x05u"), Violation::Truncated),
        (connect(4, 0x00, b"\x00\x01d!"), Violation::TrailingBytes),
        (connect(4, 0x00, b"\x00\x01\xff"), Violation::InvalidUtf8),
        (connect(4, 0x80, b"\x00\x01d\x00\x02u\x00"), Violation::Nul),
    ];
    for (bytes, violation) in rows {
        refuses(bytes, new, *violation);
    }
}

#[test]
fn each_rule_of_the_other_packets_has_its_violation() {
    let rows: &[(&[u8], Limits, Violation)] = &[
        (b"\x32\x05\x00\x01a\x00\x00", CLIENT, Violation::PacketIdZero),
        (b"\x34\x05\x00\x01a\x00\x00", CLIENT, Violation::PacketIdZero),
        (b"\x32\x03\x00\x01a", CLIENT, Violation::Truncated),
        (b"\x30\x01\x00", CLIENT, Violation::Truncated),
        (b"\x30\x04\x00\x03ab", CLIENT, Violation::Truncated),
        (b"\x30\x02\x00\x00", CLIENT, Violation::EmptyTopic),
        (b"\x30\x03\x00\x01\x00", CLIENT, Violation::Nul),
        (b"\x30\x04\x00\x02\xc3\x28", CLIENT, Violation::InvalidUtf8),
        // A surrogate, which UTF-8 has no form for.
        (b"\x30\x05\x00\x03\xed\xa0\x80", CLIENT, Violation::InvalidUtf8),
        (b"\x40\x02\x00\x00", CLIENT, Violation::PacketIdZero),
        (b"\x40\x01\x00", CLIENT, Violation::Truncated),
        (b"\x40\x03\x00\x01\x00", CLIENT, Violation::TrailingBytes),
        (b"\xc0\x01\x00", CLIENT, Violation::TrailingBytes),
        (b"\xe0\x01\x00", CLIENT, Violation::TrailingBytes),
        (b"\x82\x06\x00\x00\x00\x01a\x00", CLIENT, Violation::PacketIdZero),
        (b"\x82\x02\x00\x01", CLIENT, Violation::NoFilters(PacketType::Subscribe)),
        (b"\x82\x05\x00\x01\x00\x00\x00", CLIENT, Violation::EmptyFilter),
        (b"\x82\x06\x00\x01\x00\x01a\x03", CLIENT, Violation::SubscribeOptions(3)),
        (b"\x82\x06\x00\x01\x00\x01a\x04", CLIENT, Violation::SubscribeOptions(4)),
        (b"\x82\x05\x00\x01\x00\x01a", CLIENT, Violation::Truncated),
        (
            b"\xa2\x02\x00\x01",
            CLIENT,
            Violation::NoFilters(PacketType::Unsubscribe),
        ),
        (b"\xa2\x04\x00\x01\x00\x00", CLIENT, Violation::EmptyFilter),
        (b"\xa2\x05\x00\x00\x00\x01a", CLIENT, Violation::PacketIdZero),
        (b"\x20\x02\x02\x00", SERVER, Violation::ConnAckFlags),
        (b"\x20\x02\x01\x05", SERVER, Violation::ConnAckFlags),
        (
            b"\x20\x02\x00\x06",
            SERVER,
            Violation::ReasonCode(PacketType::ConnAck, 6),
        ),
        (
            b"\x90\x03\x00\x01\x03",
            SERVER,
            Violation::ReasonCode(PacketType::SubAck, 3),
        ),
        (b"\x90\x02\x00\x01", SERVER, Violation::Truncated),
        (b"\x90\x03\x00\x00\x01", SERVER, Violation::PacketIdZero),
        (b"\xb0\x03\x00\x01\x00", SERVER, Violation::TrailingBytes),
    ];
    for (bytes, limits, violation) in rows {
        refuses(bytes, limits, *violation);
    }
}

#[test]
fn wildcards_pass_the_codec_because_ids_and_bags_may_contain_them() {
    let Packet::Publish(packet) = decodes(b"\x30\x05\x00\x03a+#", &CLIENT) else {
        panic!("PUBLISH")
    };
    assert_eq!(packet.topic, "a+#");
}

#[test]
fn encoders_refuse_what_mqtt_cannot_carry() {
    let long = "x".repeat(65_536);
    let mut out = Vec::new();
    assert_eq!(
        subscribe(&mut out, 1, &[(&long, QoS::AtMostOnce)]),
        Err(EncodeError::FieldTooLong(65_536))
    );
    let packet = Publish {
        topic: &long,
        ..Publish::default()
    };
    assert_eq!(publish(&mut out, &packet), Err(EncodeError::FieldTooLong(65_536)));
    let packet = Publish {
        qos: QoS::AtLeastOnce,
        topic: "t",
        packet_id: Some(0),
        ..Publish::default()
    };
    assert_eq!(publish(&mut out, &packet), Err(EncodeError::PacketId));
    assert!(matches!(
        encode::fixed_header(&mut out, 0x30, 268_435_456),
        Err(EncodeError::PacketTooLong(268_435_456))
    ));
}

#[test]
fn a_violation_is_small_and_every_one_has_a_label_and_a_number() {
    assert!(size_of::<Violation>() <= 16);
    for violation in [
        Violation::Truncated,
        Violation::QosTwo,
        Violation::MessageTooLarge(300_000),
    ] {
        assert!(!violation.label().is_empty());
        assert!(!violation.to_string().is_empty());
        assert!(violation.code().number() >= 400_000);
    }
    assert_eq!(Violation::MessageTooLarge(300_000).code().number(), 413_001);
}
