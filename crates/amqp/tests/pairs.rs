//! A client and a server engine talk to each other in memory.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::time::Duration;

use holdfast_amqp::{
    Accept, AttachSpec, ClientSasl, Config, Delivery, Detached, Event, Expired, Fault, InfoValue, OpenSpec, Outcome,
    SaslCode, SendError, Violation, limits,
};
use support::{Pair, Seen};

const SETTLED: Delivery<'static> = Delivery {
    tag: &[1],
    settled: true,
    message_format: 0,
};
const UNSETTLED: Delivery<'static> = Delivery {
    tag: b"tag",
    settled: false,
    message_format: 0,
};

fn transfers(seen: &[Seen]) -> Vec<&Vec<u8>> {
    seen.iter()
        .filter_map(|seen| match seen {
            Seen::Transfer { payload, .. } => Some(payload),
            _ => None,
        })
        .collect()
}

#[test]
fn bare_header_sasl_anonymous_mssbcbs_and_plain_all_open() {
    let plain = ClientSasl::Plain {
        user: "service@sas.root.hub".to_owned(),
        password: "token".to_owned(),
    };
    for sasl in [ClientSasl::None, ClientSasl::Anonymous, ClientSasl::Mssbcbs, plain] {
        for chunk in [1, 7, usize::MAX] {
            let mut pair = Pair::new(Config::default(), sasl.clone());
            pair.chunk = chunk;
            let (at_client, at_server) = pair.pump();
            assert_eq!(at_client, [Seen::Open("server".to_owned())]);
            assert_eq!(at_server.last(), Some(&Seen::Open("client".to_owned())), "{sasl:?}");
        }
    }
}

#[test]
fn wrong_plain_credentials_fail_with_code_1_after_any_time() {
    let sasl = ClientSasl::Plain {
        user: "u".to_owned(),
        password: "p".to_owned(),
    };
    let mut pair = Pair::new(Config::default(), sasl);
    pair.try_pump(&mut |_, event, _| {
        if let Event::SaslInit(init) = event {
            assert_eq!(init.plain(), Some(("u", "p")));
        }
    })
    .unwrap();
    assert!(pair.server.is_blocked());
    pair.server.sasl_outcome(SaslCode::Auth);
    let (at_client, _) = pair.pump();
    assert_eq!(at_client, [Seen::SaslFailed(1)]);
    assert!(pair.server.is_closed());
}

#[test]
fn pipelined_bytes_wait_while_the_driver_thinks_about_the_open() {
    let mut pair = Pair::new(Config::default(), ClientSasl::None);
    pair.try_pump(&mut |_, _, _| {}).unwrap();
    assert!(pair.server.is_blocked());
    pair.server.open(&OpenSpec {
        container_id: "server".to_owned(),
        hostname: None,
    });
    pair.pump();
    assert!(pair.client.is_open());
}

#[test]
fn deliveries_flow_one_to_one_within_credit_and_no_further() {
    let mut pair = Pair::opened();
    let (_, link, at_server) = pair.link(&AttachSpec::receiver("r", "hub/ConsumerGroups/$Default/Partitions/0"));
    assert_eq!(
        pair.server.send_with(at_server, &SETTLED, |_| {}),
        Err(SendError::NoCredit)
    );
    pair.client.grant(link, 3);
    let (_, seen) = pair.pump();
    assert_eq!(seen, [Seen::Credit(at_server, 3, false)]);
    for number in 0..3u8 {
        assert_eq!(
            pair.server.send_with(at_server, &SETTLED, |buf| buf.push(number)),
            Ok(u32::from(number))
        );
    }
    assert_eq!(
        pair.server.send_with(at_server, &SETTLED, |_| {}),
        Err(SendError::NoCredit)
    );
    let (seen, _) = pair.pump();
    assert_eq!(transfers(&seen), [&vec![0], &vec![1], &vec![2]]);
    assert_eq!(pair.client.credit(link).unwrap().credit, 0);
    pair.client.top_up(link, 100);
    pair.pump();
    assert_eq!(pair.server.sendable(at_server), 100);
}

