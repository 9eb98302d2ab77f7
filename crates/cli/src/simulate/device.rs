//! One simulated device: its connections, its readings, and its answers to the back end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Result, bail};
use holdfast_auth::{Key, UnsignedToken, identity_resource, sign_identity};
use holdfast_client::software_tpm::SoftwareTpm;
use holdfast_model::IdentityId;
use holdfast_model::limits::MQTT_MAX_KEEP_ALIVE_SECONDS;
use holdfast_mqtt::codec::{self, Connect, Publish};
use holdfast_mqtt::{Packet, QoS};
use serde_json::{Value, json};
use tokio::time::{Interval, MissedTickBehavior};

use super::Counters;
use super::connection::{Connection, Incoming};
use crate::http::connect_tls;
use crate::hub::{ClientIdentity, Hub, expiry};

/// How long a device's token is good for; it connects again with a new one.
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// The shortest keep-alive that devices announce, in seconds; they never ping, their messages are sign of life enough.
const MIN_KEEP_ALIVE_SECONDS: u16 = 60;
/// The longest time between two messages, in seconds: half of the longest keep-alive that has an effect.
pub(super) const MAX_INTERVAL_SECONDS: f64 = 580.0;
/// How long a device waits before it connects again.
const RECONNECT_DELAY: Duration = Duration::from_secs(3);
/// The desired property, and the argument of the method, that set the seconds between two messages.
const INTERVAL: &str = "interval";

/// What a device connects with.
pub(super) enum Credential {
    /// A token of this key.
    Key(Key),
    /// A certificate in the TLS handshake.
    Certificate(Arc<ClientIdentity>),
    /// A token that this TPM signs.
    Tpm(Arc<SoftwareTpm>),
}

/// See the module.
pub(super) struct Device {
    pub(super) hub: Arc<Hub>,
    pub(super) port: u16,
    pub(super) identity: IdentityId,
    pub(super) credential: Credential,
    pub(super) interval: Duration,
    pub(super) messages: Option<u64>,
    pub(super) counters: Arc<Counters>,
    pub(super) opening: Arc<tokio::sync::Semaphore>,
}

/// Twice the time between two messages.
fn keep_alive(interval: Duration) -> u16 {
    u16::try_from(interval.as_secs() * 2)
        .unwrap_or(u16::MAX)
        .clamp(MIN_KEEP_ALIVE_SECONDS, MQTT_MAX_KEEP_ALIVE_SECONDS)
}

