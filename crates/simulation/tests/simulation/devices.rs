//! Devices that roam between nodes, lose connections, and resend unacknowledged messages, as the SDKs do.
//!
//! A superseded connection keeps sending for a while, as a device does that has not noticed:
//! nothing of that may be acknowledged.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use holdfast_chaos::history::{Connection, End, Micros, Refusal as Refused};
use holdfast_device_hub::{CloseReason, Refusal};
use holdfast_model::{Incarnation, NodeId};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::downlink::Receiving;
use crate::shared::{Place, Shared};
use crate::subscriptions::StoredSet;
use holdfast_simulation::{Client, Cluster};

/// How many messages a device sends before it waits.
const WINDOW: usize = 20;
/// Numbers of messages are below it.
pub(crate) const NUMBERS: u64 = 1_000_000;
/// Numbers from here on are of connections that have been taken over.
pub(crate) const GHOSTS: u64 = 900_000;

pub(crate) struct Device {
    pub(crate) name: String,
    rng: SmallRng,
    shared: Rc<Shared>,
    /// The number of the next message.
    pub(crate) next: u64,
    pub(crate) unacked: VecDeque<u64>,
    /// Counts connections that were let in.
    connection: u64,
    current: Option<Connected>,
    connecting: Option<Connecting>,
    /// When it may connect again.
    again: Instant,
    older: Vec<Older>,
    /// `None` for a device that is deleted at times, with its subscriptions.
    pub(crate) subscriptions: Option<StoredSet>,
    /// Acknowledged messages, as connection and number.
    pub(crate) acked: BTreeSet<(u64, u64)>,
    /// When unacknowledged messages were sent.
    sent: BTreeMap<u64, Micros>,
    /// The latest of those times that was acknowledged on the current connection.
    newest: Option<Micros>,
}

struct Connected {
    client: Client,
    number: u64,
    place: Place,
    asked: Micros,
    seen: usize,
    receiving: Receiving,
}

struct Connecting {
    /// When the device stops waiting.
    until: Instant,
    outcome: JoinHandle<Result<Client, Refusal>>,
    place: Place,
    asked: Micros,
}

/// A connection that is not the current one any more.
struct Older {
    connected: Connected,
    newest: Option<Micros>,
    /// How many more messages it sends.
    ghosts: u64,
    /// The device has ended it.
    own: bool,
    /// Its node has gone.
    died: Option<Instant>,
}

impl Device {
    pub(crate) fn new(name: String, shared: Rc<Shared>, seed: u64, is_deleted: bool) -> Self {
        Self {
            name,
            rng: SmallRng::seed_from_u64(seed),
            shared,
            next: 0,
            unacked: VecDeque::new(),
            connection: 0,
            current: None,
            connecting: None,
            again: Instant::now(),
            older: Vec::new(),
            subscriptions: (!is_deleted).then(StoredSet::new),
            acked: BTreeSet::new(),
            sent: BTreeMap::new(),
            newest: None,
        }
    }

    /// Everything it has sent is acknowledged, and it has no connection but the current one.
    pub(crate) fn is_settled(&self) -> bool {
        let over = |older: &Older| older.own || older.died.is_some() || older.connected.client.closed().is_some();
        self.unacked.is_empty() && self.current.is_some() && self.older.iter().all(over)
    }

    pub(crate) fn state(&self) -> String {
        format!(
            "{}: {} not acknowledged, connected {:?}, connecting {}, older ones open {:?}",
            self.name,
            self.unacked.len(),
            self.current.as_ref().map(|current| (current.number, current.place)),
            self.connecting.is_some(),
            self.older
                .iter()
                .filter(|older| !older.own && older.died.is_none() && older.connected.client.closed().is_none())
                .map(|older| (older.connected.number, older.connected.place))
                .collect::<Vec<_>>(),
        )
    }

    /// Connections that are open at a node, with the node.
    pub(crate) fn open(&self) -> impl Iterator<Item = (Place, &Client)> {
        let older = self
            .older
            .iter()
            .filter(|older| !older.own)
            .map(|older| &older.connected);
        older
            .chain(&self.current)
            .filter(|connected| connected.client.closed().is_none())
            .map(|connected| (connected.place, &connected.client))
    }

