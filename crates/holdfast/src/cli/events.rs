//! A reader of a hub's events over its Event-Hubs-compatible endpoint (Spec amqp §5, §8).
//!
//! The engine of the `amqp` crate plays the client; this file owns the socket and the clock. One connection, one
//! session, a receiver per partition.
//! Not here: how an event is shown (`monitor`).

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use holdfast_amqp::message::{Message, ResponseView, put_token, read_request};
use holdfast_amqp::selector::{self, Start};
use holdfast_amqp::types::{Raw, Value};
use holdfast_amqp::{
    AttachSpec, ClientSasl, Config, Connection, Delivery, Event, Expired, Fault, LinkId, OpenSpec, Outcome, Role,
    SessionId,
};
use holdfast_auth::{EventHubsConnection, sign};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::http::connect_tls;
use super::hub::{Hub, expiry};
use super::output::escape;
use crate::connection::hub_name;
use crate::exit_code::{Failure, Outcome as Exit};

/// Room for one frame and what follows it.
const READ_BYTES: usize = 128 * 1024;
/// How long the hub may take to answer a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Events of each partition that the hub may send ahead.
const CREDIT: u32 = 500;
/// How long the reader's token is good for.
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// An authenticated connection.
pub(crate) struct Client {
    stream: TlsStream<TcpStream>,
    engine: Connection,
    input: Vec<u8>,
    parsed: usize,
    filled: usize,
    session: Option<SessionId>,
    requests: u32,
    name: String,
    /// The partition of each receiver.
    partitions: Vec<(LinkId, String)>,
}

/// The end of a wait.
enum Waited<T> {
    Found(T),
    Silent,
}

impl Client {
    /// Connects and authenticates.
    ///
    /// # Errors
    /// When the hub cannot be reached or refuses.
    pub(crate) async fn connect(hub: &Hub) -> Result<Self, Failure> {
        let port = hub
            .ports
            .amqp
            .ok_or_else(|| Failure::new(Exit::Unreachable, "the hub does not serve AMQP"))?;
        let events = hub.events()?;
        let stream = connect_tls(hub, port).await?;
        let open = OpenSpec {
            container_id: format!("holdfast-monitor-{}", std::process::id()),
            hostname: Some(hub.host.clone()),
        };
        let mut client = Self {
            stream,
            engine: Connection::client(Config::default(), ClientSasl::Anonymous, open, Instant::now()),
            input: vec![0; READ_BYTES],
            parsed: 0,
            filled: 0,
            session: None,
            requests: 0,
            name: events.entity_path.clone().unwrap_or_else(|| hub_name(&hub.host)),
            partitions: Vec::new(),
        };
        client.open().await?;
        client.put_token(&events).await.map_err(|error| {
            Failure::new(
                Exit::Unauthorized,
                format!("the hub does not let us read events: {error:#}"),
            )
            .advise("the policy needs ServiceConnect: service's or iothubowner's connection string")
        })?;
        Ok(client)
    }

    /// The names of the hub's partitions.
    ///
    /// # Errors
    /// When the hub refuses or answers nonsense.
    pub(crate) async fn partition_ids(&mut self) -> Result<Vec<String>> {
        let name = self.name.clone();
        self.request(
            "$management",
            |buf, id| read_request(buf, id, &name, None),
            |body| match body {
                Value::Map(map) => match map.get("partition_ids")? {
                    Some(Value::Array(ids)) => ids
                        .iter()
                        .map(|id| Ok(id?.text().context("a partition id is no text")?.to_owned()))
                        .collect(),
                    _ => bail!("the hub does not name its partitions"),
                },
                _ => bail!("$management does not answer with a map"),
            },
        )
        .await
    }

    /// Attaches to a partition, whose events [`Self::events`] then receives.
    ///
    /// # Errors
    /// When the hub refuses, for example because there is no such consumer group.
    pub(crate) async fn receive(&mut self, partition: &str, group: &str, start: Start) -> Result<()> {
        let address = format!("{}/ConsumerGroups/{group}/Partitions/{partition}", self.name);
        let filter = selector::filter_map(&selector::expression(start));
        let name = format!("holdfast-monitor-{partition}-{}", std::process::id());
        let mut spec = AttachSpec::receiver(&name, &address);
        spec.source.filter = Raw::new(&filter).ok();
        let link = self
            .attach(&spec)
            .await
            .with_context(|| format!("partition {partition}, group {group}"))?;
        self.partitions.push((link, partition.to_owned()));
        Ok(())
    }

