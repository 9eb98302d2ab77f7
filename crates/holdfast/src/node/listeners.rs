//! The listeners of every core, and the front end of each connection.
//!
//! Devices and back ends share ports, so this is the one place that routes MQTT to `gateway`, AMQP to the events endpoint and the
//! devices beside it, and HTTPS to devices and the REST API, by path, with both as WebSocket subprotocols.
//! Invariant: a connection that has not finished its handshake has a deadline and is counted.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use holdfast_amqp_server::LinkService;
use holdfast_device_hub::{DeviceHub, EndedConnection, Operation, Protocol, Refusal};
use holdfast_gateway::{
    AmqpConfig, AmqpDevices, AmqpRegistration, HttpsConfig, HttpsFront, MqttConfig, MqttFront, RegistrationFront,
    is_device_path, is_registration_path,
};
use holdfast_model::RefusalReason;
use holdfast_net::router::{Port, Route, Router};
use holdfast_net::{
    Accepted, Handler, HttpService, NetConfig, Peer, Rejected, Socket, TlsServer, accept_loop, accept_tls, bind,
    serve_http, serve_stream,
};
use holdfast_node::{Core, FrontEnd};
use holdfast_oidc::Issuer;
use holdfast_provisioning::Provisioning;
use holdfast_service_api::events::{EventsConfig, EventsEndpoint};
use holdfast_service_api::rest::{EnrollmentService, RestService, is_enrollment_path};
use holdfast_tasks::{Stop, spawn_critical_local, spawn_local};
use tokio::sync::Semaphore;

use super::certificates::Tls;
use super::uploads::Uploads;
use crate::config::{Config, ListenConfig};

/// What the node offers beside its hub; one of each for the node, so that their limits are the node's.
pub(crate) struct Services {
    pub(crate) rest: RestService,
    pub(crate) provisioning: Option<Arc<Provisioning>>,
    pub(crate) uploads: Uploads,
}

/// The parts that the front ends of every core share.
#[derive(Clone)]
pub(crate) struct Listeners {
    tls: Tls,
    hub: Arc<DeviceHub>,
    rest: RestService,
    provisioning: Option<Arc<Provisioning>>,
    enrollments: Option<EnrollmentService>,
    issuer: Option<Issuer>,
    uploads: Uploads,
    net: NetConfig,
    mqtt: MqttConfig,
    https: HttpsConfig,
    amqp: AmqpConfig,
    events: EventsConfig,
    stop: Stop,
}

impl Listeners {
    pub(crate) fn new(
        config: &Config,
        tls: Tls,
        hub: Arc<DeviceHub>,
        services: Services,
        issuer: Option<Issuer>,
        stop: Stop,
    ) -> Self {
        let Services {
            rest,
            provisioning,
            uploads,
        } = services;
        let enrollments = provisioning
            .as_ref()
            .map(|service| EnrollmentService::new(Arc::clone(service), config.rest.clone()));
        let (net, mqtt, amqp) = (config.net.clone(), config.mqtt.clone(), config.amqp.clone());
        let events = config.events.clone();
        let https = config.https.clone();
        Self {
            tls,
            hub,
            rest,
            provisioning,
            enrollments,
            issuer,
            uploads,
            net,
            mqtt,
            https,
            amqp,
            events,
            stop,
        }
    }

    /// Binds and serves on every core. The first one chooses the ports where the configuration leaves them open.
    ///
    /// # Errors
    /// When an address cannot be bound.
    pub(crate) async fn start_all(
        &self,
        mut listen: ListenConfig,
        cores: &[Core],
    ) -> Result<(ListenConfig, Vec<FrontEnd>)> {
        let mut front_ends = Vec::with_capacity(cores.len());
        for (index, core) in cores.iter().enumerate() {
            let (listeners, wanted) = (self.clone(), listen);
            let index = u16::try_from(index).context("too many cores")?;
            let start = move || async move { listeners.start(index, &wanted) };
            let front_end;
            (listen, front_end) = core.handle().run(start).await?.context("cannot listen")?;
            front_ends.push(front_end);
        }
        Ok((listen, front_ends))
    }

