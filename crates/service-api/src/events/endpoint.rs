//! One core's part of the endpoint: its connections and their shared state.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use holdfast_device_hub::{DeviceHub, Protocol};
use holdfast_net::{ByteStream, Peer, StreamHandler};
use holdfast_registry::RegistryEvent;
use holdfast_tasks::sync::SharedCell;
use holdfast_tasks::{Phase, Stop};
use tokio::sync::{Notify, watch};

use super::EventsConfig;
use super::driver::Driver;
use super::metrics::Metrics;
use super::refusal_backoff::RefusalBackoff;

/// Most bytes of one read.
const SCRATCH_BYTES: usize = 64 * 1024;

/// One core's events endpoint.
pub struct EventsEndpoint {
    hub: Arc<DeviceHub>,
    config: EventsConfig,
    metrics: Metrics,
    /// The read buffer that all connections of the core share.
    scratch: RefCell<Box<[u8]>>,
    /// Connections that have not authenticated, the oldest first.
    waiting: SharedCell<VecDeque<Rc<Unauthenticated>>>,
    /// Delays the answers to clients that repeat a refused request at once.
    backoff: SharedCell<RefusalBackoff>,
    next_number: Cell<u64>,
    open: Cell<usize>,
    all_closed: Notify,
    /// Signals that the hub's settings have changed: connections check their tokens and consumer groups again.
    settings: watch::Sender<()>,
    stop: Stop,
}

/// A connection that has not authenticated.
#[derive(Debug, Default)]
pub(super) struct Unauthenticated {
    /// It has authenticated, or has ended.
    pub(super) over: Cell<bool>,
    /// Notified when the connection must close: too many have not authenticated.
    pub(super) evict: Notify,
}

impl EventsEndpoint {
    /// The endpoint of one core; [`Self::run`] must be spawned on the same thread.
    #[must_use]
    pub fn new(hub: Arc<DeviceHub>, config: EventsConfig, stop: Stop) -> Rc<Self> {
        Rc::new(Self {
            hub,
            config,
            metrics: Metrics::new(),
            scratch: RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice()),
            waiting: SharedCell::default(),
            backoff: SharedCell::default(),
            next_number: Cell::new(0),
            open: Cell::new(0),
            all_closed: Notify::new(),
            settings: watch::Sender::new(()),
            stop,
        })
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
                Some(RegistryEvent::Settings | RegistryEvent::Resync) => {
                    self.settings.send_replace(());
                }
                Some(RegistryEvent::Identity { .. } | RegistryEvent::Cluster) => {}
                None => break,
            }
        }
        self.stop.reached(Phase::Draining).await;
        while self.open.get() > 0 {
            tokio::select! {
                biased;
                () = self.all_closed.notified() => {}
                () = self.stop.reached(Phase::Closing) => return,
            }
        }
    }

    /// Serves a new connection: after TLS, or after a WebSocket upgrade.
    pub fn accept(self: &Rc<Self>, stream: Box<dyn ByteStream>, address: SocketAddr, protocol: Protocol) {
        if self.stop.is_in(Phase::Draining) {
            return;
        }
        self.metrics.accepted.increment(1);
        let number = self.next_number.get();
        self.next_number.set(number + 1);
        let waiting = Rc::new(Unauthenticated::default());
        self.evict_unauthenticated();
        self.waiting.borrow_mut().push_back(Rc::clone(&waiting));
        let driver = Driver::new(Rc::clone(self), stream, address, protocol, number, waiting);
        holdfast_tasks::spawn_local("amqp-connection", Box::pin(driver.run()));
    }

    /// The handler of AMQP over WebSockets, subprotocol `AMQPWSB10`.
    #[must_use]
    pub fn web_socket_handler(self: &Rc<Self>) -> Rc<dyn StreamHandler> {
        Rc::new(OverWebSockets(Rc::clone(self)))
    }

    /// Closes the oldest unauthenticated connections while there are too many of them.
    fn evict_unauthenticated(&self) {
        let mut waiting = self.waiting.borrow_mut();
        while waiting.front().is_some_and(|first| first.over.get()) {
            waiting.pop_front();
        }
        if waiting.len() >= self.config.max_unauthenticated {
            waiting.retain(|one| !one.over.get());
        }
        while waiting.len() >= self.config.max_unauthenticated {
            match waiting.pop_front() {
                Some(oldest) => oldest.evict.notify_one(),
                None => break,
            }
        }
    }

    pub(super) fn hub(&self) -> &DeviceHub {
        &self.hub
    }

    pub(super) fn hub_arc(&self) -> Arc<DeviceHub> {
        Arc::clone(&self.hub)
    }

    /// The hub's name, as far as it is known.
    pub(super) fn hub_name(&self) -> String {
        self.hub
            .registry()
            .settings()
            .map_or_else(|_| String::new(), |settings| settings.hub_name.clone())
    }

    pub(super) fn config(&self) -> &EventsConfig {
        &self.config
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(super) fn scratch(&self) -> &RefCell<Box<[u8]>> {
        &self.scratch
    }

    pub(super) fn backoff(&self) -> &SharedCell<RefusalBackoff> {
        &self.backoff
    }

    pub(super) fn stop(&self) -> &Stop {
        &self.stop
    }

    pub(super) fn settings_changes(&self) -> watch::Receiver<()> {
        self.settings.subscribe()
    }

    pub(super) fn connection_opened(&self) {
        self.open.set(self.open.get() + 1);
        self.metrics.connections.increment(1.0);
    }

    pub(super) fn connection_closed(&self) {
        self.open.set(self.open.get() - 1);
        self.metrics.connections.decrement(1.0);
        if self.open.get() == 0 {
            self.all_closed.notify_one();
        }
    }
}

struct OverWebSockets(Rc<EventsEndpoint>);

impl StreamHandler for OverWebSockets {
    fn accept(&self, stream: Box<dyn ByteStream>, peer: Peer) {
        self.0.accept(stream, peer.address, Protocol::AmqpWs);
    }
}
