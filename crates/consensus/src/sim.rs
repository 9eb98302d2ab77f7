//! A network in memory that delays, loses and cuts calls according to its seed: for simulation and tests.
//!
//! Invariants: everything happens on the clock of the runtime that calls (tokio's, paused in tests), on one
//! single-threaded runtime; the same seed and the same calls give the same run. Calls from one node to another arrive in
//! the order in which they were made. A lost or cut call ends with its time-out, as it would over a connection that
//! hangs; a call to a node that is down fails at once.
//! Not here: the schedule of crashes; a disk that loses unsynced writes (`holdfast_storage::SimDisk`).

mod link;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use holdfast_model::NodeId;
use holdfast_tasks::sync::Mutex;
use holdfast_tasks::watch;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use crate::transport::{Answer, Call, CallError, Chunks, Dispatch, Transport};

/// The most calls in flight from one node to another; the next one is not sent.
const MAX_UNDER_WAY: usize = 4_096;

/// A simulated network. Clones share it.
#[derive(Clone)]
pub struct SimNetwork(Arc<Mutex<State>>);

struct State {
    seed: u64,
    /// One generator for each direction between two nodes, so that draws do not depend on the order of several senders.
    rngs: BTreeMap<(NodeId, NodeId), SmallRng>,
    nodes: BTreeMap<NodeId, Node>,
    links: BTreeMap<(NodeId, NodeId), link::Queue>,
    cut: BTreeSet<(NodeId, NodeId)>,
    delay: RangeInclusive<Duration>,
    loss: f64,
    calls: u64,
}

struct Node {
    dispatch: Dispatch,
    /// Closed when the node goes down.
    running: watch::Sender<()>,
}

/// The fate of a message that is sent now.
#[derive(Clone, Copy)]
enum Fate {
    Arrives(Instant),
    Lost,
}

impl SimNetwork {
    /// A network without nodes and faults, on which everything takes between a tenth and half a millisecond. Groups that
    /// run on this thread draw their timers from the seed too.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        crate::runtime::seed(seed);
        Self(Arc::new(Mutex::new(State {
            seed,
            rngs: BTreeMap::new(),
            nodes: BTreeMap::new(),
            links: BTreeMap::new(),
            cut: BTreeSet::new(),
            delay: Duration::from_micros(100)..=Duration::from_micros(500),
            loss: 0.0,
            calls: 0,
        })))
    }

    /// Connects a node whose incoming calls go to `dispatch`, and returns its transport. An earlier node with this id has
    /// crashed.
    #[must_use]
    pub fn node(&self, id: NodeId, dispatch: Dispatch) -> Arc<dyn Transport> {
        let node = Node {
            dispatch,
            running: watch::Sender::new(()),
        };
        let running = node.running.subscribe();
        self.0.lock().nodes.insert(id, node);
        Arc::new(FromNode {
            network: self.clone(),
            id,
            running,
        })
    }

    /// Takes the node down: calls to it and from it end, its handlers are no longer called. Its transport stays dead;
    /// [`SimNetwork::node`] connects its next incarnation.
    pub fn crash(&self, id: NodeId) {
        let node = self.0.lock().nodes.remove(&id);
        drop(node);
    }

    /// Loses all messages between the two.
    pub fn cut(&self, a: NodeId, b: NodeId) {
        self.0.lock().cut.extend([(a, b), (b, a)]);
    }

    /// Loses messages from `from` to `to`, calls and answers; the other direction stays.
    pub fn cut_one_way(&self, from: NodeId, to: NodeId) {
        self.0.lock().cut.insert((from, to));
    }

    /// Loses all messages between `id` and every other node that is connected now.
    pub fn isolate(&self, id: NodeId) {
        let mut state = self.0.lock();
        let others: Vec<NodeId> = state.nodes.keys().copied().filter(|other| *other != id).collect();
        state
            .cut
            .extend(others.into_iter().flat_map(|other| [(id, other), (other, id)]));
    }

    /// Ends every cut.
    pub fn heal_all(&self) {
        self.0.lock().cut.clear();
    }

    /// Sets the latency of each call, answer and chunk.
    pub fn set_delay(&self, delay: RangeInclusive<Duration>) {
        self.0.lock().delay = delay;
    }

    /// Sets the probability that a call or an answer is lost, from 0 to 1. Streams are not hit: TCP would send again.
    pub fn set_loss(&self, probability: f64) {
        self.0.lock().loss = probability.clamp(0.0, 1.0);
    }

    /// How many calls were sent, lost ones included.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.0.lock().calls
    }

    fn fate(&self, from: NodeId, to: NodeId, may_be_lost: bool) -> Fate {
        let mut state = self.0.lock();
        let (seed, delay, loss) = (state.seed, state.delay.clone(), state.loss);
        let rng = state
            .rngs
            .entry((from, to))
            .or_insert_with(|| SmallRng::seed_from_u64(seed ^ from.get().rotate_left(32) ^ to.get().rotate_left(16)));
        // Both are always drawn, so that a cut does not shift later draws.
        let delay = rng.random_range(delay);
        let lost = rng.random::<f64>() < loss && may_be_lost;
        if lost || state.cut.contains(&(from, to)) {
            return Fate::Lost;
        }
        Fate::Arrives(Instant::now() + delay)
    }

    fn dispatch(&self, id: NodeId) -> Option<(Dispatch, watch::Receiver<()>)> {
        let state = self.0.lock();
        let node = state.nodes.get(&id)?;
        Some((node.dispatch.clone(), node.running.subscribe()))
    }
}

