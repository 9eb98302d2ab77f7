//! State that the actors of a simulation share: the nodes that are up, the clients' history, and the trace.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;

use holdfast_chaos::check::readers::Readers;
use holdfast_chaos::history::queries::Queries;
use holdfast_chaos::history::{Connection, Micros, Operation, Refusal, RightsChange};
use holdfast_cluster::control::Control;
use holdfast_cluster::route::Partitions;
use holdfast_device_hub::DeviceHub;
use holdfast_model::PartitionId;
use holdfast_model::{Incarnation, NodeId};
use holdfast_registry::Registry;
use holdfast_tasks::watch;
use rand::Rng as _;
use rand::rngs::SmallRng;
use tokio::time::Instant;

use crate::downlink::{Received, Sent};
use crate::operator::Changes;
use crate::queues::Queued;
use crate::twins::TwinHistory;
use holdfast_simulation::{NODES, Node};

/// How many lines of the trace a failure shows.
const TRACE_LINES: usize = 80;

/// A node that is up, for those outside it.
#[derive(Clone)]
pub(crate) struct Access {
    pub(crate) node: NodeId,
    pub(crate) registry: Registry,
    pub(crate) partitions: Partitions,
    pub(crate) control: Control,
    pub(crate) hub: Arc<DeviceHub>,
    incarnation: Incarnation,
    /// Ends with the node.
    alive: watch::Receiver<()>,
}

impl Access {
    pub(crate) fn place(&self) -> Place {
        (self.node, self.incarnation)
    }

    /// The result of a call, unless the node ends before.
    pub(crate) async fn call<T>(&self, call: impl Future<Output = T>) -> Option<T> {
        let mut alive = self.alive.clone();
        tokio::select! {
            biased;
            _ = alive.changed() => None,
            outcome = call => Some(outcome),
        }
    }
}

/// The observations of clients.
#[derive(Default)]
pub(crate) struct History {
    pub(crate) operations: Vec<Operation>,
    pub(crate) changes: Vec<RightsChange>,
    pub(crate) connections: Vec<Connection>,
    pub(crate) refusals: Vec<Refusal>,
    pub(crate) readers: Readers,
    /// By number.
    pub(crate) sent: BTreeMap<u64, Sent>,
    /// By device, in the order in which its sessions began.
    pub(crate) received: Vec<Received>,
    /// Messages that were sent into queues, by number.
    pub(crate) queued: BTreeMap<u64, Queued>,
    /// In the end, by device.
    pub(crate) dead_letters: BTreeSet<(String, u64)>,
    pub(crate) twins: TwinHistory,
    pub(crate) queries: Queries,
    /// Broken promises.
    pub(crate) violations: Vec<String>,
}

/// An operator's order for a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// It is to run from now on.
    Start(NodeId),
    /// Its power is cut for good. Its disk is gone, unless it is to [`Order::Resurrect`].
    Lose(NodeId),
    /// It runs again with its disk, although it was lost.
    Resurrect(NodeId),
    /// It is stopped in order, and not started again.
    Retire(NodeId),
}

/// A node and its incarnation.
pub(crate) type Place = (NodeId, Incarnation);

/// See the module.
pub(crate) struct Shared {
    began: Instant,
    /// Processes that run, those that are stopping among them.
    pub(crate) running: RefCell<BTreeSet<Place>>,
    /// Devices whose rights are being changed and therefore unknown.
    pub(crate) changing: RefCell<BTreeSet<String>>,
    up: RefCell<BTreeMap<NodeId, (Access, watch::Sender<()>)>>,
    /// Orders of an operator, for the world to execute.
    pub(crate) orders: RefCell<VecDeque<Order>>,
    /// Whether an operator changes the cluster.
    pub(crate) has_operator: Cell<bool>,
    /// All machines run, and all groups have the members that the registry wants. Checked only in runs with an operator.
    pub(crate) is_whole: Cell<bool>,
    pub(crate) changes: RefCell<Changes>,
    /// The highest number of a node that there has ever been.
    newest: Cell<u64>,
    pub(crate) history: RefCell<History>,
    /// Actors come to an end.
    pub(crate) ending: Cell<bool>,
    /// Actors that have not.
    /// The actors that have not ended, with how many there are of a name.
    pub(crate) active: RefCell<BTreeMap<&'static str, usize>>,
    trace: RefCell<Trace>,
}

#[derive(Default)]
struct Trace {
    hasher: DefaultHasher,
    lines: Vec<String>,
}

