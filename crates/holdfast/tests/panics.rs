//! The extent of a panic: one connection where it serves that connection, the process everywhere else
//! (docs/decisions/0006).
//!
//! The panics are injected: a debug build started with `TEST_PANIC_POINTS` panics at a point that a payload names. A
//! release build has no such points.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod harness;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use harness::Hub;

const TIMEOUT: Duration = Duration::from_secs(60);
const ARMED: &[(&str, &str)] = &[("TEST_PANIC_POINTS", "1")];
/// Devices that publish while one of them makes its connection panic.
const OTHERS: usize = 4;

/// A device with an open MQTT connection.
struct Device {
    socket: TcpStream,
    topic: String,
}

impl Device {
    fn connect(hub: &Hub, id: &str) -> Self {
        let mut socket = Self::login(hub, id, "");
        let mut answer = [0; 4];
        socket.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [0x20, 2, 0, 0], "CONNACK");
        Self {
            socket,
            topic: format!("devices/{id}/messages/events/"),
        }
    }

    /// Sends a CONNECT whose user name ends with `more`.
    fn login(hub: &Hub, id: &str, more: &str) -> TcpStream {
        let connection = hub.connection();
        let host = connection["hostName"].as_str().unwrap();
        let port = connection["ports"]["mqttPlain"].as_u64().unwrap();
        let mut socket = TcpStream::connect(format!("{host}:{port}")).unwrap();
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        let token = hub.ok(&["sas-token", "-d", id]);
        let user = format!("{host}/{id}/?api-version=2021-04-12{more}");
        // MQTT 3.1.1: user, password, clean session, keep-alive of 60 s.
        let mut body = b"\x00\x04MQTT\x04\xc2\x00\x3c".to_vec();
        for field in [id, &user, token.trim()] {
            push_text(&mut body, field);
        }
        socket.write_all(&packet(0x10, &body)).unwrap();
        socket
    }

    /// Publishes at QoS 1; whether the PUBACK came before the connection ended.
    fn publish(&mut self, packet_id: u16, payload: &[u8]) -> bool {
        let mut body = Vec::new();
        push_text(&mut body, &self.topic);
        body.extend_from_slice(&packet_id.to_be_bytes());
        body.extend_from_slice(payload);
        let mut answer = [0; 4];
        self.socket.write_all(&packet(0x32, &body)).is_ok()
            && self.socket.read_exact(&mut answer).is_ok()
            && answer == [&[0x40, 2][..], &packet_id.to_be_bytes()].concat()[..]
    }
}

fn push_text(body: &mut Vec<u8>, text: &str) {
    body.extend_from_slice(&u16::try_from(text.len()).unwrap().to_be_bytes());
    body.extend_from_slice(text.as_bytes());
}

fn packet(head: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![head];
    let mut left = body.len();
    loop {
        let more = left >= 128;
        packet.push((left % 128) as u8 | if more { 128 } else { 0 });
        left /= 128;
        if !more {
            break;
        }
    }
    packet.extend_from_slice(body);
    packet
}

/// The value of a metric without labels.
fn metric(hub: &Hub, name: &str) -> f64 {
    let metrics = hub.ops("/metrics").1;
    let line = metrics.lines().find(|line| line.starts_with(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("no metric {name}"))
        .rsplit(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
fn a_panic_while_a_connection_is_served_ends_that_connection_alone() {
    let mut hub = Hub::start_with(&[], ARMED);
    let ids: Vec<String> = (0..=OTHERS).map(|number| format!("device-{number}")).collect();
    for id in &ids {
        hub.ok(&["device", "create", id]);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(AtomicU64::new(0));
    let others: Vec<_> = ids[1..]
        .iter()
        .map(|id| {
            let mut device = Device::connect(&hub, id);
            let (stop, acknowledged) = (stop.clone(), acknowledged.clone());
            std::thread::spawn(move || {
                for packet_id in (1..=u16::MAX).cycle() {
                    if stop.load(Ordering::Relaxed) {
                        return true;
                    }
                    if !device.publish(packet_id, b"reading") {
                        return false;
                    }
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                false
            })
        })
        .collect();
    let more_acknowledged = |count: u64| {
        let (from, deadline) = (acknowledged.load(Ordering::Relaxed), Instant::now() + TIMEOUT);
        while acknowledged.load(Ordering::Relaxed) < from + count {
            assert!(
                Instant::now() < deadline,
                "the others are not served\n{}",
                hub.last_lines()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    more_acknowledged(20);
    for _ in 0..2 {
        let mut victim = Device::connect(&hub, &ids[0]);
        assert!(victim.publish(1, b"before"));
        assert!(
            !victim.publish(2, b"panic at connection"),
            "the hub closes the connection"
        );
    }
    more_acknowledged(20);
    assert!((metric(&hub, "holdfast_tasks_panics") - 2.0).abs() < f64::EPSILON);
    let log = hub.log();
    let line = log.lines().find(|line| line.contains("task panicked")).unwrap();
    assert!(
        line.contains("mqtt-connection") && line.contains("injected at connection"),
        "{line}"
    );
    stop.store(true, Ordering::Relaxed);
    for other in others {
        assert!(
            other.join().unwrap(),
            "a connection of another device was lost\n{}",
            hub.last_lines()
        );
    }
    // The session and its row are gone: the device connects again, and the drain does not wait.
    assert!(Device::connect(&hub, &ids[0]).publish(1, b"after"));
    assert_eq!(hub.stop().code(), Some(0), "{}", hub.last_lines());
}

#[test]
fn a_panic_while_shared_state_is_changed_ends_the_process_and_nothing_acknowledged_is_lost() {
    let mut hub = Hub::start_with(&[], ARMED);
    hub.ok(&["device", "create", "device"]);
    let mut device = Device::connect(&hub, "device");
    assert!(device.publish(1, b"before"));
    assert!(!device.publish(2, b"panic at core"));
    assert_eq!(hub.wait().code(), Some(8), "{}", hub.last_lines());
    let log = hub.log();
    let line = log
        .lines()
        .find(|line| line.contains("shared with other tasks"))
        .unwrap();
    assert!(line.contains("mqtt-connection"), "{line}");
    std::fs::remove_file(hub.connection_file()).unwrap();
    hub.launch(&[]);
    let events = hub.ok(&["monitor-events", "--from", "oldest", "--count", "1", "--timeout", "30"]);
    assert!(events.contains("before"), "{events}");
    assert!(Device::connect(&hub, "device").publish(1, b"after"));
}

#[test]
fn a_panic_in_the_middle_of_beginning_a_session_ends_the_process() {
    let mut hub = Hub::start_with(&[], ARMED);
    hub.ok(&["device", "create", "device"]);
    assert!(Device::connect(&hub, "device").publish(1, b"before"));
    // A session that is half begun would stay behind, without a connection.
    let _socket = Device::login(&hub, "device", "&model-id=panic%20at%20attach");
    assert_eq!(hub.wait().code(), Some(8), "{}", hub.last_lines());
    let log = hub.log();
    assert!(log.contains("injected at attach"), "{log}");
}