impl Device {
    pub(super) async fn run(mut self) {
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
    async fn session(&mut self, sent: &mut u64) -> Result<()> {
        let mut connection = {
            let _permit = self.opening.acquire().await?;
            self.connect().await?
        };
        self.counters.connected.fetch_add(1, Ordering::Relaxed);
        let result = self.serve(&mut connection, sent).await;
        self.counters.connected.fetch_sub(1, Ordering::Relaxed);
        result
    }

    async fn connect(&self) -> Result<Connection> {
        let stream = match &self.credential {
            Credential::Key(_) | Credential::Tpm(_) => connect_tls(&self.hub, self.port).await,
            Credential::Certificate(own) => connect_tls(&self.hub.with_certificate(Arc::clone(own)), self.port).await,
        };
        let stream = stream.map_err(|failure| anyhow::anyhow!(failure.message))?;
        let mut connection = Connection {
            stream,
            input: Vec::new(),
        };
        let host = &self.hub.host;
        let username = format!(
            "{host}/{}/?api-version=2021-04-12&DeviceClientType=holdfast-simulate",
            self.identity.device
        );
        let password = match &self.credential {
            Credential::Key(key) => Some(sign_identity(host, &self.identity, key, expiry(TOKEN_LIFETIME))),
            Credential::Tpm(tpm) => {
                let token = UnsignedToken::new(&identity_resource(host, &self.identity), None, expiry(TOKEN_LIFETIME));
                Some(signed_by(tpm, token).await?)
            }
            Credential::Certificate(_) => None,
        };
        connection
            .send(&Packet::Connect(Connect {
                clean: true,
                keep_alive: keep_alive(self.interval),
                client_id: self.identity.device.as_str(),
                username: Some(&username),
                password: password.as_deref().map(str::as_bytes),
                ..Connect::default()
            }))
            .await?;
        match connection.receive(&self.identity).await? {
            Incoming::Connected { code: 0 } => {}
            Incoming::Connected { code } => bail!(
                "the hub refuses with code {code}; `holdfast device diagnose {}` gives the reason",
                self.identity.device
            ),
            _ => bail!("the hub answers CONNECT with another packet"),
        }
        self.subscribe(&mut connection).await?;
        Ok(connection)
    }

    /// Subscribes to everything that a back end may send, and asks for the twin.
    async fn subscribe(&self, connection: &mut Connection) -> Result<()> {
        let messages = format!("devices/{}/messages/devicebound/#", self.identity.device);
        let filters = [
            (&*messages, QoS::AtLeastOnce),
            ("$iothub/methods/POST/#", QoS::AtMostOnce),
            ("$iothub/twin/res/#", QoS::AtMostOnce),
            ("$iothub/twin/PATCH/properties/desired/#", QoS::AtMostOnce),
        ];
        let mut bytes = Vec::new();
        codec::subscribe(&mut bytes, u16::MAX, &filters)?;
        connection.write(&bytes).await?;
        self.report(connection).await?;
        publish(connection, "$iothub/twin/GET/?$rid=get", b"").await
    }

    /// Reports the state of the device in its twin.
    async fn report(&self, connection: &mut Connection) -> Result<()> {
        let reported = json!({"firmware": "1.0.0", INTERVAL: self.interval.as_secs_f64()});
        let topic = "$iothub/twin/PATCH/properties/reported/?$rid=report";
        publish(connection, topic, reported.to_string().as_bytes()).await
    }

    /// Sends readings and serves the back end until all messages are sent and acknowledged.
    async fn serve(&mut self, connection: &mut Connection, sent: &mut u64) -> Result<()> {
        // Not all at once: devices of a fleet do not beat in time.
        let mut tick = ticks(self.interval, self.interval.mul_f64(rand::random::<f64>()));
        let mut waiting = None;
        while waiting.is_some() || self.messages.is_none_or(|messages| *sent < messages) {
            tokio::select! {
                biased;
                incoming = connection.receive(&self.identity) => match incoming? {
                    Incoming::Acknowledged(id) if waiting == Some(id) => {
                        waiting = None;
                        *sent += 1;
                        self.counters.acknowledged.fetch_add(1, Ordering::Relaxed);
                    }
                    Incoming::Acknowledged(id) => bail!("the hub acknowledges message {id}, which was not sent"),
                    other => {
                        let before = self.interval;
                        self.handle(connection, other).await?;
                        if self.interval != before {
                            tick = ticks(self.interval, self.interval);
                            self.report(connection).await?;
                        }
                    }
                },
                _ = tick.tick(), if waiting.is_none() => waiting = Some(self.send_reading(connection, *sent).await?),
            }
        }
        Ok(())
    }

    async fn handle(&mut self, connection: &mut Connection, incoming: Incoming) -> Result<()> {
        match incoming {
            Incoming::Method { name, rid, payload } => {
                let (status, answer) = self.call(&name, payload);
                self.counters.methods.fetch_add(1, Ordering::Relaxed);
                let topic = format!("$iothub/methods/res/{status}/?$rid={rid}");
                publish(connection, &topic, answer.to_string().as_bytes()).await
            }
            Incoming::Message(packet_id) => {
                self.counters.received.fetch_add(1, Ordering::Relaxed);
                match packet_id {
                    Some(id) => connection.send(&Packet::PubAck(id)).await,
                    None => Ok(()),
                }
            }
            Incoming::Desired(desired) => {
                if let Some(interval) = interval(&desired[INTERVAL]) {
                    self.counters.desired.fetch_add(1, Ordering::Relaxed);
                    self.interval = interval;
                }
                Ok(())
            }
            Incoming::Connected { .. } | Incoming::Acknowledged(_) | Incoming::Other => Ok(()),
        }
    }

    /// Carries out a direct method: its status and answer.
    fn call(&mut self, name: &str, payload: Value) -> (u16, Value) {
        match name {
            "echo" => (200, payload),
            "setInterval" => match interval(&payload[INTERVAL]) {
                Some(interval) => {
                    self.interval = interval;
                    (200, json!({INTERVAL: interval.as_secs_f64()}))
                }
                None => {
                    let error = format!("interval must be 0.001 to {MAX_INTERVAL_SECONDS} seconds");
                    (400, json!({"error": error}))
                }
            },
            _ => (
                404,
                json!({"error": "unknown method; this device has echo and setInterval"}),
            ),
        }
    }

    /// Sends one reading; gives its packet id.
    async fn send_reading(&self, connection: &mut Connection, sent: u64) -> Result<u16> {
        let wave = (sent as f64 / 20.0).sin();
        let reading = json!({
            "temperature": ((21.0 + 4.0 * wave + rand::random::<f64>()) * 10.0).round() / 10.0,
            "humidity": ((55.0 - 9.0 * wave + rand::random::<f64>()) * 10.0).round() / 10.0,
            "message": sent + 1,
        });
        let hot = reading["temperature"].as_f64().is_some_and(|value| value > 25.0);
        let alert = if hot { "&temperatureAlert=true" } else { "" };
        let topic = format!(
            "devices/{}/messages/events/$.ct=application%2Fjson&$.ce=utf-8{alert}",
            self.identity.device
        );
        let id = u16::try_from(sent % 65_534).unwrap_or(0) + 1;
        connection
            .send(&Packet::Publish(Publish {
                qos: QoS::AtLeastOnce,
                topic: &topic,
                packet_id: Some(id),
                payload: reading.to_string().as_bytes(),
                ..Publish::default()
            }))
            .await?;
        Ok(id)
    }
}

/// A token with the signature of a TPM.
pub(super) async fn signed_by(tpm: &Arc<SoftwareTpm>, token: UnsignedToken) -> Result<String> {
    let tpm = Arc::clone(tpm);
    holdfast_tasks::spawn_blocking(move || Ok(token.signed(&tpm.sign(token.message().as_bytes())?))).await
}

async fn publish(connection: &mut Connection, topic: &str, payload: &[u8]) -> Result<()> {
    let publish = Publish {
        topic,
        payload,
        ..Publish::default()
    };
    connection.send(&Packet::Publish(publish)).await
}

/// Seconds as a back end gives them; `None` for anything that is no time between two messages.
fn interval(value: &Value) -> Option<Duration> {
    let seconds = value.as_f64()?;
    (0.001..=MAX_INTERVAL_SECONDS)
        .contains(&seconds)
        .then(|| Duration::from_secs_f64(seconds))
}

fn ticks(interval: Duration, first: Duration) -> Interval {
    let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + first, interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_a_number_of_seconds_within_the_limits() {
        assert_eq!(interval(&json!(0.5)), Some(Duration::from_millis(500)));
        for wrong in [json!(0), json!(-1), json!(581), json!("2"), json!(null), json!([1])] {
            assert_eq!(interval(&wrong), None, "{wrong}");
        }
    }
}
