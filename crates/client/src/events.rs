//! A reader of a hub's events over its Event-Hubs-compatible endpoint (Spec amqp §5, §8).
//!
//! The engine of the `amqp` crate plays the client; this file owns the stream and the clock. One connection, one
//! session, a receiver per partition; links for requests are detached when they are answered.
//! Invariant: a receiver has credit only while [`Client::events`] runs, so that no event arrives unseen.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use holdfast_amqp::message::{Message, ResponseView, put_token, read_request};
use holdfast_amqp::selector::{self, Start};
use holdfast_amqp::types::{Map, Raw, Value};
use holdfast_amqp::{
    AttachSpec, ClientSasl, Config, Connection, Delivery, Detached, Event, Expired, Fault, LinkId, OpenSpec, Outcome,
    Role, SessionId,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// The result of one read of the stream.
const READ_BYTES: usize = 512 * 1024;
/// How long the hub may take to answer a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Events of each partition that the hub may send ahead; less than its session window, so that credit is the limit.
const CREDIT: u32 = 4000;

/// The bytes of a connection.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// The extent of a partition, by `$management`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionState {
    /// The oldest event retained.
    pub begin: i64,
    /// The newest event; below `begin` when there is none.
    pub last: i64,
}

/// Why [`Client::events`] has returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// The visitor wants no more.
    ByVisitor,
    /// No event came in time.
    Silent,
}

/// A connection with a session.
pub struct Client {
    stream: Box<dyn Stream>,
    engine: Connection,
    input: Vec<u8>,
    parsed: usize,
    filled: usize,
    session: Option<SessionId>,
    requests: u32,
    container: String,
    entity: String,
}

impl Client {
    /// Opens a connection and a session. `container` names this client, `entity` is the event hub's name.
    ///
    /// # Errors
    /// When the connection breaks or the hub refuses.
    pub async fn open(stream: Box<dyn Stream>, container: &str, host: &str, entity: &str) -> Result<Self> {
        let open = OpenSpec {
            container_id: container.to_owned(),
            hostname: Some(host.to_owned()),
        };
        let mut client = Self {
            stream,
            engine: Connection::client(Config::default(), ClientSasl::Anonymous, open, Instant::now()),
            input: vec![0; READ_BYTES],
            parsed: 0,
            filled: 0,
            session: None,
            requests: 0,
            container: container.to_owned(),
            entity: entity.to_owned(),
        };
        client
            .until(|_, event| Ok(matches!(event, Event::Open(_)).then_some(())))
            .await
            .context("opening AMQP")?;
        let session = client.engine.begin().context("the hub takes no session")?;
        client
            .until(|_, event| Ok(matches!(event, Event::Begun(_)).then_some(())))
            .await
            .context("opening a session")?;
        client.session = Some(session);
        Ok(client)
    }

    /// Authenticates with a token for `audience`.
    ///
    /// # Errors
    /// When the hub refuses it.
    pub async fn put_token(&mut self, token: &str, audience: &str) -> Result<()> {
        self.request("$cbs", |buf, id| put_token(buf, id, token, audience), |_| Ok(()))
            .await
    }

    /// The names of the hub's partitions.
    ///
    /// # Errors
    /// When the hub refuses or its answer is not understood.
    pub async fn partitions(&mut self) -> Result<Vec<String>> {
        self.management(None, |map| match map.get("partition_ids")? {
            Some(Value::Array(ids)) => ids
                .iter()
                .map(|id| Ok(id?.text().context("a partition id is no text")?.to_owned()))
                .collect(),
            other => bail!("partition_ids is {other:?}"),
        })
        .await
    }

