//! `holdfast simulate`: a few devices that send readings over MQTT with TLS, as real ones do.
//!
//! For demonstrations; load tests are `swarm`'s.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use holdfast_auth::{Key, sign_identity};
use holdfast_model::limits::MQTT_MAX_KEEP_ALIVE_SECONDS;
use holdfast_model::{DeviceId, IdentityId};
use holdfast_mqtt::codec::{self, Connect, Publish};
use holdfast_mqtt::{Limits, Packet, QoS};
use http::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::device::{KeyType, key_of, path_of};
use crate::exit_code::{Failure, Outcome};
use crate::http::{Call, block_on, call, connect_tls};
use crate::hub::{Hub, LoginArgs, expiry};

/// Most devices of a simulation: each has a task and a TLS session of its own here.
const MAX_DEVICES: u32 = 5_000;
/// Connections that are being opened at once.
const OPENING: usize = 16;
/// How long a device's token is good for; it connects again with a new one.
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// The shortest keep-alive that devices announce, in seconds; they never ping, their messages are sign of life enough.
const MIN_KEEP_ALIVE_SECONDS: u16 = 60;
/// The longest time between two messages, in seconds: half of the longest keep-alive that has an effect.
const MAX_INTERVAL_SECONDS: f64 = 580.0;
/// How long a device waits before it connects again.
const RECONNECT_DELAY: Duration = Duration::from_secs(3);
/// How often the fleet prints its progress.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// Let a small fleet of simulated devices send readings
#[derive(Debug, Args)]
pub struct Simulate {
    /// How many devices
    #[arg(long, short = 'n', default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_DEVICES)))]
    devices: u32,
    /// Seconds between two messages of a device
    #[arg(long, default_value_t = 2.0)]
    interval: f64,
    /// The prefix of the devices' ids
    #[arg(long, default_value = "sim-")]
    prefix: String,
    /// Stop after this many messages of each device
    #[arg(long, value_name = "N")]
    messages: Option<u64>,
    /// Stop when standard input closes, that is with the program that started this one
    #[arg(long)]
    until_stdin_closes: bool,
    #[command(flatten)]
    login: LoginArgs,
}

#[derive(Debug, Default)]
struct Counters {
    connected: AtomicU64,
    acknowledged: AtomicU64,
    lost: AtomicU64,
}

pub(crate) fn run(args: &Simulate) -> Result<(), Failure> {
    let hub = Arc::new(args.login.hub()?);
    if !(args.interval.is_finite() && (0.001..=MAX_INTERVAL_SECONDS).contains(&args.interval)) {
        return Err(Failure::usage(format!(
            "--interval must be 0.001 to {MAX_INTERVAL_SECONDS} seconds"
        )));
    }
    block_on(async {
        let fleet = simulate(&hub, args);
        let ended = async {
            if args.until_stdin_closes {
                holdfast_tasks::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink())).await?;
            } else {
                tokio::signal::ctrl_c().await?;
            }
            Ok(())
        };
        tokio::select! {
            biased;
            result = fleet => result,
            ended = ended => ended,
        }
    })
}

async fn simulate(hub: &Arc<Hub>, args: &Simulate) -> Result<(), Failure> {
    let port = hub
        .ports
        .mqtt
        .ok_or_else(|| Failure::new(Outcome::Unreachable, "the hub does not serve MQTT with TLS"))?;
    let counters = Arc::new(Counters::default());
    let opening = Arc::new(tokio::sync::Semaphore::new(OPENING));
    let mut devices = tokio::task::JoinSet::new();
    for number in 0..args.devices {
        let id = DeviceId::parse(&format!("{}{number:04}", args.prefix)).map_err(Failure::usage)?;
        let identity = IdentityId::device(id);
        let key = provision(hub, &identity).await?;
        let device = Device {
            hub: Arc::clone(hub),
            port,
            identity,
            key,
            interval: Duration::from_secs_f64(args.interval),
            messages: args.messages,
            counters: Arc::clone(&counters),
            opening: Arc::clone(&opening),
        };
        devices.spawn(device.run());
    }
    let mut tick = tokio::time::interval(REPORT_INTERVAL);
    tick.tick().await;
    let mut before = (Instant::now(), 0);
    loop {
        tokio::select! {
            biased;
            finished = devices.join_next() => match finished {
                None => break,
                Some(result) => result.map_err(anyhow::Error::from)?,
            },
            _ = tick.tick() => before = report(&counters, before)?,
        }
    }
    report(&counters, before)?;
    Ok(())
}

fn report(counters: &Counters, before: (Instant, u64)) -> Result<(Instant, u64), Failure> {
    let now = Instant::now();
    let acknowledged = counters.acknowledged.load(Ordering::Relaxed);
    let rate = (acknowledged - before.1) as f64 / now.duration_since(before.0).as_secs_f64().max(0.001);
    crate::print(&format!(
        "fleet: {} connected, {acknowledged} messages acknowledged ({rate:.1}/s), {} connections lost\n",
        counters.connected.load(Ordering::Relaxed),
        counters.lost.load(Ordering::Relaxed),
    ))?;
    Ok((now, acknowledged))
}

/// Registers the device, or finds its key when it is registered.
async fn provision(hub: &Hub, identity: &IdentityId) -> Result<Key, Failure> {
    let mut create = Call::new(Method::PUT, path_of(identity));
    create.body = Some(json!({"deviceId": identity.device.as_str()}));
    let document = match call(hub, create).await {
        Ok(document) => document,
        Err(failure) if failure.message.contains("409001") => {
            call(hub, Call::new(Method::GET, path_of(identity))).await?
        }
        Err(failure) => return Err(failure),
    };
    key_of(&document, KeyType::Primary)
}

