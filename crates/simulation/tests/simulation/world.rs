//! The cluster's machines: their nodes run, start, stop, have lost their power, or are lost for good.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use holdfast_consensus::{GroupId, has_data};
use holdfast_model::{NodeId, PartitionCount};
use tokio::task::JoinHandle;

use crate::shared::{Order, Shared};
use holdfast_simulation::{Cluster, Node};

pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) shared: Rc<Shared>,
    /// The machines that are to run, and that break. A lost machine is none of them.
    machines: BTreeSet<NodeId>,
    starting: BTreeMap<NodeId, JoinHandle<Node>>,
    stopping: BTreeMap<NodeId, JoinHandle<()>>,
}

impl World {
    pub(crate) fn new(cluster: Cluster, shared: Rc<Shared>) -> Self {
        for node in cluster.nodes.values() {
            shared.enter(node);
        }
        Self {
            machines: cluster.nodes.keys().copied().map(NodeId::get).map(NodeId).collect(),
            cluster,
            shared,
            starting: BTreeMap::new(),
            stopping: BTreeMap::new(),
        }
    }

    /// The machines that are to run, in order.
    pub(crate) fn machines(&self) -> Vec<NodeId> {
        self.machines.iter().copied().collect()
    }

    /// Whether all machines run, and nothing else does.
    pub(crate) fn is_complete(&self) -> bool {
        self.starting.is_empty() && self.stopping.is_empty() && self.cluster.nodes.keys().eq(&self.machines)
    }

    /// Whether all machines run, know each other, and every group has all its replicas on them.
    pub(crate) fn has_all_replicas(&self) -> bool {
        let mut views = self.cluster.nodes.values().map(|node| node.registry.cluster());
        let first = views.next();
        self.is_complete()
            && views.all(|view| Some(view) == first)
            && self.cluster.is_settled()
            && self.cluster.has_its_members()
    }

    /// Whether it runs, or will, or is about to end.
    pub(crate) fn is_there(&self, node: NodeId) -> bool {
        self.cluster.nodes.contains_key(&node) || self.starting.contains_key(&node) || self.stopping.contains_key(&node)
    }

    /// Nodes whose disks have failed, those among them that were still starting.
    pub(crate) fn failed(&self) -> Vec<NodeId> {
        let nodes = self.cluster.nodes.keys().chain(self.starting.keys()).copied();
        nodes.filter(|node| self.cluster.has_failed(*node)).collect()
    }

    /// Executes the operators' orders, and notes which nodes have started and stopped.
    pub(crate) async fn step(&mut self) {
        let orders = std::mem::take(&mut *self.shared.orders.borrow_mut());
        orders.into_iter().for_each(|order| self.execute(order));
        let started: Vec<NodeId> = finished(&self.starting);
        for id in started {
            let node = self.starting.remove(&id).unwrap().await.unwrap();
            self.shared.note(format!("{id} has started"));
            self.shared.enter(&node);
            self.cluster.nodes.insert(id, node);
        }
        for id in finished(&self.stopping) {
            self.stopping.remove(&id).unwrap().await.unwrap();
            self.shared.note(format!("{id} has stopped"));
            self.shared.end(id);
            if !self.machines.contains(&id) {
                self.check_holds_nothing(id);
            }
            self.cluster.cut_power(id);
        }
    }

    /// Cuts the power of a node, whatever it is doing.
    pub(crate) fn kill(&mut self, node: NodeId) {
        self.shared.end(node);
        if self.cluster.nodes.contains_key(&node) {
            self.cluster.kill(node);
        } else if let Some(starting) = self.starting.remove(&node) {
            starting.abort();
            self.cluster.cut_power(node);
        } else if let Some(stopping) = self.stopping.remove(&node) {
            stopping.abort();
            self.cluster.cut_power(node);
        }
    }

    fn execute(&mut self, order: Order) {
        self.shared.note(format!("{order:?}"));
        match order {
            Order::Start(node) => {
                self.machines.insert(node);
                self.start(node);
            }
            Order::Resurrect(node) => self.boot(node),
            // No node starts from its disk any more, which is as good as losing it.
            Order::Lose(node) => {
                self.machines.remove(&node);
                self.kill(node);
            }
            Order::Retire(node) => {
                self.machines.remove(&node);
                if self.starting.contains_key(&node) {
                    self.kill(node);
                } else {
                    self.stop(node);
                }
            }
        }
    }

    /// A drained node has given up all its replicas.
    fn check_holds_nothing(&self, node: NodeId) {
        let disk = &self.cluster.disks[&node];
        let left = PartitionCount::DEFAULT
            .iter()
            .find(|id| has_data(disk, GroupId::partition(id.0)).unwrap_or(true));
        if let Some(id) = left {
            self.shared
                .violation(format!("{node} is drained, and has data of partition {}", id.0));
        }
    }

    /// Starts a machine that is not there.
    pub(crate) fn start(&mut self, node: NodeId) {
        if self.machines.contains(&node) && !self.is_there(node) {
            self.boot(node);
        }
    }

    fn boot(&mut self, node: NodeId) {
        let boot = self.cluster.boot(node);
        self.starting.insert(node, tokio::task::spawn_local(boot));
    }

    /// Stops a node in order. It serves until it has.
    pub(crate) fn stop(&mut self, node: NodeId) {
        if let Some(gone) = self.cluster.nodes.remove(&node) {
            self.shared.leave(node);
            self.stopping.insert(node, tokio::task::spawn_local(gone.stop()));
        }
    }
}

fn finished<T>(tasks: &BTreeMap<NodeId, JoinHandle<T>>) -> Vec<NodeId> {
    let finished = tasks.iter().filter(|(_, task)| task.is_finished());
    finished.map(|(id, _)| *id).collect()
}
