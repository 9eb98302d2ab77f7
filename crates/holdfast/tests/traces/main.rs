//! What an operator sees in a tracing system: one trace of each kind, over several nodes, from real processes to a collector.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod collector;
#[path = "../harness/mod.rs"]
mod harness;

use std::net::SocketAddr;
use std::time::Duration;

use collector::{Collector, Seen};
use harness::Hub;
use holdfast_swarm::http::Client as Rest;
use holdfast_swarm::hub::Hub as Client;
use holdfast_swarm::target::{DeviceNames, Transport};
use holdfast_swarm::wire::{Connect, encode_publish, encode_subscribe};
use http::{HeaderName, Method, header};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);
const TIMEOUT: Duration = Duration::from_secs(60);

/// Enough that not all of their partitions are owned by the nodes that they are connected to.
const DEVICES: u32 = 8;

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(TIMEOUT, work).await.expect("an answer in time")
}

/// A device that is connected to one node over TLS.
struct Device {
    name: String,
    stream: TlsStream<TcpStream>,
}

impl Device {
    async fn connect(hub: &Client, node: SocketAddr, name: String) -> Self {
        let tls = hub.tls(Transport::Tls13).unwrap().unwrap();
        let tcp = TcpStream::connect(node).await.unwrap();
        let mut stream = tls.connector.connect(tls.server, tcp).await.unwrap();
        let login = hub.devices(TOKEN_LIFETIME).unwrap().login(name.clone()).unwrap();
        let mut bytes = Vec::new();
        Connect {
            client_id: &login.client_id,
            username: login.username.as_deref(),
            password: login.password.as_deref(),
            keep_alive: 60,
            clean_session: true,
        }
        .encode(&mut bytes)
        .unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut connack = [0; 4];
        stream.read_exact(&mut connack).await.unwrap();
        assert_eq!((connack[0], connack[1], connack[3]), (0x20, 2, 0), "{connack:?}");
        Self { name, stream }
    }

    async fn subscribe(&mut self, filter: &str) {
        let mut bytes = Vec::new();
        encode_subscribe(&mut bytes, 7, filter, 1).unwrap();
        self.stream.write_all(&bytes).await.unwrap();
        let mut suback = [0; 5];
        self.stream.read_exact(&mut suback).await.unwrap();
        assert_eq!(suback[0], 0x90, "{suback:?}");
    }

    /// Publishes with QoS 1 and waits for the acknowledgement.
    async fn publish(&mut self, topic: &str, payload: &[u8]) {
        let mut bytes = Vec::new();
        let layout = encode_publish(&mut bytes, topic, payload).unwrap();
        bytes[layout.packet_id + 1] = 8;
        self.stream.write_all(&bytes).await.unwrap();
        let mut puback = [0; 4];
        self.stream.read_exact(&mut puback).await.unwrap();
        assert_eq!(puback, [0x40, 2, 0, 8]);
    }

    /// The topic of the next publish, which is acknowledged.
    async fn next(&mut self) -> String {
        let head = self.stream.read_u8().await.unwrap();
        assert_eq!(head >> 4, 3, "a publish");
        let (mut length, mut shift) = (0, 0);
        loop {
            let byte = self.stream.read_u8().await.unwrap();
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await.unwrap();
        let end = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
        if head & 0b110 != 0 {
            self.stream
                .write_all(&[0x40, 2, body[end], body[end + 1]])
                .await
                .unwrap();
        }
        String::from_utf8(body[2..end].to_vec()).unwrap()
    }
}

/// A `traceparent` of a client, and its trace in hexadecimal digits.
fn client_context(number: u32) -> (String, String) {
    let trace = format!(
        "{:032x}",
        0x00c0_ffee_0000_0000_0000_0000_0000_0000_u128 + u128::from(number)
    );
    (format!("00-{trace}-00f067aa0ba902b7-01"), trace)
}

async fn post(hub: &Client, node: SocketAddr, path: &str, traceparent: &str, body: &Value) -> Value {
    let tls = hub.tls(Transport::Tls13).unwrap();
    let mut rest = Rest::connect(node, hub.host(), tls.as_ref()).await.unwrap();
    let token = hub.owner_token(TOKEN_LIFETIME).unwrap();
    let headers = [
        (header::AUTHORIZATION, token.as_str()),
        (HeaderName::from_static("traceparent"), traceparent),
    ];
    let (status, answer) = rest
        .request_with(Method::POST, path, &headers, body.to_string().into_bytes())
        .await
        .unwrap();
    assert!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&answer));
    serde_json::from_slice(&answer).unwrap()
}

/// The first of `traces` whose spans come from several nodes and have all of these names.
fn over_nodes<'a>(traces: impl IntoIterator<Item = &'a Vec<Seen>>, names: &[&str]) -> Option<Vec<Seen>> {
    let fits = |trace: &&Vec<Seen>| {
        let has = |name: &&str| trace.iter().any(|span| span.name == **name);
        names.iter().all(has) && trace.iter().any(|span| span.node != trace[0].node)
    };
    traces.into_iter().find(fits).cloned()
}

fn span<'a>(trace: &'a [Seen], name: &str) -> &'a Seen {
    trace
        .iter()
        .find(|span| span.name == name)
        .unwrap_or_else(|| panic!("no {name} in {trace:#?}"))
}

/// The spans from the first to the last are each below the one before.
fn assert_chain(trace: &[Seen], names: &[&str]) {
    for pair in names.windows(2) {
        let (parent, child) = (span(trace, pair[0]), span(trace, pair[1]));
        assert_eq!(child.parent, parent.id, "{} is below {}: {trace:#?}", pair[1], pair[0]);
    }
}

