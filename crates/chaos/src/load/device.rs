//! A device over all its connections: it moves between nodes, sometimes leaving the older connection open so that the
//! hub has to take the session over, and abandons a connection without acknowledgements.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use holdfast_swarm::amqp::AmqpDevice;
use holdfast_swarm::batch::packet_id;
use holdfast_swarm::connect::{self, ConnectAttempt, ConnectionOptions, Stream};
use holdfast_swarm::https::HttpsDevice;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::Notify;

use super::Shared;
use super::connection::{Session, acknowledged, drive};
use super::wire::Wire;
use crate::history::{End, Micros, Refusal, SECOND};
use crate::targets::{Endpoint, Protocol};

/// Timeout of one attempt to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);
/// How long a connection may stay without acknowledgement before the device tries another node.
const ACKNOWLEDGE_TIMEOUT: Micros = 8 * SECOND;
/// How long a device stays at one node, in milliseconds.
const STAY_MS: std::ops::Range<u64> = 2_000..25_000;
/// Between two messages over HTTPS, in milliseconds.
const SEND_MS: std::ops::Range<u64> = 20..120;
/// Backoff between two attempts to connect, in milliseconds.
const RETRY_MS: std::ops::Range<u64> = 20..250;
/// The ends of errors of a device without the right to connect: over MQTT, with `$cbs`, with the link, over HTTPS.
const UNAUTHORIZED: [&str; 5] = [
    "CONNACK 4",
    "CONNACK 5",
    "is refused with 401",
    "amqp:unauthorized-access",
    "the hub answers 401",
];
const OPTIONS: ConnectionOptions = ConnectionOptions {
    keep_alive: 60,
    clean_session: true,
};

/// Runs a device over MQTT or AMQP.
pub(super) async fn run(shared: Rc<Shared>, number: u32, protocol: Protocol, mut rng: StdRng) {
    let name = shared.targets.names().name(number);
    let (mut epoch, mut base, mut sent_before) = (0, 0, 0);
    let mut older: Option<(Rc<RefCell<Session>>, tokio::task::JoinHandle<()>)> = None;
    let nothing_owed = |base: u64, sent: u64| base >= sent;
    while !(shared.is_ended() || shared.is_stopping() && nothing_owed(base, sent_before)) {
        let Some(endpoint) = shared.targets.any(&mut rng) else {
            backoff(&mut rng).await;
            continue;
        };
        let asked = shared.recorder.now();
        let wire = match open_wire(&shared, endpoint, number, protocol).await {
            Ok(wire) => wire,
            Err(error) => {
                note_failure(&shared, &name, endpoint, asked, &error);
                backoff(&mut rng).await;
                continue;
            }
        };
        let up = shared.recorder.now();
        if let Some((session, _)) = older.take() {
            // Acknowledgements until here belong to the older connection.
            let mut session = session.borrow_mut();
            session.superseded = true;
            base = base.max(session.acknowledged_below);
            sent_before = sent_before.max(session.next);
        }
        let session = Session::new(number, &name, epoch, endpoint.node, asked, up, base);
        let session = Rc::new(RefCell::new(session));
        shared.sessions.borrow_mut().push(session.clone());
        let changed = Rc::new(Notify::new());
        let task = drive(
            shared.clone(),
            session.clone(),
            changed.clone(),
            wire,
            sent_before,
            StdRng::seed_from_u64(rng.random()),
        );
        let task = holdfast_tasks::spawn_local("device-connection", Box::pin(task));
        stay(&shared, &session, &changed, &mut rng).await;
        base = session.borrow().acknowledged_below;
        sent_before = sent_before.max(session.borrow().next);
        epoch += 1;
        if session.borrow().is_ended() {
            if !shared.is_stopping() {
                backoff(&mut rng).await;
            }
        } else {
            // The older connection stays open until the newer one is up: a takeover.
            older = Some((session, task));
        }
    }
}

/// Runs a device over HTTPS: one message at a time, by a kept connection to a node that changes.
pub(super) async fn run_https(shared: Rc<Shared>, number: u32, mut rng: StdRng) {
    let name = shared.targets.names().name(number);
    let (mut epoch, mut base) = (0, 0);
    // Whether a message that was sent has no acknowledgement yet.
    let mut owes = false;
    while !(shared.is_ended() || shared.is_stopping() && !owes) {
        let Some(endpoint) = shared.targets.any(&mut rng) else {
            backoff(&mut rng).await;
            continue;
        };
        let asked = shared.recorder.now();
        let device = match open_https(&shared, endpoint, number).await {
            Ok(device) => device,
            Err(error) => {
                note_failure(&shared, &name, endpoint, asked, &error);
                backoff(&mut rng).await;
                continue;
            }
        };
        let mut session = Session::new(number, &name, epoch, endpoint.node, asked, shared.recorder.now(), base);
        session.is_sessionless = true;
        let session = Rc::new(RefCell::new(session));
        shared.sessions.borrow_mut().push(session.clone());
        let until = tokio::time::Instant::now() + Duration::from_millis(rng.random_range(STAY_MS));
        let result = send_until(&shared, &session, device, owes, until, &mut rng).await;
        session.borrow_mut().end(shared.recorder.now(), End::Own);
        if let Err(error) = result {
            note_failure(&shared, &name, endpoint, asked, &error);
            backoff(&mut rng).await;
        }
        base = session.borrow().acknowledged_below;
        owes = session.borrow().is_waiting();
        epoch += 1;
    }
}

