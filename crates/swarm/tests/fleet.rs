//! Fleets against a broker that stores what it acknowledges, or does not.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use holdfast_swarm::acknowledgements::Acknowledgements;
use holdfast_swarm::batch::Shape;
use holdfast_swarm::connect::ConnectionOptions;
use holdfast_swarm::fleet::{Fleet, Outcome, Plan, Protocol, Publish, Work};
use holdfast_swarm::target::{Credentials, DeviceNames, ReconnectTo, Target};
use holdfast_swarm::verify::{Judge, Verdict};
use support::{Habit, Kept, broker};

const DEVICES: u32 = 20;
const MESSAGES: u64 = 300;
const TIMEOUT: Duration = Duration::from_secs(30);

fn plan(address: SocketAddr, work: Work) -> Plan {
    Plan {
        target: Target {
            nodes: Vec::new(),
            begin_at: None,
            reconnect_to: ReconnectTo::Same,
            address,
            tls: None,
            sources: Vec::new(),
            names: DeviceNames::new("t-").unwrap(),
            credentials: Credentials::Shared {
                username: None,
                password: None,
            },
            topic: "{device}".to_owned(),
        },
        first: 3,
        connections: DEVICES,
        threads: 2,
        connect_rate: 10_000.0,
        options: ConnectionOptions {
            keep_alive: 60,
            clean_session: false,
        },
        protocol: Protocol::Mqtt,
        work,
    }
}

fn publish(address: SocketAddr, window: usize, survive_disconnect: bool) -> Outcome {
    run(address, work(window, survive_disconnect))
}

fn work(window: usize, survive_disconnect: bool) -> Publish {
    Publish {
        shape: Shape {
            topic: "{device}".to_owned(),
            payload_bytes: 300,
            run: 11,
        },
        window,
        refill: 1,
        messages: Some(MESSAGES),
        survive_disconnect,
        pace: Duration::ZERO,
        acknowledgements: None,
    }
}

fn run(address: SocketAddr, publish: Publish) -> Outcome {
    let fleet = Fleet::start(plan(address, Work::Publish(publish))).unwrap();
    fleet.wait_up(TIMEOUT).unwrap();
    fleet.begin();
    assert!(fleet.wait_finished(TIMEOUT), "{:?}", fleet.counters().failures());
    fleet.end(TIMEOUT).unwrap()
}

fn judge(outcome: &Outcome, kept: &Kept) -> Verdict {
    let mut judge = Judge::new(&outcome.ledger).unwrap();
    for (topic, payload) in kept.lock().unwrap().iter() {
        judge.event(topic, payload);
    }
    judge.finish()
}

#[test]
fn everything_sent_to_an_honest_broker_is_acknowledged_and_found() {
    let (address, kept) = broker(Habit::Honest);
    let outcome = publish(address, 16, false);
    let verdict = judge(&outcome, &kept);
    assert!(verdict.is_clean(), "{verdict}");
    let all = u64::from(DEVICES) * MESSAGES;
    assert_eq!(
        (verdict.acknowledged, verdict.events, verdict.resent_kept),
        (all, all, 0)
    );
    assert_eq!(outcome.counters.acknowledged.load(Ordering::Relaxed), all);
    assert_eq!(outcome.counters.out_of_order.load(Ordering::Relaxed), 0);
    assert!(outcome.latency.quantile_us(0.5) > 0);
}

#[test]
fn each_acknowledgement_of_a_paced_fleet_is_recorded_with_its_time() {
    let (address, _kept) = broker(Habit::Honest);
    let file = tempfile::NamedTempFile::new().unwrap();
    let times = Arc::new(Acknowledgements::create(file.path()).unwrap());
    let (pace, messages) = (Duration::from_millis(20), 10);
    let begun = Instant::now();
    let outcome = run(
        address,
        Publish {
            pace,
            messages: Some(messages),
            acknowledgements: Some(times.clone()),
            ..work(1, false)
        },
    );
    assert!(
        begun.elapsed() >= pace / 2 * (u32::try_from(messages).unwrap() - 1),
        "paced"
    );
    times.finish().unwrap();
    let bytes = std::fs::read(file.path()).unwrap();
    let mut found: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    for record in bytes.chunks_exact(12) {
        let device = u32::from_le_bytes(record[8..].try_into().unwrap());
        found
            .entry(device)
            .or_default()
            .push(u64::from_le_bytes(record[..8].try_into().unwrap()));
    }
    assert_eq!(
        bytes.len() as u64,
        outcome.counters.acknowledged.load(Ordering::Relaxed) * 12
    );
    assert_eq!(found.len(), DEVICES as usize);
    for times in found.values() {
        assert_eq!(times.len() as u64, messages);
        assert!(times.is_sorted());
    }
}