    /// Where a partition begins and ends.
    ///
    /// # Errors
    /// As [`Client::partitions`].
    pub async fn partition(&mut self, id: &str) -> Result<PartitionState> {
        self.management(Some(id), |map| {
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

    /// Attaches a receiver to a partition; [`Self::events`] receives its events.
    ///
    /// # Errors
    /// When the hub refuses, for example because there is no such consumer group.
    pub async fn receive(&mut self, partition: &str, group: &str, start: Start) -> Result<LinkId> {
        let address = format!("{}/ConsumerGroups/{group}/Partitions/{partition}", self.entity);
        let filter = selector::filter_map(&selector::expression(start));
        self.requests += 1;
        let name = format!("{}-{partition}-{}", self.container, self.requests);
        let mut spec = AttachSpec::receiver(&name, &address);
        spec.source.filter = Raw::new(&filter).ok();
        self.attach(&spec)
            .await
            .with_context(|| format!("partition {partition}, group {group}"))
    }

    /// Hands the events of `links` to `visit` as they come, until it returns false or no event has come for `timeout`.
    /// Later events stay unseen; the connection is usable for further calls.
    ///
    /// # Errors
    /// When the hub detaches or closes.
    pub async fn events(
        &mut self,
        links: &[LinkId],
        timeout: Duration,
        mut visit: impl FnMut(LinkId, &Message<'_>) -> Result<bool>,
    ) -> Result<Stopped> {
        for link in links {
            self.engine.top_up(*link, CREDIT);
        }
        loop {
            let received = self
                .wait(timeout, |engine, event| match event {
                    Event::Transfer(delivery) if links.contains(&delivery.link) => {
                        let link = delivery.link;
                        if !delivery.settled {
                            engine.settle(link, delivery.delivery_id, delivery.delivery_id, &Outcome::Accepted);
                        }
                        engine.top_up(link, CREDIT);
                        let message = Message::scan(&delivery.payload).context("an event that is no message")?;
                        visit(link, &message).map(Some)
                    }
                    other => unless_detached(&other),
                })
                .await?;
            match received {
                Some(true) => {}
                Some(false) => return Ok(Stopped::ByVisitor),
                None => return Ok(Stopped::Silent),
            }
        }
    }

    /// Detaches a link.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn leave(&mut self, link: LinkId) -> Result<()> {
        self.engine.detach(link, Detached::Closed, None, Instant::now());
        self.until_any(|_, event| match event {
            Event::Detached { link: detached, .. } if detached == link => Ok(Some(())),
            _ => Ok(None),
        })
        .await
    }

    async fn management<T>(&mut self, partition: Option<&str>, read: impl Fn(Map<'_>) -> Result<T>) -> Result<T> {
        let entity = self.entity.clone();
        let write = |buf: &mut Vec<u8>, id: &str| read_request(buf, id, &entity, partition);
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
        let id = format!("{}-{}", self.container, self.requests);
        let sender = self.attach(&AttachSpec::sender(&format!("{id}-out"), node)).await?;
        let receiver = self.attach(&AttachSpec::receiver(&format!("{id}-in"), node)).await?;
        self.engine.grant(receiver, 1);
        if self.engine.sendable(sender) == 0 {
            self.until(|engine, _| Ok((engine.sendable(sender) > 0).then_some(())))
                .await
                .with_context(|| format!("{node} grants no credit"))?;
        }
        let delivery = Delivery {
            tag: id.as_bytes(),
            settled: true,
            message_format: 0,
        };
        self.engine.send_with(sender, &delivery, |buf| write(buf, &id))?;
        let answer = self
            .until(|engine, event| match event {
                Event::Transfer(delivery) if delivery.link == receiver => {
                    if !delivery.settled {
                        engine.settle(receiver, delivery.delivery_id, delivery.delivery_id, &Outcome::Accepted);
                    }
                    let response = ResponseView::parse(&delivery.payload)?;
                    let (status, description) = (response.status, response.description);
                    ensure!((200..300).contains(&status), "{node} answers {status}: {description}");
                    read(response.body).map(Some)
                }
                _ => Ok(None),
            })
            .await?;
        self.leave(sender).await?;
        self.leave(receiver).await?;
        Ok(answer)
    }

    async fn attach(&mut self, spec: &AttachSpec<'_>) -> Result<LinkId> {
        let session = self.session.context("no session")?;
        let link = self.engine.attach(session, spec).context("the session is full")?;
        self.until(|_, event| match event {
            Event::Attached { link: which, attach } if which == link => {
                let terminus = if spec.role == Role::Receiver {
                    attach.source_raw
                } else {
                    attach.target_raw
                };
                // An answer without terminus is a refusal; the detach that follows has the reason.
                Ok(terminus.is_some_and(|raw| !raw.is_null()).then_some(()))
            }
            _ => Ok(None),
        })
        .await?;
        Ok(link)
    }

    /// Runs the connection until `handle` has a result; a detach, and [`REQUEST_TIMEOUT`], are errors.
    async fn until<T>(&mut self, mut handle: impl FnMut(&mut Connection, Event<'_>) -> Result<Option<T>>) -> Result<T> {
        self.until_any(|engine, event| match event {
            Event::Detached { .. } => unless_detached(&event),
            other => handle(engine, other),
        })
        .await
    }

    async fn until_any<T>(&mut self, handle: impl FnMut(&mut Connection, Event<'_>) -> Result<Option<T>>) -> Result<T> {
        let waited = self.wait(REQUEST_TIMEOUT, handle).await?;
        waited.with_context(|| format!("the hub was silent for {} s", REQUEST_TIMEOUT.as_secs()))
    }

    /// The one loop: events out of the input, output to the stream, then more input. `None` after `timeout`.
    async fn wait<T>(
        &mut self,
        timeout: Duration,
        mut handle: impl FnMut(&mut Connection, Event<'_>) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let deadline = Instant::now() + timeout;
        loop {
            let result = self.parse(&mut handle);
            // Also after a violation: the close that names it is in the output.
            self.write().await?;
            if let Some(found) = result? {
                return Ok(Some(found));
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
                Err(_) if Instant::now() >= deadline => return Ok(None),
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

/// A detach is an error, with the hub's reason; other events are not for the caller.
fn unless_detached<T>(event: &Event<'_>) -> Result<Option<T>> {
    match event {
        Event::Detached { error, .. } => bail!("the hub refuses: {}", text_of(error.as_ref())),
        _ => Ok(None),
    }
}

fn text_of(fault: Option<&Fault<'_>>) -> String {
    match fault {
        None => "without a reason".to_owned(),
        Some(fault) => format!("{}: {}", fault.condition, fault.description.unwrap_or("no text")),
    }
}
