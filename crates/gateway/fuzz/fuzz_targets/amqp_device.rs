//! The AMQP front end of devices, driven by the bytes of the input: a connection that attaches, sends, settles, grants, drains,
//! detaches, ends sessions, puts tokens, and writes bytes of its own, against a whole hub on a simulated cluster and a paused clock. The hub
//! sends messages and calls methods meanwhile.
//!
//! Asserted: nothing panics, what the hub writes is valid AMQP, the hub closes or answers in bounded time, and a neighbour on another
//! connection connects, sends, and is accepted. The hub outlives an input, and is a new one every [`INPUTS_OF_A_HUB`].
#![no_main]

#[path = "../../tests/support/mod.rs"]
mod support;

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use holdfast_amqp::message::{
    Properties, begin_application_properties, begin_message_annotations, put_data, put_properties, put_token,
};
use holdfast_amqp::types::{Raw, put_int, put_null, put_str};
use holdfast_amqp::{AttachSpec, ClientSasl, Delivery, Detached, Event, LinkId, Outcome, Role};
use holdfast_device_hub::{CloudMessage, FeedbackRequest, MethodCall};
use holdfast_model::NodeId;
use holdfast_simulation::{identity, simulate};
use libfuzzer_sys::fuzz_target;
use support::amqp::{Amqp, Device, Verdict};
use support::{Bench, DEVICE};

/// Inputs after which the hub is replaced: what devices have sent stays in it.
const INPUTS_OF_A_HUB: usize = 500;

/// Steps of one input.
const MAX_STEPS: usize = 200;

/// Inputs after which a neighbour connects and sends.
const CHECK_EVERY: usize = 8;

/// Addresses of devices, of others, and of none.
const PATHS: [&str; 12] = [
    "/devices/dev-1/messages/events",
    "/devices/dev-1/messages/devicebound",
    "/devices/dev-1/methods/devicebound",
    "/devices/dev-1/twin",
    "/devices/dev-1/modules/m/messages/events",
    "/devices/dev-1/modules/m/messages/devicebound",
    "/devices/dev-2/messages/events",
    "/devices/unknown/twin",
    "$cbs",
    "/messages/events",
    "/messages/serviceBound/feedback",
    "/messages/devicebound",
];

/// The input, byte by byte; zeros after its end.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn next(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn piece(&mut self) -> &'a [u8] {
        let length = usize::from(self.next()).min(self.0.len());
        let (piece, rest) = self.0.split_at(length);
        self.0 = rest;
        piece
    }

    fn one_of<'t, T>(&mut self, all: &'t [T]) -> Option<&'t T> {
        all.get(usize::from(self.next()) % all.len().max(1))
    }
}

/// A message: of raw bytes, of telemetry, of a twin request, or of an answer to a call.
fn message(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let mut buf = Vec::new();
    match bytes.next() % 5 {
        0 => buf.extend_from_slice(bytes.piece()),
        1 => {
            let operation = ["GET", "PATCH", "PUT", "DELETE", "POST"];
            let resource = [
                "",
                "/properties/reported",
                "/notifications/twin/properties/desired",
                "/other",
            ];
            let mut annotations = begin_message_annotations(&mut buf);
            put_str(
                annotations.key("operation"),
                bytes.one_of(&operation).copied().unwrap_or_default(),
            );
            put_str(
                annotations.key("resource"),
                bytes.one_of(&resource).copied().unwrap_or_default(),
            );
            put_null(annotations.key("version"));
            annotations.finish();
            let mut id = Vec::new();
            put_str(&mut id, "c");
            put_properties(
                &mut buf,
                &Properties {
                    correlation_id: Raw::new(&id).ok(),
                    ..Properties::default()
                },
            );
            put_data(&mut buf, bytes.piece());
        }
        2 => {
            let mut map = begin_application_properties(&mut buf);
            put_int(map.string_key("IoThub-status"), i32::from(bytes.next()));
            map.finish();
            put_data(&mut buf, bytes.piece());
        }
        3 => put_token(&mut buf, "id", &String::from_utf8_lossy(bytes.piece()), "audience"),
        _ => {
            put_data(&mut buf, bytes.piece());
            put_data(&mut buf, b"x");
        }
    }
    buf
}

/// What the hub has sent on a connection, as far as it has come.
async fn observe(device: &mut Device, received: &mut Vec<(LinkId, u32)>) {
    let mut events = 0;
    let waited = device.maybe(|engine, event| {
        match event {
            Event::Transfer(incoming) if !incoming.settled => received.push((incoming.link, incoming.delivery_id)),
            Event::Disposition {
                session, first, last, ..
            } => {
                engine.take_outgoing(*session, *first, *last);
            }
            _ => {}
        }
        events += 1;
        (events > 4).then_some(())
    });
    let _ = tokio::time::timeout(Duration::from_millis(50), waited).await;
}

