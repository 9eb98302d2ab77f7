//! A Raft group as the rest of the node sees it.

mod leaderless;
mod members;
mod proposing;
mod reading;
mod serving;
mod trimming;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use holdfast_model::NodeId;
use holdfast_storage::{Disk, DiskGuard, Flusher, OnFatal, StorageError};
use holdfast_tasks::{BlockingPool, ByteBudget};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{InitializeError, RaftError};
use openraft::{Raft, ServerState};

use self::leaderless::Leaderless;
pub use self::proposing::ProposalPermit;
pub use self::reading::LeaseGrant;
use crate::config::ConsensusConfig;
use crate::error::StartError;
use crate::groups::Groups;
use crate::ids::{Node, position};
use crate::log::reader::LogReader;
use crate::log::store::{LogStore, Shared};
use crate::metrics::GroupMetrics;
use crate::network::Peers;
use crate::position::GroupId;
use crate::snapshot::receive::Receiver;
use crate::state_machine::StateMachine;
use crate::state_machine::applier::Applier;
use crate::state_machine::shared::SharedStateMachine;
use crate::status::{self, GroupStatus, GroupWatch, Leader, Members};
use crate::transport::Transport;
use crate::type_config::Types;

/// Between two attempts while there is no leader.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);
/// How long an entry may take to be committed and applied before its outcome is reported as unknown.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(10);

/// Resources shared by all groups of a node.
#[derive(Clone)]
pub struct GroupHost {
    /// Holds logs, votes and state.
    pub disk: Arc<dyn Disk>,
    /// Syncs for all groups.
    pub flusher: Flusher,
    /// Runs the work of all groups that blocks on the disk.
    pub blocking_pool: BlockingPool,
    /// Refuses new entries while the disk is nearly full.
    pub guard: Arc<DiskGuard>,
    /// This node's Raft id: the incarnation of its data directory.
    pub node: NodeId,
    /// Called when the log cannot be written or read, or a state machine has failed: the node must stop.
    pub on_fatal: OnFatal,
    /// Carries calls to the other members.
    pub transport: Arc<dyn Transport>,
    /// The groups that run here, found by the calls of other members.
    pub groups: Groups,
}

/// One Raft group on this node. Clones share it; any thread may call, the work happens on the runtime that started it.
#[derive(Clone)]
pub struct Group(Arc<Inner>);

struct Inner {
    raft: Raft<Types, Applier>,
    id: GroupId,
    node: NodeId,
    log: Arc<Shared>,
    guard: Arc<DiskGuard>,
    groups: Groups,
    peers: Peers,
    receiver: Receiver,
    in_flight: ByteBudget,
    metrics: GroupMetrics,
    leaderless: Leaderless,
    /// Proposals are refused from now on.
    stopped: AtomicBool,
    /// How long a proposal is retried while there is no leader.
    settle: Duration,
    /// How long a leader that hears no quorum continues to accept entries.
    lease: Duration,
}

