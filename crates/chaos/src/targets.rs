//! The nodes that clients may use: addresses, which change while nodes join and leave, and credentials.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use holdfast_swarm::events::EventHub;
use holdfast_swarm::http;
use holdfast_swarm::hub::Hub;
use holdfast_swarm::target::{Credentials, DeviceNames, ReconnectTo, Target, Tls, Transport};
use rand::Rng;
use rand::seq::IndexedRandom as _;

/// The lifetime of tokens: longer than any run.
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// The topic of telemetry.
pub const TOPIC: &str = "devices/{device}/messages/events/";

/// What a device speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// MQTT 3.1.1.
    Mqtt,
    /// AMQP 1.0.
    Amqp,
    /// HTTPS, one message at a time.
    Https,
}

impl Protocol {
    /// What publishing device `number` speaks: half of them MQTT, a quarter AMQP, and a quarter HTTPS. A device over HTTPS has no session
    /// that could be cut off, so the `sessionless` first ones alone speak it.
    #[must_use]
    pub fn of(number: u32, sessionless: u32) -> Self {
        match number % 4 {
            1 => Self::Amqp,
            3 if number < sessionless => Self::Https,
            _ => Self::Mqtt,
        }
    }

    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mqtt => "MQTT",
            Self::Amqp => "AMQP",
            Self::Https => "HTTPS",
        }
    }
}

/// One node's listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// The node.
    pub node: u32,
    /// Its address.
    pub ip: IpAddr,
    /// Added to the standard ports.
    pub port_offset: u16,
}

impl Endpoint {
    /// One of its ports.
    #[must_use]
    pub fn socket(&self, standard: u16) -> SocketAddr {
        SocketAddr::new(self.ip, standard + self.port_offset)
    }
}

/// The hub and the nodes that clients may use.
pub struct Targets {
    hub: Hub,
    tls: Tls,
    names: DeviceNames,
    endpoints: Mutex<Vec<Endpoint>>,
}

impl Targets {
    /// The hub of `hub`; its nodes are added later.
    ///
    /// # Errors
    /// When its CA cannot be read.
    pub fn new(hub: Hub, prefix: &str) -> Result<Self> {
        let tls = hub.tls(Transport::Tls13)?.context("no TLS")?;
        Ok(Self {
            hub,
            tls,
            names: DeviceNames::new(prefix)?,
            endpoints: Mutex::default(),
        })
    }

    /// The hub's facts.
    #[must_use]
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// The devices' names.
    #[must_use]
    pub fn names(&self) -> &DeviceNames {
        &self.names
    }

    /// Adds a node for clients.
    pub fn add(&self, endpoint: Endpoint) {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if !endpoints.contains(&endpoint) {
            endpoints.push(endpoint);
        }
    }

    /// Removes a node for new clients.
    pub fn remove(&self, node: u32) {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        endpoints.retain(|endpoint| endpoint.node != node);
    }

    /// All nodes that may be used.
    #[must_use]
    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One of them.
    pub fn any(&self, rng: &mut impl Rng) -> Option<Endpoint> {
        self.endpoints().choose(rng).copied()
    }

    /// The connection target of a device that speaks `protocol` at `endpoint`.
    ///
    /// # Errors
    /// When the owner's key is invalid.
    pub fn target(&self, endpoint: Endpoint, protocol: Protocol) -> Result<Target> {
        let port = match protocol {
            Protocol::Mqtt => 8883,
            Protocol::Amqp => 5671,
            Protocol::Https => 443,
        };
        Ok(Target {
            nodes: Vec::new(),
            begin_at: None,
            reconnect_to: ReconnectTo::Same,
            address: endpoint.socket(port),
            tls: Some(self.tls.clone()),
            sources: Vec::new(),
            names: self.names.clone(),
            credentials: Credentials::Hub(self.hub.devices(TOKEN_LIFETIME)?),
            topic: TOPIC.to_owned(),
        })
    }

    /// The endpoint for readers.
    ///
    /// # Errors
    /// When the hub's file lacks a field.
    pub fn events(&self, endpoint: Endpoint) -> Result<EventHub> {
        // The address in the file is replaced before it is used; a plain hub has none that must resolve.
        Ok(EventHub::of(&self.hub, Transport::Tls13)?.at(endpoint.socket(5671)))
    }

    /// A connection for service calls.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn rest(&self, endpoint: Endpoint) -> Result<http::Client> {
        http::Client::connect(endpoint.socket(443), &self.hub.0.host_name, Some(&self.tls)).await
    }

    /// A token for service calls.
    ///
    /// # Errors
    /// When the owner's key is invalid.
    pub fn token(&self) -> Result<String> {
        self.hub.owner_token(TOKEN_LIFETIME)
    }
}