    /// Starts core `index`, on whose runtime this is called. Returns the addresses as they were bound.
    ///
    /// # Errors
    /// When an address cannot be bound.
    fn start(self, index: u16, listen: &ListenConfig) -> Result<(ListenConfig, FrontEnd)> {
        let core = holdfast_device_hub::Core::new(Arc::clone(&self.hub), index);
        let mqtt = MqttFront::new(
            Rc::clone(&core),
            self.mqtt.clone(),
            self.provisioning.clone(),
            self.stop.clone(),
        );
        let devices = AmqpDevices::new(Rc::clone(&core), self.amqp.clone());
        let mut links: Vec<Box<dyn LinkService>> = vec![Box::new(devices)];
        if let Some(service) = &self.provisioning {
            links.push(Box::new(AmqpRegistration::new(Arc::clone(service))));
        }
        let events = EventsEndpoint::new(
            Arc::clone(&self.hub),
            self.issuer.clone(),
            links,
            self.events.clone(),
            self.stop.clone(),
        );
        let https = HttpsFront::new(Rc::clone(&core), self.https.clone(), self.uploads.storage());
        let bound = self.listen(listen, &mqtt, &https, &events)?;

        let core = spawn_critical_local("core", Box::pin(core.run(self.stop.clone())));
        let connections = vec![
            spawn_critical_local("mqtt", Box::pin(mqtt.run())),
            spawn_critical_local("events", Box::pin(events.run())),
        ];
        Ok((bound, FrontEnd::new(connections, core)))
    }

    fn listen(
        &self,
        wanted: &ListenConfig,
        mqtt: &Rc<MqttFront>,
        https: &Rc<HttpsFront>,
        events: &Rc<EventsEndpoint>,
    ) -> Result<ListenConfig> {
        let handshakes = Arc::new(Semaphore::new(self.net.max_unauthenticated));
        let mut routes = vec![
            Route::new(Port::Amqp, Handler::Stream(events.handler())),
            Route::new(Port::Https, Handler::Stream(mqtt.web_socket_handler())).subprotocol("mqtt"),
            Route::new(Port::Https, Handler::Stream(events.web_socket_handler())).subprotocol("AMQPWSB10"),
            Route::new(Port::Https, Handler::Http(https.handler())).matching(is_device_path),
        ];
        if let Some(service) = &self.provisioning {
            let front = RegistrationFront::new(Arc::clone(service), self.https.clone());
            routes.push(Route::new(Port::Https, Handler::Http(front.handler())).matching(is_registration_path));
        }
        if let Some(service) = &self.enrollments {
            let service = Handler::Http(Rc::new(service.clone()));
            routes.push(Route::new(Port::Https, service).matching(is_enrollment_path));
        }
        if let Some((blobs, paths)) = self.uploads.service() {
            let handler: Rc<dyn HttpService> = Rc::new(blobs);
            routes.extend(paths.map(|path| Route::new(Port::Https, Handler::Http(Rc::clone(&handler))).path(path)));
        }
        routes.push(Route::new(Port::Https, Handler::Http(Rc::new(self.rest.clone()))));
        let router = Rc::new(Router::new(routes));
        Ok(ListenConfig {
            mqtts: self.serve("mqtts", Protocol::Mqtt, &wanted.mqtts, || {
                let (mqtt, tls) = (Rc::clone(mqtt), self.tls.get()?);
                Ok(move |accepted| mqtt.accept_tls(accepted, &tls))
            })?,
            mqtt: self.serve("mqtt", Protocol::Mqtt, &wanted.mqtt, || {
                let mqtt = Rc::clone(mqtt);
                Ok(move |accepted| mqtt.accept_plain(accepted))
            })?,
            amqps: self.serve("amqps", Protocol::Amqp, &wanted.amqps, || {
                let (router, tls) = (Rc::clone(&router), self.tls.get()?);
                Ok(move |accepted: Accepted| {
                    let socket = Socket::tls(accepted.socket, tls.clone());
                    serve_stream(socket, accepted.address, &router, Port::Amqp);
                })
            })?,
            amqp: self.serve("amqp", Protocol::Amqp, &wanted.amqp, || {
                let router = Rc::clone(&router);
                Ok(move |accepted: Accepted| {
                    serve_stream(Socket::Plain(accepted.socket), accepted.address, &router, Port::Amqp);
                })
            })?,
            https: self.serve("https", Protocol::Https, &wanted.https, || {
                self.https(&router, &handshakes)
            })?,
        })
    }