/// Twice the time between two messages.
fn keep_alive(interval: Duration) -> u16 {
    u16::try_from(interval.as_secs() * 2)
        .unwrap_or(u16::MAX)
        .clamp(MIN_KEEP_ALIVE_SECONDS, MQTT_MAX_KEEP_ALIVE_SECONDS)
}

struct Device {
    hub: Arc<Hub>,
    port: u16,
    identity: IdentityId,
    key: Key,
    interval: Duration,
    messages: Option<u64>,
    counters: Arc<Counters>,
    opening: Arc<tokio::sync::Semaphore>,
}

impl Device {
    async fn run(self) {
        let mut sent = 0;
        loop {
            let ended = self.session(&mut sent).await;
            match ended {
                Ok(()) => return,
                Err(error) => {
                    self.counters.lost.fetch_add(1, Ordering::Relaxed);
                    eprintln!("{}: {error:#}", self.identity);
                    tokio::time::sleep(RECONNECT_DELAY).await;
                }
            }
        }
    }

    /// One connection, until all messages are sent (`Ok`) or it is lost.
    async fn session(&self, sent: &mut u64) -> Result<()> {
        let mut connection = {
            let _permit = self.opening.acquire().await?;
            self.connect().await?
        };
        self.counters.connected.fetch_add(1, Ordering::Relaxed);
        let result = self.publish(&mut connection, sent).await;
        self.counters.connected.fetch_sub(1, Ordering::Relaxed);
        result
    }

    async fn connect(&self) -> Result<Connection> {
        let stream = connect_tls(&self.hub, self.port)
            .await
            .map_err(|failure| anyhow::anyhow!(failure.message))?;
        let mut connection = Connection {
            stream,
            input: Vec::new(),
        };
        let host = &self.hub.host;
        let username = format!(
            "{host}/{}/?api-version=2021-04-12&DeviceClientType=holdfast-simulate",
            self.identity.device
        );
        let password = sign_identity(host, &self.identity, &self.key, expiry(TOKEN_LIFETIME));
        connection
            .send(&Packet::Connect(Connect {
                clean: true,
                keep_alive: keep_alive(self.interval),
                client_id: self.identity.device.as_str(),
                username: Some(&username),
                password: Some(password.as_bytes()),
                ..Connect::default()
            }))
            .await?;
        let code = connection.receive(|packet| match packet {
            Packet::ConnAck(ack) => Ok(ack.code),
            _ => bail!("the hub answers CONNECT with something else"),
        });
        match code.await? {
            0 => Ok(connection),
            code => bail!(
                "the hub refuses with code {code}; `holdfast device diagnose {}` tells why",
                self.identity.device
            ),
        }
    }

    async fn publish(&self, connection: &mut Connection, sent: &mut u64) -> Result<()> {
        let topic = format!(
            "devices/{}/messages/events/$.ct=application%2Fjson&$.ce=utf-8",
            self.identity.device
        );
        // Not all at once: devices of a fleet do not beat in time.
        tokio::time::sleep(self.interval.mul_f64(rand::random::<f64>())).await;
        let mut tick = tokio::time::interval(self.interval);
        while self.messages.is_none_or(|messages| *sent < messages) {
            tick.tick().await;
            let wave = (*sent as f64 / 20.0).sin();
            let reading = json!({
                "temperature": ((21.0 + 4.0 * wave + rand::random::<f64>()) * 10.0).round() / 10.0,
                "humidity": ((55.0 - 9.0 * wave + rand::random::<f64>()) * 10.0).round() / 10.0,
                "message": *sent + 1,
            });
            let hot = reading["temperature"].as_f64().is_some_and(|value| value > 25.0);
            let topic = if hot {
                format!("{topic}&temperatureAlert=true")
            } else {
                topic.clone()
            };
            let id = u16::try_from(*sent % 65_535).unwrap_or(0) + 1;
            connection
                .send(&Packet::Publish(Publish {
                    qos: QoS::AtLeastOnce,
                    topic: &topic,
                    packet_id: Some(id),
                    payload: reading.to_string().as_bytes(),
                    ..Publish::default()
                }))
                .await?;
            connection
                .receive(|packet| match packet {
                    Packet::PubAck(acknowledged) if acknowledged == id => Ok(()),
                    _ => bail!("the hub answers PUBLISH with something else"),
                })
                .await?;
            *sent += 1;
            self.counters.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

struct Connection {
    stream: TlsStream<TcpStream>,
    input: Vec<u8>,
}

impl Connection {
    async fn send(&mut self, packet: &Packet<'_>) -> Result<()> {
        let mut output = Vec::new();
        codec::encode(&mut output, packet)?;
        self.stream.write_all(&output).await.context("writing")?;
        self.stream.flush().await.context("writing")
    }

    /// Waits for the next packet.
    async fn receive<T>(&mut self, read: impl FnOnce(Packet<'_>) -> Result<T>) -> Result<T> {
        let limits = Limits::SERVER;
        loop {
            if let Some((packet, length)) = codec::decode(&self.input, &limits)? {
                let result = read(packet);
                self.input.drain(..length);
                return result;
            }
            if self.stream.read_buf(&mut self.input).await.context("reading")? == 0 {
                bail!("the hub closed the connection");
            }
        }
    }
}
