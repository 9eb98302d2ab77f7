//! A device that receives: notifications of desired properties and method calls; and reports properties.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::broadcast::Stopwatch;
use super::packet::{Packet, Packets, encode_publish};
use crate::connect::{self, ConnectAttempt, ConnectionOptions, Stream};
use crate::latency::Latency;
use crate::target::Target;
use crate::wire::{PINGREQ, encode_subscribe};

/// Notifications of desired properties (Spec device-mqtt §5).
pub(super) const DESIRED: &str = "$iothub/twin/PATCH/properties/desired/";
/// Answers to requests about the own twin.
pub(super) const TWIN_ANSWERS: &str = "$iothub/twin/res/";
/// Method calls.
pub(super) const METHODS: &str = "$iothub/methods/POST/";

/// A notification of desired properties that a device has received.
#[derive(Debug, Clone, Copy)]
pub(super) struct Notice {
    /// The number in the patch.
    pub(super) number: u64,
    /// When it was read from the socket.
    pub(super) at: Instant,
}

/// What a device does with what it receives.
pub(super) enum Role {
    /// Hands the notifications to the writer of its twin. One that does not wait any longer gets no more of them.
    Notify(mpsc::Sender<Notice>),
    /// Answers each method call after this time, with its own payload. It has one caller, with one call in flight.
    Answer(Duration),
    /// Measures how long each patch took.
    Measure(Arc<Stopwatch>),
    /// Reads nothing.
    Deaf,
}

#[derive(Deserialize)]
struct Desired {
    n: Option<u64>,
}

/// A connected device.
pub(super) struct Device {
    stream: Stream,
    packets: Packets,
    /// Sent when nothing has come for this long.
    ping_after: Duration,
}

impl Device {
    /// Connects device `number` and subscribes to `channel` at QoS 0.
    ///
    /// # Errors
    /// When the server refuses, or breaks the connection.
    pub(super) async fn open(
        target: &Arc<Target>,
        options: ConnectionOptions,
        number: u32,
        channel: &str,
    ) -> Result<Self> {
        let mut device = Self {
            stream: connect::open(target, options, number, ConnectAttempt::Initial).await?,
            packets: Packets::default(),
            ping_after: match options.keep_alive {
                0 => Duration::from_secs(u64::from(u32::MAX)),
                seconds => Duration::from_secs(u64::from(seconds)) * 4 / 5,
            },
        };
        let mut packet = Vec::new();
        encode_subscribe(&mut packet, 1, &format!("{channel}#"), 0)?;
        device.write(&packet).await?;
        match device.receive().await? {
            Packet::SubAck(0) => Ok(device),
            other => bail!("the server answers SUBSCRIBE with {other:?}"),
        }
    }

    /// Receives until the connection breaks.
    ///
    /// # Errors
    /// Always: the reason.
    pub(super) async fn serve(mut self, role: &Role, notified: &RefCell<Latency>) -> Result<()> {
        if matches!(role, Role::Deaf) {
            return std::future::pending().await;
        }
        loop {
            let Packet::Publish { topic, payload } = self.receive().await? else {
                continue;
            };
            match role {
                Role::Notify(writer) => {
                    ensure!(topic.starts_with(DESIRED), "an unexpected message on {topic}");
                    let desired: Desired = serde_json::from_slice(&payload).context("desired properties")?;
                    if let Some(number) = desired.n {
                        let at = Instant::now();
                        // Full: the writer has given up on earlier ones.
                        let _ = writer.try_send(Notice { number, at });
                    }
                }
                Role::Measure(stopwatch) => {
                    let desired: Desired = serde_json::from_slice(&payload).context("desired properties")?;
                    if let Some(number) = desired.n {
                        let took = stopwatch.arrived(number).as_micros();
                        notified.borrow_mut().add(u32::try_from(took).unwrap_or(u32::MAX));
                    }
                }
                Role::Deaf => {}
                Role::Answer(after) => {
                    let request = topic.strip_prefix(METHODS).and_then(|rest| rest.split_once("/?$rid="));
                    let (_, id) = request.with_context(|| format!("an unexpected message on {topic}"))?;
                    if !after.is_zero() {
                        tokio::time::sleep(*after).await;
                    }
                    self.publish(&format!("$iothub/methods/res/200/?$rid={id}"), &payload)
                        .await?;
                }
            }
        }
    }

    /// Reports a property and waits for the answer: its status.
    ///
    /// # Errors
    /// When the connection breaks.
    pub(super) async fn report(&mut self, number: u64) -> Result<u16> {
        let body = format!(r#"{{"n":{number}}}"#);
        self.publish(
            &format!("$iothub/twin/PATCH/properties/reported/?$rid={number}"),
            body.as_bytes(),
        )
        .await?;
        loop {
            let Packet::Publish { topic, .. } = self.receive().await? else {
                continue;
            };
            let answer = topic
                .strip_prefix(TWIN_ANSWERS)
                .and_then(|rest| rest.split_once("/?$rid="));
            let (status, rest) = answer.with_context(|| format!("an unexpected message on {topic}"))?;
            if rest.split('&').next() == Some(number.to_string().as_str()) {
                return status.parse().with_context(|| format!("the status in {topic}"));
            }
        }
    }

    async fn publish(&mut self, topic: &str, payload: &[u8]) -> Result<()> {
        let mut packet = Vec::with_capacity(topic.len() + payload.len() + 8);
        encode_publish(&mut packet, topic, payload)?;
        self.write(&packet).await
    }

    async fn write(&mut self, packet: &[u8]) -> Result<()> {
        self.stream.write_all(packet).await.context("writing")?;
        self.stream.flush().await.context("writing")
    }

    async fn receive(&mut self) -> Result<Packet> {
        loop {
            if let Some(packet) = self.packets.next()? {
                return Ok(packet);
            }
            let read = self.stream.read_buf(self.packets.space());
            match tokio::time::timeout(self.ping_after, read).await {
                Ok(count) => ensure!(count.context("reading")? > 0, "the server closed the connection"),
                Err(_) => self.write(&PINGREQ).await?,
            }
        }
    }
}