#[test]
fn large_deliveries_are_cut_to_frames_of_512_and_put_together_again() {
    let mut pair = Pair::new(
        Config {
            max_frame_size: 512,
            ..Config::default()
        },
        ClientSasl::Anonymous,
    );
    pair.pump();
    let (_, link, at_server) = pair.link(&AttachSpec::receiver("r", "x"));
    pair.client.grant(link, 10);
    pair.pump();
    let payload: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
    for size in [0, 1, 400, 455, 456, 457, 460, 470, 480, 512, 1024, 100_000] {
        pair.client.grant(link, 10);
        pair.pump();
        pair.server
            .send_with(at_server, &SETTLED, |buf| buf.extend_from_slice(&payload[..size]))
            .unwrap();
        assert!(support::largest_frame(pair.server.output()) <= 512);
        pair.chunk = 100;
        let (seen, _) = pair.pump();
        assert_eq!(transfers(&seen), [&payload[..size]], "{size}");
    }
}

#[test]
fn a_closed_window_holds_the_rest_of_a_delivery_until_it_opens() {
    // The client's window is fixed; more frames than it takes come in one go.
    let mut pair = Pair::new(
        Config {
            max_frame_size: 512,
            ..Config::default()
        },
        ClientSasl::None,
    );
    pair.pump();
    let (_, link, at_server) = pair.link(&AttachSpec::receiver("r", "x"));
    pair.client.grant(link, 100);
    pair.pump();
    let payload = vec![7; 1_000_000];
    let mut sent = 0;
    loop {
        match pair
            .server
            .send_with(at_server, &SETTLED, |buf| buf.extend_from_slice(&payload))
        {
            Ok(_) => sent += 1,
            Err(error) => break assert_eq!(error, SendError::WindowClosed),
        }
    }
    assert!(sent >= 2);
    let (seen, at_server_seen) = pair.pump();
    assert_eq!(transfers(&seen).len(), sent);
    assert!(transfers(&seen).iter().all(|got| **got == payload));
    assert!(at_server_seen.contains(&Seen::Window));
    assert!(pair.server.sendable(at_server) > 0);
}

#[test]
fn a_message_above_the_receivers_maximum_is_not_sent() {
    let mut pair = Pair::opened();
    let (_, link, at_server) = pair.link(&AttachSpec::receiver("r", "x"));
    pair.client.grant(link, 1);
    pair.pump();
    let before = pair.server.output().len();
    let result = pair
        .server
        .send_with(at_server, &SETTLED, |buf| buf.resize(buf.len() + 1_048_577, 0));
    assert_eq!(result, Err(SendError::TooLarge));
    assert_eq!(pair.server.output().len(), before);
    assert_eq!(pair.server.sendable(at_server), 1);
}

#[test]
fn an_honest_client_does_not_even_try_to_send_more_than_we_announce() {
    let mut pair = Pair::opened();
    let (_, link, _) = pair.link(&AttachSpec::sender("s", "x"));
    let sent = pair
        .client
        .send_with(link, &SETTLED, |buf| buf.resize(buf.len() + 1_048_577, 0));
    assert_eq!(sent, Err(SendError::TooLarge));
}

#[test]
fn settling_late_and_in_ranges_reaches_the_sender() {
    let mut pair = Pair::opened();
    let (session, link, at_server) = pair.link(&AttachSpec::sender("s", "x"));
    for number in 0..5u8 {
        pair.client.send_with(link, &UNSETTLED, |buf| buf.push(number)).unwrap();
    }
    let (_, seen) = pair.pump();
    assert_eq!(transfers(&seen).len(), 5);
    assert_eq!(pair.server.credit(at_server).unwrap().unsettled, 5);
    pair.server.settle(at_server, 2, 4, &Outcome::Accepted);
    pair.server.settle(
        at_server,
        0,
        1,
        &Outcome::Rejected(Some(Fault::new("amqp:not-found", "gone"))),
    );
    assert_eq!(pair.server.credit(at_server).unwrap().unsettled, 0);
    let (seen, _) = pair.pump();
    assert!(
        matches!(&seen[0], Seen::Disposition { first: 2, last: 4, settled: true, outcome } if outcome.contains("Accepted"))
    );
    assert!(
        matches!(&seen[1], Seen::Disposition { first: 0, last: 1, outcome, .. } if outcome.contains("amqp:not-found"))
    );
    let taken = pair.client.take_outgoing(session, 2, u32::MAX);
    assert_eq!(taken.iter().map(|sent| sent.delivery_id).collect::<Vec<_>>(), [2, 3, 4]);
    assert!(
        taken
            .iter()
            .all(|sent| sent.link == link && sent.tag.as_slice() == b"tag")
    );
    assert_eq!(
        pair.client.take_outgoing(session, u32::MAX, 10).len(),
        2,
        "ranges are serial numbers and may wrap"
    );
}

