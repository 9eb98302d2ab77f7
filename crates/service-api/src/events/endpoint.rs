//! One core's part of the endpoint: its AMQP server with the reader service.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use holdfast_amqp_server::{AmqpServer, Authority, Confirmation, Refused, RefusedPrincipal, ServerConfig, Transport};
use holdfast_auth::{HubNames, Policy};
use holdfast_device_hub::{DeviceHub, Operation, Protocol, Refusal, RefusedRequest};
use holdfast_model::UnixMillis;
use holdfast_net::{ByteStream, StreamHandler};
use holdfast_registry::RegistryEvent;
use holdfast_tasks::{Phase, Stop};

use super::EventsConfig;
use super::metrics::Metrics;
use super::readers::ReaderService;

/// One core's events endpoint.
pub struct EventsEndpoint {
    hub: Arc<DeviceHub>,
    server: Rc<AmqpServer>,
    stop: Stop,
}

impl EventsEndpoint {
    /// The endpoint of one core; [`Self::run`] must be spawned on the same thread.
    #[must_use]
    pub fn new(hub: Arc<DeviceHub>, config: EventsConfig, stop: Stop) -> Rc<Self> {
        let limits = ServerConfig {
            output_bytes: config.output_bytes,
            max_unauthenticated: config.max_unauthenticated,
            unauthenticated_timeout: config.unauthenticated_timeout,
            confirm_timeout: config.confirm_timeout,
        };
        let readers = ReaderService {
            hub: Arc::clone(&hub),
            config,
            metrics: Metrics::new(),
        };
        let authority = Box::new(HubAuthority(Arc::clone(&hub)));
        let server = AmqpServer::new(authority, vec![Box::new(readers)], limits, stop.clone());
        Rc::new(Self { hub, server, stop })
    }

    /// Forwards changes of the hub's settings until the node drains, then returns when all connections have ended or the
    /// node closes. Without it, connections of revoked policies stay open until their tokens expire.
    pub async fn run(self: Rc<Self>) {
        let mut changes = self.hub.registry().changes();
        loop {
            let event = tokio::select! {
                biased;
                () = self.stop.reached(Phase::Draining) => break,
                event = changes.next() => event,
            };
            match event {
                Some(RegistryEvent::Settings | RegistryEvent::Resync) => self.server.settings_changed(),
                Some(RegistryEvent::Identity { .. } | RegistryEvent::Cluster) => {}
                None => break,
            }
        }
        self.server.drained().await;
    }

    /// Serves a new connection: after TLS, or after a WebSocket upgrade.
    pub fn accept(self: &Rc<Self>, stream: Box<dyn ByteStream>, address: SocketAddr, protocol: Protocol) {
        let transport = match protocol {
            Protocol::AmqpWs => Transport::WebSocket,
            _ => Transport::Tcp,
        };
        self.server.accept(stream, address, transport);
    }

    /// The handler of AMQP over WebSockets, subprotocol `AMQPWSB10`.
    #[must_use]
    pub fn web_socket_handler(self: &Rc<Self>) -> Rc<dyn StreamHandler> {
        self.server.web_socket_handler()
    }
}

/// The device hub as the AMQP server's authority.
struct HubAuthority(Arc<DeviceHub>);

impl Authority for HubAuthority {
    fn hub_name(&self) -> String {
        let settings = self.0.registry().settings();
        settings.map_or_else(|_| String::new(), |settings| settings.hub_name.clone())
    }

    fn host_names(&self) -> &HubNames {
        self.0.hub_names()
    }

    fn now(&self) -> UnixMillis {
        self.0.clock().now()
    }

    fn policy(&self, name: &str) -> Option<Arc<Policy>> {
        self.0.registry().policy(name)
    }

    fn confirm(&self) -> Confirmation {
        let hub = Arc::clone(&self.0);
        Box::pin(async move { Ok(hub.registry().read_barrier().await?) })
    }

    fn refused(&self, principal: RefusedPrincipal<'_>, refused: &Refused) {
        let protocol = match principal.transport {
            Transport::Tcp => Protocol::Amqp,
            Transport::WebSocket => Protocol::AmqpWs,
        };
        let (audit, now) = (self.0.audit(), self.now());
        match refused.reason {
            Some(reason) => audit.refused_identity(
                Operation::ReadEvents,
                principal.identity,
                protocol,
                principal.address,
                Refusal {
                    code: refused.code,
                    reason,
                },
                now,
            ),
            None => audit.refused_request(
                &RefusedRequest {
                    operation: Operation::ReadEvents,
                    identity: principal.identity,
                    protocol,
                    address: principal.address,
                    code: refused.code,
                    reason: refused.condition,
                    text: &refused.text,
                },
                now,
            ),
        }
    }
}
