//! An operator that changes the cluster under load and faults: nodes join, drain and are removed, and a node that is lost
//! with its disk is replaced by a new one.
//!
//! A seed draws first whether it has one at all, since a cluster that moves takes longer. One change is made at a time.
//! A request that fails because of a fault is retried at another node until it is done; so a run ends only when its last
//! change has been made and every group has the members that the registry wants.
//! Invariant: a disk is lost only while every group has all its replicas. One that has just lost a copy may be left with
//! the only other one, and two lost disks are more than three replicas promise to survive.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use holdfast_cluster::control::{Control, ControlError};
use holdfast_cluster::join::JoinError;
use holdfast_consensus::sim::SimNetwork;
use holdfast_model::NodeId;
use holdfast_registry::{NodeRole, NodeState};
use rand::Rng as _;
use rand::rngs::SmallRng;
use rand::seq::IteratorRandom as _;

use crate::shared::{Order, Shared};
use holdfast_simulation::{NODES, ask_to_join};

/// How many of the seeds have an operator.
const HAS_ONE: f64 = 0.5;
/// How long an operator waits for an answer before it asks another node.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a node waits before it requests its admission again.
const JOIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two attempts, or two checks.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
const TOKEN_LIFETIME: Duration = Duration::from_secs(3_600);
/// More nodes than this would find nothing new, and cost.
const MOST: usize = 5;

/// A change of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Change {
    /// A new node joins.
    Join,
    /// A node drains, and is removed and stopped when it holds nothing any more.
    Drain,
    /// A node drains, and is taken back before or after that is done.
    Undrain,
    /// A node is lost with its disk, is removed as dead, and a new one joins.
    Replace,
    /// The same, and the old one comes back with its disk: it must not be counted on any more.
    Return,
}

const CHANGES: [Change; 5] = [
    Change::Join,
    Change::Drain,
    Change::Undrain,
    Change::Replace,
    Change::Return,
];

/// How often each change was made.
pub(crate) type Changes = BTreeMap<Change, u64>;

pub(crate) struct Operator {
    shared: Rc<Shared>,
    network: SimNetwork,
    rng: SmallRng,
    /// The nodes in service, as far as the operator has seen to it.
    members: BTreeSet<NodeId>,
}

impl Operator {
    pub(crate) fn new(shared: Rc<Shared>, network: SimNetwork, rng: SmallRng) -> Self {
        Self {
            shared,
            network,
            rng,
            members: NODES.into(),
        }
    }

    /// Makes changes until the end of the run.
    pub(crate) async fn work(mut self) {
        if !self.rng.random_bool(HAS_ONE) {
            return;
        }
        self.shared.has_operator.set(true);
        self.pause(0..1_500).await;
        while !self.shared.ending.get() {
            let change = CHANGES[self.rng.random_range(0..CHANGES.len())];
            match change {
                // Rather the other way round, when there are many.
                Change::Join if self.members.len() >= MOST => continue,
                Change::Join => {
                    self.join().await;
                }
                Change::Drain => self.drain().await,
                Change::Undrain => self.drain_and_take_back().await,
                Change::Replace | Change::Return => {
                    let Some(dead) = self.replace().await else { return };
                    if change == Change::Return {
                        self.order(Order::Resurrect(dead));
                        self.pause(500..3_000).await;
                        self.order(Order::Lose(dead));
                    }
                }
            }
            self.shared.note(format!("operator: {change:?} is done"));
            *self.shared.changes.borrow_mut().entry(change).or_default() += 1;
            self.pause(0..1_000).await;
        }
    }