#[test]
fn an_outcome_proposed_in_mode_second_is_answered_by_the_sender() {
    let mut pair = Pair::opened();
    let mut spec = AttachSpec::receiver("r", "x");
    spec.rcv_settle_mode = holdfast_amqp::ReceiverSettleMode::SECOND;
    let (_, link, at_server) = pair.link(&spec);
    assert_eq!(
        pair.server.settle_modes(at_server).unwrap().1,
        holdfast_amqp::ReceiverSettleMode::SECOND
    );
    pair.client.grant(link, 5);
    pair.pump();
    pair.server.send_with(at_server, &UNSETTLED, |buf| buf.push(1)).unwrap();
    pair.pump();
    pair.client.propose_outcome(link, 0, 0, &Outcome::Released);
    let (_, seen) = pair.pump();
    assert!(matches!(&seen[0], Seen::Disposition { settled: false, outcome, .. } if outcome.contains("Released")));
    assert_eq!(pair.server.take_outgoing(at_server.session(), 0, 0).len(), 1);
    pair.server
        .answer_outcome(at_server.session(), 0, 0, &Outcome::Accepted);
    let (seen, _) = pair.pump();
    assert!(matches!(&seen[0], Seen::SenderSettled { first: 0, last: 0, outcome } if outcome.contains("Accepted")));
}

#[test]
fn drain_gives_back_the_credit_that_is_not_used() {
    let mut pair = Pair::opened();
    let (_, link, at_server) = pair.link(&AttachSpec::receiver("r", "x"));
    pair.client.grant(link, 5);
    pair.client.drain(link);
    let (_, seen) = pair.pump();
    assert_eq!(seen.last(), Some(&Seen::Credit(at_server, 5, true)));
    pair.server.send_with(at_server, &SETTLED, |buf| buf.push(1)).unwrap();
    pair.server.finish_drain(at_server);
    let (seen, _) = pair.pump();
    assert_eq!(transfers(&seen).len(), 1);
    assert_eq!(seen.last(), Some(&Seen::Drained(link)));
    assert_eq!(pair.server.sendable(at_server), 0);
    assert_eq!(pair.client.credit(link).unwrap().credit, 0);
}

#[test]
fn a_refused_link_is_attached_without_terminus_then_detached_with_error_and_info() {
    let mut pair = Pair::opened();
    let session = pair.client.begin().unwrap();
    pair.pump();
    let receiver = pair
        .client
        .attach(session, &AttachSpec::receiver("r", "nowhere"))
        .unwrap();
    let sender = pair
        .client
        .attach(session, &AttachSpec::sender("s", "nowhere"))
        .unwrap();
    let info = [("com.microsoft:error-code", InfoValue::Int(404_006))];
    let (seen, _) = pair
        .try_pump(&mut |server, event, now| {
            if let Event::AttachRequested { link, .. } = event {
                server.refuse(
                    *link,
                    &Fault::new("amqp:not-found", "no such entity").with_info(&info),
                    now,
                );
            }
        })
        .unwrap();
    let expected = |link| {
        [
            Seen::Attached(link, false),
            Seen::Detached(link, Some("amqp:not-found".to_owned())),
        ]
    };
    assert_eq!(seen, [expected(receiver), expected(sender)].concat());
    assert_eq!(pair.server.deadline(), pair.server.deadline());
    assert!(
        pair.client
            .attach(session, &AttachSpec::receiver("r", "nowhere"))
            .is_some(),
        "the name is free again"
    );
}

