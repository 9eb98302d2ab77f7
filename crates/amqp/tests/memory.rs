//! The memory of an idle connection, and the bound of allocations that hostile bytes cause.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use holdfast_amqp::{Accept, AttachSpec, ClientSasl, Config, Connection, Event, OpenSpec, SaslCode};
use support::{Pair, start};

/// The budget for an idle device connection with `$cbs` and three links (Spec amqp §12), bytes of heap.
const IDLE_BUDGET: u64 = 12 * 1024;
/// Bytes allocated at most per byte of input, beyond a base that every connection has.
const ALLOCATION_FACTOR: u64 = 40;
const ALLOCATION_BASE: u64 = 64 * 1024;

/// A server's side of a connection with `$cbs` and three links, idle.
fn idle_device_connection(bytes: &[u8]) -> Connection {
    let now = start();
    let mut server = Connection::server(Config::default(), now);
    let mut input = bytes;
    while let Some(event) = server.receive(&mut input, now).unwrap() {
        answer(&mut server, &event);
        let written = server.output().len();
        server.advance_output(written, now);
    }
    server.release();
    server
}

fn answer(server: &mut Connection, event: &Event<'_>) {
    match event {
        Event::SaslInit(_) => server.sasl_outcome(SaslCode::Ok),
        Event::Open(_) => server.open(&OpenSpec {
            container_id: "s".to_owned(),
            hostname: None,
        }),
        Event::AttachRequested { link, .. } => server.accept(
            *link,
            &Accept {
                credit: 100,
                ..Accept::default()
            },
        ),
        _ => {}
    }
}

/// The bytes that a device writes until it is idle.
fn device() -> Vec<u8> {
    let mut pair = Pair::new(Config::default(), ClientSasl::None);
    let mut bytes = Vec::new();
    let mut keep = |pair: &mut Pair| {
        bytes.extend_from_slice(pair.client.output());
        pair.pump();
    };
    keep(&mut pair);
    let session = pair.client.begin().unwrap();
    keep(&mut pair);
    let device = "devices/a-device-with-a-name-of-forty-characters";
    for address in [
        "$cbs".to_owned(),
        format!("{device}/messages/events"),
        format!("{device}/twin"),
    ] {
        pair.client
            .attach(session, &AttachSpec::sender(&format!("sender-{address}"), &address))
            .unwrap();
    }
    for address in ["$cbs".to_owned(), format!("{device}/messages/devicebound")] {
        pair.client
            .attach(session, &AttachSpec::receiver(&format!("receiver-{address}"), &address))
            .unwrap();
    }
    keep(&mut pair);
    bytes
}

#[test]
fn an_idle_device_connection_stays_within_its_budget() {
    let bytes = device();
    let mut kept = None;
    let info = allocation_counter::measure(|| kept = Some(idle_device_connection(&bytes)));
    let heap = u64::try_from(info.bytes_current).unwrap() + size_of::<Connection>() as u64;
    assert!(kept.is_some_and(|server| server.is_open()));
    assert!(heap <= IDLE_BUDGET, "{heap} bytes");
    // Far below today: a change that doubles it should be noticed.
    assert!(heap <= IDLE_BUDGET / 3, "{heap} bytes");
}

#[test]
fn allocation_is_bounded_by_the_input() {
    let good = device();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..2000 {
        let mut bytes = good.clone();
        for _ in 0..4 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let index = seed as usize % bytes.len();
            bytes[index] = (seed >> 32) as u8;
        }
        let info = allocation_counter::measure(|| {
            let now = start();
            let mut server = Connection::server(Config::default(), now);
            let mut input = bytes.as_slice();
            while let Ok(Some(event)) = server.receive(&mut input, now) {
                answer(&mut server, &event);
            }
        });
        let bound = ALLOCATION_BASE + ALLOCATION_FACTOR * bytes.len() as u64;
        assert!(info.bytes_max <= bound, "{} bytes for {}", info.bytes_max, bytes.len());
    }
}
