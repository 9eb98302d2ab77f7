//! Properties over generated packets and over noise.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::*;

/// A valid packet in bytes, with the limits to decode it.
#[derive(Debug, Clone)]
struct Sample {
    bytes: Vec<u8>,
    limits: Limits,
}

impl Sample {
    fn of(packet: &Packet<'_>, limits: Limits) -> Self {
        let mut bytes = Vec::new();
        encode(&mut bytes, packet).expect("encodes");
        Self { bytes, limits }
    }
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[ -~]{1,40}", "[a-z/+#$é日]{1,12}", "x{120,140}"]
}

fn qos() -> impl Strategy<Value = QoS> {
    (0..=2u8).prop_map(|bits| QoS::from_bits(bits).expect("known"))
}

fn publish_sample() -> impl Strategy<Value = Sample> {
    let fields = (
        any::<(bool, bool, bool)>(),
        qos(),
        text(),
        1..=u16::MAX,
        vec(any::<u8>(), 0..400),
    );
    fields.prop_map(|((dup, retain, server), qos, topic, id, payload)| {
        let packet = Publish {
            dup: dup && qos != QoS::AtMostOnce,
            qos,
            retain,
            topic: &topic,
            packet_id: (qos != QoS::AtMostOnce).then_some(id),
            payload: &payload,
        };
        Sample::of(
            &Packet::Publish(packet),
            if server { Limits::SERVER } else { Limits::CLIENT },
        )
    })
}

fn connect_sample() -> impl Strategy<Value = Sample> {
    let will = proptest::option::of((text(), vec(any::<u8>(), 0..40), qos(), any::<bool>()));
    let login = proptest::option::of((text(), proptest::option::of(vec(any::<u8>(), 0..40))));
    let fields = (any::<bool>(), any::<u16>(), text(), will, login);
    fields.prop_map(|(clean, keep_alive, client_id, will, login)| {
        let packet = Connect {
            clean,
            keep_alive,
            client_id: &client_id,
            will: will.as_ref().map(|(topic, payload, qos, retain)| LastWill {
                topic,
                payload,
                qos: *qos,
                retain: *retain,
            }),
            username: login.as_ref().map(|(username, _)| username.as_str()),
            password: login.as_ref().and_then(|(_, password)| password.as_deref()),
        };
        Sample::of(&Packet::Connect(packet), Limits::NEW_CLIENT)
    })
}

/// SUBSCRIBE and UNSUBSCRIBE, put together by hand, since their lists have no constructor.
fn list_sample() -> impl Strategy<Value = Sample> {
    let fields = (any::<bool>(), 1..=u16::MAX, vec((text(), 0..=2u8), 1..6));
    fields.prop_map(|(unsubscribe, id, filters)| {
        let mut body = id.to_be_bytes().to_vec();
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
            limits: Limits::CLIENT,
        }
    })
}

fn small_sample() -> impl Strategy<Value = Sample> {
    let fields = (0..10u8, 1..=u16::MAX, any::<bool>(), vec(0..=2u8, 1..8));
    fields.prop_map(|(kind, packet_id, flag, codes)| {
        let (client, server) = (Limits::CLIENT, Limits::SERVER);
        let (packet, limits) = match kind {
            0 => (Packet::PubAck(packet_id), if flag { client } else { server }),
            1 => (Packet::PubRec(packet_id), client),
            2 => (Packet::PubRel(packet_id), client),
            3 => (Packet::PubComp(packet_id), client),
            4 => (Packet::PingReq, client),
            5 => (Packet::PingResp, server),
            6 => (Packet::Disconnect, client),
            7 => {
                let connack = ConnAck {
                    session_present: flag,
                    code: 0,
                };
                (Packet::ConnAck(connack), server)
            }
            8 => {
                let suback = SubAck {
                    packet_id,
                    codes: &codes,
                };
                (Packet::SubAck(suback), server)
            }
            _ => (Packet::UnsubAck(packet_id), server),
        };
        Sample::of(&packet, limits)
    })
}

fn sample() -> impl Strategy<Value = Sample> {
    prop_oneof![publish_sample(), connect_sample(), list_sample(), small_sample()]
}

fn any_limits() -> impl Strategy<Value = Limits> {
    let sender = prop_oneof![Just(Sender::NewClient), Just(Sender::Client), Just(Sender::Server)];
    sender.prop_map(|sender| Limits {
        sender,
        max_remaining_length: 4096,
    })
}

/// Decodes; whatever comes out must walk, encode, and decode to itself.
fn exercise(input: &[u8], limits: &Limits) -> Result<(), TestCaseError> {
    let Ok(Some((packet, used))) = decode(input, limits) else {
        return Ok(());
    };
    prop_assert!(used <= input.len());
    let mut bytes = Vec::new();
    encode(&mut bytes, &packet).expect("what was decoded can be encoded");
    let again = decode(&bytes, limits).expect("valid").expect("complete");
    prop_assert_eq!(again, (packet, bytes.len()));
    if let Packet::Subscribe(packet) = packet {
        prop_assert!(packet.filters.iter().count() > 0);
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_decoded_packet_encodes_to_the_bytes_it_came_from(sample in sample()) {
        let (packet, used) = decode(&sample.bytes, &sample.limits).expect("valid").expect("complete");
        prop_assert_eq!(used, sample.bytes.len());
        let mut bytes = Vec::new();
        encode(&mut bytes, &packet).expect("encodes");
        prop_assert_eq!(bytes, sample.bytes);
    }

    #[test]
    fn every_strict_prefix_of_a_packet_asks_for_more(sample in sample()) {
        for end in 0..sample.bytes.len() {
            prop_assert_eq!(decode(&sample.bytes[..end], &sample.limits), Ok(None));
        }
    }

    #[test]
    fn bytes_behind_a_packet_do_not_change_it(sample in sample(), tail in vec(any::<u8>(), 0..20)) {
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
