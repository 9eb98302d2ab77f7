//! Reading a hub's events through its Event-Hubs-compatible endpoint, as a back end does (Spec amqp §5, §8).
//!
//! One connection, one session; `$cbs` and `$management` links are made for each request and left open. The protocol
//! engine of the `amqp` crate acts as the client; this file owns the socket and the clock.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use holdfast_amqp::message::{Message, ResponseView, put_token, read_request};
use holdfast_amqp::selector::{self, Start};
use holdfast_amqp::types::{Map, Raw, Value};
use holdfast_amqp::{
    AttachSpec, ClientSasl, Config, Connection, Delivery, Event, Expired, Fault, LinkId, OpenSpec, Outcome, Role,
    SessionId,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::connect::Stream;
use crate::hub::{Hub, PolicyKey, sign};
use crate::target::{Tls, Transport};

/// The most bytes of one read.
const READ_BYTES: usize = 512 * 1024;
/// How long the hub may take to answer a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Link credit; less than the hub's session window, so that the credit is the limit.
const CREDIT: u32 = 4000;
/// The lifetime of the reader's token.
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The endpoint of a hub's events and its credentials.
#[derive(Clone)]
pub struct EventHub {
    address: SocketAddr,
    host: String,
    tls: Option<Tls>,
    name: String,
    policy: PolicyKey,
}

/// A partition's properties as `$management` reports them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionState {
    /// The oldest event retained.
    pub begin: i64,
    /// The newest event; below `begin` when there is none.
    pub last: i64,
}

/// An event as a reader sees it.
#[derive(Debug, Clone, Copy)]
pub struct EventView<'a> {
    message: Message<'a>,
}

impl<'a> EventView<'a> {
    /// The number within the partition; `None` when the hub gave none.
    #[must_use]
    pub fn sequence(&self) -> Option<i64> {
        self.annotation("x-opt-sequence-number")?.integer()
    }

    /// The sender.
    #[must_use]
    pub fn device(&self) -> Option<&'a str> {
        self.annotation("iothub-connection-device-id")?.text()
    }

    /// The body: its one data section.
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        self.message.data().next().unwrap_or_default()
    }

    fn annotation(&self, key: &str) -> Option<Value<'a>> {
        self.message.message_annotations.get(key).ok().flatten()
    }
}

impl EventHub {
    /// The endpoint of `hub`.
    ///
    /// # Errors
    /// When the hub's file lacks a field.
    pub fn of(hub: &Hub, transport: Transport) -> Result<Self> {
        let policy = PolicyKey::parse(&hub.event_hub)?;
        let address = hub.amqp_address(transport)?;
        let name = policy
            .entity
            .clone()
            .context("the event hub's connection string has no EntityPath")?;
        Ok(Self {
            address,
            host: hub.host().to_owned(),
            tls: hub.tls(transport)?,
            name,
            policy,
        })
    }

    /// The same hub through another of its nodes.
    #[must_use]
    pub fn at(mut self, address: SocketAddr) -> Self {
        self.address = address;
        self
    }

    /// Connects and authenticates.
    ///
    /// # Errors
    /// When the hub cannot be reached or refuses.
    pub async fn connect(&self) -> Result<Client> {
        let tcp = TcpStream::connect(self.address)
            .await
            .with_context(|| format!("cannot connect to {}", self.address))?;
        tcp.set_nodelay(true)?;
        let stream = match &self.tls {
            None => Stream::Plain(tcp),
            Some(tls) => Stream::Tls(Box::new(tls.connector.connect(tls.server.clone(), tcp).await?)),
        };
        let open = OpenSpec {
            container_id: "swarm".to_owned(),
            hostname: Some(self.host.clone()),
        };
        let mut client = Client {
            stream,
            engine: Connection::client(Config::default(), ClientSasl::Anonymous, open, Instant::now()),
            input: vec![0; READ_BYTES],
            parsed: 0,
            filled: 0,
            session: None,
            requests: 0,
            name: self.name.clone(),
        };
        client
            .until(|_, event| Ok(matches!(event, Event::Open(_)).then_some(())))
            .await
            .context("opening")?;
        let session = client.engine.begin().context("the hub takes no session")?;
        client
            .until(|_, event| Ok(matches!(event, Event::Begun(_)).then_some(())))
            .await
            .context("beginning")?;
        client.session = Some(session);
        client.put_token(self).await.context("authenticating")?;
        Ok(client)
    }
}

/// An authenticated connection.
pub struct Client {
    stream: Stream,
    engine: Connection,
    input: Vec<u8>,
    parsed: usize,
    filled: usize,
    session: Option<SessionId>,
    requests: u32,
    name: String,
}

