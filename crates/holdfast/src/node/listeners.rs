//! The front ends of one core: its listeners, and who is handed which connection.
//!
//! Devices and back ends share ports, so it is decided here, and only here, that MQTT goes to `gateway`, AMQP to the
//! events endpoint, and HTTPS to the REST API with both as WebSocket subprotocols.
//! Invariant: what has not finished its handshake has a deadline and is counted.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::Result;
use holdfast_device_hub::{Core, DeviceHub, Protocol};
use holdfast_gateway::{MqttConfig, MqttFront};
use holdfast_net::{Accepted, HttpService, NetConfig, Peer, Subprotocol, accept_loop, accept_tls, bind, serve_http};
use holdfast_service_api::events::{EventsConfig, EventsEndpoint};
use holdfast_service_api::rest::RestService;
use holdfast_tasks::{Stop, spawn_critical_local, spawn_local};
use rustls::ServerConfig;
use tokio::sync::{Semaphore, oneshot};

use super::certificates::Tls;
use crate::config::{Config, ListenConfig};

/// Tells when the parts of a core have ended.
pub(crate) struct Running {
    /// All connections of devices and readers are gone; after the node has begun to drain.
    pub(crate) connections: oneshot::Receiver<()>,
    /// Everything that they had sent is decided; after the node has begun to close.
    pub(crate) core: oneshot::Receiver<()>,
}

/// Told when all `parts` have ended.
fn ended(parts: Vec<tokio::task::JoinHandle<()>>) -> oneshot::Receiver<()> {
    let (end, ended) = oneshot::channel();
    spawn_critical_local(
        "front-end",
        Box::pin(async move {
            for part in parts {
                // Its panic has been logged.
                let _ = part.await;
            }
            // The node may have stopped waiting.
            let _ = end.send(());
        }),
    );
    ended
}

/// What every core's front ends are made from.
#[derive(Clone)]
pub(crate) struct Front {
    tls: Tls,
    hub: Arc<DeviceHub>,
    /// One for the node, so that its limits are the node's.
    rest: RestService,
    net: NetConfig,
    mqtt: MqttConfig,
    events: EventsConfig,
    stop: Stop,
}

impl Front {
    pub(crate) fn new(config: &Config, tls: Tls, hub: Arc<DeviceHub>, rest: RestService, stop: Stop) -> Self {
        let (net, mqtt, events) = (config.net.clone(), config.mqtt.clone(), config.events.clone());
        Self {
            tls,
            hub,
            rest,
            net,
            mqtt,
            events,
            stop,
        }
    }

    /// Starts core `index`, on whose runtime this is called. Returns the addresses as they were bound.
    ///
    /// # Errors
    /// When an address cannot be bound.
    pub(crate) fn start(self, index: u16, listen: &ListenConfig) -> Result<(ListenConfig, Running)> {
        let core = Core::new(Arc::clone(&self.hub), index);
        let mqtt = MqttFront::new(Rc::clone(&core), self.mqtt.clone(), self.stop.clone());
        let events = EventsEndpoint::new(Arc::clone(&self.hub), self.events.clone(), self.stop.clone());
        let bound = self.listen(listen, &mqtt, &events)?;

        let core = ended(vec![spawn_critical_local(
            "core",
            Box::pin(core.run(self.stop.clone())),
        )]);
        let connections = ended(vec![
            spawn_critical_local("mqtt", Box::pin(mqtt.run())),
            spawn_critical_local("events", Box::pin(events.run())),
        ]);
        Ok((bound, Running { connections, core }))
    }

    fn listen(&self, wanted: &ListenConfig, mqtt: &Rc<MqttFront>, events: &Rc<EventsEndpoint>) -> Result<ListenConfig> {
        let handshakes = Arc::new(Semaphore::new(self.net.max_unauthenticated));
        Ok(ListenConfig {
            mqtts: self.serve("mqtts", &wanted.mqtts, || {
                let (mqtt, tls) = (Rc::clone(mqtt), self.tls.get()?);
                Ok(move |accepted| mqtt.accept_tls(accepted, &tls))
            })?,
            mqtt: self.serve("mqtt", &wanted.mqtt, || {
                let mqtt = Rc::clone(mqtt);
                Ok(move |accepted| mqtt.accept_plain(accepted))
            })?,
            amqps: self.serve("amqps", &wanted.amqps, || {
                let events = Rc::clone(events);
                let secured = self.secured(&handshakes)?;
                Ok(move |accepted: Accepted| {
                    let events = Rc::clone(&events);
                    secured.clone().accept(accepted, move |stream, peer| async move {
                        events.accept(Box::new(stream), peer.address, Protocol::Amqp);
                    });
                })
            })?,
            amqp: self.serve("amqp", &wanted.amqp, || {
                let events = Rc::clone(events);
                Ok(
                    move |accepted: Accepted| {
                        events.accept(Box::new(accepted.socket), accepted.address, Protocol::Amqp)
                    },
                )
            })?,
            https: self.serve("https", &wanted.https, || self.https(mqtt, events, &handshakes))?,
        })
    }

    /// HTTPS: the REST API, with MQTT and AMQP as WebSocket subprotocols.
    fn https(
        &self,
        mqtt: &Rc<MqttFront>,
        events: &Rc<EventsEndpoint>,
        handshakes: &Arc<Semaphore>,
    ) -> Result<impl FnMut(Accepted) + 'static> {
        let service: Rc<dyn HttpService> = Rc::new(self.rest.clone());
        let subprotocols: Rc<[Subprotocol]> = Rc::new([
            Subprotocol {
                name: "mqtt",
                handler: mqtt.web_socket_handler(),
            },
            Subprotocol {
                name: "AMQPWSB10",
                handler: events.web_socket_handler(),
            },
        ]);
        let (secured, head_timeout, stop) = (self.secured(handshakes)?, self.net.handshake_timeout, self.stop.clone());
        Ok(move |accepted: Accepted| {
            let (service, subprotocols, stop) = (Rc::clone(&service), Rc::clone(&subprotocols), stop.clone());
            secured.clone().accept(accepted, move |stream, peer| {
                serve_http(stream, peer, service, subprotocols, head_timeout, stop)
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
        addresses: &[SocketAddr],
        handler: impl Fn() -> Result<H>,
    ) -> Result<Vec<SocketAddr>> {
        let mut bound = Vec::with_capacity(addresses.len());
        for address in addresses {
            let listener = bind(*address, &self.net)?;
            bound.push(listener.local_addr()?);
            spawn_critical_local(
                name,
                Box::pin(accept_loop(listener, self.net.clone(), self.stop.clone(), handler()?)),
            );
        }
        Ok(bound)
    }
}

/// TLS in front of AMQP and HTTPS. (MQTT does it lazily, for the sake of idle connections' memory.)
#[derive(Clone)]
struct Secured {
    tls: Arc<ServerConfig>,
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
            tracing::debug!(address = %accepted.address, "too many handshakes are under way, connection dropped");
            return;
        };
        let served = async move {
            let handshake = accept_tls(accepted.socket, self.tls, self.net.handshake_timeout).await;
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