#[test]
fn a_detach_takes_the_link_away_on_both_sides_and_late_frames_are_ignored() {
    let mut pair = Pair::opened();
    let (_, link, at_server) = pair.link(&AttachSpec::sender("s", "x"));
    pair.client.send_with(link, &UNSETTLED, |buf| buf.push(1)).unwrap();
    let now = pair.now;
    pair.server.detach(
        at_server,
        Detached::Closed,
        Some(&Fault::new("amqp:link:stolen", "new one")),
        now,
    );
    let (at_client, seen) = pair.pump();
    assert!(transfers(&seen).is_empty());
    assert_eq!(at_client, [Seen::Detached(link, Some("amqp:link:stolen".to_owned()))]);
    assert_eq!(seen, [Seen::Detached(at_server, None)]);
    assert_eq!(pair.client.send_with(link, &UNSETTLED, |_| {}), Err(SendError::Gone));
}

#[test]
fn many_sessions_and_links_keep_their_own_numbers() {
    let mut pair = Pair::opened();
    let sessions: Vec<_> = (0..50).map(|_| pair.client.begin().unwrap()).collect();
    pair.pump();
    pair.server.authenticated();
    let mut links = Vec::new();
    for (index, session) in sessions.iter().enumerate() {
        // The same names in every session, as pooled .NET clients have them.
        for name in ["TwinSenderLink", "EventsReceiverLink"] {
            let spec = AttachSpec::sender(name, "x");
            links.push((index, pair.client.attach(*session, &spec).unwrap()));
        }
    }
    let (seen, _) = pair.pump();
    assert_eq!(
        seen.iter()
            .filter(|seen| matches!(seen, Seen::Attached(_, true)))
            .count(),
        100
    );
    for (index, link) in &links {
        pair.client
            .send_with(*link, &SETTLED, |buf| buf.push(*index as u8))
            .unwrap();
    }
    let (_, seen) = pair.pump();
    assert_eq!(transfers(&seen).len(), 100);
    pair.client.end(sessions[7], None);
    let (_, seen) = pair.pump();
    assert_eq!(seen, [Seen::Ended(None)]);
    assert!(pair.client.begin().is_some());
    pair.pump();
}

#[test]
fn more_links_than_an_unauthenticated_peer_may_have_end_the_session() {
    let mut pair = Pair::opened();
    let session = pair.client.begin().unwrap();
    pair.pump();
    for index in 0..=limits::MAX_LINKS_UNAUTHENTICATED {
        pair.client
            .attach(session, &AttachSpec::sender(&format!("s{index}"), "x"))
            .unwrap();
    }
    let (at_client, _) = pair.pump();
    assert_eq!(
        at_client.last(),
        Some(&Seen::Ended(Some("amqp:resource-limit-exceeded".to_owned())))
    );
}

#[test]
fn close_is_answered_and_ends_both_sides() {
    let mut pair = Pair::opened();
    let now = pair.now;
    pair.server
        .close(Some(&Fault::new("amqp:connection:forced", "draining")), now);
    let (at_client, at_server) = pair.pump();
    assert_eq!(at_client, [Seen::Closed(Some("amqp:connection:forced".to_owned()))]);
    assert_eq!(at_server, [Seen::Closed(None)]);
    assert!(pair.client.is_closed() && pair.server.is_closed());
}

#[test]
fn a_close_that_is_not_answered_ends_after_3_seconds() {
    let mut pair = Pair::opened();
    let now = pair.now;
    pair.server.close(None, now);
    assert_eq!(pair.server.deadline(), Some(now + limits::CLOSE_TIMEOUT));
    assert_eq!(pair.server.expire(now + Duration::from_secs(2)), Expired::Nothing);
    assert_eq!(pair.server.expire(now + limits::CLOSE_TIMEOUT), Expired::CloseTimeout);
    assert!(pair.server.is_closed());
}

#[test]
fn an_open_that_never_comes_ends_after_30_seconds() {
    let mut pair = Pair::new(Config::default(), ClientSasl::None);
    let deadline = pair.server.deadline().unwrap();
    assert_eq!(deadline, pair.now + limits::OPEN_TIMEOUT);
    assert_eq!(pair.server.expire(deadline), Expired::OpenTimeout);
    assert!(pair.server.is_closed());
}