fn down(id: NodeId) -> CallError {
    CallError::NotSent(format!("node {id} is down").into())
}

fn crashed(id: NodeId) -> CallError {
    CallError::Unknown(format!("node {id} crashed").into())
}

fn silent(id: NodeId) -> CallError {
    CallError::Unknown(format!("node {id} does not answer").into())
}

/// The transport of one node.
struct FromNode {
    network: SimNetwork,
    id: NodeId,
    running: watch::Receiver<()>,
}

/// Returns when the node has gone down.
async fn ended(mut running: watch::Receiver<()>) {
    while running.changed().await.is_ok() {}
}

impl FromNode {
    fn alive(&self) -> bool {
        self.running.has_changed().is_ok()
    }
}

impl Transport for FromNode {
    fn call(&self, node: NodeId, call: Call) -> Answer {
        self.send(node, call, None)
    }

    fn upload(&self, node: NodeId, call: Call, chunks: Chunks) -> Answer {
        self.send(node, call, Some(chunks))
    }

    fn download(&self, node: NodeId, call: Call) -> Chunks {
        if !self.alive() || self.network.dispatch(node).is_none() {
            return Box::pin(stream::iter([Err(down(node))]));
        }
        link::download(self.network.clone(), self.id, node, call)
    }
}

impl FromNode {
    fn send(&self, node: NodeId, call: Call, chunks: Option<Chunks>) -> Answer {
        let Some((_, running)) = self.network.dispatch(node).filter(|_| self.alive()) else {
            return Box::pin(async move { Err(down(node)) });
        };
        let own = self.running.clone();
        let timeout = call.timeout;
        let streams = chunks.is_some();
        let answered = match link::send(&self.network, self.id, node, call, chunks) {
            Ok(answered) => answered,
            Err(error) => return Box::pin(async move { Err(error) }),
        };
        Box::pin(async move {
            // The time-out of a stream is for each chunk, and its receiving side watches it.
            let timeout = async {
                match streams {
                    false => tokio::time::sleep(timeout).await,
                    true => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                answer = answered => answer.unwrap_or_else(|_| Err(crashed(node))),
                () = ended(running) => Err(crashed(node)),
                () = ended(own) => Err(CallError::Unknown("this node has crashed".into())),
                () = timeout => Err(silent(node)),
            }
        })
    }
}
