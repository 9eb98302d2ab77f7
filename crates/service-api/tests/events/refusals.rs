//! Receivers that are refused, or preempted by another one.

use std::time::{Duration, Instant};

use holdfast_amqp::selector::Start;
use holdfast_amqp::types::Raw;
use holdfast_amqp::{AttachSpec, Event, InfoValue};
use holdfast_model::UnixMillis;

use crate::audit_log::AuditLog;
use crate::events_hub::now;
use crate::on_a_hub;

#[test]
fn equal_epochs_steal_lower_ones_are_refused_and_a_sixth_reader_too() {
    on_a_hub(|hub| async move {
        let epoch = |number| [("com.microsoft:epoch", InfoValue::Long(number))];
        let mut client = hub.reader().await;
        let plain = client.receive(0, Start::Oldest, &[]).await.unwrap();
        let first = client.receive(0, Start::Oldest, &epoch(0)).await.unwrap();
        assert_eq!(client.detached(plain).await.0, "amqp:link:stolen");
        let second = client.receive(0, Start::Oldest, &epoch(0)).await.unwrap();
        let (condition, text) = client.detached(first).await;
        assert_eq!(condition, "amqp:link:stolen");
        assert!(text.contains("is created hence current receiver"), "{text}");
        let mut other = hub.reader().await;
        // The texts of Event Hubs, on which programs match.
        for (properties, begin, end) in [
            (
                &epoch(-1)[..],
                "Receiver 'receiver-4' with a higher epoch '0' already exists. Receiver 'receiver-2' with epoch -1 cannot \
                 be created.",
                "or ensure all old epoch receivers are closed or disconnected.",
            ),
            (
                &[],
                "At least one receiver for the endpoint is created with epoch of '0', and so non-epoch receiver is not \
                 allowed.",
                "or make sure all epoch receivers are closed or disconnected.",
            ),
        ] {
            let refused = other.receive(0, Start::Oldest, properties).await.unwrap_err();
            assert_eq!(refused.0, "amqp:link:stolen");
            let (text, _) = refused.1.split_once(" TrackingId:").unwrap();
            assert!(text.starts_with(begin) && text.ends_with(end), "{text}");
        }
        other.receive(0, Start::Oldest, &epoch(7)).await.unwrap();
        let (condition, has_info) = client
            .until(|_, event| match event {
                Event::Detached { link, error, .. } if *link == second => {
                    let error = error.unwrap();
                    Some((error.condition.to_owned(), error.received_info.is_some()))
                }
                _ => None,
            })
            .await;
        assert_eq!((condition.as_str(), has_info), ("amqp:link:stolen", false));

        for _ in 0..5 {
            client.receive(1, Start::Oldest, &[]).await.unwrap();
        }
        let refused = client.receive(1, Start::Oldest, &[]).await.unwrap_err();
        assert_eq!(refused.0, "amqp:resource-limit-exceeded");
        drop(client);
    });
}

#[test]
fn a_reader_that_reconnects_at_once_is_answered_later_and_later_and_writes_few_audit_records() {
    on_a_hub(|hub| async move {
        let log = AuditLog::capture();
        let address = "hub1/ConsumerGroups/nogroup/Partitions/0";
        let mut waits = Vec::new();
        for _ in 0..7 {
            let mut client = hub.reader().await;
            let from = Instant::now();
            let refused = client.attach(&AttachSpec::receiver("r", address)).await.unwrap_err();
            assert_eq!(refused.0, "amqp:not-found");
            waits.push(from.elapsed());
        }
        for (at, at_least) in [(3, 250), (4, 500), (5, 1000), (6, 2000)] {
            assert!(waits[at] >= Duration::from_millis(at_least), "{waits:?}");
        }
        // Another request of the same client is not delayed.
        let mut client = hub.reader().await;
        let from = Instant::now();
        let other = "hub1/ConsumerGroups/nogroup/Partitions/1";
        client.attach(&AttachSpec::receiver("r", other)).await.unwrap_err();
        assert!(from.elapsed() < Duration::from_secs(1));
        let expected = ("service".to_owned(), "amqp:not-found".to_owned());
        assert_eq!(log.refusals(), vec![expected; 5]);
        hub.hub.audit().write_suppressed(UnixMillis(now().0 + 60_000));
        assert_eq!(log.suppressed(), [("service".to_owned(), 3)]);
    });
}

#[test]
fn a_missing_or_unsupported_entity_is_refused_with_its_condition() {
    on_a_hub(|hub| async move {
        let mut client = hub.reader().await;
        for (address, condition) in [
            ("other/ConsumerGroups/$Default/Partitions/0", "amqp:not-found"),
            ("hub1/ConsumerGroups/nobody/Partitions/0", "amqp:not-found"),
            (
                "hub1/ConsumerGroups/$Default/Partitions/4",
                "com.microsoft:argument-out-of-range",
            ),
            ("hub1", "amqp:not-allowed"),
            ("devices/d/messages/devicebound", "amqp:not-implemented"),
            ("a/b/c", "amqp:not-found"),
        ] {
            let spec = AttachSpec::receiver(address, address);
            let refused = client.attach(&spec).await.unwrap_err();
            assert_eq!(refused.0, condition, "{address}: {}", refused.1);
        }
        let sender = client.attach(&AttachSpec::sender("s", "hub1")).await.unwrap_err();
        assert_eq!(sender.0, "amqp:not-allowed");
        assert!(sender.1.starts_with("The endpoint is read-only"));
        for (start, condition) in [
            ("amqp.annotation.x-opt-offset > 'x'", "com.microsoft:argument-error"),
            ("amqp.annotation.x-opt-offset > '0'", "com.microsoft:argument-error"),
            ("amqp.annotation.other > '0'", "com.microsoft:argument-error"),
        ] {
            let filter = holdfast_amqp::selector::filter_map(start);
            let mut spec = AttachSpec::receiver(start, "hub1/ConsumerGroups/$Default/Partitions/0");
            spec.source.filter = Raw::new(&filter).ok();
            let refused = client.attach(&spec).await.unwrap_err();
            assert_eq!(refused.0, condition, "{start}: {}", refused.1);
        }
    });
}
