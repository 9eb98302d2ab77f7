//! One core's part of the server: its connections and their shared state.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use holdfast_auth::RefusalBackoff;
use holdfast_net::connection::{ConnectionLimits, Connections};
use holdfast_net::{Socket, StreamHandler};
use holdfast_tasks::Stop;
use holdfast_tasks::sync::SharedCell;

use crate::connection::ServedConnection;
use crate::metrics::Metrics;
use crate::{Authority, Carrier, Leaving, LinkHandler, LinkService, ServerConfig};

/// The time of the runtime's clock, which sleeps of this crate follow too.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Refused requests that are remembered.
const MAX_REFUSED: usize = 4096;

/// One core's AMQP server.
pub struct AmqpServer {
    authority: Box<dyn Authority>,
    services: Vec<Box<dyn LinkService>>,
    config: ServerConfig,
    metrics: Metrics,
    connections: Rc<Connections<ServedConnection>>,
    /// Delays the answers to clients that repeat a refused request at once.
    backoff: SharedCell<RefusalBackoff>,
}

impl AmqpServer {
    /// The server of one core, for the addresses of `services`; the first service that serves an address has it.
    #[must_use]
    pub fn new(
        authority: Box<dyn Authority>,
        services: Vec<Box<dyn LinkService>>,
        config: ServerConfig,
        stop: Stop,
    ) -> Rc<Self> {
        let limits = ConnectionLimits {
            max_unauthenticated: config.max_unauthenticated,
            // Handlers bound the output before it is written, by `output_bytes`, credit and window.
            max_output_bytes: usize::MAX,
        };
        Rc::new(Self {
            authority,
            services,
            config,
            metrics: Metrics::new(),
            connections: Connections::new(limits, stop),
            backoff: SharedCell::new(RefusalBackoff::new(MAX_REFUSED)),
        })
    }

    /// Lets every connection check the authorization of its links again: policies or other settings have changed.
    pub fn settings_changed(&self) {
        for connection in self.connections.all() {
            connection.recheck();
        }
    }

    /// Detaches the links of all connections and then closes these: clients attach again, wherever they are let in.
    /// Sessions of devices end at the rate of their owner, and their connections after them. Later connections are served.
    pub fn send_away(&self) {
        for connection in self.connections.all() {
            connection.leave(Leaving::Draining);
        }
    }

    /// Checks deadlines. When the node drains, closes all connections and returns when they are gone.
    pub async fn run(&self) {
        Rc::clone(&self.connections).run().await;
    }

    /// Serves the client of a connection that carries AMQP.
    pub fn accept(self: &Rc<Self>, socket: Socket, address: SocketAddr, carrier: Carrier) {
        self.connections.open(socket, address, |transport| {
            ServedConnection::new(self, transport, carrier)
        });
    }

    /// The handler of AMQP on its own port, or of AMQP over WebSockets, subprotocol `AMQPWSB10`.
    #[must_use]
    pub fn handler(self: &Rc<Self>, carrier: Carrier) -> Rc<dyn StreamHandler> {
        Rc::new(Over(Rc::clone(self), carrier))
    }

    /// The handlers of a new connection, in the order of the services.
    pub(crate) fn handlers(&self) -> Vec<Box<dyn LinkHandler>> {
        self.services.iter().map(|service| service.connect()).collect()
    }

    /// Whether a service takes the SASL mechanism `TPM`.
    pub(crate) fn takes_tpm(&self) -> bool {
        self.services.iter().any(|service| service.takes_tpm())
    }

    pub(crate) fn authority(&self) -> &dyn Authority {
        &*self.authority
    }

    pub(crate) fn config(&self) -> &ServerConfig {
        &self.config
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(crate) fn backoff(&self) -> &SharedCell<RefusalBackoff> {
        &self.backoff
    }
}

/// AMQP on one kind of transport.
struct Over(Rc<AmqpServer>, Carrier);

impl StreamHandler for Over {
    fn accept(&self, socket: Socket, address: SocketAddr) {
        self.0.accept(socket, address, self.1);
    }
}
