//! The task that compares what is wanted with what is, and begins what is to be done about it.
//!
//! It is woken by changes of the registry's view, by changes of leader or members of any group here, by a disk that is
//! full or has room again, and by work that ends; without occasion it looks once a tick. It waits for nothing else: work
//! that takes time is spawned.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use holdfast_consensus::{Group, GroupId, GroupStatus, Role};
use holdfast_model::PartitionId;
use holdfast_registry::{ClusterView, NodeState, RegistryError, RegistryEvent};
use holdfast_tasks::Phase;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::duties::{self, Duty};
use super::error::ControlStartError;
use super::jobs::{Jobs, Subject};
use super::leave::FoundError;
use super::membership::{self, Situation, Step};
use super::replicas::{self, ReplicaStep};
use super::{ClusterFounding, Control};
use crate::placement::registry_voters;

/// How often founding is tried while the registry settles.
const FOUND_EVERY: Duration = Duration::from_millis(100);
/// How long founding is tried: the registry has been started before.
const FOUND_PATIENCE: Duration = Duration::from_secs(30);

/// How often to look while something is not as wanted: followers that catch up wake nobody, nor do sessions that end.
const BUSY_TICK: Duration = Duration::from_millis(500);

/// What the task remembers between two looks. None of it is needed to go on after a restart.
pub(super) struct Run {
    pub(super) control: Control,
    pub(super) jobs: Jobs,
    view_seen: u64,
    members: BTreeSet<u64>,
    /// When a node was first seen up, or down, without a break.
    up_since: BTreeMap<u64, Instant>,
    down_since: BTreeMap<u64, Instant>,
    watches: BTreeMap<GroupId, JoinHandle<()>>,
    told_removed: bool,
    /// A group that this node leads is not as wanted.
    unsettled: bool,
    /// This node holds nothing any more but device sessions, whose end wakes nobody.
    awaits_sessions: bool,
}