    /// Hands events with their partition to `visit` as they come, until it returns false or nothing has come for
    /// `timeout`.
    ///
    /// # Errors
    /// When the hub detaches or closes.
    pub(crate) async fn events(
        &mut self,
        timeout: Duration,
        mut visit: impl FnMut(&str, &Message<'_>) -> Result<bool>,
    ) -> Result<()> {
        let partitions = std::mem::take(&mut self.partitions);
        // Not before: an event that arrives while another link is being attached would be lost.
        for (link, _) in &partitions {
            self.engine.grant(*link, CREDIT);
        }
        loop {
            let waited = self
                .wait(timeout, |engine, event| match event {
                    Event::Transfer(delivery) => {
                        let link = delivery.link;
                        if !delivery.settled {
                            engine.settle(link, delivery.delivery_id, delivery.delivery_id, &Outcome::Accepted);
                        }
                        engine.top_up(link, CREDIT);
                        let message = Message::scan(&delivery.payload).context("an event that is no message")?;
                        let partition = partitions.iter().find(|(known, _)| *known == link);
                        visit(partition.map_or("?", |(_, name)| name), &message).map(Some)
                    }
                    Event::Detached { error, .. } => bail!("the hub detached: {}", text_of(error.as_ref())),
                    _ => Ok(None),
                })
                .await?;
            match waited {
                Waited::Found(true) => {}
                Waited::Found(false) | Waited::Silent => return Ok(()),
            }
        }
    }

    async fn open(&mut self) -> Result<()> {
        self.until(|_, event| Ok(matches!(event, Event::Open(_)).then_some(())))
            .await
            .context("opening AMQP")?;
        let session = self.engine.begin().context("the hub takes no session")?;
        self.until(|_, event| Ok(matches!(event, Event::Begun(_)).then_some(())))
            .await
            .context("opening a session")?;
        self.session = Some(session);
        Ok(())
    }

    async fn put_token(&mut self, events: &EventHubsConnection) -> Result<()> {
        let audience = format!("sb://{}/{}", events.host, self.name);
        let token = match (&events.token, &events.key) {
            (Some(token), _) => token.reveal().to_owned(),
            // Event Hubs clients sign with the key's text, not with the bytes that it stands for (Spec auth-and-limits §1.1).
            (None, Some(key)) => sign(
                &audience,
                key.reveal().as_bytes(),
                events.policy.as_deref(),
                expiry(TOKEN_LIFETIME),
            ),
            (None, None) => bail!("the login has neither key nor token"),
        };
        self.request("$cbs", |buf, id| put_token(buf, id, &token, &audience), |_| Ok(()))
            .await
    }

    /// Sends one request to `node` and reads its response. Its links stay; there are two requests in a connection's life.
    async fn request<T>(
        &mut self,
        node: &str,
        write: impl FnOnce(&mut Vec<u8>, &str),
        read: impl Fn(Value<'_>) -> Result<T>,
    ) -> Result<T> {
        self.requests += 1;
        let id = format!("monitor-{}", self.requests);
        let sender = self.attach(&AttachSpec::sender(&format!("{id}-out"), node)).await?;
        let receiver = self.attach(&AttachSpec::receiver(&format!("{id}-in"), node)).await?;
        self.engine.grant(receiver, 1);
        if self.engine.sendable(sender) == 0 {
            self.until(|engine, _| Ok((engine.sendable(sender) > 0).then_some(())))
                .await
                .context("waiting for credit")?;
        }
        let delivery = Delivery {
            tag: id.as_bytes(),
            settled: true,
            message_format: 0,
        };
        self.engine.send_with(sender, &delivery, |buf| write(buf, &id))?;
        self.until(|engine, event| match event {
            Event::Transfer(delivery) if delivery.link == receiver => {
                if !delivery.settled {
                    engine.settle(receiver, delivery.delivery_id, delivery.delivery_id, &Outcome::Accepted);
                }
                let response = ResponseView::parse(&delivery.payload)?;
                let (status, description) = (response.status, response.description);
                ensure!(
                    (200..300).contains(&status),
                    "{node} answers {status}: {}",
                    escape(description)
                );
                read(response.body).map(Some)
            }
            _ => Ok(None),
        })
        .await
    }

    async fn attach(&mut self, spec: &AttachSpec<'_>) -> Result<LinkId> {
        let session = self.session.context("no session")?;
        let link = self.engine.attach(session, spec).context("the session is full")?;
        self.until(|_, event| match event {
            Event::Attached { link: which, attach } if which == link => {
                let theirs = if spec.role == Role::Receiver {
                    attach.source_raw
                } else {
                    attach.target_raw
                };
                // An answer without terminus is a refusal; the detach that follows brings the reason.
                Ok(theirs.is_some_and(|raw| !raw.is_null()).then_some(()))
            }
            _ => Ok(None),
        })
        .await?;
        Ok(link)
    }

    /// Runs the connection until `handle` has what it wants; a detach, and [`REQUEST_TIMEOUT`], are errors.
    async fn until<T>(&mut self, mut handle: impl FnMut(&mut Connection, Event<'_>) -> Result<Option<T>>) -> Result<T> {
        let waited = self.wait(REQUEST_TIMEOUT, |engine, event| match event {
            Event::Detached { error, .. } => bail!("the hub refuses: {}", text_of(error.as_ref())),
            other => handle(engine, other),
        });
        match waited.await? {
            Waited::Found(found) => Ok(found),
            Waited::Silent => bail!("the hub was silent for {} s", REQUEST_TIMEOUT.as_secs()),
        }
    }

    /// The one loop: events out of what was read, output to the socket, then more input.
    async fn wait<T>(
        &mut self,
        timeout: Duration,
        mut handle: impl FnMut(&mut Connection, Event<'_>) -> Result<Option<T>>,
    ) -> Result<Waited<T>> {
        let deadline = Instant::now() + timeout;
        loop {
            let result = self.parse(&mut handle);
            // Also after a violation: the close that names it is in the output.
            self.write().await?;
            if let Some(found) = result? {
                return Ok(Waited::Found(found));
            }
            ensure!(!self.engine.is_closed(), "the connection is closed");
            self.input.copy_within(self.parsed..self.filled, 0);
            self.filled -= self.parsed;
            self.parsed = 0;
            ensure!(self.filled < self.input.len(), "a frame larger than was agreed");
            let wake = self.engine.deadline().unwrap_or(deadline).min(deadline);
            let read = self.stream.read(&mut self.input[self.filled..]);
            match tokio::time::timeout_at(wake.into(), read).await {
                Ok(count) => match count.context("reading")? {
                    0 => bail!("the hub closed the connection"),
                    count => self.filled += count,
                },
                Err(_) if Instant::now() >= deadline => return Ok(Waited::Silent),
                Err(_) => {
                    let expired = self.engine.expire(Instant::now());
                    ensure!(expired == Expired::Nothing, "the connection ended: {expired:?}");
                }
            }
        }
    }

    fn parse<T>(
        &mut self,
        handle: &mut impl FnMut(&mut Connection, Event<'_>) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let now = Instant::now();
        let mut rest = &self.input[self.parsed..self.filled];
        loop {
            let event = self.engine.receive(&mut rest, now)?;
            self.parsed = self.filled - rest.len();
            let found = match event {
                None => return Ok(None),
                Some(Event::Closed(error)) => bail!("the hub closed: {}", text_of(error.as_ref())),
                Some(Event::Ended { error, .. }) => bail!("the hub ended the session: {}", text_of(error.as_ref())),
                Some(Event::SaslFailed(code)) => bail!("the hub refuses with SASL code {code}"),
                Some(event) => handle(&mut self.engine, event)?,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    async fn write(&mut self) -> Result<()> {
        while !self.engine.output().is_empty() {
            let written = self.stream.write(self.engine.output()).await.context("writing")?;
            self.engine.advance_output(written, Instant::now());
        }
        self.stream.flush().await.context("writing")
    }
}

fn text_of(fault: Option<&Fault<'_>>) -> String {
    match fault {
        None => "without a reason".to_owned(),
        Some(fault) => {
            let text = format!("{}: {}", fault.condition, fault.description.unwrap_or("no text"));
            escape(&text).into_owned()
        }
    }
}
