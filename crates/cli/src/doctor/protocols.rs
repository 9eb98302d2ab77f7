//! Steps `clock`, `mqtt`, `mqtt-ws`, `https` and `amqp`: whether the hub's protocols are spoken behind the ports, without
//! a credential.
//!
//! Why apart from the credential: a proxy or another server behind the port fails here, and no key helps against it.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail, ensure};
use holdfast_client::http::{Answer, Connection};
use holdfast_model::limits::SAS_CLOCK_SKEW;
use holdfast_mqtt::codec::{self, Connect};
use holdfast_mqtt::{Limits, Packet};
use http::header::{self, HeaderName};
use http::{Method, StatusCode};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::ports::Service;
use super::report::{Finding, Step};
use super::tls::{self, Endpoint};
use super::websocket::WebSocket;

/// The path of MQTT over WebSockets (Spec device-mqtt §1).
const WEBSOCKET_PATH: &str = "/$iothub/websocket";
/// The device name in a CONNECT that is only meant to be answered.
const NO_DEVICE: &str = "holdfast-doctor";
/// The version of both the device and the service API.
pub(super) const API_VERSION: &str = "2021-04-12";
/// AMQP 1.0 with SASL: the first bytes of both sides.
const AMQP_SASL: [u8; 8] = *b"AMQP\x03\x01\x00\x00";
/// A clock difference in seconds from which on it is mentioned.
const NOTABLE_SECONDS: i64 = 30;

/// The connections of one run.
pub(super) struct Dialer<'a> {
    pub(super) endpoints: &'a [Endpoint],
    pub(super) name: ServerName<'static>,
    /// For `Host` headers and user names.
    pub(super) host: String,
    pub(super) config: Arc<ClientConfig>,
    pub(super) limit: Duration,
}

impl Dialer<'_> {
    /// A TLS connection to the first address that speaks TLS on the port of `service`.
    pub(super) async fn dial(&self, service: Service) -> Result<TlsStream<TcpStream>> {
        let is_usable = |endpoint: &&Endpoint| endpoint.service == service && endpoint.chain().is_some();
        let Some(endpoint) = self.endpoints.iter().find(is_usable) else {
            bail!("no address speaks TLS on this port");
        };
        match tls::connect(endpoint.address, &self.name, &self.config, self.limit).await {
            Ok(stream) => Ok(stream),
            Err(fault) => bail!("{}", fault.text()),
        }
    }

    pub(super) fn can_dial(&self, service: Service) -> bool {
        self.endpoints
            .iter()
            .any(|endpoint| endpoint.service == service && endpoint.chain().is_some())
    }

    /// Runs `exchange` within the time-out.
    pub(super) async fn bounded<T>(&self, exchange: impl Future<Output = Result<T>>) -> Result<T> {
        match timeout(self.limit, exchange).await {
            Ok(result) => result,
            Err(_) => bail!("no answer within {} s", self.limit.as_secs_f32()),
        }
    }

    /// One HTTPS request.
    pub(super) async fn request(&self, method: Method, path: &str, headers: &[(HeaderName, &str)]) -> Result<Answer> {
        let stream = self.dial(Service::Https).await?;
        let host = self.host.clone();
        self.bounded(async move {
            let mut connection = Connection::open(stream, &host).await?;
            connection.request(method, path, headers, Vec::new()).await
        })
        .await
    }

    /// Sends a CONNECT over TCP or a WebSocket, and returns the code of its CONNACK. An accepted connection is closed in
    /// order.
    pub(super) async fn connect(&self, over: Service, connect: &Connect<'_>) -> Result<u8> {
        let stream = self.dial(over).await?;
        let mut packet = Vec::new();
        codec::encode(&mut packet, &Packet::Connect(*connect))?;
        let mut goodbye = Vec::new();
        codec::encode(&mut goodbye, &Packet::Disconnect)?;
        self.bounded(async {
            if over == Service::Https {
                let mut socket = WebSocket::open(stream, &self.host, WEBSOCKET_PATH, "mqtt").await?;
                socket.send(&packet).await?;
                let code = code(&socket.receive().await?)?;
                if code == 0 {
                    socket.send(&goodbye).await?;
                }
                Ok(code)
            } else {
                connect_over(stream, &packet, &goodbye).await
            }
        })
        .await
    }
}

