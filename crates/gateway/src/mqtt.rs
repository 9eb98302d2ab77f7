//! MQTT 3.1.1 for devices and modules (Spec device-mqtt).
//!
//! [`MqttFront`] is one core's part: its connections, their deadlines, the buffer that all of them read into.

mod connection;
mod deadlines;
mod driver;
mod end;
mod packets;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_device_hub::{CloseReason, Core, Protocol};
use holdfast_net::{Accepted, ByteStream, Peer, Socket, StreamHandler};
use holdfast_tasks::sync::SharedCell;
use holdfast_tasks::{Phase, Stop};
use rustls::ServerConfig;
use slab::Slab;

use crate::MqttConfig;
use crate::metrics::Metrics;
use connection::Connection;
use deadlines::Deadlines;
use end::End;

/// Bytes that one read takes at most.
const SCRATCH_BYTES: usize = 64 * 1024;

/// How often deadlines are looked at.
const TICK: Duration = Duration::from_secs(1);

/// One core's MQTT front end.
pub struct MqttFront {
    core: Rc<Core>,
    config: MqttConfig,
    metrics: Metrics,
    /// What all connections of the core read into, one after the other.
    scratch: RefCell<Box<[u8]>>,
    connections: SharedCell<Slab<Rc<Connection>>>,
    deadlines: SharedCell<Deadlines<(usize, u64)>>,
    /// Who has not authenticated yet, longest waiting first; rows of those who have are skipped.
    waiting: SharedCell<VecDeque<(usize, u64)>>,
    unauthenticated: Cell<usize>,
    next_number: Cell<u64>,
    /// Nothing is read any more; connections end once they have been told of everything.
    draining: Cell<bool>,
    /// The last connection has ended.
    emptied: tokio::sync::Notify,
    started: Instant,
    stop: Stop,
}

