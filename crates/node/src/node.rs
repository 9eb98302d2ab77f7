//! A running node, and the two ways in which it ends.

use std::sync::Arc;
use std::time::Duration;

use holdfast_cluster::control::Control;
use holdfast_cluster::route::Partitions;
use holdfast_consensus::{Group, GroupHost, GroupId};
use holdfast_device_hub::{CloseReason, DeviceHub};
use holdfast_model::{NodeId, PartitionId};
use holdfast_registry::{NodeRole, NodeState, Registry, RegistryError};
use holdfast_storage::StorageError;
use holdfast_tasks::{Phase, Stop};
use tokio::task::JoinHandle;

use crate::front_ends::{FrontEnd, have_ended};

/// A node that runs.
pub struct Node {
    /// The device-session API.
    pub hub: Arc<DeviceHub>,
    /// This node's replica of the registry.
    pub registry: Registry,
    /// The hub's partitions, wherever they are.
    pub partitions: Partitions,
    /// Members and placement; `None` where the placement is fixed.
    pub control: Option<Control>,
    pub(crate) host: GroupHost,
    pub(crate) stop: Stop,
    pub(crate) drain_rate: u32,
    pub(crate) tasks: Vec<JoinHandle<()>>,
}

/// How long the phases of a stop may take.
#[derive(Debug, Clone, Copy)]
pub struct StopTimeouts {
    /// For other nodes to take over the leaderships of this one.
    pub hand_over: Duration,
    /// For sessions to finish and close; `ops.drain_timeout`.
    pub drain: Duration,
    /// For messages that were sent to be decided once all sessions are closed.
    pub close: Duration,
    /// For the hub to forget this node, which is a gateway that does not come back with its data; `None`: it stays a member.
    pub leave: Option<Duration>,
}

/// How a node has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// It is not a member any more: its data is of no use.
    pub left: bool,
}

impl Node {
    /// Whether the node may accept connections; `Err` says why not.
    #[must_use]
    pub fn readiness(&self) -> Arc<dyn Fn() -> Result<(), String> + Send + Sync> {
        let (stop, registry) = (self.stop.clone(), self.registry.clone());
        let state = self.control.as_ref().map(Control::state);
        let control = self.control.clone();
        Arc::new(move || {
            if stop.is_in(Phase::Accepting) {
                return Err("the hub is stopping".to_owned());
            }
            let state = state.as_ref().and_then(|state| *state.borrow());
            if matches!(state, Some(NodeState::Draining | NodeState::Drained)) {
                return Err("this node is drained: devices are to connect to others".to_owned());
            }
            if !registry.in_lease() {
                return Err(
                    "this node's replica of the registry is not confirmed: it has no contact to a leader with a quorum"
                        .to_owned(),
                );
            }
            match control.as_ref().and_then(Control::catching_up) {
                None => Ok(()),
                Some(behind) => Err(format!("this node has started and catches up: {behind}")),
            }
        })
    }

    /// The phases of the node's end.
    #[must_use]
    pub fn phases(&self) -> &Stop {
        &self.stop
    }

    /// The replica of a group on this node.
    #[must_use]
    pub fn group(&self, id: GroupId) -> Option<Group> {
        if id == GroupId::REGISTRY {
            return Some(self.registry.group().clone());
        }
        let partition = PartitionId(u16::try_from(id.0.checked_sub(1)?).ok()?);
        Some(self.partitions.local(partition)?.group().clone())
    }