    /// One step. `calm`: it sends nothing new and moves no more.
    pub(crate) async fn step(&mut self, cluster: &mut Cluster, calm: bool) {
        if let Some(subscriptions) = &mut self.subscriptions {
            subscriptions.poll().await;
        }
        self.connected().await;
        self.take_acks();
        self.take_deliveries(calm);
        self.send_ghosts();
        let current = self.current.as_ref();
        if current.is_some_and(|current| current.client.closed().is_some() || !self.shared.is_running(current.place)) {
            self.retire();
            self.again = Instant::now() + Duration::from_millis(self.rng.random_range(1..200));
        }
        let chance = self.rng.random_range(0..1000);
        if self.connecting.is_some() {
            return;
        }
        if self.current.is_none() {
            if Instant::now() >= self.again {
                self.connect(cluster);
            }
        } else if !calm {
            match chance {
                // It does not know that its connection is still open.
                0..8 => self.connect(cluster),
                8..14 => {
                    self.retire();
                    let older = self.older.last_mut().unwrap();
                    older.own = true;
                    older.connected.client.disconnect();
                    self.shared.note(format!("{} goes", self.name));
                }
                14..140 => self.send(),
                140..155 => self.subscribe(),
                _ => {}
            }
        }
    }

    async fn connected(&mut self) {
        let Some(connecting) = self.connecting.take_if(|connecting| {
            connecting.outcome.is_finished()
                || !self.shared.is_running(connecting.place)
                || Instant::now() >= connecting.until
        }) else {
            return;
        };
        if !connecting.outcome.is_finished() || !self.shared.is_running(connecting.place) {
            connecting.outcome.abort();
            return;
        }
        let (name, node) = (&self.name, connecting.place.0);
        match connecting.outcome.await.unwrap() {
            Ok(client) => {
                self.retire();
                self.connection += 1;
                self.check_subscriptions(&client);
                self.shared
                    .note(format!("{} is connected to {node}: {}", self.name, self.connection));
                self.current = Some(Connected {
                    client,
                    number: self.connection,
                    place: connecting.place,
                    asked: connecting.asked,
                    seen: 0,
                    receiving: Receiving::default(),
                });
                for number in self.unacked.clone() {
                    self.put(number);
                }
            }
            Err(refusal) => {
                self.shared
                    .note(format!("{name} is refused by {node}: {:?}", refusal.reason));
                if refusal.is_certain() {
                    let refused = Refused {
                        device: name.clone(),
                        node: u32::try_from(node.get()).unwrap(),
                        asked: connecting.asked,
                        answered: self.shared.now(),
                    };
                    self.shared.history.borrow_mut().refusals.push(refused);
                }
                self.again = Instant::now() + Duration::from_millis(self.rng.random_range(50..300));
            }
        }
    }

    fn take_acks(&mut self) {
        let Some(current) = &mut self.current else { return };
        let acked = current.client.acked_after(current.seen);
        current.seen += acked.len();
        for code in acked {
            let number = code % NUMBERS;
            self.acked.insert((current.number, number));
            let sent = self.sent.get(&number).copied();
            self.newest = self.newest.max(sent);
            if self.unacked.front() == Some(&number) {
                self.unacked.pop_front();
                self.sent.remove(&number);
            } else {
                self.shared
                    .violation(format!("{}: {code} is acknowledged out of order", self.name));
            }
            self.shared.note(format!("{}: {code} is acknowledged", self.name));
        }
    }

    fn take_deliveries(&mut self, calm: bool) {
        let Some(current) = &mut self.current else { return };
        if current.client.closed().is_none() && self.shared.is_running(current.place) {
            let (client, rng) = (&current.client, &mut self.rng);
            current.receiving.step(client, &self.name, &self.shared, rng, calm);
        }
    }

