//! Reading a hub's events through its Event-Hubs-compatible endpoint, as a back end does (Spec amqp §5, §8).
//!
//! The reader is `holdfast_client`'s; the signature of its token is made here, independently of the hub's code.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use holdfast_amqp::LinkId;
use holdfast_amqp::message::Message;
use holdfast_amqp::selector::Start;
use holdfast_amqp::types::Value;
pub use holdfast_client::events::PartitionState;
use holdfast_client::events::Stopped;
use tokio::net::TcpStream;

use crate::connect::Stream;
use crate::hub::{Hub, PolicyKey, sign};
use crate::target::{Tls, Transport};

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
        let policy = PolicyKey::parse(&hub.0.event_hub)?;
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
        let mut client =
            holdfast_client::events::Client::open(Box::new(stream), "swarm", &self.host, &self.name).await?;
        let audience = format!("sb://{}/{}", self.host, self.name);
        // Event Hubs clients sign with the key's text, not with the bytes that it encodes (Spec auth-and-limits §1.1).
        let key = self.policy.key.as_bytes();
        let token = sign(&audience, key, Some(&self.policy.name), TOKEN_LIFETIME);
        client.put_token(&token, &audience).await.context("authenticating")?;
        Ok(Client(client))
    }
}

/// An authenticated connection.
pub struct Client(holdfast_client::events::Client);

impl Client {
    /// The names of the hub's partitions.
    ///
    /// # Errors
    /// When the hub refuses or its answer is malformed.
    pub async fn partitions(&mut self) -> Result<Vec<String>> {
        self.0.partitions().await
    }

    /// The first and last sequence number of a partition.
    ///
    /// # Errors
    /// As [`Client::partitions`].
    pub async fn partition(&mut self, id: &str) -> Result<PartitionState> {
        self.0.partition(id).await
    }

    /// Attaches to a partition in the `$Default` group; [`Self::events`] receives its events.
    ///
    /// # Errors
    /// When the hub refuses.
    pub async fn receive(&mut self, partition: &str, start: Start) -> Result<LinkId> {
        self.0.receive(partition, "$Default", start).await
    }

    /// Hands events to `visit` as they come, until it returns false. An answer of `false` leaves later events unseen,
    /// but the connection usable for further calls.
    ///
    /// # Errors
    /// When the hub detaches, closes, or sends no event for `timeout`.
    pub async fn events(
        &mut self,
        link: LinkId,
        timeout: Duration,
        mut visit: impl FnMut(EventView<'_>) -> Result<bool>,
    ) -> Result<()> {
        let visit = |_, message: &Message<'_>| visit(EventView { message: *message });
        match self.0.events(&[link], timeout, visit).await? {
            Stopped::ByVisitor => Ok(()),
            Stopped::Silent => bail!("the hub was silent for {} s", timeout.as_secs()),
        }
    }

    /// Detaches a link.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn leave(&mut self, link: LinkId) -> Result<()> {
        self.0.leave(link).await
    }
}
