use proptest::prelude::*;

use super::*;
use crate::codec::{LastWill, Packet, decode, encode, refusal, subscribe, unsubscribe};
use crate::login::LoginError;
use crate::subscriptions::Channel;

const SECOND: u64 = 1000;

fn connect_packet(keep_alive: u16, clean: bool) -> Connect<'static> {
    Connect {
        clean,
        keep_alive,
        client_id: "dev-1",
        username: Some("hub1.contoso.test/dev-1/?api-version=2021-04-12"),
        password: Some(b"SharedAccessSignature sr=x"),
        ..Connect::default()
    }
}

fn authenticating(keep_alive: u16, clean: bool) -> Connection {
    let mut connection = Connection::new(0);
    let action = connection
        .handle(Packet::Connect(connect_packet(keep_alive, clean)), 0)
        .expect("valid");
    assert!(matches!(action, Action::Authenticate(_)));
    connection
}

fn connected(keep_alive: u16) -> Connection {
    let mut connection = authenticating(keep_alive, false);
    assert_eq!(connection.accept(None, 0), [0x20, 2, 0, 0]);
    connection
}

fn publish(topic: &str, qos: QoS) -> Packet<'_> {
    let packet_id = (qos != QoS::AtMostOnce).then_some(7);
    Packet::Publish(Publish {
        qos,
        topic,
        packet_id,
        ..Publish::default()
    })
}

#[test]
fn a_connection_is_small() {
    assert!(size_of::<Connection>() <= 96, "{} bytes", size_of::<Connection>());
    assert!(size_of::<Action<'_>>() <= 160, "{} bytes", size_of::<Action<'_>>());
}

#[test]
fn a_connect_becomes_a_claim() {
    let mut connection = Connection::new(5);
    assert_eq!(connection.limits(), Limits::NEW_CLIENT);
    let Ok(Action::Authenticate(claim)) = connection.handle(Packet::Connect(connect_packet(60, true)), 6) else {
        panic!("a claim")
    };
    assert_eq!(claim.identity.to_string(), "dev-1");
    assert_eq!(claim.login.host, "hub1.contoso.test");
    assert_eq!(claim.password, Some(&b"SharedAccessSignature sr=x"[..]));
    assert_eq!(connection.identity(), Some(&claim.identity));
    assert!(connection.is_clean());
    assert_eq!(connection.phase(), Phase::Authenticating);
    assert_eq!(connection.limits(), Limits::CLIENT);
}

#[test]
fn claims_that_contradict_themselves_are_answered_with_their_connack() {
    let refused = |connect: Connect<'static>| {
        let mut connection = Connection::new(0);
        let violation = connection.handle(Packet::Connect(connect), 0).expect_err("refused");
        assert_eq!(connection.phase(), Phase::Refused);
        assert!(!connection.will_is_due());
        violation
    };
    let mismatch = refused(Connect {
        client_id: "dev-2",
        ..connect_packet(60, false)
    });
    assert_eq!(mismatch, Violation::Login(LoginError::ClientIdMismatch));
    assert_eq!(refusal(mismatch), [0x20, 2, 0, 5]);
    let version = refused(Connect {
        username: Some("hub/dev-1/?api-version=1"),
        ..connect_packet(60, false)
    });
    assert_eq!(refusal(version), [0x20, 2, 0, 1]);
    let will = LastWill {
        topic: "devices/dev-2/messages/events/",
        ..LastWill::default()
    };
    let foreign = refused(Connect {
        will: Some(will),
        ..connect_packet(60, false)
    });
    assert_eq!((foreign, refusal(foreign)), (Violation::WillTopic, &[][..]));
}

#[test]
fn packets_behind_the_connect_wait_for_the_connack() {
    let mut connection = authenticating(60, false);
    assert_eq!(connection.handle(Packet::PingReq, 1), Ok(Action::Wait));
    assert!(!connection.may_read());
    connection.accept(None, 2);
    assert!(connection.may_read());
    assert_eq!(connection.handle(Packet::PingReq, 3), Ok(Action::Ping));
}

#[test]
fn the_first_packet_is_a_connect_and_the_only_one() {
    let mut connection = Connection::new(0);
    assert_eq!(
        connection.handle(Packet::PingReq, 0),
        Err(Violation::FirstPacketNotConnect)
    );
    let mut connection = authenticating(60, false);
    let second = connection.handle(Packet::Connect(connect_packet(60, false)), 1);
    assert_eq!(second, Err(Violation::SecondConnect));
    let mut connection = connected(60);
    let second = connection.handle(Packet::Connect(connect_packet(60, false)), 1);
    assert_eq!(second, Err(Violation::SecondConnect));
    assert!(connection.will_is_due());
}

