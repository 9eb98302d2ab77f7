//! MQTT 3.1.1 for devices and modules (Spec device-mqtt).
//!
//! [`MqttFront`] is one core's part: it gives each connection to the driver of `net` and shares the core's handles.

mod cloud_message;
mod connection;
mod credentials;
mod disconnect;
mod downlink;
mod explain;
mod faults;
mod methods;
mod packets;
mod provisioning;
mod subscriptions;
mod throttle;
mod trace;
mod twins;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use holdfast_device_hub::{Core, Protocol};
use holdfast_net::connection::{ConnectionLimits, Connections};
use holdfast_net::{Accepted, Socket, StreamHandler, TlsServer};
use holdfast_provisioning::Provisioning;
use holdfast_tasks::Stop;

use crate::MqttConfig;
use crate::metrics::Metrics;
use connection::Connection;

/// One core's MQTT front end.
pub struct MqttFront {
    core: Rc<Core>,
    config: MqttConfig,
    provisioning: Option<Arc<Provisioning>>,
    metrics: Metrics,
    /// Whether messages have a rate.
    limits_sends: bool,
    connections: Rc<Connections<Connection>>,
}

impl MqttFront {
    /// The front end of `core`; [`Self::run`] must be spawned on the same thread. Devices register with `provisioning`, if the hub has
    /// it, over the same ports.
    #[must_use]
    pub fn new(core: Rc<Core>, config: MqttConfig, provisioning: Option<Arc<Provisioning>>, stop: Stop) -> Rc<Self> {
        let limits = ConnectionLimits {
            max_unauthenticated: config.max_unauthenticated,
            max_output_bytes: config.max_output.as_usize(),
        };
        Rc::new(Self {
            limits_sends: core.hub().limits_sends(),
            core,
            config,
            provisioning,
            metrics: Metrics::new("mqtt"),
            connections: Connections::new(limits, stop),
        })
    }

    /// Checks deadlines until the node drains, then closes all connections and returns when they are gone.
    pub async fn run(self: Rc<Self>) {
        Rc::clone(&self.connections).run().await;
    }

    /// Takes over an unencrypted connection.
    pub fn accept_plain(self: &Rc<Self>, accepted: Accepted) {
        self.accept(Socket::Plain(accepted.socket), accepted.address, Protocol::Mqtt);
    }

    /// Takes over a connection that starts with a TLS handshake.
    pub fn accept_tls(self: &Rc<Self>, accepted: Accepted, tls: &TlsServer) {
        let socket = Socket::tls(accepted.socket, tls.clone());
        self.accept(socket, accepted.address, Protocol::Mqtt);
    }

    /// The handler of MQTT over WebSockets.
    #[must_use]
    pub fn web_socket_handler(self: &Rc<Self>) -> Rc<dyn StreamHandler> {
        Rc::new(OverWebSockets(Rc::clone(self)))
    }

    fn accept(self: &Rc<Self>, socket: Socket, address: SocketAddr, protocol: Protocol) {
        self.connections.open(socket, address, |transport| {
            self.metrics.accepted.increment(1);
            self.metrics.connections.increment(1.0);
            Connection::new(Rc::clone(self), transport, protocol)
        });
    }
}

/// MQTT inside WebSocket messages.
struct OverWebSockets(Rc<MqttFront>);

impl StreamHandler for OverWebSockets {
    fn accept(&self, socket: Socket, address: SocketAddr) {
        self.0.accept(socket, address, Protocol::MqttWs);
    }
}
