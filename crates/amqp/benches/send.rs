//! The cost of sending one event: `send_with` of 256 bytes with the annotations of Spec amqp §8.4.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use holdfast_amqp::types::{put_long, put_str, put_timestamp};
use holdfast_amqp::{Accept, AttachSpec, ClientSasl, Config, Connection, Delivery, Event, LinkId, OpenSpec, message};

#[expect(clippy::disallowed_methods, reason = "a bench's starting point")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

/// A server with one link that has all the credit there is, and the client at its other end.
fn pair() -> (Connection, Connection, LinkId) {
    let now = now();
    let open = OpenSpec {
        container_id: "c".to_owned(),
        hostname: None,
    };
    let mut client = Connection::client(Config::default(), ClientSasl::None, open.clone(), now);
    let mut server = Connection::server(Config::default(), now);
    let mut at_server = None;
    for round in 0..8 {
        let bytes = client.output().to_vec();
        client.advance_output(bytes.len(), now);
        let mut input = bytes.as_slice();
        while let Ok(Some(event)) = server.receive(&mut input, now) {
            match event {
                Event::Open(_) => server.open(&open),
                Event::AttachRequested { link, .. } => {
                    at_server = Some(link);
                    server.accept(link, &Accept::default());
                }
                _ => {}
            }
        }
        let bytes = server.output().to_vec();
        server.advance_output(bytes.len(), now);
        let mut input = bytes.as_slice();
        while let Ok(Some(_)) = client.receive(&mut input, now) {}
        if round == 2
            && let Some(session) = client.begin()
        {
            let link = client.attach(session, &AttachSpec::receiver("r", "hub"));
            if let Some(link) = link {
                client.grant(link, 1 << 30);
            }
        }
    }
    match at_server {
        Some(link) => (server, client, link),
        None => unreachable!("the link was attached"),
    }
}

fn event(buf: &mut Vec<u8>, number: i64, bare: &[u8]) {
    let mut map = message::begin_message_annotations(buf);
    put_str(map.key("iothub-connection-device-id"), "device-0001");
    put_str(
        map.key("iothub-connection-auth-method"),
        r#"{"scope":"device","type":"sas","issuer":"iothub"}"#,
    );
    put_str(map.key("iothub-connection-auth-generation-id"), "638000000000000000");
    put_timestamp(map.key("iothub-enqueuedtime"), 1_700_000_000_000);
    put_str(map.key("iothub-message-source"), "Telemetry");
    put_long(map.key("x-opt-sequence-number"), number);
    put_str(map.key("x-opt-offset"), "123456");
    put_timestamp(map.key("x-opt-enqueued-time"), 1_700_000_000_000);
    put_str(map.key("x-opt-partition-key"), "device-0001");
    map.finish();
    message::put_data(buf, bare);
}

fn send(c: &mut Criterion) {
    let now = now();
    let (mut server, mut client, link) = pair();
    let payload = [7u8; 256];
    let delivery = Delivery {
        tag: &[1, 2, 3, 4],
        settled: true,
        message_format: 0,
    };
    let mut wire = Vec::new();
    let mut number = 0;
    c.bench_function("send and receive 100 events of 256 B", |b| {
        b.iter(|| {
            for _ in 0..100 {
                number += 1;
                let sent = server.send_with(link, &delivery, |buf| event(buf, number, black_box(&payload)));
                assert!(sent.is_ok());
            }
            wire.clear();
            wire.extend_from_slice(server.output());
            server.advance_output(wire.len(), now);
            let mut input = wire.as_slice();
            while let Ok(Some(event)) = client.receive(&mut input, now) {
                black_box(&event);
            }
            let mut input = client.output();
            while let Ok(Some(_)) = server.receive(&mut input, now) {}
            let written = client.output().len();
            client.advance_output(written, now);
        });
    });
    c.bench_function("send 100 events of 256 B", |b| {
        b.iter(|| {
            for _ in 0..100 {
                number += 1;
                if server
                    .send_with(link, &delivery, |buf| event(buf, number, black_box(&payload)))
                    .is_err()
                {
                    // The window is spent: tell the client, whose answer opens it.
                    wire.clear();
                    wire.extend_from_slice(server.output());
                    server.advance_output(wire.len(), now);
                    let mut input = wire.as_slice();
                    while let Ok(Some(_)) = client.receive(&mut input, now) {}
                    let mut input = client.output();
                    while let Ok(Some(_)) = server.receive(&mut input, now) {}
                    let written = client.output().len();
                    client.advance_output(written, now);
                }
            }
        });
    });
}

criterion_group!(benches, send);
criterion_main!(benches);
