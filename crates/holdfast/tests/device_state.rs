//! State of devices over the deaths of a hub process: MQTT over TLS as a device sees it, REST as an operator does.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod harness;

use std::time::{Duration, Instant};

use harness::Hub;
use holdfast_swarm::connect::ConnectionOptions;
use holdfast_swarm::down::{self, Broadcast, Plan, Shape};
use holdfast_swarm::hub::Hub as Client;
use holdfast_swarm::target::{Credentials, DeviceNames, ReconnectTo, Target, Transport};
use holdfast_swarm::wire::{Connect, encode_publish, encode_subscribe};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);
const TIMEOUT: Duration = Duration::from_secs(30);
const NEVER: &str = "0001-01-01T00:00:00Z";

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime
        .unwrap()
        .block_on(async { tokio::time::timeout(TIMEOUT, work).await.expect("an answer in time") })
}

/// A device that is connected over TLS with clean session 0.
struct Device {
    stream: TlsStream<TcpStream>,
    is_session_present: bool,
}

impl Device {
    async fn connect(hub: &Hub, name: &str) -> Self {
        let hub = Client::load(&hub.connection_file()).unwrap();
        let tls = hub.tls(Transport::Tls13).unwrap().unwrap();
        let tcp = TcpStream::connect(hub.mqtt_address(Transport::Tls13).unwrap())
            .await
            .unwrap();
        let mut stream = tls.connector.connect(tls.server, tcp).await.unwrap();
        let login = hub.devices(TOKEN_LIFETIME).unwrap().login(name.to_owned()).unwrap();
        let mut bytes = Vec::new();
        Connect {
            client_id: &login.client_id,
            username: login.username.as_deref(),
            password: login.password.as_deref(),
            keep_alive: 60,
            clean_session: false,
        }
        .encode(&mut bytes)
        .unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut connack = [0; 4];
        stream.read_exact(&mut connack).await.unwrap();
        assert_eq!((connack[0], connack[1], connack[3]), (0x20, 2, 0), "{connack:?}");
        Self {
            stream,
            is_session_present: connack[2] == 1,
        }
    }

    async fn subscribe(&mut self, filter: &str) {
        let mut bytes = Vec::new();
        encode_subscribe(&mut bytes, 7, filter, 1).unwrap();
        self.stream.write_all(&bytes).await.unwrap();
        let mut suback = [0; 5];
        self.stream.read_exact(&mut suback).await.unwrap();
        assert_eq!(suback, [0x90, 3, 0, 7, 1]);
    }

    async fn publish(&mut self, name: &str) {
        let mut bytes = Vec::new();
        let layout = encode_publish(&mut bytes, &format!("devices/{name}/messages/events/"), b"21.5").unwrap();
        bytes[layout.packet_id + 1] = 8;
        self.stream.write_all(&bytes).await.unwrap();
        let mut puback = [0; 4];
        self.stream.read_exact(&mut puback).await.unwrap();
        assert_eq!(puback, [0x40, 2, 0, 8]);
    }
}

/// The identity as REST shows it, alone and in the list of devices.
fn shown(hub: &Hub, name: &str) -> Value {
    let one = hub.json(&["device", "show", name]);
    let listed = hub.json(&["device", "list", "--output", "json"]);
    let listed = listed
        .as_array()
        .unwrap()
        .iter()
        .find(|device| device["deviceId"] == name);
    let listed = listed.unwrap();
    for field in ["connectionState", "connectionStateUpdatedTime", "lastActivityTime"] {
        assert_eq!(one[field], listed[field], "{field}");
    }
    one
}

