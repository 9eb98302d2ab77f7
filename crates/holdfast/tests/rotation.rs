//! Credentials are replaced under connected devices and a calling back end: no device is refused and no call fails.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod harness;

use std::time::Duration;

use harness::Hub;
use holdfast_swarm::connect::ConnectionOptions;
use holdfast_swarm::rotate::{self, Plan};
use holdfast_swarm::target::{Credentials, DeviceNames, ReconnectTo, Target, Transport};

#[test]
fn keys_a_ca_and_a_policy_are_replaced_without_a_refused_device_or_a_failed_call() {
    let process = Hub::start(&[]);
    let hub = holdfast_swarm::hub::Hub::load(&process.connection_file()).unwrap();
    let target = Target {
        address: hub.mqtt_address(Transport::Tls13).unwrap(),
        nodes: Vec::new(),
        begin_at: None,
        reconnect_to: ReconnectTo::Same,
        tls: hub.tls(Transport::Tls13).unwrap(),
        sources: Vec::new(),
        names: DeviceNames::new("rotated-").unwrap(),
        credentials: Credentials::Hub(hub.devices(Duration::from_secs(3600)).unwrap()),
        topic: String::new(),
    };
    let plan = Plan {
        hub,
        target,
        devices: 20,
        options: ConnectionOptions {
            keep_alive: 60,
            clean_session: true,
        },
        waves: 3,
        cuts_a_second: 20.0,
        policy_rounds: 2,
        callers: 2,
    };
    let report = rotate::run(plan, |_| {}).unwrap();
    assert!(report.is_clean(), "{report}\n{}", process.last_lines());
    let connects: u64 = report.rows.iter().map(|row| row.connects).sum();
    assert!(
        connects >= 20 * 5,
        "each device connects with each of its five credentials: {report}"
    );
    let calls: u64 = report.rows.iter().map(|row| row.calls).sum();
    assert!(
        calls >= 2 * 5,
        "each caller has an answer with each of the five keys: {report}"
    );
}
