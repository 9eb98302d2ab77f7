//! A whole connection fed with hostile bytes, in both roles, cut into pieces, with a driver that says yes to everything.
//!
//! The first byte chooses the role and the size of the pieces. Asserted: no panic, output stays in proportion to input,
//! a closed connection stays closed.
#![no_main]

use std::time::{Duration, Instant};

use holdfast_amqp::{
    Accept, AttachSpec, ClientSasl, Config, Connection, Delivery, Detached, Event, OpenSpec, Outcome, SaslCode,
};
use libfuzzer_sys::fuzz_target;

fn answer(engine: &mut Connection, event: &Event<'_>, now: Instant) {
    match event {
        Event::SaslInit(_) => engine.sasl_outcome(SaslCode::Ok),
        Event::Open(_) => {
            engine.open(&OpenSpec { container_id: "s".to_owned(), hostname: None });
            if let Some(session) = engine.begin() {
                engine.attach(session, &AttachSpec::receiver("r", "x"));
            }
        }
        Event::AttachRequested { link, attach } => {
            let _ = attach.address();
            let _ = attach.desires("com.microsoft:georeplication");
            let _ = attach.property("com.microsoft:epoch");
            engine.accept(*link, &Accept { credit: 2, ..Accept::default() });
        }
        Event::Credit { link, drain, .. } => {
            let delivery = Delivery { tag: b"t", settled: false, message_format: 0 };
            let _ = engine.send_with(*link, &delivery, |buf| buf.resize(buf.len() + 1500, 0));
            if *drain {
                engine.finish_drain(*link);
            }
        }
        Event::Transfer(incoming) => {
            let id = incoming.delivery_id;
            engine.settle(incoming.link, id, id, &Outcome::Accepted);
            engine.top_up(incoming.link, 2);
            if incoming.payload.len() == 7 {
                engine.detach(incoming.link, Detached::Closed, None, now);
            }
        }
        Event::Disposition { session, first, last, settled, .. } => {
            for sent in engine.take_outgoing(*session, *first, *last) {
                if !settled {
                    engine.answer_outcome(*session, sent.delivery_id, sent.delivery_id, &Outcome::Accepted);
                }
            }
        }
        _ => {}
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&first, bytes)) = input.split_first() else { return };
    let mut now = Instant::now();
    let open = OpenSpec { container_id: "c".to_owned(), hostname: None };
    let mut engine = match first & 3 {
        0 => Connection::client(Config::default(), ClientSasl::None, open, now),
        1 => Connection::client(Config::default(), ClientSasl::Anonymous, open, now),
        _ => Connection::server(Config::default(), now),
    };
    let piece = usize::from(first >> 2).max(1) * 8;
    let mut buffer = Vec::new();
    let mut written = 0usize;
    for part in bytes.chunks(piece) {
        buffer.extend_from_slice(part);
        let mut rest = buffer.as_slice();
        while let Ok(Some(event)) = engine.receive(&mut rest, now) {
            answer(&mut engine, &event, now);
        }
        let kept = rest.len();
        buffer.drain(..buffer.len() - kept);
        now += Duration::from_secs(u64::from(first));
        engine.expire(now);
        written += engine.output().len();
        let pending = engine.output().len();
        engine.advance_output(pending, now);
        if engine.is_closed() {
            assert!(engine.deadline().is_none());
        }
    }
    assert!(written <= 4096 + input.len() * 1000, "{written} bytes for {}", input.len());
});