#[test]
fn a_fleet_resends_unacknowledged_messages_after_cuts_and_resends_are_no_duplicates() {
    let (address, kept) = broker(Habit::CutsAfter(70));
    let outcome = publish(address, 8, true);
    let verdict = judge(&outcome, &kept);
    assert!(verdict.is_clean(), "{verdict}");
    assert_eq!(verdict.acknowledged, u64::from(DEVICES) * MESSAGES);
    assert!(
        verdict.unacknowledged_kept >= u64::from(DEVICES) * 4,
        "each cut keeps one message unacknowledged"
    );
    assert!(outcome.counters.disconnects.load(Ordering::Relaxed) >= u64::from(DEVICES) * 4);
}

#[test]
fn a_broker_that_acknowledges_and_forgets_is_found_out() {
    let (address, kept) = broker(Habit::Forgets(100));
    let verdict = judge(&publish(address, 4, false), &kept);
    assert_eq!(verdict.lost, u64::from(DEVICES) * MESSAGES / 100);
    assert!(!verdict.is_clean());
}

#[test]
fn acknowledgements_out_of_order_are_counted() {
    let (address, kept) = broker(Habit::AcknowledgesBackwards);
    let outcome = publish(address, 8, false);
    assert_eq!(
        outcome.counters.out_of_order.load(Ordering::Relaxed),
        u64::from(DEVICES) * MESSAGES / 2
    );
    assert!(judge(&outcome, &kept).is_clean());
}

#[test]
fn a_fleet_that_does_not_survive_cuts_reports_its_lost_devices() {
    let (address, _) = broker(Habit::CutsAfter(10));
    let outcome = publish(address, 1, false);
    assert_eq!(outcome.counters.failed.load(Ordering::Relaxed), u64::from(DEVICES));
    assert_eq!(
        outcome.counters.failures().len(),
        1,
        "{:?}",
        outcome.counters.failures()
    );
    assert_eq!(outcome.ledger.acknowledged(), u64::from(DEVICES) * 9);
}

#[test]
fn an_idle_fleet_comes_up_and_goes() {
    let (address, _) = broker(Habit::Honest);
    let fleet = Fleet::start(plan(
        address,
        Work::Idle {
            survive_disconnect: false,
        },
    ))
    .unwrap();
    fleet.wait_up(TIMEOUT).unwrap();
    assert_eq!(fleet.counters().up.load(Ordering::Relaxed), u64::from(DEVICES));
    let outcome = fleet.end(Duration::ZERO).unwrap();
    assert!(outcome.ledger.devices.is_empty());
}

#[test]
fn an_idle_fleet_that_survives_is_as_large_as_before_after_each_cut() {
    let (address, _) = broker(Habit::CutsAfterPings(2));
    let mut plan = plan(
        address,
        Work::Idle {
            survive_disconnect: true,
        },
    );
    plan.options.keep_alive = 1;
    let fleet = Fleet::start(plan).unwrap();
    fleet.wait_up(TIMEOUT).unwrap();
    let deadline = std::time::Instant::now() + TIMEOUT;
    while fleet.counters().disconnects.load(Ordering::Relaxed) < u64::from(DEVICES) * 2 {
        assert!(
            std::time::Instant::now() < deadline,
            "{:?}",
            fleet.counters().failures()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    fleet.wait_up(TIMEOUT).unwrap();
    let outcome = fleet.end(Duration::ZERO).unwrap();
    assert!(
        outcome.away.quantile_us(0.5) >= 20_000,
        "devices pause before they reconnect"
    );
    assert!(outcome.latency.largest_us() > 0, "pings were answered");
    assert_eq!(outcome.counters.failed.load(Ordering::Relaxed), 0);
}

#[test]
fn devices_reconnect_to_the_same_any_or_a_serving_node() {
    let nodes: Vec<SocketAddr> = (1..=4).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect();
    let flags: std::sync::Arc<[AtomicBool]> = [false, true, false, false].map(AtomicBool::new).into();
    let mut target = plan(
        nodes[0],
        Work::Idle {
            survive_disconnect: true,
        },
    )
    .target;
    target.nodes.clone_from(&nodes);
    assert_eq!(target.addresses_of(6).next(), Some(nodes[2]));
    target.begin_at = Some(3);
    assert_eq!(
        target.addresses_of(6).collect::<Vec<_>>(),
        [nodes[3], nodes[0], nodes[1], nodes[2]]
    );
    assert_eq!(target.reconnect_addresses(6)[0], nodes[3]);
    target.reconnect_to = ReconnectTo::Any;
    let firsts: std::collections::BTreeSet<SocketAddr> = (0..200).map(|_| target.reconnect_addresses(6)[0]).collect();
    assert_eq!(firsts.len(), nodes.len());
    target.reconnect_to = ReconnectTo::InService(std::sync::Arc::clone(&flags));
    assert_eq!(target.reconnect_addresses(6), [nodes[1]]);
    flags[1].store(false, Ordering::Relaxed);
    assert!(target.reconnect_addresses(6).is_empty());
}

#[test]
fn a_fleet_without_an_answer_reports_the_reason() {
    let closed_port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let fleet = Fleet::start(plan(
        closed_port,
        Work::Idle {
            survive_disconnect: false,
        },
    ))
    .unwrap();
    let error = fleet.wait_up(TIMEOUT).unwrap_err().to_string();
    assert!(error.contains("cannot connect"), "{error}");
}