    /// HTTPS: the REST API, with MQTT and AMQP as WebSocket subprotocols.
    fn https(
        &self,
        router: &Rc<Router<Handler>>,
        handshakes: &Arc<Semaphore>,
    ) -> Result<impl FnMut(Accepted) + 'static> {
        let router = Rc::clone(router);
        let (secured, head_timeout, stop) = (self.secured(handshakes)?, self.net.handshake_timeout, self.stop.clone());
        Ok(move |accepted: Accepted| {
            let (router, stop) = (Rc::clone(&router), stop.clone());
            secured.clone().accept(accepted, move |stream, peer| {
                serve_http(stream, peer, router, head_timeout, stop)
            });
        })
    }

    fn secured(&self, handshakes: &Arc<Semaphore>) -> Result<Secured> {
        Ok(Secured {
            tls: self.tls.get()?,
            net: self.net.clone(),
            handshakes: Arc::clone(handshakes),
        })
    }

    /// Binds `addresses` and hands what they accept to handlers made by `handler`; returns the addresses as bound.
    fn serve<H: FnMut(Accepted) + 'static>(
        &self,
        name: &'static str,
        protocol: Protocol,
        addresses: &[SocketAddr],
        handler: impl Fn() -> Result<H>,
    ) -> Result<Vec<SocketAddr>> {
        let mut bound = Vec::with_capacity(addresses.len());
        for address in addresses {
            let listener = bind(*address, &self.net)?;
            bound.push(listener.local_addr()?);
            let turned_away = {
                let hub = Arc::clone(&self.hub);
                move |rejected| record(&hub, protocol, rejected)
            };
            let accepting = accept_loop(listener, self.net.clone(), self.stop.clone(), handler()?, turned_away);
            spawn_critical_local(name, Box::pin(accepting));
        }
        Ok(bound)
    }
}

/// Writes a connection that was closed before TLS into the audit log.
fn record(hub: &DeviceHub, protocol: Protocol, rejected: Rejected) {
    let (address, reason, detail) = match rejected {
        Rejected::Address(address) => (
            address,
            RefusalReason::Ip,
            "the first rule of net.ip_rules for the address rejects it".to_owned(),
        ),
        Rejected::ProxyHead(address, error) => (address, RefusalReason::ProtocolViolation, error.to_string()),
    };
    let ended = EndedConnection {
        operation: Operation::Connect,
        identity: "",
        protocol,
        address,
        refusal: Refusal::new(reason),
        detail,
    };
    hub.audit().ended(ended, hub.clock().now());
}

/// TLS in front of HTTPS. (MQTT and AMQP complete it lazily, to save the memory of idle connections.)
#[derive(Clone)]
struct Secured {
    tls: TlsServer,
    net: NetConfig,
    handshakes: Arc<Semaphore>,
}

impl Secured {
    /// Completes the handshake, then runs `then`. A connection beyond `net.max_unauthenticated` is dropped at once.
    fn accept<F: Future<Output = ()> + 'static>(
        self,
        accepted: Accepted,
        then: impl FnOnce(tokio_rustls::server::TlsStream<tokio::net::TcpStream>, Peer) -> F + 'static,
    ) {
        let Ok(permit) = Arc::clone(&self.handshakes).try_acquire_owned() else {
            tracing::debug!(address = %accepted.address, "too many handshakes in flight (net.max_unauthenticated); connection dropped");
            return;
        };
        let served = async move {
            let handshake = accept_tls(accepted.socket, &self.tls, self.net.handshake_timeout).await;
            drop(permit);
            match handshake {
                Ok(stream) => {
                    let peer = Peer::tls(accepted.address, &stream);
                    then(stream, peer).await;
                }
                Err(error) => tracing::debug!(address = %accepted.address, %error, "TLS handshake failed"),
            }
        };
        spawn_local("tls-connection", Box::pin(served));
    }
}