    async fn join(&mut self) -> NodeId {
        let node = self.shared.new_node();
        let call = async |control: Control| control.create_token(TOKEN_LIFETIME, NodeRole::Core).await;
        let secret = self.insist("a token", call).await;
        loop {
            let mut members = self.shared.all_up();
            let first = self.rng.random_range(0..members.len().max(1));
            members.rotate_left(first);
            // A lost answer is retried sooner than its call would end.
            let asked = ask_to_join(&self.network, node, &members, &secret, JOIN_TIMEOUT);
            match tokio::time::timeout(JOIN_TIMEOUT, asked).await {
                Ok(Ok(_)) => break,
                Ok(Err(error @ (JoinError::Denied { .. } | JoinError::Answer { .. }))) => {
                    self.shared.violation(format!("{node} may not join: {error}"));
                    break;
                }
                Ok(Err(JoinError::NoAddress | JoinError::NoAnswer { .. })) | Err(_) => {
                    self.shared.note(format!("{node} is not admitted yet"));
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
            }
        }
        self.shared.note(format!("{node} is admitted"));
        self.order(Order::Start(node));
        self.until(node, NodeState::Active).await;
        self.members.insert(node);
        node
    }

    async fn drain(&mut self) {
        let node = self.begin_to_drain().await;
        self.until(node, NodeState::Drained).await;
        self.members.remove(&node);
        let stops_first = self.rng.random_bool(0.5);
        if stops_first {
            self.order(Order::Retire(node));
            self.pause(0..1_000).await;
        }
        self.remove(node, false).await;
        if !stops_first {
            self.pause(0..1_000).await;
            self.order(Order::Retire(node));
        }
    }

    async fn drain_and_take_back(&mut self) {
        let node = self.begin_to_drain().await;
        if self.rng.random_bool(0.3) {
            self.until(node, NodeState::Drained).await;
        } else {
            self.pause(0..1_500).await;
        }
        let name = name(node);
        self.insist("take it back", async |control: Control| control.undrain(&name).await)
            .await;
        self.until(node, NodeState::Active).await;
    }

    /// Drains any node; if too few would be left, another one joins first. Returns the draining node.
    async fn begin_to_drain(&mut self) -> NodeId {
        if self.members.len() <= NODES.len() {
            self.join().await;
        }
        let node = self.any_member();
        let name = name(node);
        self.shared.note(format!("operator: drains {node}"));
        self.insist("drain", async |control: Control| control.drain(&name).await)
            .await;
        node
    }

    /// Returns the replaced node; none, if the cluster was never whole before the end.
    async fn replace(&mut self) -> Option<NodeId> {
        // The earlier value says nothing: something may have changed since then.
        self.shared.is_whole.set(false);
        while !self.shared.is_whole.get() {
            if self.shared.ending.get() {
                return None;
            }
            tokio::time::sleep(RETRY_INTERVAL / 5).await;
        }
        let node = self.any_member();
        self.order(Order::Lose(node));
        self.members.remove(&node);
        self.pause(0..1_000).await;
        if self.rng.random_bool(0.5) {
            self.remove(node, true).await;
            self.join().await;
        } else {
            self.join().await;
            self.remove(node, true).await;
        }
        Some(node)
    }

    async fn remove(&mut self, node: NodeId, dead: bool) {
        let name = name(node);
        let call = async |control: Control| match control.remove(&name, dead).await {
            // It was done before, and the answer lost.
            Err(ControlError::NoSuchNode(_)) => Ok(()),
            outcome => outcome,
        };
        self.insist("remove", call).await;
    }

    /// Waits until a node has the state.
    async fn until(&mut self, node: NodeId, state: NodeState) {
        while self.state(node).await != Some(state) {
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
        self.shared.note(format!("operator: {node} is {state:?}"));
    }

    /// The state of a node, as any node knows it.
    async fn state(&mut self, node: NodeId) -> Option<NodeState> {
        let access = self.shared.any(&mut self.rng)?;
        let confirmed = tokio::time::timeout(CALL_TIMEOUT, access.call(access.registry.read_barrier())).await;
        confirmed.ok()??.ok()?;
        Some(access.registry.cluster().node(node)?.state)
    }

    /// Asks one node after the other until one has done it.
    async fn insist<T>(&mut self, what: &str, call: impl AsyncFn(Control) -> Result<T, ControlError>) -> T {
        loop {
            match self.ask(&call).await {
                Some((_, Ok(done))) => return done,
                Some((node, Err(error))) => self.shared.note(format!("operator: {what} via {node}: {error}")),
                None => self.shared.note(format!("operator: {what}: no answer")),
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }

    /// The answer of any node, with the node.
    async fn ask<T>(&mut self, call: impl AsyncFn(Control) -> T) -> Option<(NodeId, T)> {
        let access = self.shared.any(&mut self.rng)?;
        let answer = tokio::time::timeout(CALL_TIMEOUT, access.call(call(access.control.clone()))).await;
        Some((access.node, answer.ok().flatten()?))
    }

    fn any_member(&mut self) -> NodeId {
        NodeId((*self.members.iter().choose(&mut self.rng).unwrap()).get())
    }

    fn order(&self, order: Order) {
        self.shared.orders.borrow_mut().push_back(order);
    }

    async fn pause(&mut self, millis: Range<u64>) {
        tokio::time::sleep(Duration::from_millis(self.rng.random_range(millis))).await;
    }
}

fn name(node: NodeId) -> String {
    format!("n{node}")
}