#[test]
fn silence_drops_the_peer_after_twice_our_time_out_and_heartbeats_prevent_it() {
    let idle = Some(Duration::from_secs(10));
    let mut pair = Pair::new(
        Config {
            idle_timeout: idle,
            ..Config::default()
        },
        ClientSasl::None,
    );
    pair.pump();
    // The server keeps the client content for ten minutes, the client's heartbeats (120 s announced) the server.
    for _ in 0..600 {
        pair.pass(Duration::from_secs(1));
        let now = pair.now;
        assert_eq!(pair.server.expire(now), Expired::Nothing);
        assert_eq!(pair.client.expire(now), Expired::Nothing);
        pair.pump();
    }
    pair.pass(Duration::from_secs(20));
    let now = pair.now;
    assert_eq!(pair.client.expire(now), Expired::PeerSilent);
    assert!(pair.client.is_closed());
    assert!(!pair.client.output().is_empty(), "the close still goes out");
}

#[test]
fn a_detach_that_is_not_answered_is_forgotten_after_10_seconds() {
    let mut pair = Pair::opened();
    let (_, _, at_server) = pair.link(&AttachSpec::sender("s", "x"));
    let now = pair.now;
    pair.server.detach(at_server, Detached::Closed, None, now);
    assert_eq!(pair.server.deadline(), Some(now + limits::DETACH_TIMEOUT));
    assert_eq!(pair.server.expire(now + limits::DETACH_TIMEOUT), Expired::Nothing);
    assert!(pair.server.deadline().unwrap() > now + limits::DETACH_TIMEOUT);
}

#[test]
fn nonsense_instead_of_a_header_is_answered_with_the_sasl_header() {
    for bytes in [
        b"GET / HTTP/1.1\r\n".as_slice(),
        b"AMQP\x02\x01\x00\x00",
        b"AMQP\x00\x00\x09\x01",
        &[0x16, 3, 1, 0],
    ] {
        let now = support::start();
        let mut server = holdfast_amqp::Connection::server(Config::default(), now);
        let mut input = bytes;
        assert_eq!(server.receive(&mut input, now), Err(Violation::ProtocolHeader));
        assert_eq!(server.output(), b"AMQP\x03\x01\x00\x00");
        assert!(server.is_closed());
    }
}

#[test]
fn the_window_holds_a_client_that_ignores_credit_until_its_deliveries_are_settled() {
    let mut pair = Pair::opened();
    let (_, link, at_server) = pair.link(&AttachSpec::sender("s", "x"));
    let mut sent = 0u32;
    loop {
        pair.server.grant(at_server, 10);
        pair.pump();
        match pair.client.send_with(link, &UNSETTLED, |buf| buf.push(1)) {
            Ok(_) => sent += 1,
            Err(SendError::WindowClosed | SendError::TooManyUnsettled) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(sent, limits::SESSION_WINDOW);
    pair.pump();
    pair.server.settle(at_server, 0, 2499, &Outcome::Accepted);
    pair.pump();
    let taken = pair.client.take_outgoing(link.session(), 0, 2499);
    assert_eq!(taken.len(), 2500);
    assert!(pair.client.send_with(link, &UNSETTLED, |buf| buf.push(1)).is_ok());
}

#[test]
fn an_accept_may_come_late_and_the_credit_granted_meanwhile_counts() {
    let mut pair = Pair::opened();
    let session = pair.client.begin().unwrap();
    pair.pump();
    let link = pair.client.attach(session, &AttachSpec::receiver("r", "x")).unwrap();
    pair.client.grant(link, 5);
    let (_, seen) = pair.try_pump(&mut |_, _, _| {}).unwrap();
    let Seen::Requested(at_server, _) = seen[0] else {
        panic!("{seen:?}")
    };
    assert_eq!(pair.server.sendable(at_server), 0);
    pair.server.accept(at_server, &Accept::default());
    assert_eq!(pair.server.sendable(at_server), 5);
    pair.server.send_with(at_server, &SETTLED, |buf| buf.push(1)).unwrap();
    let (seen, _) = pair.pump();
    assert_eq!(seen[0], Seen::Attached(link, true));
    assert_eq!(transfers(&seen).len(), 1);
}
