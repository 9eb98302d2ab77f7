//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args as ClapArgs, Parser, Subcommand};
use holdfast_swarm::connect::ConnectionOptions;
use holdfast_swarm::fleet::Protocol;
use holdfast_swarm::hub::Hub;
use holdfast_swarm::readiness;
use holdfast_swarm::target::{Credentials, DeviceNames, ReconnectTo, Target, Transport, resolve, tls};

use crate::commands;

/// Load generator for Holdfast, over MQTT, AMQP and HTTPS, and for MQTT brokers.
#[derive(Parser)]
#[command(version)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Connect and stay idle: the cost of an idle connection.
    Idle(commands::idle::Idle),
    /// Publish at QoS 1 with a window: rate, CPU per message, order of acknowledgements.
    Publish(commands::publish::PublishCommand),
    /// Read all events and verify that everything acknowledged is there.
    Verify(commands::verify::Verify),
    /// Read a partition as fast as possible.
    Read(commands::read::Read),
    /// Write twins or invoke direct methods: rate, and the times until devices and callers have them.
    Down(commands::down::Down),
    /// Gateways over AMQP, whose devices use everything at once: errors, latencies, fairness.
    Multiplex(commands::multiplex::Multiplex),
    /// Open and close connections: rate and CPU per connect, by kind of credential.
    Connects(commands::connects::Connects),
    /// Begin many TLS handshakes at once: the server's memory for each.
    Storm(commands::connects::Storm),
    /// Accept TLS connections and nothing else: the reference for connects.
    AcceptTls(commands::accept_tls::AcceptTls),
    /// Replace credentials under a connected fleet.
    Rotate(commands::rotate::Rotate),
    /// Register devices with the provisioning service: rate and CPU per registration, and where each device was assigned.
    Provision(commands::provision::Provision),
    /// Verify that every device that was assigned is at its hub, there alone, and can connect.
    VerifyAssigned(commands::provision::VerifyAssigned),
    /// Create a fleet's devices on a hub.
    Devices(commands::devices::Devices),
    /// Create a durable subscription at a broker.
    Subscribe(commands::subscribe::Subscribe),
}

impl Command {
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::Idle(command) => command.run(),
            Self::Publish(command) => command.run(),
            Self::Verify(command) => command.run(),
            Self::Read(command) => command.run(),
            Self::Down(command) => command.run(),
            Self::Multiplex(command) => command.run(),
            Self::Connects(command) => command.run(),
            Self::Storm(command) => command.run(),
            Self::AcceptTls(command) => command.run(),
            Self::Rotate(command) => command.run(),
            Self::Provision(command) => command.run(),
            Self::VerifyAssigned(command) => command.run(),
            Self::Devices(command) => command.run(),
            Self::Subscribe(command) => command.run(),
        }
    }
}

