//! The bytes of a device's connection, over MQTT or AMQP: numbered messages out, acknowledgements in.

use anyhow::{Context as _, Result, bail};
use holdfast_swarm::amqp::AmqpDevice;
use holdfast_swarm::batch::packet_id;
use holdfast_swarm::connect::Stream;
use holdfast_swarm::wire::{self, DUP, PINGREQ, Reply, Scanner};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::targets::TOPIC;

/// Bytes that are read at once over MQTT.
const INPUT_BYTES: usize = 1024;

/// A device's open connection.
pub(super) enum Wire {
    Mqtt(Box<Mqtt>),
    Amqp(Box<AmqpDevice>),
}

pub(super) struct Mqtt {
    topic: String,
    stream: Stream,
    scanner: Scanner,
    input: Vec<u8>,
    out: Vec<u8>,
}

impl Wire {
    /// An MQTT connection of the device `name` that has its CONNACK.
    pub(super) fn mqtt(stream: Stream, name: &str) -> Self {
        Self::Mqtt(Box::new(Mqtt {
            topic: TOPIC.replace("{device}", name),
            stream,
            scanner: Scanner::default(),
            input: Vec::new(),
            out: Vec::new(),
        }))
    }

    /// Waits for bytes. May be dropped before it is done.
    pub(super) async fn read(&mut self) -> Result<()> {
        match self {
            Self::Mqtt(mqtt) => {
                mqtt.input.clear();
                mqtt.input.reserve(INPUT_BYTES);
                match mqtt.stream.read_buf(&mut mqtt.input).await? {
                    0 => bail!("closed"),
                    _ => Ok(()),
                }
            }
            Self::Amqp(device) => device.read().await,
        }
    }

    /// Hands the packet ids of the messages that were acknowledged to `visit`; the connection's first message has the number `first`.
    pub(super) fn acknowledged(&mut self, first: u64, mut visit: impl FnMut(u16)) -> Result<()> {
        match self {
            Self::Mqtt(mqtt) => mqtt.scanner.scan(&mqtt.input, |reply| match reply {
                Reply::PubAck(id) => {
                    visit(id);
                    Ok(())
                }
                Reply::PingResp => Ok(()),
                other => bail!("an unexpected {other:?}"),
            }),
            Self::Amqp(device) => device.accepted(|number| {
                visit(packet_id(first + u64::from(number)));
                Ok(())
            }),
        }
    }

    /// How many messages the hub takes now.
    pub(super) fn room(&self) -> usize {
        match self {
            Self::Mqtt(_) => usize::MAX,
            Self::Amqp(device) => device.room(),
        }
    }

    /// Appends message `number`; `again`: an earlier connection may have sent it.
    pub(super) fn put(&mut self, number: u64, payload: &[u8], again: bool) -> Result<()> {
        match self {
            Self::Mqtt(mqtt) => {
                let start = mqtt.out.len();
                let layout = wire::encode_publish(&mut mqtt.out, &mqtt.topic, payload)?;
                if again {
                    mqtt.out[start] |= DUP;
                }
                let at = start + layout.packet_id;
                mqtt.out[at..at + 2].copy_from_slice(&packet_id(number).to_be_bytes());
                Ok(())
            }
            Self::Amqp(device) => device.put(payload).map(drop),
        }
    }

    /// Shows that the device is alive, when nothing else was written for a while.
    pub(super) fn ping(&mut self) {
        match self {
            Self::Mqtt(mqtt) => mqtt.out.extend_from_slice(&PINGREQ),
            // It shows that by itself.
            Self::Amqp(_) => {}
        }
    }

    /// Writes what was put.
    pub(super) async fn flush(&mut self) -> Result<()> {
        match self {
            Self::Mqtt(mqtt) => {
                mqtt.stream.write_all(&mqtt.out).await?;
                mqtt.out.clear();
                mqtt.stream.flush().await.context("writing")
            }
            Self::Amqp(device) => device.flush().await,
        }
    }
}