#[test]
fn a_stored_session_is_active_before_the_connack() {
    let stored = SubscriptionSet::EMPTY.opened(ChannelSet::only(Channel::Methods), QoS::AtLeastOnce);
    let mut connection = authenticating(60, false);
    assert_eq!(connection.accept(Some(stored), 0), [0x20, 2, 1, 0]);
    assert_eq!(connection.subscriptions(), stored);
    // An empty session is a session.
    assert_eq!(
        authenticating(60, false).accept(Some(SubscriptionSet::EMPTY), 0),
        [0x20, 2, 1, 0]
    );
    let mut connection = authenticating(60, true);
    assert_eq!(connection.accept(Some(stored), 0), [0x20, 2, 0, 0]);
    assert_eq!(connection.subscriptions(), SubscriptionSet::EMPTY);
}

#[test]
fn a_refusal_has_its_code_and_no_session() {
    for (code, byte) in [
        (ConnectCode::Version, 1),
        (ConnectCode::Unavailable, 3),
        (ConnectCode::NotAuthorized, 5),
    ] {
        let mut connection = authenticating(60, false);
        assert_eq!(connection.refuse(code), [0x20, 2, 0, byte]);
        assert_eq!(connection.handle(Packet::PingReq, 1), Ok(Action::Ignore));
        assert_eq!((connection.will_is_due(), connection.deadline_ms()), (false, None));
    }
}

fn handle<'a>(connection: &mut Connection, bytes: &'a [u8]) -> Result<Action<'a>, Violation> {
    let (packet, _) = decode(bytes, &connection.limits()).expect("valid").expect("complete");
    connection.handle(packet, 1)
}

#[test]
fn conformance_vector_4() {
    let mut connection = connected(60);
    let mut bytes = Vec::new();
    subscribe(&mut bytes, 1, &[("devices/+/messages/devicebound/#", QoS::ExactlyOnce)]).expect("encodes");
    let Ok(Action::Subscribe {
        packet_id,
        codes,
        set,
        changed,
    }) = handle(&mut connection, &bytes)
    else {
        panic!("a subscription")
    };
    let mut answer = Vec::new();
    crate::codec::suback(&mut answer, packet_id, &codes).expect("encodes");
    assert_eq!(answer, [0x90, 3, 0, 1, 1]);
    assert!(changed);
    // Deliveries begin after the SUBACK, not before.
    assert!(!connection.subscriptions().is_open(Channel::C2d));
    connection.activate(set);
    assert_eq!(connection.subscriptions().qos(Channel::C2d), Some(QoS::AtLeastOnce));
    // The same again changes nothing.
    let Ok(Action::Subscribe { changed: false, .. }) = handle(&mut connection, &bytes) else {
        panic!("unchanged")
    };
}

#[test]
fn pipelined_subscriptions_add_up_before_the_first_is_active() {
    let mut connection = connected(60);
    let mut bytes = Vec::new();
    subscribe(
        &mut bytes,
        1,
        &[
            ("$iothub/methods/POST/#", QoS::AtMostOnce),
            ("$iothub/twin/res/#", QoS::AtMostOnce),
        ],
    )
    .expect("encodes");
    let Ok(Action::Subscribe { set: first, .. }) = handle(&mut connection, &bytes) else {
        panic!("subscribed")
    };
    let mut bytes = Vec::new();
    unsubscribe(&mut bytes, 2, &["$iothub/methods/POST/#", "never/subscribed", "#"]).expect("encodes");
    let Ok(Action::Unsubscribe {
        packet_id: 2,
        set: second,
        changed: true,
    }) = handle(&mut connection, &bytes)
    else {
        panic!("unsubscribed")
    };
    connection.activate(first);
    assert!(connection.subscriptions().is_open(Channel::Methods));
    connection.activate(second);
    assert!(!connection.subscriptions().is_open(Channel::Methods));
    assert!(connection.subscriptions().is_open(Channel::TwinRes));
}

