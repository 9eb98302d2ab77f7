//! A device that back ends address: it reports and reads its twin, takes messages and answers methods, and moves between
//! nodes. It has one connection at a time, so that the order of what it receives is known.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, bail};
use holdfast_model::{DeviceId, IdentityId};
use holdfast_mqtt::codec::{self, Publish};
use holdfast_mqtt::topic::HubTopic;
use holdfast_mqtt::{Limits, Packet, QoS};
use holdfast_swarm::connect::Stream;
use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::super::device::{backoff, note_failure, open};
use super::Down;
use crate::history::down::{Execution, ReceivedMessage, Section, TwinAnswer};
use crate::history::{Micros, SECOND};

/// How long a device stays at one node, in milliseconds.
const STAY_MS: std::ops::Range<u64> = 2_000..15_000;
/// From one request about the twin to the next, in milliseconds.
const INTERVAL_MS: std::ops::Range<u64> = 200..700;
/// A PINGREQ is sent after this much silence.
const PING_AFTER: Micros = 2 * SECOND;
/// A connection that is silent for this long, or does not answer a request, is left.
const SILENCE: Micros = 8 * SECOND;
/// How often a device leaves with a message that it has not acknowledged.
const LEAVES_WITH_MESSAGE: f64 = 0.05;
/// How often a device does not answer a method.
const LEAVES_UNANSWERED: f64 = 0.02;

/// A request about the twin that waits for its answer.
#[derive(Debug, Clone, Copy)]
enum Request {
    Read,
    /// The write's place in the history.
    Report(usize),
}

struct Connection<'a> {
    down: &'a Down,
    name: &'a str,
    identity: &'a IdentityId,
    node: u32,
    connecting: Micros,
    stream: Stream,
    input: Vec<u8>,
    output: Vec<u8>,
    waiting: Option<(u64, Micros, Request)>,
    heard: Micros,
    pinged: Micros,
}

pub(super) async fn run(down: Rc<Down>, number: u32, mut rng: StdRng) {
    let shared = &down.shared;
    let name = shared.targets.names().name(number);
    let identity = match DeviceId::parse(&name) {
        Ok(id) => IdentityId::device(id),
        Err(error) => return shared.recorder.anomaly(format!("{name} is no device id: {error}")),
    };
    while !shared.is_ended() {
        let Some(endpoint) = shared.targets.any(&mut rng) else {
            backoff(&mut rng).await;
            continue;
        };
        let connecting = shared.recorder.now();
        match open(shared, endpoint, number).await {
            Ok(stream) => {
                let up = shared.recorder.now();
                let mut connection = Connection {
                    down: &down,
                    name: &name,
                    identity: &identity,
                    node: endpoint.node,
                    connecting,
                    stream,
                    input: Vec::new(),
                    output: Vec::new(),
                    waiting: None,
                    heard: up,
                    pinged: up,
                };
                if let Err(error) = connection.serve(&mut rng).await {
                    shared.recorder.failure(format!("commanded device: {error:#}"));
                }
            }
            Err(error) => note_failure(shared, &name, endpoint, connecting, &error),
        }
        backoff(&mut rng).await;
    }
}