impl Run {
    /// Founds the cluster if this node may, and starts what is on the disk or wanted here.
    pub(super) async fn begin(control: Control, founding: Option<ClusterFounding>) -> Result<Self, ControlStartError> {
        let inner = &control.0;
        if let Some(founding) = founding {
            found(&control, &founding).await?;
        }
        let on_disk = inner.replicas.on_disk().await.map_err(ControlStartError::OnDisk)?;
        inner.on_disk.lock().extend(on_disk);
        let mut run = Self {
            control: control.clone(),
            jobs: Jobs::default(),
            view_seen: 0,
            members: BTreeSet::new(),
            up_since: BTreeMap::new(),
            down_since: BTreeMap::new(),
            watches: BTreeMap::new(),
            told_removed: false,
            unsettled: false,
            awaits_sessions: false,
        };
        let view = inner.registry.cluster();
        run.follow(&view);
        let steps = control.replica_steps(&view);
        let starts = steps.into_iter().map(|step| {
            let control = control.clone();
            async move {
                let (partition, started) = match step {
                    ReplicaStep::Start(partition) => (partition, control.start_replica(partition, false).await),
                    ReplicaStep::Found(partition) => match control.found_replica(partition).await {
                        Err(FoundError::Host(error)) => (partition, Err(error)),
                        // What cannot be known yet is tried again.
                        Ok(()) | Err(FoundError::NotNow(_)) => (partition, Ok(())),
                    },
                    ReplicaStep::Leave(partition) => (partition, Ok(())),
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
        let mut room = inner.replicas.has_room();
        loop {
            self.look();
            let tick = tokio::time::sleep_until(self.next_look());
            tokio::pin!(tick);
            loop {
                tokio::select! {
                    biased;
                    () = inner.stop.reached(Phase::Closing) => return self.end(),
                    event = changes.next() => match event {
                        Some(RegistryEvent::Cluster | RegistryEvent::LookAgain) => break,
                        Some(_) => {}
                        None => return self.end(),
                    },
                    () = inner.wake.notified() => break,
                    Ok(()) = room.changed() => break,
                    () = &mut tick => break,
                }
            }
        }
    }

    /// When to look again without an occasion: what is not as wanted is looked at more often.
    fn next_look(&self) -> Instant {
        let now = Instant::now();
        let tick = self.control.0.config.tick.get();
        let pause = if self.unsettled || self.awaits_sessions {
            tick.min(BUSY_TICK)
        } else {
            tick
        };
        let retry = self.jobs.next_retry();
        retry.map_or(now + pause, |at| at.min(now + pause))
    }

    fn end(self) {
        for watch in self.watches.into_values() {
            watch.abort();
        }
    }

    /// One look at everything.
    fn look(&mut self) {
        let view = self.control.0.registry.cluster();
        if view.cluster.is_empty() {
            return;
        }
        self.follow(&view);
        self.note_liveness();
        self.look_after_replicas(&view);
        self.watch_groups();
        if self.control.is_leaving() {
            return;
        }
        self.look_after_myself(&view);
        self.look_after_groups(&view);
    }

    /// Hands a new view on to who routes and connects.
    fn follow(&mut self, view: &ClusterView) {
        if view.version == self.view_seen {
            return;
        }
        self.view_seen = view.version;
        let inner = &self.control.0;
        for node in view.nodes.values().filter(|node| node.id != inner.id) {
            inner.peers.set_member(node.id, &node.name, &node.address);
        }
        let members: BTreeSet<u64> = view.nodes.keys().copied().collect();
        for gone in self.members.difference(&members).filter(|node| **node != inner.id) {
            inner.peers.forget(*gone);
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
            self.told_removed = false;
        } else if !view.nodes.is_empty() && !std::mem::replace(&mut self.told_removed, true) {
            tracing::warn!(
                "this node is no member of the cluster any more: stop it; to use the machine again, delete its data \
                 directory and let it join with a new token"
            );
        }
    }

    fn note_liveness(&mut self) {
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
    }

    fn look_after_replicas(&mut self, view: &Arc<ClusterView>) {
        for step in self.control.replica_steps(view) {
            let (partition, what) = match step {
                ReplicaStep::Start(partition) => (partition, "starting the replica of"),
                ReplicaStep::Found(partition) => (partition, "making"),
                ReplicaStep::Leave(partition) => (partition, "giving up the replica of"),
            };
            let subject = Subject::Replica(partition);
            if !self.jobs.is_free(subject) || self.control.is_leaving() {
                continue;
            }
            let control = self.control.clone();
            let what = format!("{what} partition {}", partition.0);
            self.jobs.begin(&self.control, subject, what, async move {
                match step {
                    ReplicaStep::Start(partition) => {
                        control.start_replica(partition, false).await.map_err(|error| error.0)
                    }
                    ReplicaStep::Found(partition) => control
                        .found_replica(partition)
                        .await
                        .map_err(|error| error.to_string()),
                    ReplicaStep::Leave(partition) => control.leave_replica(partition).await,
                }
            });
        }
    }

    /// Lets changes of leader and members wake this task.
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
                    }
                })
            });
        }
    }

    /// What this node says about itself, and that it is drained.
    fn look_after_myself(&mut self, view: &ClusterView) {
        let inner = &self.control.0;
        let Some(entered) = view.node(inner.id) else { return };
        let me = &inner.me;
        let registry = inner.registry.clone();
        let told = (&entered.name, &entered.address, &entered.zone, &entered.version)
            == (&me.name, &me.address, &me.zone, &me.version);
        if !told && self.jobs.is_free(Subject::Myself) {
            let me = me.clone();
            let what = "entering this node's name, address, zone and version".to_owned();
            self.jobs.begin(&self.control, Subject::Myself, what, async move {
                registry.put_node(&me).await
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
        let may_be_drained = entered.state == NodeState::Draining && holds_nothing;
        self.awaits_sessions = may_be_drained && inner.replicas.facts().sessions > 0;
        if may_be_drained && !self.awaits_sessions && self.jobs.is_free(Subject::Myself) {
            let id = inner.id;
            let what = "entering that this node is drained".to_owned();
            self.jobs.begin(&self.control, Subject::Myself, what, async move {
                registry.set_node_state(id, NodeState::Drained).await
            });
        }
    }

    fn look_after_groups(&mut self, view: &ClusterView) {
        let groups = self.control.groups();
        let replicas = groups.len().saturating_sub(1);
        let (mut leads, mut unsettled, mut under_way) = (0_u32, 0_u32, BTreeMap::new());
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
            under_way.insert(group.id(), step.to_string());
            self.carry_out(group, step);
        }
        *self.control.0.under_way.lock() = under_way;
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
                self.do_duties(view, status, &ready);
                let given_up = self.given_up();
                let voters = registry_voters(view, &status.members.voters, &given_up);
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
        // In the order of the placement: the second of each are spread over the nodes as the first are.
        let successors = match super::partition_of(group.id()).and_then(|id| view.placement(id)) {
            Some(placement) => placement.replicas.clone(),
            None => voters.iter().copied().collect(),
        };
        let unwilling = self.control.unwilling(group.id());
        let preferred = wanted_leader.filter(|node| {
            let since = self.up_since.get(node);
            since.is_some_and(|since| since.elapsed() >= inner.config.settle.get())
        });
        membership::step(&Situation {
            me: inner.id,
            members: &status.members,
            ready: &ready,
            up: &up,
            voters: &voters,
            learners: &learners,
            preferred,
            unwilling: &unwilling,
            takes_writes: *inner.replicas.has_room().borrow(),
            successors: &successors,
        })
    }

    fn up(&self) -> BTreeSet<u64> {
        let others = self.up_since.keys().copied();
        others.chain([self.control.0.id]).collect()
    }

    /// Who has been down for so long that another one votes in the registry instead.
    fn given_up(&self) -> BTreeSet<u64> {
        let patience = self.control.0.config.voter_patience.get();
        let down = self.down_since.iter().filter(|(_, since)| since.elapsed() >= patience);
        down.map(|(node, _)| *node).collect()
    }

    fn do_duties(&self, view: &ClusterView, status: &GroupStatus, ready: &BTreeSet<u64>) {
        if !self.jobs.is_free(Subject::View) {
            return;
        }
        let Some(duty) = duties::duty(view, &status.members, ready) else {
            return;
        };
        let registry = self.control.0.registry.clone();
        let version = view.version;
        let what = match &duty {
            Duty::Activate(node) => format!("putting node {node} into service"),
            Duty::Place(placements) => format!("placing {} partitions", placements.len()),
        };
        self.jobs.begin(&self.control, Subject::View, what, async move {
            match duty {
                Duty::Activate(node) => registry.set_node_state(node, NodeState::Active).await,
                Duty::Place(placements) => registry.place(version, &placements).await,
            }
        });
    }

    fn carry_out(&mut self, group: Group, step: Step) {
        let subject = Subject::Group(group.id());
        if matches!(step, Step::Nothing | Step::Wait(_)) || !self.jobs.is_free(subject) {
            return;
        }
        let inner = &self.control.0;
        let permit = match &step {
            // More than these wait for the next look.
            Step::Transfer(_) => match Arc::clone(&inner.transfers).try_acquire_owned() {
                Ok(permit) => Some(permit),
                Err(_) => return,
            },
            _ => None,
        };
        let control = self.control.clone();
        let what = format!("{}: {step}", group.id());
        self.jobs.begin(&self.control, subject, what, async move {
            let _permit = permit;
            control.take(&group, step).await
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

/// Enters the cluster and this node in the registry, if there is none yet.
async fn found(control: &Control, founding: &ClusterFounding) -> Result<(), ControlStartError> {
    let inner = &control.0;
    let give_up = Instant::now() + FOUND_PATIENCE;
    while inner.registry.cluster().cluster.is_empty() {
        let founded = inner
            .registry
            .found_cluster(&founding.cluster, founding.replication_factor, &inner.me)
            .await;
        match founded {
            Ok(()) => {}
            Err(RegistryError::Unavailable { .. } | RegistryError::OutcomeUnknown | RegistryError::Overloaded)
                if Instant::now() < give_up =>
            {
                tokio::time::sleep(FOUND_EVERY).await;
            }
            Err(error) => return Err(ControlStartError::Found(error)),
        }
    }
    Ok(())
}
