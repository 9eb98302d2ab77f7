//! All connections of one protocol on one core.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use holdfast_tasks::sync::SharedCell;
use holdfast_tasks::{Phase, Stop};
use slab::Slab;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::admission::{Admission, Progress, Row};
use super::driver::Driver;
use super::timer_wheel::TimerWheel;
use super::{Protocol, Transport, TransportEnd};
use crate::Socket;

/// Most bytes of one read.
const SCRATCH_BYTES: usize = 64 * 1024;

/// Interval of the checks of deadlines.
const TICK_INTERVAL: Duration = Duration::from_secs(1);

/// The limits that the driver enforces.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// Connections of one core that have not authenticated; past it one of them is closed for each newcomer (`admission`).
    pub max_unauthenticated: usize,
    /// Bytes that wait to be written to one peer; a peer that lets more pile up is closed.
    pub max_output_bytes: usize,
}

/// The connections of one protocol on one core.
pub struct Connections<P: Protocol> {
    pub(super) limits: ConnectionLimits,
    /// The read buffer that all connections of the core share.
    pub(super) scratch: RefCell<Box<[u8]>>,
    rows: SharedCell<Slab<Rc<P>>>,
    wheel: SharedCell<TimerWheel<Row>>,
    pub(super) admission: Admission,
    next_number: Cell<u64>,
    /// Notified when the last connection has ended.
    emptied: Notify,
    started: Instant,
    stop: Stop,
}

impl<P: Protocol> Connections<P> {
    /// An empty table; [`Self::run`] must be spawned on the same thread.
    #[must_use]
    pub fn new(limits: ConnectionLimits, stop: Stop) -> Rc<Self> {
        Rc::new(Self {
            limits,
            scratch: RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice()),
            rows: SharedCell::default(),
            wheel: SharedCell::new(TimerWheel::new(0)),
            admission: Admission::new(limits.max_unauthenticated),
            next_number: Cell::new(0),
            emptied: Notify::new(),
            started: Instant::now(),
            stop,
        })
    }

    /// Adds a connection and spawns its task; `protocol` makes its state from the transport. A node that drains drops
    /// the connection.
    pub fn open(self: &Rc<Self>, socket: Socket, address: SocketAddr, protocol: impl FnOnce(Transport<P>) -> P) {
        if self.stop.is_in(Phase::Draining) {
            return;
        }
        let number = self.next_number.get();
        self.next_number.set(number + 1);
        let protocol = {
            let mut rows = self.rows.borrow_mut();
            let entry = rows.vacant_entry();
            let row = (entry.key(), number);
            let protocol = Rc::new(protocol(Transport::new(Rc::clone(self), row, socket, address)));
            entry.insert(Rc::clone(&protocol));
            protocol
        };
        let now_ms = self.now_ms();
        let transport = protocol.transport();
        self.check_at(transport, protocol.next_deadline(now_ms));
        let evicted = self.admission.add(transport.row, |row| {
            self.get(row)
                .map_or(Progress::Done, |known| known.transport().progress())
        });
        if let Some(evicted) = evicted.and_then(|row| self.get(row)) {
            evicted.evict();
        }
        holdfast_tasks::spawn_local(P::TASK, Driver::new(protocol));
    }

    /// Checks deadlines. When the node drains, ends all connections and returns when they are gone.
    pub async fn run(self: Rc<Self>) {
        let mut ticks = interval(TICK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                biased;
                () = self.stop.reached(Phase::Draining) => break,
                _ = ticks.tick() => self.tick(),
            }
        }
        for protocol in self.all() {
            protocol.drain();
        }
        // A notification may be an old one, from a time when the table was empty: the count decides.
        while !self.is_empty() {
            tokio::select! {
                biased;
                () = self.stop.reached(Phase::Closing) => break,
                () = self.emptied.notified() => {}
                _ = ticks.tick() => self.tick(),
            }
        }
        for protocol in self.all() {
            protocol.transport().end(TransportEnd::Stopping.into());
        }
        while !self.is_empty() {
            self.emptied.notified().await;
        }
    }

    /// Whether there is no connection.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.borrow().is_empty()
    }

    /// Milliseconds since the table was made; never goes back.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// All connections.
    #[must_use]
    pub fn all(&self) -> Vec<Rc<P>> {
        self.rows.borrow().iter().map(|(_, known)| Rc::clone(known)).collect()
    }

    /// The connection of a row, unless the row has been used again.
    fn get(&self, (key, number): Row) -> Option<Rc<P>> {
        let rows = self.rows.borrow();
        let protocol = rows.get(key).filter(|known| known.transport().number() == number);
        protocol.map(Rc::clone)
    }

    /// Frees the row of a connection that is over.
    pub(super) fn remove(&self, (key, _): Row) {
        // The connection is dropped behind the borrow.
        let removed = self.rows.borrow_mut().try_remove(key);
        drop(removed);
        if self.is_empty() {
            self.emptied.notify_one();
        }
    }

    pub(super) fn check_at(&self, transport: &Transport<P>, at_ms: u64) {
        let mut wheel = self.wheel.borrow_mut();
        let second = wheel.second(at_ms.div_ceil(1000));
        transport.next_check.set(second);
        wheel.insert(transport.row, second);
    }

    fn tick(&self) {
        let now_ms = self.now_ms();
        let now_seconds = now_ms / 1000;
        let mut due = Vec::new();
        self.wheel.borrow_mut().advance(now_seconds, &mut due);
        for row in due {
            let Some(protocol) = self.get(row) else { continue };
            let transport = protocol.transport();
            // A connection whose check was moved forward is in the wheel a second time.
            if transport.has_ended() || transport.next_check.get() > now_seconds {
                continue;
            }
            protocol.check_deadlines(now_ms);
            if !transport.has_ended() {
                self.check_at(transport, protocol.next_deadline(now_ms));
            }
        }
    }
}