/// One connection that does what the input says.
async fn run(bench: &Bench, amqp: &Amqp, input: &[u8]) {
    let mut bytes = Bytes(input);
    let mut device = match bytes.next() % 4 {
        0 => amqp.open().await,
        1 => amqp.open_as(ClientSasl::Anonymous, None).await,
        _ => amqp.connect(bench, DEVICE).await,
    };
    let hub = Arc::clone(bench.cluster.hub(NodeId(2)));
    let mut links: Vec<(LinkId, Role)> = Vec::new();
    let mut received = Vec::new();
    for step in 0..MAX_STEPS {
        if bytes.0.is_empty() {
            break;
        }
        match bytes.next() % 14 {
            0..=2 => {
                let (name, path) = (step.to_string(), bytes.one_of(&PATHS).copied().unwrap_or_default());
                let pair = match bytes.next() & 1 {
                    0 => AttachSpec::sender(&name, path),
                    _ => AttachSpec::receiver(&name, path),
                };
                if let Some(session) = device.session
                    && let Some(link) = device.engine.attach(session, &pair)
                {
                    links.push((link, pair.role));
                }
            }
            3..=4 => {
                if let Some((link, Role::Sender)) = bytes.one_of(&links).copied() {
                    let flags = bytes.next();
                    let delivery = Delivery {
                        tag: b"tag",
                        settled: flags & 1 != 0,
                        message_format: if flags & 2 != 0 { 0x8001_3700 } else { 0 },
                    };
                    let payload = message(&mut bytes);
                    let _ = device
                        .engine
                        .send_with(link, &delivery, |buf| buf.extend_from_slice(&payload));
                }
            }
            5 => {
                if let Some((link, id)) = bytes.one_of(&received).copied() {
                    let outcome = match bytes.next() % 4 {
                        0 => Outcome::Accepted,
                        1 => Outcome::Released,
                        2 => Outcome::Rejected(None),
                        _ => Outcome::Modified {
                            delivery_failed: true,
                            undeliverable_here: bytes.next() & 1 != 0,
                        },
                    };
                    device.engine.settle(link, id, id, &outcome);
                }
            }
            6 => {
                if let Some((link, _)) = bytes.one_of(&links).copied() {
                    device.engine.grant(link, u32::from(bytes.next()));
                }
            }
            7 => {
                if let Some((link, _)) = bytes.one_of(&links).copied() {
                    device.engine.drain(link);
                }
            }
            8 => {
                if let Some((link, _)) = bytes.one_of(&links).copied() {
                    let how = [Detached::Closed, Detached::Suspended][usize::from(bytes.next() & 1)];
                    device.engine.detach(link, how, None, Instant::now());
                }
            }
            9 => {
                if let Some(session) = device.session.take() {
                    device.engine.end(session, None);
                    device.session = device.engine.begin();
                }
            }
            10 => {
                let registered = hub.registry().identity(&identity(DEVICE));
                if let Ok(Some(registered)) = registered {
                    let message = CloudMessage {
                        feedback: Some(FeedbackRequest::Full),
                        body: bytes.piece().to_vec().into(),
                        ..CloudMessage::default()
                    };
                    let _ = hub
                        .send_cloud_message(&identity(DEVICE), &registered.generation, &message)
                        .await;
                }
            }
            11 => {
                let hub = Arc::clone(&hub);
                let call = MethodCall {
                    name: "m".into(),
                    payload: "{}".into(),
                    connect_timeout: Duration::ZERO,
                    response_timeout: Duration::from_secs(5),
                    trace: None,
                };
                tokio::task::spawn_local(async move { hub.invoke_method(&identity(DEVICE), &call).await });
            }
            12 => {
                let piece = bytes.piece();
                device.raw(piece).await;
            }
            _ => {
                device.flush().await;
                let wait = match bytes.next() {
                    // Past the lock of a message.
                    0xf8.. => Duration::from_secs(61),
                    millis => Duration::from_millis(millis.into()),
                };
                tokio::time::sleep(wait).await;
                observe(&mut device, &mut received).await;
            }
        }
        device.flush().await;
    }
    observe(&mut device, &mut received).await;
}

/// Inputs one after the other, on hubs of this thread.
fn serve(inputs: &Receiver<Vec<u8>>, done: &Sender<()>) {
    loop {
        let is_over = simulate(async {
            let bench = Bench::start().await;
            bench.cluster.create("dev-2").await;
            let amqp = Amqp::serve(&bench);
            for number in 0..INPUTS_OF_A_HUB {
                // Blocks the only thread: the clock is frozen between two inputs.
                let Ok(input) = inputs.recv() else { return true };
                run(&bench, &amqp, &input).await;
                if number % CHECK_EVERY == 0 {
                    // A new connection: hours may have passed on the clock of the hub.
                    let mut neighbour = amqp.connect(&bench, "dev-2").await;
                    let link = neighbour.sender("events", "/devices/dev-2/messages/events").await;
                    assert_eq!(neighbour.sent(link, b"21.5").await, Verdict::Accepted);
                }
                if done.send(()).is_err() {
                    return true;
                }
            }
            false
        });
        if is_over {
            return;
        }
    }
}

type Server = Mutex<(Sender<Vec<u8>>, Receiver<()>)>;

fuzz_target!(|input: &[u8]| {
    static SERVER: OnceLock<Server> = OnceLock::new();
    let server = SERVER.get_or_init(|| {
        let (input, inputs) = channel();
        let (done, answers) = channel();
        std::thread::Builder::new()
            .name("hub".to_owned())
            .spawn(move || serve(&inputs, &done))
            .expect("a thread");
        Mutex::new((input, answers))
    });
    let server = server.lock().expect("one input at a time");
    server.0.send(input.to_vec()).expect("the hub's thread");
    server.1.recv().expect("the hub's thread has ended");
});
