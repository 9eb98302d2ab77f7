//! Closing sessions no faster than others can take them, and letting none begin here meanwhile.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use holdfast_cluster::control::Control;
use holdfast_model::PartitionId;
use holdfast_registry::NodeState;
use holdfast_tasks::{Phase, Stop};
use tokio::time::Instant;

use crate::DeviceHub;
use crate::local::Live;
use crate::mailbox::Message;
use crate::session::CloseReason;

/// Sessions are closed in portions at this distance.
const PORTION_EVERY: Duration = Duration::from_millis(50);

/// How often it is said how far the closing has come.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// Between two looks for sessions that have begun all the same.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How long sessions stay for others to take over what this node leads, when it drains.
const DRAIN_HAND_OVER_PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks whether this node leads anything.
const LEADS_POLL: Duration = Duration::from_millis(50);

/// Before a registry is asked again that may have been regained and lost.
const REGAIN_PAUSE: Duration = Duration::from_secs(1);

impl DeviceHub {
    /// Closes all sessions of this node, at most `rate` in a second, and returns when all have been told to. What a
    /// session has sent is acknowledged first when `reason` is [`CloseReason::Stopping`]. Sessions that begin meanwhile
    /// are closed too. Dropping the future stops it.
    ///
    /// The oldest are closed first, whatever their partition: who comes back attaches at its partition's owner, and those
    /// of one partition after the other would all do so at the same one.
    pub async fn close_paced(&self, rate: u32, reason: CloseReason) {
        self.close_others(&mut HashSet::new(), rate, reason).await;
    }

    /// As [`Self::close_paced`], of all but those in `told`, which are waited for by somebody else; who is told is in it
    /// afterwards.
    async fn close_others(&self, told: &mut HashSet<u64>, rate: u32, reason: CloseReason) {
        let rate = rate.max(1);
        let began = Instant::now();
        let mut said = began;
        let mut closed = 0_u64;
        loop {
            let open = self.open_sessions();
            // Those that have gone since need not be kept.
            let still_open: HashSet<u64> = open.iter().map(|(_, live)| live.key).collect();
            told.retain(|key| still_open.contains(key));
            let left = open.len() - told.len();
            if left == 0 {
                break;
            }
            if closed == 0 {
                tracing::info!(sessions = left, rate, reason = reason.as_str(), "closing sessions");
            }
            for (partition, live) in open {
                if told.contains(&live.key) || !self.is_open(partition, &live) {
                    continue;
                }
                let due = began + Duration::from_millis(closed * 1000 / u64::from(rate));
                if due > Instant::now() + PORTION_EVERY {
                    tokio::time::sleep_until(due).await;
                }
                if said.elapsed() >= PROGRESS_EVERY {
                    said = Instant::now();
                    let left = self.local.count();
                    tracing::info!(closed, left, reason = reason.as_str(), "sessions are being closed");
                }
                told.insert(live.key);
                self.tell_core(live.core, Message::close(&live, partition, reason, None), reason);
                closed += 1;
            }
        }
        if closed > 0 {
            tracing::info!(sessions = closed, reason = reason.as_str(), "sessions have been closed");
        }
    }

    /// Lets no session begin here and closes those that there are, at most `rate` in a second, until it is dropped: then
    /// sessions may begin again.
    pub async fn keep_empty(&self, rate: u32) {
        let _turned_away = TurnedAway::new(self);
        let mut told = HashSet::new();
        loop {
            self.close_others(&mut told, rate, CloseReason::Stopping).await;
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// The pace at which all sessions that there are now have been closed within `time`: `rate`, or faster where that
    /// would leave some to be closed all at once in the end.
    #[must_use]
    pub fn pace_within(&self, rate: u32, time: Duration) -> u32 {
        let sessions = self.local.count() as u128;
        // In nine tenths of it: those who go last are to be told in time, too.
        let time_ms = (time.as_millis() * 9 / 10).max(1);
        let needed = (sessions * 1000).div_ceil(time_ms);
        rate.max(u32::try_from(needed).unwrap_or(u32::MAX))
    }

    /// All sessions of this node, the oldest first.
    fn open_sessions(&self) -> Vec<(PartitionId, Live)> {
        let partitions = self.parts.partitions.count().iter();
        let mut open: Vec<(PartitionId, Live)> = partitions
            .flat_map(|partition| {
                let live = self.local.of_partition(partition);
                live.into_iter().map(move |live| (partition, live))
            })
            .collect();
        open.sort_unstable_by_key(|(_, live)| live.key);
        open
    }

    fn is_open(&self, partition: PartitionId, live: &Live) -> bool {
        let state = self.local.state(partition);
        let now = state.live.get(&live.facts.identity);
        now.is_some_and(|now| now.key == live.key)
    }

    /// How many sessions this node has as a gateway.
    #[must_use]
    pub fn local_session_count(&self) -> usize {
        self.local.count()
    }
}

/// Lets no session begin until it is dropped; one that is being attached may still begin.
struct TurnedAway<'a>(&'a DeviceHub);

impl<'a> TurnedAway<'a> {
    fn new(hub: &'a DeviceHub) -> Self {
        hub.local.turn_away(true);
        Self(hub)
    }
}

impl Drop for TurnedAway<'_> {
    fn drop(&mut self) {
        self.0.local.turn_away(false);
    }
}

/// While this node is to drain, or is drained: once others lead what it led, closes the sessions here, paced, and lets
/// none begin, so that devices go elsewhere. At most `rate` are closed in a second. To be
/// spawned once per node.
pub async fn close_when_draining(control: Control, hub: Arc<DeviceHub>, rate: u32) {
    let is_out = |state: &Option<NodeState>| matches!(state, Some(NodeState::Draining | NodeState::Drained));
    // A node that has been removed meanwhile is not.
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

/// Waits until this node leads nothing, but not for ever: devices can do without that order.
async fn await_no_leads(control: &Control) {
    let none = async {
        while control.leads() > 0 {
            tokio::time::sleep(LEADS_POLL).await;
        }
    };
    if tokio::time::timeout(DRAIN_HAND_OVER_PATIENCE, none).await.is_err() {
        let leads = control.leads();
        tracing::warn!(
            leads,
            "this node still leads groups; its sessions are closed all the same"
        );
    }
}

/// Closes all sessions when the registry's lease has been lost for the grace (foundations 17), until the node closes.
pub(crate) async fn close_when_cut_off(hub: Arc<DeviceHub>, stop: Stop) {
    let grace = hub.parts.config.session_grace;
    let mut lease = hub.parts.registry.lease_watch();
    let mut again = hub.parts.registry.lease_watch();
    let work = async {
        loop {
            lease.lost_for(grace).await;
            tracing::warn!(
                grace_s = grace.as_secs(),
                "the registry could not be confirmed for too long: sessions are closed"
            );
            tokio::select! {
                biased;
                () = again.held() => {}
                () = hub.close_paced(hub.parts.config.drain_rate, CloseReason::Unavailable) => {
                    again.held().await;
                }
            }
            tokio::time::sleep(REGAIN_PAUSE).await;
        }
    };
    tokio::select! {
        biased;
        () = stop.reached(Phase::Closing) => {}
        () = work => {}
    }
}