impl Group {
    /// Starts the group on the current runtime, on which all its tasks stay.
    ///
    /// When this node is its only voter it stands for election at once, and the call returns when the group leads and
    /// has applied everything that its log holds. A group that has never been [bootstrapped](Group::bootstrap) returns
    /// at once and waits.
    ///
    /// # Errors
    /// [`StartError`]; the group does not run then.
    pub async fn start(
        id: GroupId,
        host: &GroupHost,
        machine: Box<dyn StateMachine>,
        config: &ConsensusConfig,
    ) -> Result<Self, StartError> {
        let storage = |source| StartError::Storage { group: id, source };
        let settings = config.to_openraft()?;
        let applied = machine.applied().0;
        let recovered = applied.map_or(0, |position| position.index + 1);
        let log = LogStore::open(
            (id, host.node),
            host.disk.clone(),
            host.flusher.clone(),
            host.blocking_pool,
            host.on_fatal.clone(),
            config.tail_cache.as_usize(),
            recovered,
        )
        .map_err(storage)?;
        let last = log.last().map(|last| position(&last));
        if let Some(applied) = applied
            && last.is_none_or(|last| last.index < applied.index)
        {
            // openraft would take this for a snapshot that was just installed, and continue.
            return Err(StartError::LogLost {
                group: id,
                applied,
                last,
            });
        }
        if let Some(watermark) = log.watermark().map(|watermark| position(&watermark))
            && applied.is_none_or(|applied| applied.index < watermark.index)
        {
            return Err(StartError::StateLost {
                group: id,
                applied,
                watermark,
            });
        }
        let shared = log.shared().clone();
        let metrics = GroupMetrics::new(id);
        let machine = SharedStateMachine::new(machine);
        let applier = Applier::new(machine.clone(), shared.clone(), metrics.clone()).map_err(storage)?;
        let peers = Peers {
            transport: host.transport.clone(),
            log: shared.clone(),
            machine: machine.clone(),
            sending: host.groups.sending(),
            metrics: metrics.clone(),
        };
        crate::runtime::tick_together(config.tick());
        let raft = Raft::new(host.node, settings, peers.clone(), log, applier)
            .await
            .map_err(|error| StartError::stopped(id, error))?;
        if shared.is_behind_prior() {
            raft.runtime_config().elect(false);
        }
        let receiver = Receiver::new(id, raft.clone(), machine, shared.blocking_pool, metrics.clone());
        let leaderless = Leaderless::new(&metrics);
        let followed = leaderless.clone().follow(raft.server_metrics());
        holdfast_tasks::spawn("leaderless", Box::pin(followed));
        let inner = Inner {
            raft,
            id,
            node: host.node,
            log: shared,
            guard: host.guard.clone(),
            groups: host.groups.clone(),
            peers,
            receiver,
            in_flight: ByteBudget::new(config.max_in_flight.as_usize()),
            metrics,
            leaderless,
            stopped: AtomicBool::new(false),
            settle: 2 * config.election_timeout_max.get(),
            lease: config.election_timeout_max.get(),
        };
        let inner = Arc::new(inner);
        host.groups.enter(id, Arc::<Inner>::downgrade(&inner));
        let group = Self(inner);
        // Queried from the engine itself: the metrics are empty until it runs, and would show no voter.
        group
            .0
            .raft
            .is_initialized()
            .await
            .map_err(|error| StartError::stopped(id, error))?;
        if group.is_sole_voter() {
            group
                .0
                .raft
                .trigger()
                .elect(false)
                .await
                .map_err(|error| StartError::stopped(id, error))?;
            group.ready().await?;
        }
        Ok(group)
    }

    /// Makes this node the first and only member of a new group, and waits until it leads. When the group has members it
    /// does nothing, but waits when this node is the only voter.
    ///
    /// # Errors
    /// [`StartError::Stopped`].
    pub async fn bootstrap(&self) -> Result<(), StartError> {
        let members = BTreeMap::from([(self.0.node, Node::default())]);
        let founded = match self.0.raft.initialize(members).await {
            Ok(()) => true,
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => false,
            Err(error) => return Err(StartError::stopped(self.0.id, error)),
        };
        // The metrics may not show the new membership yet.
        if !founded && !self.is_sole_voter() {
            return Ok(());
        }
        if !self.is_leader() {
            // The first election after the initial membership need not wait for its time-out.
            self.0
                .raft
                .trigger()
                .elect(false)
                .await
                .map_err(|error| StartError::stopped(self.0.id, error))?;
        }
        self.ready().await
    }

    /// Called when the log has grown: a replica that replaced a prior one may become a candidate once its log is as long.
    pub(crate) fn has_grown(&self) {
        if self.0.log.catches_up_with_prior() {
            self.0.raft.runtime_config().elect(true);
        }
    }