impl Client {
    /// The names of the hub's partitions.
    ///
    /// # Errors
    /// When the hub refuses or its answer is malformed.
    pub async fn partitions(&mut self) -> Result<Vec<String>> {
        let name = self.name.clone();
        self.management(&name, None, |map| match map.get("partition_ids")? {
            Some(Value::Array(ids)) => ids
                .iter()
                .map(|id| Ok(id?.text().context("a partition id that is not text")?.to_owned()))
                .collect(),
            other => bail!("partition_ids is {other:?}"),
        })
        .await
    }

    /// The first and last sequence number of a partition.
    ///
    /// # Errors
    /// As [`Client::partitions`].
    pub async fn partition(&mut self, id: &str) -> Result<PartitionState> {
        let name = self.name.clone();
        self.management(&name, Some(id), |map| {
            let number = |key: &str| {
                let value = map.get(key)?.and_then(|value| value.integer());
                value.with_context(|| format!("{key} is missing"))
            };
            let empty = matches!(map.get("is_partition_empty")?, Some(Value::Bool(true)));
            let begin = number("begin_sequence_number")?;
            let last = if empty {
                begin - 1
            } else {
                number("last_enqueued_sequence_number")?
            };
            Ok(PartitionState { begin, last })
        })
        .await
    }

    /// Starts to receive the events of a partition in the `$Default` group.
    ///
    /// # Errors
    /// When the hub refuses.
    pub async fn receive(&mut self, partition: &str, start: Start) -> Result<LinkId> {
        let address = format!("{}/ConsumerGroups/$Default/Partitions/{partition}", self.name);
        let filter = selector::filter_map(&selector::expression(start));
        self.requests += 1;
        let name = format!("swarm-reader-{}", self.requests);
        let mut spec = AttachSpec::receiver(&name, &address);
        spec.source.filter = Raw::new(&filter).ok();
        let link = self.attach(&spec).await?;
        self.engine.grant(link, CREDIT);
        Ok(link)
    }

    /// Passes events to `handle` in their order, until it returns false. Later events are then not seen; the connection
    /// remains usable for further calls.
    ///
    /// # Errors
    /// When the hub detaches, closes, or is silent for longer than `timeout`.
    pub async fn events(
        &mut self,
        link: LinkId,
        timeout: Duration,
        mut handle: impl FnMut(EventView<'_>) -> Result<bool>,
    ) -> Result<()> {
        self.until_within(timeout, |engine, event| match event {
            Event::Transfer(delivery) if delivery.link == link => {
                if !delivery.settled {
                    engine.settle(link, delivery.delivery_id, delivery.delivery_id, &Outcome::Accepted);
                }
                engine.top_up(link, CREDIT);
                let message = Message::scan(&delivery.payload).context("an event that is not a message")?;
                Ok((!handle(EventView { message })?).then_some(()))
            }
            _ => Ok(None),
        })
        .await
    }

    /// Detaches a link.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn leave(&mut self, link: LinkId) -> Result<()> {
        self.engine
            .detach(link, holdfast_amqp::Detached::Closed, None, Instant::now());
        self.wait(REQUEST_TIMEOUT, |_, event| match event {
            Event::Detached { link: gone, .. } if gone == link => Ok(Some(())),
            _ => Ok(None),
        })
        .await
    }

    async fn put_token(&mut self, hub: &EventHub) -> Result<()> {
        let audience = format!("sb://{}/{}", hub.host, hub.name);
        // Event Hubs clients sign with the key's text, not with the decoded bytes (Spec auth-and-limits §1.1).
        let token = sign(
            &audience,
            hub.policy.key.as_bytes(),
            Some(&hub.policy.name),
            TOKEN_LIFETIME,
        );
        self.request("$cbs", |buf, id| put_token(buf, id, &token, &audience), |_| Ok(()))
            .await
    }