impl Connection<'_> {
    /// Until the device moves on (`Ok`), or the connection is lost.
    async fn serve(&mut self, rng: &mut StdRng) -> Result<()> {
        let shared = &self.down.shared;
        let messages = format!("devices/{}/messages/devicebound/#", self.name);
        let filters = [
            (&*messages, QoS::AtLeastOnce),
            ("$iothub/methods/POST/#", QoS::AtMostOnce),
            ("$iothub/twin/res/#", QoS::AtMostOnce),
        ];
        codec::subscribe(&mut self.output, 1, &filters)?;
        let until = tokio::time::Instant::now() + Duration::from_millis(rng.random_range(STAY_MS));
        while !shared.is_ended() {
            if !self.output.is_empty() {
                self.stream.write_all(&self.output).await?;
                self.stream.flush().await?;
                self.output.clear();
            }
            let pause = Duration::from_millis(rng.random_range(INTERVAL_MS));
            let read = tokio::time::timeout(pause, self.stream.read_buf(&mut self.input)).await;
            let now = shared.recorder.now();
            match read {
                Ok(Ok(0)) => bail!("closed"),
                Ok(Ok(_)) => {
                    self.heard = now;
                    self.take(now, rng)?;
                }
                Ok(Err(error)) => return Err(error.into()),
                Err(_) if shared.is_stopping() => self.ping(now)?,
                Err(_) => self.request(now, rng)?,
            }
            let unanswered = self.waiting.is_some_and(|(_, asked, _)| now > asked + SILENCE);
            if unanswered || now > self.heard + SILENCE {
                bail!("no answer in time");
            }
            // At the end a device stays where it is.
            if tokio::time::Instant::now() >= until && !shared.is_stopping() {
                if rng.random() {
                    codec::encode(&mut self.output, &Packet::Disconnect)?;
                    self.stream.write_all(&self.output).await?;
                }
                return Ok(());
            }
        }
        Ok(())
    }

    fn ping(&mut self, now: Micros) -> Result<()> {
        if now > self.heard.max(self.pinged) + PING_AFTER {
            self.pinged = now;
            codec::encode(&mut self.output, &Packet::PingReq)?;
        }
        Ok(())
    }

    /// The next request about the twin, when none waits.
    fn request(&mut self, now: Micros, rng: &mut StdRng) -> Result<()> {
        if self.waiting.is_some() {
            return self.ping(now);
        }
        let number = self.down.number();
        if rng.random_bool(0.4) {
            self.waiting = Some((number, now, Request::Read));
            return self.publish(&format!("$iothub/twin/GET/?$rid={number}"), b"");
        }
        let place = self.down.begin_write(self.name, Section::Reported, self.node, number);
        self.waiting = Some((number, now, Request::Report(place)));
        let topic = format!("$iothub/twin/PATCH/properties/reported/?$rid={number}");
        self.publish(&topic, json!({"tag": number}).to_string().as_bytes())
    }

    fn publish(&mut self, topic: &str, payload: &[u8]) -> Result<()> {
        let publish = Publish {
            topic,
            payload,
            ..Publish::default()
        };
        Ok(codec::encode(&mut self.output, &Packet::Publish(publish))?)
    }

    /// Handles all whole packets.
    fn take(&mut self, now: Micros, rng: &mut StdRng) -> Result<()> {
        let input = std::mem::take(&mut self.input);
        let mut rest = &input[..];
        while let Some((packet, length)) = codec::decode(rest, &Limits::SERVER)? {
            if let Packet::Publish(publish) = &packet {
                self.handle(publish, now, rng)?;
            }
            rest = &rest[length..];
        }
        self.input = rest.to_vec();
        Ok(())
    }

    fn handle(&mut self, publish: &Publish<'_>, now: Micros, rng: &mut StdRng) -> Result<()> {
        let shared = &self.down.shared;
        let mut leaves = |chance| !shared.is_stopping() && rng.random_bool(chance);
        let number = || std::str::from_utf8(publish.payload).ok()?.parse().ok();
        match HubTopic::parse(self.identity, publish.topic) {
            Some(HubTopic::CloudToDevice { .. }) => {
                let Some(number) = number() else {
                    bail!("a message that no back end sends");
                };
                shared.recorder.history().down.received.push(ReceivedMessage {
                    device: self.name.to_owned(),
                    number,
                    connecting: self.connecting,
                    at: now,
                });
                if leaves(LEAVES_WITH_MESSAGE) {
                    bail!("leaves with a message");
                }
                if let Some(id) = publish.packet_id {
                    codec::encode(&mut self.output, &Packet::PubAck(id))?;
                }
            }
            Some(HubTopic::Method { rid, .. }) => {
                let Some(number) = number() else {
                    bail!("a method that no back end calls");
                };
                shared.recorder.history().down.executions.push(Execution {
                    device: self.name.to_owned(),
                    number,
                    at: now,
                });
                if !leaves(LEAVES_UNANSWERED) {
                    self.publish(&format!("$iothub/methods/res/200/?$rid={rid}"), publish.payload)?;
                }
            }
            Some(HubTopic::TwinResponse { status, rid, version }) => {
                let Some((waits_for, asked, request)) = self.waiting.take() else {
                    bail!("an answer about the twin without a request");
                };
                if waits_for.to_string() != rid {
                    self.anomaly(&format!("the request {waits_for} with an answer to {rid}"));
                }
                self.twin_answered(request, asked, status, version, publish.payload);
            }
            Some(HubTopic::Desired { .. } | HubTopic::CredentialsResponse { .. }) | None => {
                self.anomaly(&format!("with the topic {}", publish.topic))
            }
        }
        Ok(())
    }

    fn twin_answered(&self, request: Request, asked: Micros, status: u16, version: Option<u64>, payload: &[u8]) {
        match (request, status, version) {
            (Request::Read, 200, _) => {
                let properties = serde_json::from_slice::<Value>(payload).unwrap_or_default();
                let read = self.down.record_read(self.name, self.node, asked, &properties);
                if read.is_none() {
                    self.anomaly(&format!("with a twin that is none: {properties}"));
                }
            }
            (Request::Report(place), 204, Some(version)) => {
                self.down.end_write(place, TwinAnswer::Written { version });
            }
            (Request::Report(place), 429, _) => self.down.end_write(place, TwinAnswer::Refused),
            (_, 500..=599, _) | (Request::Read, 429, _) => {
                let shared = &self.down.shared;
                shared
                    .recorder
                    .failure(format!("commanded device: twin answered with {status}"));
            }
            _ => self.anomaly(&format!("{request:?} with {status}")),
        }
    }

    fn anomaly(&self, what: &str) {
        let (node, name) = (self.node, self.name);
        self.down
            .shared
            .recorder
            .anomaly(format!("node {node} answers {name}: {what}"));
    }
}