impl Shared {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self {
            began: Instant::now(),
            running: RefCell::default(),
            changing: RefCell::default(),
            up: RefCell::default(),
            orders: RefCell::default(),
            has_operator: Cell::new(false),
            is_whole: Cell::new(false),
            changes: RefCell::default(),
            newest: Cell::new(NODES.into_iter().max().unwrap().get()),
            history: RefCell::default(),
            ending: Cell::new(false),
            active: RefCell::default(),
            trace: RefCell::default(),
        })
    }

    /// Microseconds since the simulation began.
    pub(crate) fn at(&self, instant: Instant) -> Micros {
        Micros::try_from(instant.saturating_duration_since(self.began).as_micros()).unwrap()
    }

    pub(crate) fn now(&self) -> Micros {
        self.at(Instant::now())
    }

    /// Adds to the trace, which is the same whenever the seed is: no keys, no ETags.
    pub(crate) fn note(&self, text: String) {
        let mut trace = self.trace.borrow_mut();
        let now = self.now();
        (now, &text).hash(&mut trace.hasher);
        trace.lines.push(format!("{:>9.3} {text}", now as f64 / 1000.0));
    }

    pub(crate) fn digest(&self) -> u64 {
        self.trace.borrow().hasher.finish()
    }

    /// The trace's last lines, or all.
    pub(crate) fn trace(&self, all: bool) -> String {
        let trace = self.trace.borrow();
        let from = if all {
            0
        } else {
            trace.lines.len().saturating_sub(TRACE_LINES)
        };
        trace.lines[from..].join("\n")
    }

    pub(crate) fn violation(&self, text: String) {
        let violations = &mut self.history.borrow_mut().violations;
        // A lasting one is found by every check.
        if !violations.contains(&text) {
            self.note(format!("VIOLATION: {text}"));
            violations.push(text);
        }
    }

    pub(crate) fn enter(&self, node: &Node) {
        let (ends, alive) = watch::channel(());
        let access = Access {
            node: node.id,
            registry: node.registry.clone(),
            partitions: node.partitions.clone(),
            control: node.control.clone().unwrap(),
            hub: node.hub.clone(),
            incarnation: node.incarnation,
            alive,
        };
        self.up.borrow_mut().insert(node.id, (access, ends));
        self.running.borrow_mut().insert((node.id, node.incarnation));
    }

    /// Clients avoid it from now on, since it stops.
    pub(crate) fn leave(&self, node: NodeId) {
        self.up.borrow_mut().remove(&node);
    }

    /// It is gone.
    pub(crate) fn end(&self, node: NodeId) {
        self.leave(node);
        self.running.borrow_mut().retain(|(running, _)| *running != node);
    }

    pub(crate) fn is_running(&self, place: Place) -> bool {
        self.running.borrow().contains(&place)
    }

    /// The number of one more node: none comes twice.
    pub(crate) fn new_node(&self) -> NodeId {
        self.newest.set(self.newest.get() + 1);
        NodeId(self.newest.get())
    }

    /// All nodes that there have ever been.
    pub(crate) fn all_nodes(&self) -> impl Iterator<Item = NodeId> {
        (1..=self.newest.get()).map(NodeId)
    }

    /// The nodes that are up.
    pub(crate) fn all_up(&self) -> Vec<NodeId> {
        self.up.borrow().keys().copied().collect()
    }

    /// A node to turn to, if any is up.
    pub(crate) fn any(&self, rng: &mut SmallRng) -> Option<Access> {
        let up = self.up.borrow();
        let at = rng.random_range(0..up.len().max(1));
        up.values().nth(at).map(|(access, _)| access.clone())
    }

    /// The node that takes itself for the owner of a partition.
    pub(crate) fn owner_of(&self, id: PartitionId) -> Option<Access> {
        let up = self.up.borrow();
        let mut all = up.values().map(|(access, _)| access);
        let owner = all.find(|access| {
            access
                .partitions
                .owner(id)
                .is_some_and(|owner| owner.node == access.node)
        });
        owner.cloned()
    }

    /// Starts an actor, which ends when [`Self::ending`] says so.
    pub(crate) fn spawn(self: &Rc<Self>, name: &'static str, actor: impl Future<Output = ()> + 'static) {
        *self.active.borrow_mut().entry(name).or_default() += 1;
        let shared = self.clone();
        let actor = async move {
            actor.await;
            let mut active = shared.active.borrow_mut();
            let left = active.get(name).map_or(0, |count| count - 1);
            match left {
                0 => active.remove(name),
                _ => active.insert(name, left),
            };
        };
        holdfast_tasks::spawn_local("actor", Box::pin(actor));
    }
}