/// The server and the device identities.
#[derive(ClapArgs)]
pub(crate) struct TargetArgs {
    /// A Holdfast hub's connection.json; its devices are created first
    #[arg(long, value_name = "FILE", conflicts_with = "target")]
    pub(crate) hub: Option<PathBuf>,
    /// Any MQTT broker
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) target: Option<String>,
    /// Transport
    #[arg(long, value_enum, default_value = "plain")]
    pub(crate) transport: Transport,
    /// Protocol of the devices; other than MQTT only with --hub, and for HTTPS with TLS
    #[arg(long, value_enum, default_value = "mqtt")]
    protocol: ProtocolArg,
    /// Devices that share a connection, over AMQP
    #[arg(long, default_value_t = 1)]
    pub(crate) devices_a_connection: u32,
    /// CA file for TLS to a broker
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Server name in the broker's certificate; the host of --target by default
    #[arg(long)]
    server_name: Option<String>,
    /// User name for a broker
    #[arg(long)]
    user: Option<String>,
    /// Password for a broker
    #[arg(long)]
    password: Option<String>,
    /// Topic at a broker, {device} = the device's name
    #[arg(long, default_value = "swarm/{device}/events")]
    topic: String,
    /// Prefix of the device names
    #[arg(long, default_value = "swarm-")]
    prefix: String,
    /// Devices
    #[arg(long, short = 'n', default_value_t = 100)]
    pub(crate) connections: u32,
    /// Number of the first device, when several processes share a fleet
    #[arg(long, default_value_t = 0)]
    pub(crate) first: u32,
    /// Threads that drive the connections
    #[arg(long, default_value_t = 1)]
    pub(crate) threads: usize,
    /// New connections a second
    #[arg(long, default_value_t = 2000.0)]
    pub(crate) connect_rate: f64,
    /// Local addresses to connect from, in turn, when one address runs out of ports
    #[arg(long, value_delimiter = ',')]
    source: Vec<IpAddr>,
    /// The node to which all devices connect at first, instead of the nodes in turn
    #[arg(long, value_name = "NODE")]
    begin_at: Option<String>,
    /// The node to which devices reconnect after their connection was lost
    #[arg(long, alias = "again", value_enum, default_value = "same")]
    reconnect_to: ReconnectArg,
    /// MQTT keep-alive in seconds; 0 = none
    #[arg(long, default_value_t = 120)]
    keep_alive: u16,
    /// Let the server keep the session over disconnects (clean session 0)
    #[arg(long)]
    keep_session: bool,
    /// Do not create the hub's devices: they exist
    #[arg(long)]
    devices_exist: bool,
    /// Lifetime of a device's token in seconds
    #[arg(long, alias = "token-life", default_value_t = 24 * 3600)]
    token_lifetime: u64,
}

/// The protocol of the devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ProtocolArg {
    /// MQTT 3.1.1.
    Mqtt,
    /// AMQP 1.0.
    Amqp,
    /// HTTPS with kept connections.
    Https,
}

/// The node to which devices reconnect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ReconnectArg {
    /// The node of the first connection, or the next listening one.
    Same,
    /// A random node, as with a DNS name that has all addresses, or the next listening one.
    Any,
    /// A random node whose /readyz answers 200, as behind a load balancer.
    Ready,
}

/// The measurement and the place of its result.
#[derive(ClapArgs)]
pub(crate) struct MeasureArgs {
    /// The server's processes, to measure their resource usage; those of connection.json by default
    #[arg(long, value_delimiter = ',')]
    pid: Vec<u32>,
    /// The hub's metrics address, to count syncs; that of connection.json by default
    #[arg(long, value_name = "URL")]
    metrics: Option<String>,
    /// Write the report to this file as well
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Print no progress
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

impl MeasureArgs {
    pub(crate) fn pids(&self, hub: Option<&Hub>) -> Vec<u32> {
        if self.pid.is_empty() {
            hub.map(|hub| hub.0.pids.clone()).unwrap_or_default()
        } else {
            self.pid.clone()
        }
    }

    pub(crate) fn metrics(&self, hub: Option<&Hub>) -> Option<String> {
        self.metrics.clone().or_else(|| hub.map(|hub| hub.0.metrics.clone()))
    }
}

impl TargetArgs {
    pub(crate) fn load_hub(&self) -> Result<Option<Hub>> {
        self.hub.as_deref().map(Hub::load).transpose()
    }

    pub(crate) fn names(&self) -> Result<DeviceNames> {
        DeviceNames::new(&self.prefix)
    }

    pub(crate) fn connection_options(&self, keep_session: bool) -> ConnectionOptions {
        ConnectionOptions {
            keep_alive: self.keep_alive,
            clean_session: !(self.keep_session || keep_session),
        }
    }

    pub(crate) fn protocol(&self) -> Protocol {
        match self.protocol {
            ProtocolArg::Mqtt => Protocol::Mqtt,
            ProtocolArg::Amqp => Protocol::Amqp {
                devices_a_connection: self.devices_a_connection,
            },
            ProtocolArg::Https => Protocol::Https,
        }
    }

