//! Any bytes as what a client sends over one connection, with a clock that moves: no panic, and the phases keep order.
//!
//! The first bytes choose the authenticator's answer and the clock's step.
#![no_main]

use holdfast_mqtt::codec::{ConnectCode, decode};
use holdfast_mqtt::connection::{Action, Connection, Phase};
use holdfast_mqtt::will::Will;
use holdfast_mqtt::{SubscriptionSet, bag, topic::DeviceTopic};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [choice, step, input @ ..] = data else { return };
    let mut now = 0u64;
    let mut connection = Connection::new(now);
    let mut rest = input;
    while let Ok(Some((packet, used))) = decode(rest, &connection.limits()) {
        now += u64::from(*step) * 1000;
        let before = connection.phase();
        if connection.expire(now).is_some() {
            assert!(connection.deadline_ms().is_none());
            return;
        }
        match connection.handle(packet, now) {
            Ok(Action::Wait) => unreachable!("the answer to a CONNECT is given at once"),
            Ok(Action::Authenticate(claim)) => {
                assert_eq!((before, connection.phase()), (Phase::AwaitConnect, Phase::Authenticating));
                if let Some(will) = &claim.connect.will {
                    let will = Will::accept(&claim.identity, will).expect("checked");
                    assert!(will.message().expect("checked").properties.len() >= 1);
                }
                if choice & 2 == 0 {
                    connection.accept(Some(SubscriptionSet::from_bits(u16::from(*choice))), now);
                } else {
                    connection.refuse(ConnectCode::NotAuthorized);
                }
            }
            Ok(Action::Publish { topic: DeviceTopic::Events { bag }, packet }) => {
                if let Ok(message) = bag::telemetry(bag, &packet) {
                    assert!(message.properties.len() <= 258);
                }
            }
            Ok(Action::Subscribe { codes, set, .. }) => {
                assert!(!codes.is_empty() && codes.iter().all(|code| *code <= 1));
                connection.activate(set);
            }
            Ok(Action::Unsubscribe { set, .. }) => connection.activate(set),
            Ok(Action::Ignore) => assert!(connection.deadline_ms().is_none()),
            Ok(_) => assert!(matches!(connection.phase(), Phase::Connected | Phase::Disconnected)),
            Err(_) => {
                assert_eq!(connection.phase() == Phase::Broken, before == Phase::Connected);
                return;
            }
        }
        rest = &rest[used..];
    }
});