async fn open_https(shared: &Shared, endpoint: Endpoint, number: u32) -> Result<HttpsDevice> {
    let target = shared.targets.target(endpoint, Protocol::Https)?;
    match tokio::time::timeout(
        CONNECT_TIMEOUT,
        HttpsDevice::open(&target, number, ConnectAttempt::Initial),
    )
    .await
    {
        Ok(opened) => opened,
        Err(_) => anyhow::bail!("no connection in time"),
    }
}

/// Sends until the device moves on; `owes`: the first message may have been sent before.
async fn send_until(
    shared: &Shared,
    session: &RefCell<Session>,
    mut device: HttpsDevice,
    mut owes: bool,
    until: tokio::time::Instant,
    rng: &mut StdRng,
) -> Result<()> {
    while !shared.is_ended() && (owes || !shared.is_stopping() && tokio::time::Instant::now() < until) {
        let (message, payload) = session.borrow_mut().next_message(shared.run, shared.recorder.now());
        let sent = tokio::time::timeout(Duration::from_micros(ACKNOWLEDGE_TIMEOUT), device.send(&payload)).await;
        match sent {
            Ok(Ok(204)) => acknowledged(shared, session, packet_id(message)),
            Ok(Ok(status)) => anyhow::bail!("the hub answers {status}"),
            Ok(Err(error)) => return Err(error),
            Err(_) => anyhow::bail!("no answer in time"),
        }
        owes = false;
        tokio::time::sleep(Duration::from_millis(rng.random_range(SEND_MS))).await;
    }
    Ok(())
}

/// Waits until the connection ends, the device moves on, or acknowledgements stay out.
async fn stay(shared: &Shared, session: &RefCell<Session>, changed: &Notify, rng: &mut StdRng) {
    let until = tokio::time::Instant::now() + Duration::from_millis(rng.random_range(STAY_MS));
    loop {
        let silent_since = session.borrow().waits_since();
        let now = shared.recorder.now();
        let is_silent = silent_since.is_some_and(|since| now > since + ACKNOWLEDGE_TIMEOUT);
        // At the end a device stays where it is until everything is acknowledged.
        let goes = tokio::time::Instant::now() >= until && !shared.is_stopping();
        if session.borrow().is_ended() || is_silent || goes || shared.is_ended() {
            return;
        }
        let _ = tokio::time::timeout(Duration::from_millis(200), changed.notified()).await;
    }
}

async fn open_wire(shared: &Shared, endpoint: Endpoint, number: u32, protocol: Protocol) -> Result<Wire> {
    if protocol != Protocol::Amqp {
        let stream = open(shared, endpoint, number).await?;
        return Ok(Wire::mqtt(stream, &shared.targets.names().name(number)));
    }
    let target = shared.targets.target(endpoint, protocol)?;
    match tokio::time::timeout(CONNECT_TIMEOUT, AmqpDevice::open(&target, number)).await {
        Ok(opened) => Ok(Wire::Amqp(Box::new(opened?))),
        Err(_) => anyhow::bail!("no link in time"),
    }
}

/// Connects over MQTT.
pub(super) async fn open(shared: &Shared, endpoint: Endpoint, number: u32) -> Result<Stream> {
    let target = shared.targets.target(endpoint, Protocol::Mqtt)?;
    match tokio::time::timeout(
        CONNECT_TIMEOUT,
        connect::open(&target, OPTIONS, number, ConnectAttempt::Initial),
    )
    .await
    {
        Ok(result) => result,
        Err(_) => anyhow::bail!("no CONNACK in time"),
    }
}

pub(super) fn note_failure(shared: &Shared, name: &str, endpoint: Endpoint, asked: Micros, error: &anyhow::Error) {
    let text = format!("{error:#}");
    // They mean that the device has no right to connect; other codes and silence, that the hub cannot decide.
    if UNAUTHORIZED.iter().any(|end| text.ends_with(end)) {
        let answered = shared.recorder.now();
        shared.recorder.history().refusals.push(Refusal {
            device: name.to_owned(),
            node: endpoint.node,
            asked,
            answered,
        });
    }
    let reason = text.replace(&endpoint.ip.to_string(), "node");
    shared.recorder.failure(format!("connect: {reason}"));
}

pub(super) async fn backoff(rng: &mut StdRng) {
    tokio::time::sleep(Duration::from_millis(rng.random_range(RETRY_MS))).await;
}