    fn retire(&mut self) {
        self.take_acks();
        if let Some(subscriptions) = &mut self.subscriptions {
            subscriptions.retire();
        }
        if let Some(connected) = self.current.take() {
            let goes_on = connected.client.closed().is_none() && self.shared.is_running(connected.place);
            self.older.push(Older {
                connected,
                newest: self.newest.take(),
                ghosts: if goes_on { self.rng.random_range(0..4) } else { 0 },
                own: false,
                died: None,
            });
        }
    }

    fn send_ghosts(&mut self) {
        for older in &mut self.older {
            if older.died.is_none() && !self.shared.is_running(older.connected.place) {
                older.died = Some(Instant::now());
            }
            let client = &older.connected.client;
            let is_open = !older.own && older.died.is_none() && client.closed().is_none();
            if is_open && older.ghosts > 0 && self.current.is_some() && self.rng.random_bool(0.2) {
                client.send(older.connected.number * NUMBERS + GHOSTS + older.ghosts);
                older.ghosts -= 1;
            }
        }
    }

    /// One more connection after all others, for what is stored in the end.
    pub(crate) async fn connect_last(&mut self, cluster: &Cluster) {
        let node = *cluster.nodes.keys().next().unwrap();
        match cluster.connect(node, 0, &self.name).await {
            Ok(client) => self.check_subscriptions(&client),
            Err(refusal) => self.shared.violation(format!("{}: {refusal:?} in the end", self.name)),
        }
    }

    fn check_subscriptions(&mut self, client: &Client) {
        let found = client.session.as_ref().unwrap().stored_subscriptions();
        if let Some(subscriptions) = &mut self.subscriptions
            && let Err(error) = subscriptions.check(found)
        {
            self.shared
                .violation(format!("{}: connection {} {error}", self.name, self.connection));
        }
    }

    fn subscribe(&mut self) {
        if let (Some(current), Some(subscriptions)) = (&self.current, &mut self.subscriptions) {
            subscriptions.change(&current.client, &mut self.rng);
        }
    }

    fn send(&mut self) {
        for _ in 0..self.rng.random_range(1..6) {
            if self.unacked.len() < WINDOW {
                self.unacked.push_back(self.next);
                self.put(self.next);
                self.next += 1;
            }
        }
    }

    fn put(&mut self, number: u64) {
        if let Some(current) = &self.current {
            self.sent.insert(number, self.shared.now());
            current.client.send(current.number * NUMBERS + number);
        }
    }

    fn connect(&mut self, cluster: &Cluster) {
        let nodes: Vec<NodeId> = cluster.nodes.keys().copied().collect();
        if nodes.is_empty() {
            return;
        }
        let node = nodes[self.rng.random_range(0..nodes.len())];
        let core = self.rng.random_range(0..cluster.nodes[&node].cores.len());
        self.connecting = Some(Connecting {
            until: Instant::now() + Duration::from_millis(self.rng.random_range(200..3_000)),
            outcome: cluster.connecting(node, core, &self.name),
            place: (node, Incarnation((cluster.nodes[&node].incarnation).get())),
            asked: self.shared.now(),
        });
    }

    /// The end: writes down its connections.
    pub(crate) fn record_connections(&mut self) {
        self.retire();
        for older in &self.older {
            let Connected {
                client, number, seen, ..
            } = &older.connected;
            if client.acked().len() != *seen {
                self.shared.violation(format!(
                    "{}: connection {number} gets acknowledgements after it was taken over",
                    self.name
                ));
            }
            let received = older.connected.receiving.record(client, &self.name, &self.shared);
            self.shared.history.borrow_mut().received.push(received);
            let closing = client.closing();
            let (end, ended) = match (closing, older.died) {
                (Some((CloseReason::Stopping, at)), _) if older.own => (End::Own, at),
                (Some((_, at)), _) | (None, Some(at)) => (End::Remote, at),
                (None, None) => (End::Open, Instant::now()),
            };
            self.shared.history.borrow_mut().connections.push(Connection {
                device: self.name.clone(),
                epoch: u32::try_from(*number).unwrap(),
                node: u32::try_from(older.connected.place.0.get()).unwrap(),
                asked: older.connected.asked,
                up: self.shared.at(client.up),
                ended: self.shared.at(ended),
                end,
                newest_acknowledged_sent: older.newest,
            });
        }
    }
}