/// Waits until the hub has written down the beginnings and ends of connections.
fn until_recorded(hub: &Hub, count: u64) {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let metrics = hub.ops("/metrics").1;
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("holdfast_device_hub_connections_recorded_total "));
        let recorded = line.map_or(0, |number| number.trim().parse().unwrap());
        if recorded >= count {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{recorded} recorded, not {count}\n{}",
            hub.last_lines()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn restart(hub: &mut Hub) {
    if hub.connection_file().exists() {
        std::fs::remove_file(hub.connection_file()).unwrap();
    }
    hub.launch(&[]);
}

#[test]
fn subscriptions_last_activity_and_connection_state_survive_a_kill_and_a_stop() {
    let mut hub = Hub::start(&[]);
    let names = DeviceNames::new("state-").unwrap();
    let (name, other) = (names.name(0), names.name(1));
    block_on(holdfast_swarm::devices::create(
        &Client::load(&hub.connection_file()).unwrap(),
        &names,
        0..2,
    ))
    .unwrap();
    let never = shown(&hub, &name);
    assert_eq!(never["lastActivityTime"], NEVER);
    let device = block_on(async {
        let mut device = Device::connect(&hub, &name).await;
        assert!(!device.is_session_present);
        device.subscribe("$iothub/methods/POST/#").await;
        device.publish(&name).await;
        // A device that subscribes to nothing has no session.
        assert!(!Device::connect(&hub, &other).await.is_session_present);
        device
    });
    let before = shown(&hub, &name);
    assert_eq!(before["connectionState"], "Connected");
    assert_ne!(before["lastActivityTime"], NEVER);
    until_recorded(&hub, 2);
    hub.kill();
    drop(device);
    restart(&mut hub);
    let after = shown(&hub, &name);
    assert_eq!(after["connectionState"], "Disconnected");
    assert_eq!(after["lastActivityTime"], before["lastActivityTime"]);
    assert_ne!(after["connectionStateUpdatedTime"], NEVER);
    let device = block_on(Device::connect(&hub, &name));
    assert!(device.is_session_present, "it never subscribes again");
    assert!(!block_on(Device::connect(&hub, &other)).is_session_present);
    assert_eq!(shown(&hub, &name)["connectionState"], "Connected");
    // An ordered stop ends the session, and says when.
    assert_eq!(hub.stop().code(), Some(0), "{}", hub.last_lines());
    drop(device);
    restart(&mut hub);
    let stopped = shown(&hub, &name);
    assert_eq!(stopped["connectionState"], "Disconnected");
    let updated = |shown: &Value| shown["connectionStateUpdatedTime"].as_str().unwrap().to_owned();
    assert!(updated(&stopped) > updated(&after), "{stopped}");
    assert!(block_on(Device::connect(&hub, &name)).is_session_present);
}

#[test]
fn each_of_a_fleet_gets_its_patches_and_those_that_do_not_read_hold_up_no_other() {
    let hub = Hub::start(&[]);
    let client = Client::load(&hub.connection_file()).unwrap();
    let names = DeviceNames::new("fleet-").unwrap();
    block_on(holdfast_swarm::devices::create(&client, &names, 0..20)).unwrap();
    let report = |devices: u32, deaf: u32| {
        let target = Target {
            address: client.mqtt_address(Transport::Plain).unwrap(),
            nodes: Vec::new(),
            begin_at: None,
            reconnect_to: ReconnectTo::Same,
            tls: None,
            sources: Vec::new(),
            names: names.clone(),
            credentials: Credentials::Hub(client.devices(TOKEN_LIFETIME).unwrap()),
            topic: String::new(),
        };
        let plan = Plan {
            hub: client.clone(),
            target,
            description: "a test".to_owned(),
            shape: Shape::TwinBroadcast,
            first: 0,
            devices,
            callers: 4,
            options: ConnectionOptions {
                keep_alive: 60,
                clean_session: true,
            },
            rate: None,
            answer_after: Duration::ZERO,
            warmup: Duration::ZERO,
            duration: Duration::ZERO,
            pids: vec![hub.pid()],
            broadcast: Broadcast {
                deaf,
                rounds: 3,
                padding: 1000,
            },
        };
        down::run(plan, || {}).unwrap()
    };
    for (devices, deaf) in [(20, 0), (20, 5), (2, 2)] {
        let report = report(devices, deaf);
        let broadcast = report.broadcast.as_ref().unwrap();
        assert_eq!(report.done, 3 * u64::from(devices), "{report}");
        assert_eq!(
            (broadcast.notified, broadcast.missing),
            (3 * u64::from(devices - deaf), 0),
            "{report}"
        );
        assert!(broadcast.connected_bytes_per_device.is_some(), "{report}");
    }
}
