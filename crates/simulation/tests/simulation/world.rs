//! The cluster and who of it is there: nodes run, start, stop, or have lost their power.

use std::collections::BTreeMap;
use std::rc::Rc;

use tokio::task::JoinHandle;

use crate::shared::Shared;
use holdfast_simulation::{Cluster, Node};

pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) shared: Rc<Shared>,
    starting: BTreeMap<u64, JoinHandle<Node>>,
    stopping: BTreeMap<u64, JoinHandle<()>>,
}

impl World {
    pub(crate) fn new(cluster: Cluster, shared: Rc<Shared>) -> Self {
        for node in cluster.nodes.values() {
            shared.enter(node);
        }
        Self {
            cluster,
            shared,
            starting: BTreeMap::new(),
            stopping: BTreeMap::new(),
        }
    }

    /// Whether it runs, or will, or is about to end.
    pub(crate) fn is_there(&self, node: u64) -> bool {
        self.cluster.nodes.contains_key(&node) || self.starting.contains_key(&node) || self.stopping.contains_key(&node)
    }

    /// Nodes whose disks have failed.
    pub(crate) fn failed(&self) -> Vec<u64> {
        let failed = self.cluster.nodes.values().filter(|node| node.has_failed());
        failed.map(|node| node.id).collect()
    }

    /// Takes note of who has started and stopped.
    pub(crate) async fn step(&mut self) {
        let started: Vec<u64> = finished(&self.starting);
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
            self.cluster.cut_power(id);
        }
    }

    /// Cuts the power of a node, whatever it is doing.
    pub(crate) fn kill(&mut self, node: u64) {
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

    pub(crate) fn start(&mut self, node: u64) {
        if !self.is_there(node) {
            let boot = self.cluster.boot(node);
            self.starting.insert(node, tokio::task::spawn_local(boot));
        }
    }

    /// Stops a node in order. It serves until it has.
    pub(crate) fn stop(&mut self, node: u64) {
        if let Some(gone) = self.cluster.nodes.remove(&node) {
            self.shared.leave(node);
            self.stopping.insert(node, tokio::task::spawn_local(gone.stop()));
        }
    }
}

fn finished<T>(tasks: &BTreeMap<u64, JoinHandle<T>>) -> Vec<u64> {
    let finished = tasks.iter().filter(|(_, task)| task.is_finished());
    finished.map(|(id, _)| *id).collect()
}
