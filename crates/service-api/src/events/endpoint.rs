//! One core's part of the endpoint: its AMQP server with the services of readers and of senders of messages.

use std::rc::Rc;
use std::sync::Arc;

use holdfast_amqp_server::{
    AmqpServer, Authority, Carrier, Confirmation, LinkService, Purpose, Refused, RefusedPrincipal, ServerConfig,
};
use holdfast_auth::bearer::{BearerRefusal, Principal};
use holdfast_auth::{HubNames, Policy};
use holdfast_device_hub::{DeviceHub, Operation, Protocol, Refusal, RefusedRequest, ThrottleClass, Throttled};
use holdfast_model::UnixMillis;
use holdfast_net::StreamHandler;
use holdfast_oidc::Issuer;
use holdfast_registry::{NodeState, RegistryEvent};
use holdfast_tasks::Stop;

use super::EventsConfig;
use super::metrics::Metrics;
use super::readers::ReaderService;
use crate::messages::MessageService;

/// One core's events endpoint.
pub struct EventsEndpoint {
    hub: Arc<DeviceHub>,
    server: Rc<AmqpServer>,
}

impl EventsEndpoint {
    /// The endpoint of one core; [`Self::run`] must be spawned on the same thread. Bearer tokens of `issuer` open it, if there is one.
    /// Its port and connections are shared with `others`, which serve the addresses of devices.
    #[must_use]
    pub fn new(
        hub: Arc<DeviceHub>,
        issuer: Option<Issuer>,
        others: Vec<Box<dyn LinkService>>,
        config: EventsConfig,
        stop: Stop,
    ) -> Rc<Self> {
        let limits = ServerConfig {
            output_bytes: config.output.as_usize(),
            max_unauthenticated: config.max_unauthenticated,
            unauthenticated_timeout: config.unauthenticated_timeout,
            confirm_timeout: config.confirm_timeout,
        };
        let readers = ReaderService {
            hub: Arc::clone(&hub),
            config,
            metrics: Metrics::new(),
        };
        let messages = MessageService(Arc::clone(&hub));
        let authority = Box::new(HubAuthority {
            hub: Arc::clone(&hub),
            issuer,
        });
        let mut services: Vec<Box<dyn LinkService>> = vec![Box::new(readers), Box::new(messages)];
        services.extend(others);
        let server = AmqpServer::new(authority, services, limits, stop);
        Rc::new(Self { hub, server })
    }

    /// Serves until the node drains, then returns when all connections have ended.
    pub async fn run(self: Rc<Self>) {
        tokio::select! {
            biased;
            () = self.server.run() => {}
            () = self.forward_changes() => {}
        }
    }

    /// Lets connections hear of changes of the hub's settings. Without it, connections of revoked policies stay open until
    /// their tokens expire. An operator's drain of the node sends its readers away once; any that come back are served,
    /// since every node can read every partition.
    async fn forward_changes(&self) {
        let mut changes = self.hub.registry().changes();
        let mut was_draining = self.is_draining();
        loop {
            match changes.next().await {
                Some(RegistryEvent::Settings | RegistryEvent::Resync) => self.server.settings_changed(),
                Some(RegistryEvent::Identity { .. } | RegistryEvent::Provisioning) => continue,
                Some(RegistryEvent::Cluster | RegistryEvent::Authorities | RegistryEvent::Revocations) => {}
                // The registry has ended, and the node with it.
                None => std::future::pending().await,
            }
            let is_draining = self.is_draining();
            if is_draining && !was_draining {
                self.server.send_away();
            }
            was_draining = is_draining;
        }
    }

    /// Whether an operator drains this node.
    fn is_draining(&self) -> bool {
        let view = self.hub.registry().cluster();
        let node = view.node(self.hub.partitions().node());
        node.is_some_and(|node| node.state == NodeState::Draining)
    }

    /// The handler of AMQP on its own port.
    #[must_use]
    pub fn handler(&self) -> Rc<dyn StreamHandler> {
        self.server.handler(Carrier::Tcp)
    }

    /// The handler of AMQP over WebSockets, subprotocol `AMQPWSB10`.
    #[must_use]
    pub fn web_socket_handler(&self) -> Rc<dyn StreamHandler> {
        self.server.handler(Carrier::WebSocket)
    }
}

fn protocol(carrier: Carrier) -> Protocol {
    match carrier {
        Carrier::Tcp => Protocol::Amqp,
        Carrier::WebSocket => Protocol::AmqpWs,
    }
}

/// A request to a node of the connection that a rate does not allow.
fn too_many(throttled: &Throttled) -> Refused {
    Refused::new(throttled.code, format!("{throttled}.")).with_condition("amqp:resource-limit-exceeded")
}

/// Takes a request's part of the rate of `$management`.
pub(super) fn admit_management(hub: &DeviceHub, carrier: Carrier) -> Result<(), Refused> {
    let admitted = hub.admit_at_once(ThrottleClass::AmqpManagement, protocol(carrier));
    admitted.map_err(|throttled| too_many(&throttled))
}

/// The device hub and the issuer as the AMQP server's authority.
struct HubAuthority {
    hub: Arc<DeviceHub>,
    issuer: Option<Issuer>,
}

impl Authority for HubAuthority {
    fn hub_name(&self) -> String {
        let settings = self.hub.registry().settings();
        settings.map_or_else(|_| String::new(), |settings| settings.hub_name.clone())
    }

    fn host_names(&self) -> &HubNames {
        self.hub.hub_names()
    }

    fn now(&self) -> UnixMillis {
        self.hub.clock().now()
    }

    fn policy(&self, name: &str) -> Option<Arc<Policy>> {
        self.hub.registry().policy(name)
    }

    fn accepts_policies(&self) -> bool {
        self.hub.accepts_shared_policies()
    }

    fn bearer(&self, token: &str) -> Result<Principal, BearerRefusal> {
        let issuer = self.issuer.as_ref().ok_or(BearerRefusal::NoIssuer)?;
        issuer.check(token, self.now())
    }

    fn confirm(&self) -> Confirmation {
        let (hub, issuer) = (Arc::clone(&self.hub), self.issuer.clone());
        Box::pin(async move {
            if let Some(issuer) = issuer {
                issuer.settled().await;
            }
            Ok(hub.registry().read_barrier().await?)
        })
    }

    fn admit_token(&self, carrier: Carrier) -> Result<(), Refused> {
        let admitted = self.hub.admit_at_once(ThrottleClass::AmqpTokens, protocol(carrier));
        admitted.map_err(|throttled| too_many(&throttled))
    }

    fn give_back_token(&self) {
        self.hub.give_back(ThrottleClass::AmqpTokens);
    }

    fn refused(&self, principal: RefusedPrincipal<'_>, refused: &Refused) {
        let protocol = protocol(principal.carrier);
        let operation = match principal.purpose {
            Purpose::Events => Operation::ReadEvents,
            Purpose::Messages => Operation::Service,
            Purpose::Device => Operation::Connect,
            Purpose::Registration => Operation::Register,
        };
        let (audit, now) = (self.hub.audit(), self.now());
        match refused.reason {
            Some(reason) => audit.refused_identity(
                operation,
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
                    operation,
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
