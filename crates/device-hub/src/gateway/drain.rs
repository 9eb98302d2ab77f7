//! Closes sessions no faster than other nodes can take them, and refuses new ones meanwhile.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use holdfast_cluster::control::Control;
use holdfast_model::{PartitionId, SessionKey};
use holdfast_registry::NodeState;
use holdfast_tasks::{Phase, Stop};
use tokio::time::Instant;

use super::session_table::LocalSession;
use crate::DeviceHub;
use crate::api::session::CloseReason;
use crate::ingest::command_queue::Command;

/// Sessions are closed in batches at this interval.
const BATCH_INTERVAL: Duration = Duration::from_millis(50);

/// How often the progress is logged.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// How often a node that is kept empty checks for sessions that have begun all the same.
const RECHECK_INTERVAL: Duration = Duration::from_millis(500);

/// How long sessions stay while a draining node transfers the groups that it leads.
const LEADERSHIP_TRANSFER_TIMEOUT: Duration = Duration::from_secs(10);

/// Poll interval for remaining leaderships.
const LEADERSHIP_INTERVAL: Duration = Duration::from_millis(50);

/// Delay before the registry's lease is watched again after it came back; it can flap.
const LEASE_BACKOFF: Duration = Duration::from_secs(1);

impl DeviceHub {
    /// Closes all sessions of this node, at most `rate` in a second, and returns when all connections have been notified.
    /// Messages of a session are acknowledged first when `reason` is [`CloseReason::Stopping`]. Sessions that begin
    /// meanwhile are closed too. Dropping the future stops it.
    ///
    /// The oldest are closed first, whatever their partition: devices reconnect and attach at their partition's owner, and
    /// in the order of partitions all would load the same owner at the same time.
    pub async fn close_paced(&self, rate: u32, reason: CloseReason) {
        self.close_unnotified(&mut HashSet::new(), rate, reason).await;
    }

    /// As [`Self::close_paced`], except for the sessions in `notified`, which are closing already; adds those that it
    /// closes.
    async fn close_unnotified(&self, notified: &mut HashSet<SessionKey>, rate: u32, reason: CloseReason) {
        let rate = rate.max(1);
        let began = Instant::now();
        let mut logged = began;
        let mut closed = 0_u64;
        loop {
            let open = self.open_sessions();
            // Ended sessions need not be kept in the set.
            let still_open: HashSet<SessionKey> = open.iter().map(|(_, session)| session.key).collect();
            notified.retain(|key| still_open.contains(key));
            let left = open.len() - notified.len();
            if left == 0 {
                break;
            }
            if closed == 0 {
                tracing::info!(sessions = left, rate, reason = reason.as_str(), "closing sessions");
            }
            for (partition, session) in open {
                if notified.contains(&session.key) || !self.is_open(partition, &session) {
                    continue;
                }
                let due = began + Duration::from_millis(closed * 1000 / u64::from(rate));
                if due > Instant::now() + BATCH_INTERVAL {
                    tokio::time::sleep_until(due).await;
                }
                if logged.elapsed() >= PROGRESS_INTERVAL {
                    logged = Instant::now();
                    let left = self.sessions.count();
                    tracing::info!(closed, left, reason = reason.as_str(), "sessions are being closed");
                }
                notified.insert(session.key);
                self.close_on_core(session.core, Command::close(&session, partition, reason, None), reason);
                closed += 1;
            }
        }
        if closed > 0 {
            tracing::info!(sessions = closed, reason = reason.as_str(), "sessions have been closed");
        }
    }

    /// Refuses new sessions and closes existing ones, at most `rate` in a second, until the future is dropped: then
    /// sessions may begin again.
    pub async fn keep_empty(&self, rate: u32) {
        let _refusing = RefusalGuard::new(self);
        let mut notified = HashSet::new();
        loop {
            self.close_unnotified(&mut notified, rate, CloseReason::Stopping).await;
            tokio::time::sleep(RECHECK_INTERVAL).await;
        }
    }