    /// Where exports of this node wait for their turn.
    pub(crate) fn exporting(&self) -> Arc<tokio::sync::Semaphore> {
        self.0.groups.exporting()
    }

    pub(crate) fn peers(&self) -> &Peers {
        &self.0.peers
    }

    fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::Acquire)
    }

    fn is_sole_voter(&self) -> bool {
        let mut voters = self.0.raft.voter_ids();
        voters.next() == Some(self.0.node) && voters.next().is_none()
    }

    /// Waits until this node leads and everything in its log is applied.
    async fn ready(&self) -> Result<(), StartError> {
        let led = self
            .0
            .raft
            .wait(None)
            .metrics(
                |now| {
                    now.state == ServerState::Leader
                        && now.last_log_index.is_some()
                        && now.last_applied.map(|id| id.index) == now.last_log_index
                },
                "lead and apply the log",
            )
            .await;
        led.map(|_| ()).map_err(|error| StartError::stopped(self.0.id, error))
    }

    /// The group's number.
    #[must_use]
    pub fn id(&self) -> GroupId {
        self.0.id
    }

    /// Whether this node leads the group, as far as it knows.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.0.raft.server_metrics().borrow_watched().state == ServerState::Leader
    }

    /// The leader, if known; this node only if it has been confirmed by a quorum.
    #[must_use]
    pub fn leader(&self) -> Option<Leader> {
        status::leader_of(&self.0.raft.server_metrics().borrow_watched())
    }

    /// The group as this node sees it now.
    #[must_use]
    pub fn status(&self) -> GroupStatus {
        // Copies, so that the engine does not wait while they are converted. In this order: see `GroupStatus::of`.
        let server = self.0.raft.server_metrics().borrow_watched().clone();
        let data = self.0.raft.data_metrics().borrow_watched().clone();
        GroupStatus::of(self.0.id, &server, &data)
    }

    /// The group's members by the last membership in this node's log.
    #[must_use]
    pub fn members(&self) -> Members {
        let membership = self.0.raft.server_metrics().borrow_watched().membership_config.clone();
        Members::of(&membership)
    }

    /// Waits for changes of leader, term and members.
    #[must_use]
    pub fn watch(&self) -> GroupWatch {
        let mut watch = self.0.raft.server_metrics();
        // The engine's receivers start without having seen the current value.
        drop(watch.borrow_and_update());
        GroupWatch(watch)
    }

    /// The index of the last applied entry; 0 when none is.
    #[must_use]
    pub fn applied_index(&self) -> u64 {
        self.0.log.applied_next().saturating_sub(1)
    }

    /// A reader of the applied entries.
    #[must_use]
    pub fn log_reader(&self) -> LogReader {
        LogReader::new(self.0.log.clone())
    }

    /// Stops the group's tasks; proposals in progress end with [`ProposeError::Unknown`].
    pub async fn shutdown(&self) {
        self.0.groups.leave(self.0.id, Arc::as_ptr(&self.0));
        self.0.stopped.store(true, Ordering::Release);
        self.0.log.applied_grew.notify_waiters();
        if let Err(error) = self.0.raft.shutdown().await {
            tracing::warn!(group = %self.0.id, %error, "group task had failed before the group was shut down");
        }
    }

    /// Stops the group and deletes its log, votes and watermarks from the disk; its owner deletes the state machine's state.
    /// For a replica that the group has removed. The last position and vote that it acknowledged are kept, so that a later
    /// replica of the group on this disk does not vote against them.
    ///
    /// # Errors
    /// [`StorageError`]: the node must stop.
    pub async fn destroy(self) -> Result<(), StorageError> {
        self.shutdown().await;
        let log = self.0.log.clone();
        self.0.log.blocking_pool.run(move || log.destroy()).await?;
        self.0
            .log
            .flusher
            .synced()
            .await
            .map_err(|error| StorageError::clone(&error))
    }
}
