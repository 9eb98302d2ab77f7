//! The task that compares the desired state with the actual state and starts the next steps.
//!
//! It is woken by changes of the registry's view, by changes of leader or members of any local group, when the disk becomes
//! full or has space again, and when a step ends; without a trigger it checks once per tick. It never waits for a step:
//! steps are spawned.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use holdfast_consensus::{Group, GroupId, GroupStatus, Role};
use holdfast_model::{NodeId, PartitionId};
use holdfast_registry::{ClusterView, NodeRole, NodeState, RegistryError, RegistryEvent};
use holdfast_tasks::Phase;
use thiserror::Error;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::error::ControlStartError;
use super::leader_tasks::{self, LeaderTask};
use super::membership::{self, Situation, Step};
use super::replica_lifecycle::{CreateError, RemoveError, StartEmptyError};
use super::replicas::{self, ReplicaStep};
use super::task_table::{Subject, TaskTable};
use super::{ClusterBootstrap, Control, HostError, feature_level};
use crate::placement::registry_voters;

/// Backoff of the bootstrap while the registry elects a leader.
const BOOTSTRAP_BACKOFF: Duration = Duration::from_millis(100);
/// Timeout of the bootstrap.
const BOOTSTRAP_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest check interval while the desired state is not reached: neither followers that catch up nor sessions that end wake
/// the task.
const BUSY_TICK: Duration = Duration::from_millis(500);