    /// The target as a report names it.
    pub(crate) fn description(&self) -> String {
        match (&self.target, &self.hub) {
            (Some(target), _) => target.clone(),
            (None, Some(hub)) => format!("hub of {}", hub.display()),
            (None, None) => String::new(),
        }
    }

    /// The transport as it is written on the command line.
    pub(crate) fn transport_name(&self) -> String {
        format!("{:?}", self.transport).to_lowercase()
    }

    /// Resolves the target and makes sure that its devices exist.
    pub(crate) fn prepare(&self, hub: Option<&Hub>) -> Result<Target> {
        let target = self.resolve(hub)?;
        if let Some(hub) = hub.filter(|_| !self.devices_exist) {
            commands::devices::create(hub, &target.names, self.first..self.first + self.connections)?;
        }
        Ok(target)
    }

    /// As [`Self::prepare`], for devices over AMQP whatever `--protocol` says.
    pub(crate) fn prepare_gateways(&self, hub: &Hub) -> Result<Target> {
        let protocol = Protocol::Amqp {
            devices_a_connection: self.devices_a_connection,
        };
        let (address, nodes) = hub.addresses(protocol, self.transport)?;
        let target = self.prepare(Some(hub))?;
        Ok(Target {
            address,
            nodes,
            ..target
        })
    }

    /// Resolves the target.
    pub(crate) fn resolve(&self, hub: Option<&Hub>) -> Result<Target> {
        ensure!(
            self.connections <= 9_999_999 - self.first.min(9_999_999),
            "a device's number has seven digits"
        );
        match (hub, &self.target) {
            (Some(hub), _) => self.resolve_hub(hub),
            (None, Some(target)) => self.resolve_broker(target),
            (None, None) => bail!("name a --hub or a --target"),
        }
    }

    fn resolve_hub(&self, hub: &Hub) -> Result<Target> {
        let names = self.names()?;
        let (address, nodes) = hub.addresses(self.protocol(), self.transport)?;
        Ok(Target {
            address,
            nodes,
            begin_at: self.begin_at(hub)?,
            reconnect_to: match self.reconnect_to {
                ReconnectArg::Same => ReconnectTo::Same,
                ReconnectArg::Any => ReconnectTo::Any,
                ReconnectArg::Ready => ReconnectTo::InService(readiness::follow(hub)?),
            },
            tls: hub.tls(self.transport)?,
            sources: self.source.clone(),
            names,
            credentials: Credentials::Hub(hub.devices(Duration::from_secs(self.token_lifetime))?),
            topic: "devices/{device}/messages/events/".to_owned(),
        })
    }

    fn begin_at(&self, hub: &Hub) -> Result<Option<usize>> {
        let Some(name) = &self.begin_at else { return Ok(None) };
        let found = hub.0.nodes.iter().position(|node| node.name == *name);
        found.with_context(|| format!("the hub has no node {name}")).map(Some)
    }

    fn resolve_broker(&self, target: &str) -> Result<Target> {
        ensure!(
            self.protocol == ProtocolArg::Mqtt,
            "a broker is reached over MQTT alone"
        );
        let tls = match self.transport {
            Transport::Plain => None,
            secured => {
                let ca = self.ca.as_deref().context("TLS needs --ca")?;
                let host = target.rsplit_once(':').map_or(target, |(host, _)| host);
                Some(tls(secured, ca, self.server_name.as_deref().unwrap_or(host))?)
            }
        };
        Ok(Target {
            address: resolve(target)?,
            nodes: Vec::new(),
            begin_at: None,
            reconnect_to: ReconnectTo::Same,
            tls,
            sources: self.source.clone(),
            names: self.names()?,
            credentials: Credentials::Shared {
                username: self.user.clone(),
                password: self.password.clone(),
            },
            topic: self.topic.clone(),
        })
    }
}
