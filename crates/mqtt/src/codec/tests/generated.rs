//! Properties over generated packets and over noise.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::*;

/// A valid packet in bytes, with what its reader has to expect.
#[derive(Debug, Clone)]
struct Sample {
    bytes: Vec<u8>,
    limits: Limits,
}

impl Sample {
    fn of(packet: &Packet<'_>, limits: Limits, version: Version) -> Self {
        let mut bytes = Vec::new();
        encode(&mut bytes, packet, version).expect("encodes");
        Self { bytes, limits }
    }
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[ -~]{1,40}", "[a-z/+#$é日]{1,12}", "x{120,140}"]
}

fn version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V311), Just(Version::V5)]
}

fn qos() -> impl Strategy<Value = QoS> {
    (0..=2u8).prop_map(|bits| QoS::from_bits(bits).expect("known"))
}

/// A block of user properties, lawful in every packet that has properties at all.
fn block() -> impl Strategy<Value = Vec<u8>> {
    vec((text(), text()), 0..4).prop_map(|pairs| {
        let mut block = Vec::new();
        for (name, value) in &pairs {
            Property::User(name, value).write(&mut block);
        }
        block
    })
}

fn properties(block: &[u8], version: Version, packet_type: PacketType) -> Properties<'_> {
    match version {
        Version::V311 => Properties::NONE,
        Version::V5 => Properties::new(block, packet_type).expect("lawful"),
    }
}

fn publish_sample() -> impl Strategy<Value = Sample> {
    let fields = (
        version(),
        any::<(bool, bool, bool)>(),
        qos(),
        text(),
        1..=u16::MAX,
        vec(any::<u8>(), 0..400),
        block(),
    );
    fields.prop_map(|(version, (dup, retain, server), qos, topic, id, payload, block)| {
        let packet = Publish {
            dup: dup && qos != QoS::AtMostOnce,
            qos,
            retain,
            topic: &topic,
            packet_id: (qos != QoS::AtMostOnce).then_some(id),
            properties: properties(&block, version, PacketType::Publish),
            payload: &payload,
        };
        let limits = if server {
            Limits::server(version)
        } else {
            Limits::client(version)
        };
        Sample::of(&Packet::Publish(packet), limits, version)
    })
}

fn connect_sample() -> impl Strategy<Value = Sample> {
    let will = proptest::option::of((text(), vec(any::<u8>(), 0..40), qos(), any::<bool>()));
    let login = proptest::option::of((text(), proptest::option::of(vec(any::<u8>(), 0..40))));
    let fields = (version(), any::<bool>(), any::<u16>(), text(), will, login, block());
    fields.prop_map(|(version, clean, keep_alive, client_id, will, login, block)| {
        let properties = properties(&block, version, PacketType::Connect);
        let packet = Connect {
            version,
            clean,
            keep_alive,
            properties,
            client_id: &client_id,
            will: will.as_ref().map(|(topic, payload, qos, retain)| LastWill {
                topic,
                payload,
                qos: *qos,
                retain: *retain,
                properties,
            }),
            username: login.as_ref().map(|(username, _)| username.as_str()),
            password: login.as_ref().and_then(|(_, password)| password.as_deref()),
        };
        Sample::of(&Packet::Connect(packet), Limits::NEW_CLIENT, version)
    })
}

/// SUBSCRIBE and UNSUBSCRIBE, put together by hand, since their lists have no constructor.
fn list_sample() -> impl Strategy<Value = Sample> {
    let fields = (
        version(),
        any::<bool>(),
        1..=u16::MAX,
        vec((text(), 0..=2u8), 1..6),
        block(),
    );
    fields.prop_map(|(version, unsubscribe, id, filters, block)| {
        let mut body = id.to_be_bytes().to_vec();
        if version == Version::V5 {
            encode::variable(&mut body, u32::try_from(block.len()).expect("short"));
            body.extend_from_slice(&block);
        }
        for (filter, options) in &filters {
            body.extend_from_slice(&u16::try_from(filter.len()).expect("short").to_be_bytes());
            body.extend_from_slice(filter.as_bytes());
            if !unsubscribe {
                body.push(*options);
            }
        }
        let mut bytes = Vec::new();
        encode::fixed_header(&mut bytes, if unsubscribe { 0xa2 } else { 0x82 }, body.len()).expect("fits");
        bytes.extend_from_slice(&body);
        Sample {
            bytes,
            limits: Limits::client(version),
        }
    })
}

