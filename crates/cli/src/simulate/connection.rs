//! One MQTT connection of a simulated device: packets out, and what the hub sends as owned values.

use anyhow::{Context as _, Result, bail};
use holdfast_model::IdentityId;
use holdfast_mqtt::codec;
use holdfast_mqtt::topic::HubTopic;
use holdfast_mqtt::{Limits, Packet};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// See the module.
pub(super) struct Connection {
    pub(super) stream: TlsStream<TcpStream>,
    pub(super) input: Vec<u8>,
}

/// A packet of the hub.
#[derive(Debug)]
pub(super) enum Incoming {
    /// The answer to CONNECT.
    Connected { code: u8 },
    /// A telemetry message is acknowledged.
    Acknowledged(u16),
    /// A direct method.
    Method { name: String, rid: String, payload: Value },
    /// A cloud-to-device message; with a packet id it must be acknowledged.
    Message(Option<u16>),
    /// The desired properties, as a patch or as the answer to a request.
    Desired(Value),
    /// Anything else.
    Other,
}

impl Connection {
    pub(super) async fn send(&mut self, packet: &Packet<'_>) -> Result<()> {
        let mut output = Vec::new();
        codec::encode(&mut output, packet)?;
        self.write(&output).await
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).await.context("writing")?;
        self.stream.flush().await.context("writing")
    }

    /// The next packet. Cancel-safe.
    pub(super) async fn receive(&mut self, identity: &IdentityId) -> Result<Incoming> {
        let limits = Limits::SERVER;
        loop {
            if let Some((packet, length)) = codec::decode(&self.input, &limits)? {
                let incoming = incoming(identity, &packet);
                self.input.drain(..length);
                return Ok(incoming);
            }
            if self.stream.read_buf(&mut self.input).await.context("reading")? == 0 {
                bail!("the hub closed the connection");
            }
        }
    }
}

fn incoming(identity: &IdentityId, packet: &Packet<'_>) -> Incoming {
    let publish = match packet {
        Packet::ConnAck(ack) => return Incoming::Connected { code: ack.code },
        Packet::PubAck(id) => return Incoming::Acknowledged(*id),
        Packet::Publish(publish) => publish,
        _ => return Incoming::Other,
    };
    let json = || serde_json::from_slice(publish.payload).unwrap_or(Value::Null);
    match HubTopic::parse(identity, publish.topic) {
        Some(HubTopic::Method { name, rid }) => Incoming::Method {
            name: name.to_owned(),
            rid: rid.to_owned(),
            payload: json(),
        },
        Some(HubTopic::CloudToDevice { .. }) => Incoming::Message(publish.packet_id),
        Some(HubTopic::Desired { .. }) => Incoming::Desired(json()),
        Some(HubTopic::TwinResponse { status: 200, .. }) => Incoming::Desired(json()["desired"].take()),
        Some(HubTopic::TwinResponse { .. } | HubTopic::CredentialsResponse { .. }) | None => Incoming::Other,
    }
}