    /// Stops in order: leaderships are handed over, listeners close, sessions are closed and what they sent is decided, a gateway
    /// that is to leave is removed from the members, groups end, the disk is synced.
    ///
    /// # Errors
    /// When the last sync fails. Everything acknowledged is in the write-ahead log all the same.
    pub async fn stop(self, front_ends: Vec<FrontEnd>, timeouts: StopTimeouts) -> Result<Stopped, Arc<StorageError>> {
        if let Some(control) = &self.control {
            control.transfer_leaderships(timeouts.hand_over).await;
        }
        let (connections, cores): (Vec<_>, Vec<_>) = front_ends
            .into_iter()
            .map(|front| (front.connections, front.core))
            .unzip();
        self.stop.enter(Phase::Accepting);
        let pace = self.hub.pace_within(self.drain_rate, timeouts.drain);
        if pace > self.drain_rate {
            tracing::warn!(
                sessions = self.hub.local_session_count(),
                pace,
                drain_rate = self.drain_rate,
                "sessions are closed faster than device_hub.drain_rate, to be done within ops.drain_timeout"
            );
        }
        let closing = self.hub.close_paced(pace, CloseReason::Stopping);
        if tokio::time::timeout(timeouts.drain, closing).await.is_err() {
            tracing::warn!("closing the rest of the sessions at once (ops.drain_timeout, device_hub.drain_rate)");
        }
        self.stop.enter(Phase::Draining);
        if !have_ended(connections, timeouts.drain).await {
            tracing::warn!(
                drain_timeout_s = timeouts.drain.as_secs(),
                "closing sessions that have not finished in time"
            );
        }
        // Before the connections to other nodes end.
        let left = match timeouts.leave {
            Some(timeout) => self.leave(timeout).await,
            None => false,
        };
        self.stop.enter(Phase::Closing);
        if !have_ended(cores, timeouts.close).await {
            tracing::warn!(
                "some messages are not decided; their devices got no acknowledgement and will send them again"
            );
        }
        self.hub.write_last_connections().await;
        self.end_groups().await;
        for task in &self.tasks {
            task.abort();
        }
        self.host.flusher.synced().await?;
        Ok(Stopped { left })
    }

    /// Has the registry remove this node, if it is a gateway. Gives whether that is certain.
    async fn leave(&self, timeout: Duration) -> bool {
        let me = self.host.node;
        let is_gateway = self
            .registry
            .cluster()
            .node(me)
            .is_some_and(|node| node.role == NodeRole::Gateway);
        if !is_gateway {
            return false;
        }
        let outcome = tokio::time::timeout(timeout, self.remove_from_members(me)).await;
        let reason = match outcome {
            Ok(Ok(())) => {
                tracing::info!("this gateway is no member any more (cluster.leave_on_stop)");
                return true;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", timeout.as_secs()),
        };
        tracing::warn!(
            reason,
            "this gateway stays a member: `holdfast node remove NAME --dead` if it does not come back"
        );
        false
    }

    /// The members close the connections to a node as they remove it, and the answer may be lost with them: the call then waits for a
    /// leader that it cannot reach any more. What they say to the node's next hello counts as well; the caller bounds the time.
    async fn remove_from_members(&self, me: NodeId) -> Result<(), RegistryError> {
        let Some(control) = &self.control else {
            return self.registry.remove_node(me, false).await;
        };
        let mut removal = std::pin::pin!(async {
            if control.removal().wait_for(|removed| *removed).await.is_err() {
                // The connections to other nodes have ended.
                std::future::pending::<()>().await;
            }
        });
        let error = tokio::select! {
            outcome = self.registry.remove_node(me, false) => match outcome {
                Ok(()) => return Ok(()),
                Err(error) => error,
            },
            () = &mut removal => return Ok(()),
        };
        // It may be a rejection of a second attempt, after the first has removed the node.
        tracing::info!(%error, "the removal of this gateway is not confirmed; the next hello to a member decides");
        removal.await;
        Ok(())
    }

    /// Ends everything at once, as a loss of power does, for simulations: the node's own tasks when this returns, its
    /// groups when the future completes.
    pub fn kill(self) -> impl Future<Output = ()> {
        for task in &self.tasks {
            task.abort();
        }
        self.stop.enter(Phase::Closing);
        async move { self.end_groups().await }
    }

    async fn end_groups(&self) {
        let replicas = (self.partitions.count().iter()).filter_map(|id| self.partitions.unhost(id));
        futures_util::future::join_all(replicas.map(|replica| async move { replica.shutdown().await })).await;
        self.registry.group().shutdown().await;
    }
}