async fn connect_over<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, packet: &[u8], goodbye: &[u8]) -> Result<u8> {
    stream.write_all(packet).await?;
    stream.flush().await?;
    let mut answer = [0; 4];
    if stream.read_exact(&mut answer).await.is_err() {
        bail!("the server closed the connection without an answer to CONNECT");
    }
    let code = code(&answer)?;
    if code == 0 {
        stream.write_all(goodbye).await?;
        stream.flush().await?;
    }
    Ok(code)
}

/// The code of a CONNACK.
fn code(bytes: &[u8]) -> Result<u8> {
    match codec::decode(bytes, &Limits::SERVER) {
        Ok(Some((Packet::ConnAck(ack), _))) => Ok(ack.code),
        _ => bail!("the answer to CONNECT is no CONNACK"),
    }
}

/// The server's clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct ServerClock {
    /// The server's clock minus this machine's, in seconds; exact to a second and half the time of the request.
    pub(super) difference: i64,
}

impl ServerClock {
    /// The server's time now, in seconds since 1970.
    pub(super) fn now(self) -> i64 {
        seconds_now() + self.difference
    }
}

/// This machine's clock, in seconds since 1970.
pub(super) fn seconds_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Steps `https` and `clock`, with one request: the answer's `Date` is the server's clock.
pub(super) async fn https(dialer: &Dialer<'_>) -> (Option<ServerClock>, Finding, Finding) {
    let path = format!("/devices/{NO_DEVICE}?api-version={API_VERSION}");
    let before = SystemTime::now();
    let answer = dialer.request(Method::GET, &path, &[]).await;
    let middle = before + before.elapsed().unwrap_or_default() / 2;
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            let https = Finding::failed(Step::Https, format!("no HTTP answer: {error:#}")).advise(NOT_A_HUB);
            return (
                None,
                https,
                Finding::skipped(Step::Clock, "no HTTPS answer to compare with"),
            );
        }
    };
    let facts = json!({"status": answer.status.as_u16()});
    // The hub refuses a request without a token with its own number.
    let is_hub = serde_json::from_slice::<serde_json::Value>(&answer.body)
        .is_ok_and(|body| body["Message"].as_str().is_some_and(|text| text.contains("ErrorCode")));
    let https = if is_hub && answer.status == StatusCode::UNAUTHORIZED {
        Finding::passed(Step::Https, "the hub answers HTTPS (401 without a token, as it must)")
    } else {
        let text = format!("HTTPS is answered with {}, but not as a hub answers", answer.status);
        Finding::warning(Step::Https, text).advise(NOT_A_HUB)
    };
    let date = answer.headers.get(header::DATE).and_then(|date| date.to_str().ok());
    let date = date.and_then(|date| OffsetDateTime::parse(date, &Rfc2822).ok());
    let https = https.facts(facts);
    let Some(date) = date else {
        return (
            None,
            https,
            Finding::skipped(Step::Clock, "the HTTPS answer has no date"),
        );
    };
    let here = middle.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let clock = ServerClock {
        difference: date.unix_timestamp() - i64::try_from(here).unwrap_or(i64::MAX),
    };
    (Some(clock), https, clock_finding(clock))
}

/// The advice when a server answers that is no hub.
const NOT_A_HUB: &str = "is HOST the hub? A proxy, a load balancer or another program may answer here: ask the hub's operator for the name and ports";

