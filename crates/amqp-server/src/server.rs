//! One core's part of the server: its connections and their shared state.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;

use holdfast_net::{ByteStream, Peer, StreamHandler};
use holdfast_tasks::sync::SharedCell;
use holdfast_tasks::{Phase, Stop};
use tokio::sync::{Notify, watch};

use crate::connection::ServedConnection;
use crate::metrics::Metrics;
use crate::refusal_backoff::RefusalBackoff;
use crate::{Authority, LinkHandler, LinkService, ServerConfig, Transport};

/// Most bytes of one read.
const SCRATCH_BYTES: usize = 64 * 1024;

/// One core's AMQP server.
pub struct AmqpServer {
    authority: Box<dyn Authority>,
    services: Vec<Box<dyn LinkService>>,
    config: ServerConfig,
    metrics: Metrics,
    /// The read buffer that all connections of the core share.
    scratch: RefCell<Box<[u8]>>,
    /// Connections that have not authenticated, the oldest first.
    unauthenticated: SharedCell<VecDeque<Rc<Unauthenticated>>>,
    /// Delays the answers to clients that repeat a refused request at once.
    backoff: SharedCell<RefusalBackoff>,
    next_number: Cell<u64>,
    open: Cell<usize>,
    all_closed: Notify,
    /// Signals that the hub's settings have changed: connections check the authorization of their links again.
    settings: watch::Sender<()>,
    stop: Stop,
}

/// A connection that has not authenticated.
#[derive(Debug, Default)]
pub(crate) struct Unauthenticated {
    /// It has authenticated, or has ended.
    pub(crate) over: Cell<bool>,
    /// Notified when the connection must close: too many have not authenticated.
    pub(crate) evict: Notify,
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
        Rc::new(Self {
            authority,
            services,
            config,
            metrics: Metrics::new(),
            scratch: RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice()),
            unauthenticated: SharedCell::default(),
            backoff: SharedCell::default(),
            next_number: Cell::new(0),
            open: Cell::new(0),
            all_closed: Notify::new(),
            settings: watch::Sender::new(()),
            stop,
        })
    }

    /// Lets every connection check the authorization of its links again: policies or other settings have changed.
    pub fn settings_changed(&self) {
        self.settings.send_replace(());
    }

    /// Resolves when the node drains and all connections have ended, or when the node closes.
    pub async fn drained(&self) {
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
    pub fn accept(self: &Rc<Self>, stream: Box<dyn ByteStream>, address: SocketAddr, transport: Transport) {
        if self.stop.is_in(Phase::Draining) {
            return;
        }
        self.metrics.accepted.increment(1);
        let number = self.next_number.get();
        self.next_number.set(number + 1);
        let unauthenticated = Rc::new(Unauthenticated::default());
        self.evict_unauthenticated();
        self.unauthenticated.borrow_mut().push_back(Rc::clone(&unauthenticated));
        let connection = ServedConnection::new(self, stream, address, transport, number, unauthenticated);
        holdfast_tasks::spawn_local("amqp-connection", Box::pin(connection.run()));
    }

    /// The handler of AMQP over WebSockets, subprotocol `AMQPWSB10`.
    #[must_use]
    pub fn web_socket_handler(self: &Rc<Self>) -> Rc<dyn StreamHandler> {
        Rc::new(OverWebSockets(Rc::clone(self)))
    }

    /// Closes the oldest unauthenticated connections while there are too many of them.
    fn evict_unauthenticated(&self) {
        let mut unauthenticated = self.unauthenticated.borrow_mut();
        while unauthenticated.front().is_some_and(|first| first.over.get()) {
            unauthenticated.pop_front();
        }
        if unauthenticated.len() >= self.config.max_unauthenticated {
            unauthenticated.retain(|one| !one.over.get());
        }
        while unauthenticated.len() >= self.config.max_unauthenticated {
            match unauthenticated.pop_front() {
                Some(oldest) => oldest.evict.notify_one(),
                None => break,
            }
        }
    }

    /// The handlers of a new connection, in the order of the services.
    pub(crate) fn handlers(&self) -> Vec<Box<dyn LinkHandler>> {
        self.services.iter().map(|service| service.connect()).collect()
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

    pub(crate) fn scratch(&self) -> &RefCell<Box<[u8]>> {
        &self.scratch
    }

    pub(crate) fn backoff(&self) -> &SharedCell<RefusalBackoff> {
        &self.backoff
    }

    pub(crate) fn stop(&self) -> &Stop {
        &self.stop
    }

    pub(crate) fn settings_changes(&self) -> watch::Receiver<()> {
        self.settings.subscribe()
    }

    pub(crate) fn connection_opened(&self) {
        self.open.set(self.open.get() + 1);
        self.metrics.connections.increment(1.0);
    }

    pub(crate) fn connection_closed(&self) {
        self.open.set(self.open.get() - 1);
        self.metrics.connections.decrement(1.0);
        if self.open.get() == 0 {
            self.all_closed.notify_one();
        }
    }
}

struct OverWebSockets(Rc<AmqpServer>);

impl StreamHandler for OverWebSockets {
    fn accept(&self, stream: Box<dyn ByteStream>, peer: Peer) {
        self.0.accept(stream, peer.address, Transport::WebSocket);
    }
}
