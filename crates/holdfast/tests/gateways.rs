//! Gateways at a hub process: devices that share AMQP connections and use everything at once (`swarm multiplex`).
#![allow(clippy::unwrap_used, reason = "tests may")]

mod harness;

use std::time::Duration;

use harness::Hub;
use holdfast_swarm::fleet::Protocol;
use holdfast_swarm::hub::Hub as Client;
use holdfast_swarm::multiplex::{self, Plan};
use holdfast_swarm::target::{Credentials, DeviceNames, ReconnectTo, Target, Transport};

const CONNECTIONS: u32 = 3;
const DEVICES_A_CONNECTION: u32 = 20;
const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);

#[test]
fn devices_that_share_connections_use_everything_at_once_and_each_is_served() {
    let hub = Hub::start(&[]);
    let client = Client::load(&hub.connection_file()).unwrap();
    let names = DeviceNames::new("gateway-").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime
        .unwrap()
        .block_on(holdfast_swarm::devices::create(
            &client,
            &names,
            0..CONNECTIONS * DEVICES_A_CONNECTION,
        ))
        .unwrap();
    let protocol = Protocol::Amqp {
        devices_a_connection: DEVICES_A_CONNECTION,
    };
    let (address, nodes) = client.addresses(protocol, Transport::Tls13).unwrap();
    let plan = Plan {
        target: Target {
            address,
            nodes,
            begin_at: None,
            reconnect_to: ReconnectTo::Same,
            tls: client.tls(Transport::Tls13).unwrap(),
            sources: Vec::new(),
            names,
            credentials: Credentials::Hub(client.devices(TOKEN_LIFETIME).unwrap()),
            topic: String::new(),
        },
        description: "a test".to_owned(),
        first: 0,
        connections: CONNECTIONS,
        devices_a_connection: DEVICES_A_CONNECTION,
        window: 4,
        rate: None,
        reports: 60.0,
        callers: 6,
        calls: 60.0,
        payload_bytes: 200,
        duration: Duration::from_secs(3),
        pids: vec![hub.pid()],
        hub: client,
    };
    let report = multiplex::run(plan, || {}).unwrap();
    assert!(report.is_clean(), "{report}");
    for feature in [&report.reported, &report.desired, &report.methods, &report.messages] {
        assert!(feature.done > 0, "{report}");
    }
    // All have the same window, so none has twice what another one has.
    assert!(report.shares.most < 2 * report.shares.least, "{report}");
}