impl MqttFront {
    /// The front end of `core`; [`Self::run`] must be spawned on the same thread.
    #[must_use]
    pub fn new(core: Rc<Core>, config: MqttConfig, stop: Stop) -> Rc<Self> {
        Rc::new(Self {
            core,
            config,
            metrics: Metrics::new(),
            scratch: RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice()),
            connections: SharedCell::default(),
            deadlines: SharedCell::new(Deadlines::new(0)),
            waiting: SharedCell::default(),
            unauthenticated: Cell::new(0),
            next_number: Cell::new(0),
            draining: Cell::new(false),
            emptied: tokio::sync::Notify::new(),
            started: Instant::now(),
            stop,
        })
    }

    /// Looks after deadlines until the node drains, then closes all connections and returns when they are gone.
    pub async fn run(self: Rc<Self>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                biased;
                () = self.stop.reached(Phase::Draining) => break,
                _ = ticks.tick() => self.tick(),
            }
        }
        self.draining.set(true);
        // Nothing more is read; who waits for acknowledgements gets them first.
        for connection in self.open() {
            connection.end_when_acknowledged();
        }
        // A notification may be an old one, from a time when there were none: the count decides.
        while self.has_connections() {
            tokio::select! {
                biased;
                () = self.stop.reached(Phase::Closing) => break,
                () = self.emptied.notified() => {}
            }
        }
        for connection in self.open() {
            connection.end(End::Hub(CloseReason::Stopping));
        }
        while self.has_connections() {
            self.emptied.notified().await;
        }
    }

    fn open(&self) -> Vec<Rc<Connection>> {
        self.connections
            .borrow()
            .iter()
            .map(|(_, connection)| Rc::clone(connection))
            .collect()
    }

    fn has_connections(&self) -> bool {
        !self.connections.borrow().is_empty()
    }

    /// A connection is over: its row is free.
    fn remove(&self, key: usize) {
        let mut connections = self.connections.borrow_mut();
        connections.try_remove(key);
        if connections.is_empty() {
            self.emptied.notify_one();
        }
    }

    /// Takes over an unencrypted connection.
    pub fn accept_plain(self: &Rc<Self>, accepted: Accepted) {
        self.accept(Socket::Plain(accepted.socket), accepted.address, Protocol::Mqtt);
    }

    /// Takes over a connection that is going to speak TLS.
    pub fn accept_tls(self: &Rc<Self>, accepted: Accepted, tls: &Arc<ServerConfig>) {
        self.accept(
            Socket::tls(accepted.socket, Arc::clone(tls)),
            accepted.address,
            Protocol::Mqtt,
        );
    }

    /// The handler of MQTT over WebSockets.
    #[must_use]
    pub fn web_socket_handler(self: &Rc<Self>) -> Rc<dyn StreamHandler> {
        Rc::new(OverWebSockets(Rc::clone(self)))
    }

    fn accept(self: &Rc<Self>, socket: Socket, address: std::net::SocketAddr, protocol: Protocol) {
        self.metrics.accepted.increment(1);
        let number = self.next_number.get();
        self.next_number.set(number + 1);
        let now_ms = self.now_ms();
        let connection = {
            let mut connections = self.connections.borrow_mut();
            let row = connections.vacant_entry();
            let key = row.key();
            let connection = Rc::new(Connection::new(
                Rc::clone(self),
                key,
                number,
                socket,
                address,
                protocol,
                now_ms,
            ));
            row.insert(Rc::clone(&connection));
            connection
        };
        self.metrics.connections.increment(1.0);
        self.look_at(&connection, now_ms + duration_ms(self.config.connect_timeout));
        self.make_room();
        self.waiting.borrow_mut().push_back((connection.key, number));
        self.unauthenticated.set(self.unauthenticated.get() + 1);
        holdfast_tasks::spawn_local("mqtt-connection", driver::Drive::new(connection));
    }

    /// Closes who has waited longest without authenticating, when there are too many of them.
    fn make_room(&self) {
        let oldest = {
            let mut waiting = self.waiting.borrow_mut();
            let connections = self.connections.borrow();
            let is_waiting = |row: &(usize, u64)| {
                connections
                    .get(row.0)
                    .is_some_and(|known| known.number == row.1 && !known.is_authenticated())
            };
            while waiting.front().is_some_and(|row| !is_waiting(row)) {
                waiting.pop_front();
            }
            if self.unauthenticated.get() < self.config.max_unauthenticated {
                return;
            }
            waiting
                .pop_front()
                .and_then(|row| connections.get(row.0).map(Rc::clone))
        };
        // It counts until its task has run; one eviction for one newcomer is enough.
        if let Some(oldest) = oldest {
            oldest.end(End::Evicted);
        }
    }

    fn tick(&self) {
        let now_ms = self.now_ms();
        let mut due = Vec::new();
        self.deadlines.borrow_mut().advance(now_ms / 1000, &mut due);
        for (key, number) in due {
            let connection = self.connections.borrow().get(key).map(Rc::clone);
            // Rows are used again; and who has been asked for earlier since stands in the wheel once more.
            let Some(connection) = connection.filter(|known| known.number == number && known.is_due(now_ms / 1000))
            else {
                continue;
            };
            if let Some(next_ms) = connection.look(now_ms) {
                self.look_at(&connection, next_ms);
            }
        }
    }

    fn look_at(&self, connection: &Connection, at_ms: u64) {
        let mut deadlines = self.deadlines.borrow_mut();
        let second = deadlines.second(at_ms.div_ceil(1000));
        connection.next_look.set(second);
        deadlines.insert((connection.key, connection.number), second);
    }

    /// Looks at `connection` earlier than it is going to be looked at, if `at_ms` is earlier.
    fn look_earlier(&self, connection: &Connection, at_ms: u64) {
        if at_ms.div_ceil(1000) < connection.next_look.get() {
            self.look_at(connection, at_ms);
        }
    }

    /// Milliseconds since this front end was made; never goes back.
    fn now_ms(&self) -> u64 {
        duration_ms(self.started.elapsed())
    }
}

fn duration_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// MQTT inside WebSocket messages.
struct OverWebSockets(Rc<MqttFront>);

impl StreamHandler for OverWebSockets {
    fn accept(&self, stream: Box<dyn ByteStream>, peer: Peer) {
        self.0.accept(
            Socket::stream(stream, peer.certificates),
            peer.address,
            Protocol::MqttWs,
        );
    }
}