fn small_sample() -> impl Strategy<Value = Sample> {
    let fields = (
        0..10u8,
        version(),
        1..=u16::MAX,
        block(),
        any::<bool>(),
        vec(0..=2u8, 1..8),
    );
    fields.prop_map(|(kind, version, packet_id, block, flag, codes)| {
        let client = Limits::client(version);
        let server = Limits::server(version);
        let failure = if version == Version::V5 { 0x80 } else { 0 };
        let ack = |packet_type, reason| Ack {
            packet_id,
            reason: if flag && version == Version::V5 { reason } else { 0 },
            properties: properties(&block, version, packet_type),
        };
        let (packet, limits) = match kind {
            0 => (
                Packet::PubAck(ack(PacketType::PubAck, 0x83)),
                if flag { client } else { server },
            ),
            1 => (Packet::PubRec(ack(PacketType::PubRec, 0x83)), client),
            2 => (Packet::PubRel(ack(PacketType::PubRel, 0x92)), client),
            3 => (Packet::PubComp(ack(PacketType::PubComp, 0x92)), client),
            4 => (Packet::PingReq, client),
            5 => (Packet::PingResp, server),
            6 => {
                let properties = properties(&block, version, PacketType::Disconnect);
                (
                    Packet::Disconnect(Disconnect {
                        reason: failure,
                        properties,
                    }),
                    client,
                )
            }
            7 => {
                let properties = properties(&block, version, PacketType::ConnAck);
                (
                    Packet::ConnAck(ConnAck {
                        session_present: flag,
                        code: 0,
                        properties,
                    }),
                    server,
                )
            }
            8 => {
                let properties = properties(&block, version, PacketType::SubAck);
                (
                    Packet::SubAck(SubAck {
                        packet_id,
                        properties,
                        codes: &codes,
                    }),
                    server,
                )
            }
            _ => {
                let properties = properties(&block, version, PacketType::UnsubAck);
                let codes = if version == Version::V5 {
                    vec![0; codes.len()]
                } else {
                    Vec::new()
                };
                let packet = Packet::UnsubAck(UnsubAck {
                    packet_id,
                    properties,
                    codes: &codes,
                });
                return Sample::of(&packet, server, version);
            }
        };
        Sample::of(&packet, limits, version)
    })
}

fn sample() -> impl Strategy<Value = Sample> {
    prop_oneof![publish_sample(), connect_sample(), list_sample(), small_sample()]
}

fn any_limits() -> impl Strategy<Value = Limits> {
    let sender = prop_oneof![Just(Sender::NewClient), Just(Sender::Client), Just(Sender::Server)];
    (sender, version()).prop_map(|(sender, version)| Limits {
        sender,
        version,
        max_remaining_length: 4096,
    })
}

/// Decodes; whatever comes out must walk, encode, and decode to itself.
fn exercise(input: &[u8], limits: &Limits) -> Result<(), TestCaseError> {
    let Ok(Some((packet, used))) = decode(input, limits) else {
        return Ok(());
    };
    prop_assert!(used <= input.len());
    let version = limits.version_of(&packet);
    let mut bytes = Vec::new();
    encode(&mut bytes, &packet, version).expect("what was decoded can be encoded");
    let again = decode(&bytes, limits).expect("lawful").expect("complete");
    prop_assert_eq!(again, (packet, bytes.len()));
    if let Packet::Subscribe(packet) = packet {
        prop_assert!(packet.filters.iter().count() > 0);
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_decoded_packet_encodes_to_the_bytes_it_came_from(sample in sample()) {
        let (packet, used) = decode(&sample.bytes, &sample.limits).expect("lawful").expect("complete");
        prop_assert_eq!(used, sample.bytes.len());
        let mut bytes = Vec::new();
        encode(&mut bytes, &packet, sample.limits.version_of(&packet)).expect("encodes");
        prop_assert_eq!(bytes, sample.bytes);
    }

    #[test]
    fn every_strict_prefix_of_a_packet_asks_for_more(sample in sample()) {
        for end in 0..sample.bytes.len() {
            prop_assert_eq!(decode(&sample.bytes[..end], &sample.limits), Ok(None));
        }
    }

    #[test]
    fn what_follows_a_packet_does_not_change_it(sample in sample(), tail in vec(any::<u8>(), 0..20)) {
        let alone = decode(&sample.bytes, &sample.limits);
        let mut bytes = sample.bytes.clone();
        bytes.extend_from_slice(&tail);
        prop_assert_eq!(decode(&bytes, &sample.limits), alone);
    }

    #[test]
    fn noise_does_not_panic(bytes in vec(any::<u8>(), 0..64), limits in any_limits()) {
        exercise(&bytes, &limits)?;
    }

    #[test]
    fn damaged_packets_do_not_panic(
        sample in sample(),
        damage in vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = sample.bytes;
        for (place, value) in damage {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        exercise(&bytes, &sample.limits)?;
    }
}