    /// The rate at which all current sessions are closed within `time`: `rate`, or a higher one where `rate` would leave
    /// some to be closed all at once in the end.
    #[must_use]
    pub fn pace_within(&self, rate: u32, time: Duration) -> u32 {
        let sessions = self.sessions.count() as u128;
        // Nine tenths of the time: the last connections must be notified in time, too.
        let time_ms = (time.as_millis() * 9 / 10).max(1);
        let needed = (sessions * 1000).div_ceil(time_ms);
        rate.max(u32::try_from(needed).unwrap_or(u32::MAX))
    }

    /// All sessions of this node, the oldest first.
    fn open_sessions(&self) -> Vec<(PartitionId, LocalSession)> {
        let partitions = self.parts.partitions.count().iter();
        let mut open: Vec<(PartitionId, LocalSession)> = partitions
            .flat_map(|partition| {
                let live = self.sessions.of_partition(partition);
                live.into_iter().map(move |session| (partition, session))
            })
            .collect();
        open.sort_unstable_by_key(|(_, session)| session.key);
        open
    }

    fn is_open(&self, partition: PartitionId, session: &LocalSession) -> bool {
        let sessions = self.sessions.partition(partition);
        let current = sessions.live.get(&session.info.identity);
        current.is_some_and(|current| current.key == session.key)
    }

    /// How many sessions this node has as a gateway.
    #[must_use]
    pub fn local_session_count(&self) -> usize {
        self.sessions.count()
    }
}

/// Refuses new sessions until it is dropped; one that is being attached may still begin.
struct RefusalGuard<'a>(&'a DeviceHub);

impl<'a> RefusalGuard<'a> {
    fn new(hub: &'a DeviceHub) -> Self {
        hub.sessions.refuse_sessions(true);
        Self(hub)
    }
}

impl Drop for RefusalGuard<'_> {
    fn drop(&mut self) {
        self.0.sessions.refuse_sessions(false);
    }
}

/// While this node is draining or drained: once other nodes lead its groups, closes its sessions, paced, and refuses new
/// ones, so that devices connect elsewhere. At most `rate` are closed in a second. To be spawned once per node.
pub async fn close_when_draining(control: Control, hub: Arc<DeviceHub>, rate: u32) {
    let is_out = |state: &Option<NodeState>| matches!(state, Some(NodeState::Draining | NodeState::Drained));
    // A node that has been removed meanwhile has no state.
    let is_back = |state: &Option<NodeState>| matches!(state, Some(NodeState::Active | NodeState::Joining));
    let mut state = control.state();
    while state.wait_for(is_out).await.is_ok() {
        let empties = async {
            await_no_leads(&control).await;
            hub.keep_empty(rate).await;
        };
        tokio::select! {
            biased;
            back = state.wait_for(is_back) => match back {
                Ok(_) => tracing::info!("this node is in service again: devices may connect"),
                Err(_) => return,
            },
            () = empties => {}
        }
    }
}

/// Waits until this node leads nothing, for a bounded time: devices do not depend on that order.
async fn await_no_leads(control: &Control) {
    let none = async {
        while control.leads() > 0 {
            tokio::time::sleep(LEADERSHIP_INTERVAL).await;
        }
    };
    if tokio::time::timeout(LEADERSHIP_TRANSFER_TIMEOUT, none).await.is_err() {
        let leads = control.leads();
        tracing::warn!(leads, "this node still leads groups; closing its sessions anyway");
    }
}

/// Closes all sessions when the registry's lease has been lost for `session_grace`, until the node closes.
pub(crate) async fn close_when_cut_off(hub: Arc<DeviceHub>, stop: Stop) {
    let grace = hub.parts.config.session_grace;
    let mut lease = hub.parts.registry.lease_watch();
    let mut regained = hub.parts.registry.lease_watch();
    let work = async {
        loop {
            lease.lost_for(grace).await;
            tracing::warn!(
                grace_s = grace.as_secs(),
                "the registry's lease has been lost for too long; closing all sessions"
            );
            tokio::select! {
                biased;
                () = regained.held() => {}
                () = hub.close_paced(hub.parts.config.drain_rate, CloseReason::Unavailable) => {
                    regained.held().await;
                }
            }
            tokio::time::sleep(LEASE_BACKOFF).await;
        }
    };
    tokio::select! {
        biased;
        () = stop.reached(Phase::Closing) => {}
        () = work => {}
    }
}