    async fn management<T>(
        &mut self,
        name: &str,
        partition: Option<&str>,
        read: impl Fn(Map<'_>) -> Result<T>,
    ) -> Result<T> {
        let write = |buf: &mut Vec<u8>, id: &str| read_request(buf, id, name, partition);
        self.request("$management", write, |body| match body {
            Value::Map(map) => read(map),
            other => bail!("$management answers {other:?}"),
        })
        .await
    }

    /// Sends one request to `node` and reads its response.
    async fn request<T>(
        &mut self,
        node: &str,
        write: impl FnOnce(&mut Vec<u8>, &str),
        read: impl Fn(Value<'_>) -> Result<T>,
    ) -> Result<T> {
        self.requests += 1;
        let id = format!("swarm-{}", self.requests);
        let sender = self.attach(&AttachSpec::sender(&format!("{id}-out"), node)).await?;
        let receiver = self.attach(&AttachSpec::receiver(&format!("{id}-in"), node)).await?;
        self.engine.grant(receiver, 10);
        if self.engine.sendable(sender) == 0 {
            let credit = |engine: &mut Connection, _: Event<'_>| Ok((engine.sendable(sender) > 0).then_some(()));
            self.until(credit)
                .await
                .with_context(|| format!("{node} grants no credit"))?;
        }
        let delivery = Delivery {
            tag: id.as_bytes(),
            settled: false,
            message_format: 0,
        };
        self.engine.send_with(sender, &delivery, |buf| write(buf, &id))?;
        let answer = self.until(|engine, event| match event {
            Event::Transfer(delivery) if delivery.link == receiver => {
                if !delivery.settled {
                    engine.settle(receiver, delivery.delivery_id, delivery.delivery_id, &Outcome::Accepted);
                }
                let response = ResponseView::parse(&delivery.payload)?;
                let (status, description) = (response.status, response.description);
                ensure!((200..300).contains(&status), "{node} answers {status}: {description}");
                read(response.body).map(Some)
            }
            Event::Disposition {
                session, first, last, ..
            } => {
                let _ = engine.take_outgoing(session, first, last);
                Ok(None)
            }
            _ => Ok(None),
        });
        let answer = answer.await?;
        self.leave(sender).await?;
        self.leave(receiver).await?;
        Ok(answer)
    }

    async fn attach(&mut self, spec: &AttachSpec<'_>) -> Result<LinkId> {
        let session = self.session.context("no session")?;
        let link = self.engine.attach(session, spec).context("the session is full")?;
        let refused = |has_terminus: bool| (!has_terminus).then_some(());
        let mut is_refused = false;
        self.until(|_, event| match event {
            Event::Attached { link: which, attach } if which == link => {
                let theirs = if spec.role == Role::Receiver {
                    attach.source_raw
                } else {
                    attach.target_raw
                };
                // A refusal is followed by a detach with the reason, which `until` turns into an error.
                is_refused = refused(theirs.is_some_and(|raw| !raw.is_null())).is_some();
                Ok((!is_refused).then_some(()))
            }
            _ => Ok(None),
        })
        .await?;
        Ok(link)
    }

    /// Runs the connection until `handle` returns a value; detaches and ends are errors.
    async fn until<T>(&mut self, handle: impl FnMut(&mut Connection, Event<'_>) -> Result<Option<T>>) -> Result<T> {
        self.until_within(REQUEST_TIMEOUT, handle).await
    }

    async fn until_within<T>(
        &mut self,
        timeout: Duration,
        mut handle: impl FnMut(&mut Connection, Event<'_>) -> Result<Option<T>>,
    ) -> Result<T> {
        self.wait(timeout, |engine, event| match event {
            Event::Detached { error, .. } => bail!("the hub detached: {}", text_of(error.as_ref())),
            other => handle(engine, other),
        })
        .await
    }

    /// The connection's loop: handles the events of the input, writes the output, then reads more input.
    async fn wait<T>(
        &mut self,
        timeout: Duration,
        mut handle: impl FnMut(&mut Connection, Event<'_>) -> Result<Option<T>>,
    ) -> Result<T> {
        let deadline = Instant::now() + timeout;
        loop {
            let result = self.parse(&mut handle);
            // Also after a violation: the output holds the close with its reason.
            self.write().await?;
            if let Some(found) = result? {
                return Ok(found);
            }
            ensure!(!self.engine.is_closed(), "the connection is closed");
            self.input.copy_within(self.parsed..self.filled, 0);
            self.filled -= self.parsed;
            self.parsed = 0;
            ensure!(
                self.filled < self.input.len(),
                "a frame larger than the negotiated size"
            );
            let wake = self.engine.deadline().unwrap_or(deadline).min(deadline);
            let read = self.stream.read(&mut self.input[self.filled..]);
            match tokio::time::timeout_at(wake.into(), read).await {
                Ok(count) => match count.context("reading")? {
                    0 => bail!("the hub closed the connection"),
                    count => self.filled += count,
                },
                Err(_) => {
                    ensure!(
                        Instant::now() < deadline,
                        "the hub was silent for {} s",
                        timeout.as_secs()
                    );
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
        Some(fault) => format!("{}: {}", fault.condition, fault.description.unwrap_or("no text")),
    }
}