/// Why a step for a local replica has failed.
#[derive(Debug, Error)]
enum ReplicaStepError {
    #[error(transparent)]
    Start(#[from] HostError),
    #[error(transparent)]
    StartEmpty(#[from] StartEmptyError),
    #[error(transparent)]
    Create(#[from] CreateError),
    #[error(transparent)]
    Remove(#[from] RemoveError),
}

/// The state of the task between two checks. None of it is needed after a restart.
pub(super) struct Run {
    pub(super) control: Control,
    pub(super) tasks: TaskTable,
    view_seen: u64,
    members: BTreeSet<NodeId>,
    /// Since when a node is up, or down, without a break.
    up_since: BTreeMap<NodeId, Instant>,
    down_since: BTreeMap<NodeId, Instant>,
    watches: BTreeMap<GroupId, JoinHandle<()>>,
    logged_removed: bool,
    /// A group that this node leads is not in its desired state.
    unsettled: bool,
    /// The earliest time of the next check of the feature level.
    level_check: Instant,
    /// This node drains and has only device sessions left, whose end does not wake the task.
    awaits_sessions: bool,
}

impl Run {
    /// Bootstraps the cluster if this node should, and starts the replicas that are on the disk or placed here.
    pub(super) async fn start(
        control: Control,
        bootstrap: Option<ClusterBootstrap>,
    ) -> Result<Self, ControlStartError> {
        let inner = &control.0;
        if let Some(bootstrap) = bootstrap {
            bootstrap_cluster(&control, &bootstrap).await?;
        }
        let on_disk = inner.replicas.on_disk().await.map_err(ControlStartError::OnDisk)?;
        inner.on_disk.lock().extend(on_disk);
        let mut run = Self {
            control: control.clone(),
            tasks: TaskTable::default(),
            view_seen: 0,
            members: BTreeSet::new(),
            up_since: BTreeMap::new(),
            down_since: BTreeMap::new(),
            watches: BTreeMap::new(),
            logged_removed: false,
            unsettled: false,
            level_check: Instant::now(),
            awaits_sessions: false,
        };
        let view = inner.registry.cluster();
        run.apply_view(&view);
        let steps = control.replica_steps(&view);
        let starts = steps.into_iter().map(|step| {
            let control = control.clone();
            async move {
                let (partition, started) = match step {
                    ReplicaStep::Start(partition) => (partition, control.start_replica(partition, false).await),
                    ReplicaStep::StartEmpty(partition) => match control.start_empty_replica(partition).await {
                        Err(StartEmptyError::Host(error)) => (partition, Err(error)),
                        // The task retries.
                        Ok(()) | Err(StartEmptyError::Unconfirmed(_)) => (partition, Ok(())),
                    },
                    ReplicaStep::Create(partition) => match control.create_partition(partition).await {
                        Err(CreateError::Host(error)) => (partition, Err(error)),
                        // The task retries.
                        Ok(()) | Err(_) => (partition, Ok(())),
                    },
                    ReplicaStep::Remove(partition) => (partition, Ok(())),
                };
                started.map_err(|source| ControlStartError::Replica {
                    partition: partition.0,
                    source,
                })
            }
        });
        futures_util::future::try_join_all(starts).await?;
        Ok(run)
    }

    pub(super) async fn run(mut self) {
        let control = self.control.clone();
        let inner = &control.0;
        let mut changes = inner.registry.changes();
        let mut writable = inner.replicas.is_writable();
        loop {
            self.check();
            let tick = tokio::time::sleep_until(self.next_check());
            tokio::pin!(tick);
            loop {
                tokio::select! {
                    biased;
                    () = inner.stop.reached(Phase::Closing) => return self.end(),
                    event = changes.next() => match event {
                        Some(RegistryEvent::Cluster | RegistryEvent::Resync) => break,
                        Some(_) => {}
                        None => return self.end(),
                    },
                    () = inner.wake.notified() => break,
                    Ok(()) = writable.changed() => break,
                    () = &mut tick => break,
                }
            }
        }
    }

    /// The time of the next check without a trigger: sooner while the desired state is not reached.
    fn next_check(&self) -> Instant {
        let now = Instant::now();
        let tick = self.control.0.config.tick.get();
        let interval = if self.unsettled || self.awaits_sessions {
            tick.min(BUSY_TICK)
        } else {
            tick
        };
        let retry = self.tasks.next_retry();
        retry.map_or(now + interval, |at| at.min(now + interval))
    }

    fn end(self) {
        for watch in self.watches.into_values() {
            watch.abort();
        }
    }

    /// Checks everything once.
    fn check(&mut self) {
        let view = self.control.0.registry.cluster();
        if view.cluster.is_empty() {
            return;
        }
        self.apply_view(&view);
        self.record_liveness();
        self.check_replicas(&view);
        self.watch_groups();
        if self.control.is_stopping() {
            return;
        }
        self.check_self(&view);
        self.check_groups(&view);
    }

    /// Passes a new view on to routing and connections.
    fn apply_view(&mut self, view: &ClusterView) {
        if view.version == self.view_seen {
            return;
        }
        self.view_seen = view.version;
        let inner = &self.control.0;
        for node in view.nodes.values().filter(|node| node.id != inner.id) {
            inner.peers.set_member(node.id, &node.name, &node.address);
        }
        let members: BTreeSet<NodeId> = view.nodes.keys().copied().collect();
        for gone in self.members.difference(&members).filter(|node| **node != inner.id) {
            inner.peers.remove(*gone);
            self.up_since.remove(gone);
            self.down_since.remove(gone);
        }
        self.members = members;
        for placement in &view.placements {
            inner
                .partitions
                .set_replicas(placement.partition, placement.replicas.clone());
        }
        let state = view.node(inner.id).map(|node| node.state);
        inner
            .state
            .send_if_modified(|known| std::mem::replace(known, state) != state);
        if state.is_some() {
            self.logged_removed = false;
        } else if !view.nodes.is_empty() && !std::mem::replace(&mut self.logged_removed, true) {
            tracing::warn!(
                "this node is not a member of the cluster any more: stop it; to use the machine again, delete its data \
                 directory and let it join with a new token"
            );
        }
    }

    fn record_liveness(&mut self) {
        let now = Instant::now();
        let inner = &self.control.0;
        for node in self.members.iter().copied().filter(|node| *node != inner.id) {
            if inner.peers.is_up(node) {
                self.down_since.remove(&node);
                self.up_since.entry(node).or_insert(now);
            } else {
                self.up_since.remove(&node);
                self.down_since.entry(node).or_insert(now);
            }
        }
        let view = inner.registry.cluster();
        let down = |role: NodeRole| {
            let nodes = self.down_since.keys().filter_map(|node| view.node(*node));
            let count = nodes.filter(|node| node.role == role).count();
            u32::try_from(count).unwrap_or(u32::MAX)
        };
        inner.metrics.core_down.set(down(NodeRole::Core));
        inner.metrics.gateways_down.set(down(NodeRole::Gateway));
    }

    fn check_replicas(&mut self, view: &Arc<ClusterView>) {
        for step in self.control.replica_steps(view) {
            let (partition, what) = match step {
                ReplicaStep::Start(partition) => (partition, "starting the replica of"),
                ReplicaStep::StartEmpty(partition) => (partition, "starting an empty replica of"),
                ReplicaStep::Create(partition) => (partition, "creating"),
                ReplicaStep::Remove(partition) => (partition, "removing the replica of"),
            };
            let subject = Subject::Replica(partition);
            if !self.tasks.is_free(subject) || self.control.is_stopping() {
                continue;
            }
            let control = self.control.clone();
            let what = format!("{what} partition {}", partition.0);
            self.tasks.start(&self.control, subject, what, async move {
                match step {
                    ReplicaStep::Start(partition) => control
                        .start_replica(partition, false)
                        .await
                        .map_err(ReplicaStepError::from),
                    ReplicaStep::StartEmpty(partition) => control
                        .start_empty_replica(partition)
                        .await
                        .map_err(ReplicaStepError::from),
                    ReplicaStep::Create(partition) => control
                        .create_partition(partition)
                        .await
                        .map_err(ReplicaStepError::from),
                    ReplicaStep::Remove(partition) => {
                        control.remove_replica(partition).await.map_err(ReplicaStepError::from)
                    }
                }
            });
        }
    }

    /// Wakes this task when the leader or the members of a group change.
    fn watch_groups(&mut self) {
        let groups = self.control.groups();
        let running: BTreeSet<GroupId> = groups.iter().map(Group::id).collect();
        self.watches.retain(|id, watch| {
            let keep = running.contains(id) && !watch.is_finished();
            if !keep {
                watch.abort();
            }
            keep
        });
        for group in groups {
            let control = self.control.clone();
            self.watches.entry(group.id()).or_insert_with(|| {
                let mut watch = group.watch();
                drop(group);
                holdfast_tasks::spawn_critical("control-watch", async move {
                    while watch.changed().await.is_ok() {
                        control.0.wake.notify_one();
                        control.0.wake_catch_up.notify_one();
                    }
                })
            });
        }
    }

    /// Updates this node's registry entry, and marks it as drained.
    fn check_self(&mut self, view: &ClusterView) {
        let inner = &self.control.0;
        let Some(registered) = view.node(inner.id) else { return };
        let info = &inner.self_info;
        let registry = inner.registry.clone();
        let is_current = (
            &registered.name,
            &registered.address,
            &registered.zone,
            &registered.version,
        ) == (&info.name, &info.address, &info.zone, &info.version);
        if !is_current && self.tasks.is_free(Subject::SelfInfo) {
            let info = info.clone();
            let what = "registering this node's name, address, zone and version".to_owned();
            self.tasks.start(&self.control, Subject::SelfInfo, what, async move {
                registry.put_node(&info).await
            });
            return;
        }
        let holds_nothing = inner.on_disk.lock().is_empty()
            && inner
                .partitions
                .count()
                .iter()
                .all(|id| inner.partitions.local(id).is_none())
            && !view
                .placements
                .iter()
                .any(|placement| placement.replicas.contains(&inner.id))
            && !inner.registry.group().members().voters.contains(&inner.id);
        let may_be_drained = registered.state == NodeState::Draining && holds_nothing;
        self.awaits_sessions = may_be_drained && inner.replicas.facts().sessions > 0;
        if may_be_drained && !self.awaits_sessions && self.tasks.is_free(Subject::SelfInfo) {
            let id = inner.id;
            let what = "marking this node as drained".to_owned();
            self.tasks.start(&self.control, Subject::SelfInfo, what, async move {
                registry
                    .advance_node_state(id, NodeState::Draining, NodeState::Drained)
                    .await
            });
        }
    }

    fn check_groups(&mut self, view: &ClusterView) {
        let groups = self.control.groups();
        let replicas = groups.len().saturating_sub(1);
        let (mut leads, mut unsettled, mut in_progress) = (0_u32, 0_u32, BTreeMap::new());
        for group in groups {
            if !group.is_leader() {
                continue;
            }
            let status = group.status();
            if status.role != Role::Leader {
                continue;
            }
            leads += 1;
            let step = self.next_step(&group, &status, view);
            if step == Step::Nothing {
                continue;
            }
            unsettled += 1;
            in_progress.insert(group.id(), step.to_string());
            self.start_step(group, step);
        }
        *self.control.0.in_progress.lock() = in_progress;
        self.unsettled = unsettled > 0;
        let metrics = &self.control.0.metrics;
        metrics.leads.set(leads);
        metrics.unsettled.set(unsettled);
        metrics.replicas.set(u32::try_from(replicas).unwrap_or(u32::MAX));
    }

    fn next_step(&mut self, group: &Group, status: &GroupStatus, view: &ClusterView) -> Step {
        let inner = &self.control.0;
        let up = self.up();
        let ready = self.control.ready(status, &up);
        let (voters, learners, wanted_leader) = match super::partition_of(group.id()) {
            None => {
                self.start_leader_task(view, status, &ready);
                if self.level_check <= Instant::now() {
                    self.level_check = Instant::now() + feature_level::CHECK_INTERVAL;
                    self.control.check_feature_level();
                }
                let lost = self.lost_voters();
                let voters = registry_voters(view, &status.members.voters, &lost);
                let learners = view
                    .nodes
                    .keys()
                    .copied()
                    .filter(|node| !voters.contains(node))
                    .collect();
                (voters, learners, None)
            }
            Some(partition) => match view.placement(partition) {
                Some(placement) => (
                    placement.replicas.iter().copied().collect(),
                    BTreeSet::new(),
                    placement.replicas.first().copied(),
                ),
                None => return Step::Nothing,
            },
        };
        // In the order of the placement: the second replicas are spread over the nodes as the first ones are.
        let successors = match super::partition_of(group.id()).and_then(|id| view.placement(id)) {
            Some(placement) => placement.replicas.clone(),
            None => voters.iter().copied().collect(),
        };
        let declined = self.control.declined_leadership(group.id());
        let preferred = wanted_leader.filter(|node| {
            let since = self.up_since.get(node);
            since.is_some_and(|since| since.elapsed() >= inner.config.leader_return_delay.get())
        });
        membership::step(&Situation {
            me: inner.id,
            members: &status.members,
            ready: &ready,
            up: &up,
            voters: &voters,
            learners: &learners,
            preferred,
            declined: &declined,
            takes_writes: *inner.replicas.is_writable().borrow(),
            successors: &successors,
        })
    }

    fn up(&self) -> BTreeSet<NodeId> {
        let others = self.up_since.keys().copied();
        others.chain([self.control.0.id]).collect()
    }

    /// Nodes that have been down for so long that other nodes vote in the registry instead.
    fn lost_voters(&self) -> BTreeSet<NodeId> {
        let timeout = self.control.0.config.voter_grace.get();
        let down = self.down_since.iter().filter(|(_, since)| since.elapsed() >= timeout);
        down.map(|(node, _)| *node).collect()
    }

    fn start_leader_task(&self, view: &ClusterView, status: &GroupStatus, ready: &BTreeSet<NodeId>) {
        if !self.tasks.is_free(Subject::View) {
            return;
        }
        let Some(task) = leader_tasks::next(view, &status.members, ready) else {
            return;
        };
        let registry = self.control.0.registry.clone();
        let version = view.version;
        let what = match &task {
            LeaderTask::Activate(node) => format!("putting node {node} into service"),
            LeaderTask::Place(placements) => format!("placing {} partitions", placements.len()),
        };
        self.tasks.start(&self.control, Subject::View, what, async move {
            match task {
                LeaderTask::Activate(node) => {
                    registry
                        .advance_node_state(node, NodeState::Joining, NodeState::Active)
                        .await
                }
                LeaderTask::Place(placements) => registry.place(version, &placements).await,
            }
        });
    }

    fn start_step(&mut self, group: Group, step: Step) {
        let subject = Subject::Group(group.id());
        if matches!(step, Step::Nothing | Step::Wait(_)) || !self.tasks.is_free(subject) {
            return;
        }
        let inner = &self.control.0;
        let permit = match &step {
            // Transfers over the limit wait for the next check.
            Step::Transfer(_) => match Arc::clone(&inner.transfers).try_acquire_owned() {
                Ok(permit) => Some(permit),
                Err(_) => return,
            },
            _ => None,
        };
        let control = self.control.clone();
        let what = format!("{}: {step}", group.id());
        self.tasks.start(&self.control, subject, what, async move {
            let _permit = permit;
            control.carry_out(&group, step).await
        });
    }
}

impl Control {
    pub(super) fn replica_steps(&self, view: &ClusterView) -> Vec<ReplicaStep> {
        let inner = &self.0;
        let partitions = inner.partitions.count().iter();
        let running: BTreeSet<PartitionId> = partitions.filter(|id| inner.partitions.local(*id).is_some()).collect();
        replicas::steps(view, inner.id, &running, &inner.on_disk.lock())
    }
}

/// Registers the cluster and this node, unless a cluster is registered.
async fn bootstrap_cluster(control: &Control, bootstrap: &ClusterBootstrap) -> Result<(), ControlStartError> {
    let inner = &control.0;
    let deadline = Instant::now() + BOOTSTRAP_TIMEOUT;
    while inner.registry.cluster().cluster.is_empty() {
        let result = inner
            .registry
            .found_cluster(&bootstrap.cluster, bootstrap.replication_factor, &inner.self_info)
            .await;
        match result {
            Ok(()) => {}
            Err(RegistryError::Unavailable { .. } | RegistryError::OutcomeUnknown | RegistryError::Overloaded)
                if Instant::now() < deadline =>
            {
                tokio::time::sleep(BOOTSTRAP_BACKOFF).await;
            }
            Err(error) => return Err(ControlStartError::Bootstrap(error)),
        }
    }
    Ok(())
}