fn clock_finding(clock: ServerClock) -> Finding {
    let seconds = clock.difference;
    let text = match seconds {
        -1..=1 => "this machine's clock agrees with the server's".to_owned(),
        2.. => format!("this machine's clock is {seconds} s behind the server's"),
        _ => format!("this machine's clock is {} s ahead of the server's", -seconds),
    };
    let tolerance = i64::try_from(SAS_CLOCK_SKEW.as_secs()).unwrap_or(i64::MAX);
    let advice =
        "set the clock, with time synchronization (timedatectl set-ntp true): tokens and certificates have dates";
    let finding = if seconds.abs() > tolerance {
        Finding::failed(Step::Clock, text).advise(advice)
    } else if seconds.abs() >= NOTABLE_SECONDS {
        Finding::warning(Step::Clock, text).advise(advice)
    } else {
        Finding::passed(Step::Clock, text)
    };
    finding.facts(json!({"differenceSeconds": seconds}))
}

/// Steps `mqtt` and `mqtt-ws`: any answer to a CONNECT without credential shows that MQTT is spoken.
pub(super) async fn mqtt(dialer: &Dialer<'_>, over: Service) -> Finding {
    let step = if over == Service::Https {
        Step::MqttWs
    } else {
        Step::Mqtt
    };
    let username = format!("{}/{NO_DEVICE}/?api-version={API_VERSION}", dialer.host);
    let connect = Connect {
        clean: true,
        keep_alive: 60,
        client_id: NO_DEVICE,
        username: Some(&username),
        ..Connect::default()
    };
    match dialer.connect(over, &connect).await {
        Ok(0) => Finding::warning(
            step,
            "the server accepts a CONNECT without credential; a hub never does",
        )
        .advise(NOT_A_HUB),
        Ok(3) => Finding::warning(step, "MQTT is answered with 3: the hub takes no connections now")
            .advise("try again in a minute; the hub's operator sees why in `holdfast cluster status`"),
        Ok(code) => Finding::passed(step, "MQTT is answered (refused without credential, as it must be)")
            .facts(json!({"connack": code})),
        Err(error) => Finding::failed(step, format!("{error:#}")).advise(match over {
            Service::Https => {
                "a proxy or firewall that does not know WebSockets answers like this: let it pass upgrades to the hub"
            }
            _ => NOT_A_HUB,
        }),
    }
}

/// Step `amqp`: the header of AMQP 1.0 with SASL comes back.
pub(super) async fn amqp(dialer: &Dialer<'_>) -> Finding {
    let exchange = async {
        let mut stream = dialer.dial(Service::Amqp).await?;
        dialer
            .bounded(async {
                stream.write_all(&AMQP_SASL).await?;
                stream.flush().await?;
                let mut answer = [0; 8];
                if stream.read_exact(&mut answer).await.is_err() {
                    bail!("the server closed the connection without an AMQP header");
                }
                ensure!(
                    answer == AMQP_SASL,
                    "the answer is not the header of AMQP 1.0 with SASL"
                );
                Ok(())
            })
            .await
    };
    match exchange.await {
        Ok(()) => Finding::passed(Step::Amqp, "AMQP 1.0 is answered"),
        Err(error) => Finding::failed(Step::Amqp, format!("{error:#}")).advise(NOT_A_HUB),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    #[test]
    fn clocks_within_the_tolerance_of_tokens_pass_and_others_fail() {
        let of = |difference| clock_finding(ServerClock { difference });
        assert_eq!(of(1).verdict, Verdict::Passed);
        assert_eq!(of(-40).verdict, Verdict::Warning);
        let ahead = of(-3600);
        assert_eq!(ahead.verdict, Verdict::Failed);
        assert_eq!(ahead.summary, "this machine's clock is 3600 s ahead of the server's");
    }

    #[test]
    fn a_date_header_is_read() {
        let date = OffsetDateTime::parse("Sun, 06 Nov 1994 08:49:37 GMT", &Rfc2822).unwrap();
        assert_eq!(date.unix_timestamp(), 784_111_777);
    }
}