#[test]
fn a_subscribe_has_at_most_50_filters_and_no_foreign_one() {
    let filters = vec![("$iothub/twin/res/#", QoS::AtLeastOnce); 51];
    let mut bytes = Vec::new();
    subscribe(&mut bytes, 1, &filters[..50]).expect("encodes");
    let Ok(Action::Subscribe { codes, .. }) = handle(&mut connected(60), &bytes) else {
        panic!("subscribed")
    };
    assert_eq!(codes.len(), 50);
    bytes.clear();
    subscribe(&mut bytes, 1, &filters).expect("encodes");
    assert_eq!(handle(&mut connected(60), &bytes), Err(Violation::TooManyFilters));
    bytes.clear();
    subscribe(
        &mut bytes,
        1,
        &[("$iothub/twin/res/#", QoS::AtLeastOnce), ("#", QoS::AtMostOnce)],
    )
    .expect("encodes");
    let mut connection = connected(60);
    assert_eq!(handle(&mut connection, &bytes), Err(Violation::ForeignFilter));
    assert_eq!(connection.subscriptions(), SubscriptionSet::EMPTY);
}

#[test]
fn a_filter_above_all_requests_opens_their_channels() {
    let mut all = Vec::new();
    subscribe(&mut all, 1, &[("$iothub/#", QoS::AtLeastOnce)]).expect("encodes");
    let Ok(Action::Subscribe { set, .. }) = handle(&mut connected(60), &all) else {
        panic!("subscribed")
    };
    assert!(set.is_open(Channel::Methods) && set.is_open(Channel::Desired) && !set.is_open(Channel::C2d));
}

#[test]
fn conformance_vector_8() {
    let foreign = publish("devices/other/messages/events/", QoS::AtLeastOnce);
    assert_eq!(connected(60).handle(foreign, 1), Err(Violation::ForeignTopic));
    let own = "devices/dev-1/messages/events/";
    assert_eq!(
        connected(60).handle(publish(own, QoS::ExactlyOnce), 1),
        Err(Violation::QosTwo)
    );
    let mut everything = Vec::new();
    subscribe(&mut everything, 1, &[("#", QoS::AtMostOnce)]).expect("encodes");
    assert_eq!(handle(&mut connected(60), &everything), Err(Violation::ForeignFilter));
    for packet in [Packet::PubRec(1), Packet::PubRel(1), Packet::PubComp(1)] {
        assert_eq!(connected(60).handle(packet, 1), Err(Violation::QosTwo));
    }
    for packet in [Packet::PingResp, Packet::ConnAck(crate::codec::ConnAck::default())] {
        let refused = Violation::WrongDirection(packet.packet_type());
        assert_eq!(connected(60).handle(packet, 1), Err(refused));
    }
}

#[test]
fn conformance_vector_9() {
    let mut connection = connected(60);
    let Ok(Action::Publish { topic, .. }) = connection.handle(publish("$iothub/twin/GET/?$rid=1", QoS::AtLeastOnce), 1)
    else {
        panic!("processed")
    };
    assert_eq!(topic, DeviceTopic::TwinGet { rid: "1" });
    assert_eq!(connection.phase(), Phase::Connected);
}

#[test]
fn conformance_vector_16() {
    let mut connection = connected(4);
    assert_eq!(connection.deadline_ms(), Some(6 * SECOND));
    assert_eq!(connection.expire(6 * SECOND - 1), None);
    assert_eq!(connection.expire(6 * SECOND), Some(Timeout::KeepAlive));
    assert!(connection.will_is_due());
    assert_eq!((connection.expire(99 * SECOND), connection.deadline_ms()), (None, None));
}

#[test]
fn keep_alives_are_bounded_by_the_servers_maximum() {
    let rows = [
        (0, 1_767_000),
        (1, 1500),
        (60, 90_000),
        (1177, 1_765_500),
        (1178, 1_767_000),
        (65_535, 1_767_000),
    ];
    for (keep_alive, silence) in rows {
        assert_eq!(connected(keep_alive).deadline_ms(), Some(silence), "{keep_alive}");
    }
}

#[test]
fn any_packet_in_either_direction_resets_the_timer() {
    let mut connection = connected(4);
    connection.handle(Packet::PingReq, 5 * SECOND).expect("valid");
    assert_eq!(connection.deadline_ms(), Some(11 * SECOND));
    connection.wrote(9 * SECOND);
    assert_eq!(connection.deadline_ms(), Some(15 * SECOND));
}

#[test]
fn a_client_whose_pubacks_we_withhold_is_never_too_late() {
    let mut connection = connected(4);
    connection
        .handle(publish("devices/dev-1/messages/events/", QoS::AtLeastOnce), 0)
        .expect("valid");
    assert_eq!(connection.expire(60 * SECOND), None);
    assert_eq!(connection.deadline_ms(), Some(66 * SECOND));
    connection.acked(1);
    assert_eq!(connection.expire(66 * SECOND), Some(Timeout::KeepAlive));
}