#[test]
fn an_operator_sees_one_trace_over_the_nodes_for_each_kind() {
    let collector = Collector::start();
    let endpoint = format!("tracing.endpoint={}", collector.endpoint());
    let hub = Hub::start(&[
        "--nodes",
        "3",
        "--set",
        &endpoint,
        "--set",
        "tracing.sample_ratio=1.0",
        "--set",
        "tracing.interval=100ms",
    ]);
    let client = Client::load(&hub.connection_file()).unwrap();
    let names = DeviceNames::new("traced-").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(in_time(async {
        holdfast_swarm::devices::create(&client, &names, 0..DEVICES)
            .await
            .unwrap();
        let gateways = client.mqtt_nodes(Transport::Tls13).unwrap();
        let back_ends = client.https_nodes().unwrap();
        assert_eq!((gateways.len(), back_ends.len()), (3, 3));
        for number in 0..DEVICES {
            let name = names.name(number);
            let mut device = Device::connect(&client, gateways[1], name.clone()).await;
            device.subscribe("$iothub/methods/POST/#").await;
            device
                .subscribe(&format!("devices/{name}/messages/devicebound/#"))
                .await;

            let (traceparent, _) = client_context(number);
            let topic = format!("devices/{name}/messages/events/traceparent={traceparent}");
            device.publish(&topic, b"21.5").await;

            let (traceparent, _) = client_context(100 + number);
            let path = format!("/twins/{name}/methods?api-version=2021-04-12");
            let call = json!({"methodName": "ping", "payload": 1, "responseTimeoutInSeconds": 30});
            let called = post(&client, back_ends[2], &path, &traceparent, &call);
            let answered = async {
                let topic = device.next().await;
                let rid = topic.split_once("?$rid=").unwrap().1.to_owned();
                let mut bytes = Vec::new();
                encode_publish(&mut bytes, &format!("$iothub/methods/res/200/?$rid={rid}"), b"2").unwrap();
                // QoS 0: without a packet id.
                bytes[0] = 0x30;
                let topic_end = bytes.len() - 3;
                bytes.drain(topic_end..topic_end + 2);
                bytes[1] -= 2;
                device.stream.write_all(&bytes).await.unwrap();
            };
            let (answer, ()) = tokio::join!(called, answered);
            assert_eq!((&answer["status"], &answer["payload"]), (&json!(200), &json!(2)));

            let (traceparent, _) = client_context(200 + number);
            let path = format!("/holdfast/v1/devices/{name}/c2d?api-version=2021-04-12");
            post(&client, back_ends[2], &path, &traceparent, &json!({"payload": "hello"})).await;
            let topic = device.next().await;
            assert!(
                topic.starts_with(&format!("devices/{}/messages/devicebound/", device.name)),
                "{topic}"
            );
        }
    }));

    let connect = ["connect", "authenticate", "attach session", "begin session"];
    let trace = collector.until("a connect over two nodes", |traces| {
        over_nodes(traces.values(), &connect)
    });
    assert_chain(&trace, &["connect", "attach session", "begin session"]);
    assert_chain(&trace, &["connect", "authenticate"]);
    let root = span(&trace, "connect");
    assert!(root.parent.is_empty());
    assert_eq!(root.attribute("network.protocol.name"), "mqtt");
    assert!(root.attribute("messaging.client.id").starts_with("traced-"));

    let of_clients = |first: u32| {
        (first..first + DEVICES)
            .map(|number| client_context(number).1)
            .collect::<Vec<_>>()
    };
    let method = ["invoke method", "send delivery", "queue delivery", "run method"];
    let trace = collector.until("a method over three nodes", |traces| {
        let found = over_nodes(of_clients(100).iter().filter_map(|id| traces.get(id)), &method)?;
        Some(found)
    });
    assert_chain(&trace, &method);
    assert_eq!(
        span(&trace, "invoke method").parent,
        "00f067aa0ba902b7",
        "below the client's span"
    );
    assert_eq!(span(&trace, "invoke method").attribute("holdfast.method.status"), "200");

    let telemetry = ["receive telemetry", "append batch", "commit batch"];
    let sent = of_clients(0);
    let trace = collector.until("a batch over two nodes", |traces| {
        let links = |trace: &&Vec<Seen>| {
            trace
                .iter()
                .flat_map(|span| &span.links)
                .any(|link| sent.contains(link))
        };
        over_nodes(traces.values().filter(links), &telemetry)
    });
    assert_chain(&trace, &telemetry);
    let batch = span(&trace, "receive telemetry");
    assert!(batch.parent.is_empty());
    assert_eq!(batch.attribute("messaging.batch.message_count"), "1");
    assert_eq!(batch.events, ["committed"]);

    let message = [
        "send cloud-to-device message",
        "enqueue cloud-to-device message",
        "deliver cloud-to-device message",
        "settle cloud-to-device message",
    ];
    let trace = collector.until("a message over the nodes", |traces| {
        over_nodes(of_clients(200).iter().filter_map(|id| traces.get(id)), &message)
    });
    assert_chain(&trace, &message[..2]);
    assert_chain(&trace, &[message[0], message[2], message[3]]);
    assert_eq!(span(&trace, message[0]).parent, "00f067aa0ba902b7");
    assert_eq!(span(&trace, message[3]).attribute("holdfast.settlement"), "accepted");
}