#[test]
fn a_connect_has_60_seconds_however_the_bytes_trickle() {
    let mut connection = Connection::new(SECOND);
    connection.wrote(30 * SECOND);
    assert_eq!(connection.expire(61 * SECOND - 1), None);
    assert_eq!(connection.expire(61 * SECOND), Some(Timeout::Connect));
    assert!(!connection.will_is_due());
}

#[test]
fn a_hub_may_give_a_connect_less_time() {
    let mut connection = Connection::new(SECOND).with_connect_timeout(2000);
    assert_eq!(connection.deadline_ms(), Some(3 * SECOND));
    assert_eq!(connection.expire(3 * SECOND - 1), None);
    assert_eq!(connection.expire(3 * SECOND), Some(Timeout::Connect));
}

#[test]
fn the_window_of_unacknowledged_publishes_pauses_reading_and_closes_nothing() {
    let mut connection = connected(60);
    let telemetry = publish("devices/dev-1/messages/events/", QoS::AtLeastOnce);
    for count in 1..=100 {
        connection.handle(telemetry, 0).expect("valid");
        assert_eq!(connection.may_read(), count < MAX_UNACKED_PUBLISHES, "{count}");
    }
    connection
        .handle(publish("devices/dev-1/messages/events/", QoS::AtMostOnce), 0)
        .expect("valid");
    assert_eq!(connection.unacked(), 100);
    connection.acked(37);
    assert!(connection.may_read());
    connection.acked(1000);
    assert_eq!(connection.unacked(), 0);
}

#[test]
fn a_disconnect_voids_the_will_and_everything_behind_it() {
    let mut connection = connected(60);
    assert!(connection.will_is_due());
    assert_eq!(connection.handle(Packet::Disconnect, 1), Ok(Action::Disconnect));
    assert!(!connection.will_is_due());
    assert_eq!(connection.handle(publish("x", QoS::ExactlyOnce), 1), Ok(Action::Ignore));
}

proptest! {
    #[test]
    fn any_sequence_of_packets_keeps_the_connection_in_order(
        steps in proptest::collection::vec((0..14u8, 0..4000u64), 0..40),
    ) {
        let mut connection = Connection::new(0);
        let mut now = 0;
        let mut filters = Vec::new();
        subscribe(&mut filters, 1, &[("$iothub/#", QoS::AtLeastOnce)]).expect("encodes");
        let mut gone = Vec::new();
        unsubscribe(&mut gone, 1, &["$iothub/twin/#"]).expect("encodes");
        let mut telemetry = Vec::new();
        encode(&mut telemetry, &publish("devices/dev-1/messages/events/a=b", QoS::AtLeastOnce)).expect("encodes");
        for (step, wait) in steps {
            now += wait;
            let before = connection.phase();
            let list = match step {
                0 => Some(&filters),
                1 => Some(&gone),
                2 => Some(&telemetry),
                _ => None,
            };
            let packet = match step {
                3 | 4 => Packet::Connect(connect_packet(1, step == 4)),
                5 => Packet::PingReq,
                6 => Packet::PubAck(9),
                7 => Packet::Disconnect,
                8 => publish("devices/dev-1/messages/events/", QoS::AtMostOnce),
                9 => publish("foreign", QoS::AtMostOnce),
                10 => {
                    if before == Phase::Authenticating {
                        connection.accept(None, now);
                    }
                    continue;
                }
                11 => {
                    connection.acked(1);
                    continue;
                }
                12 => {
                    let expired = connection.expire(now);
                    prop_assert!(expired.is_none() || connection.deadline_ms().is_none());
                    continue;
                }
                _ => match list.map(|bytes| decode(bytes, &Limits::CLIENT)) {
                    Some(Ok(Some((packet, _)))) => packet,
                    _ => continue,
                },
            };
            let result = connection.handle(packet, now);
            let after = connection.phase();
            let over = matches!(before, Phase::Disconnected | Phase::Refused | Phase::Broken);
            if over {
                prop_assert_eq!(&result, &Ok(Action::Ignore));
                prop_assert_eq!(after, before);
            } else if result.is_err() {
                prop_assert!(matches!(after, Phase::Refused | Phase::Broken));
                prop_assert_eq!(after == Phase::Broken, before == Phase::Connected);
            } else if result != Ok(Action::Wait) && after == Phase::Connected {
                prop_assert!(connection.deadline_ms() > Some(now));
            }
            prop_assert_eq!(connection.deadline_ms().is_none(), matches!(after, Phase::Disconnected | Phase::Refused | Phase::Broken));
        }
    }
}
