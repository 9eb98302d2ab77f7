//! Closing sessions no faster than others can take them.

use std::sync::Arc;
use std::time::Duration;

use holdfast_tasks::{Phase, Stop};
use tokio::time::Instant;

use crate::DeviceHub;
use crate::mailbox::Message;
use crate::session::CloseReason;

/// Sessions are closed in portions at this distance.
const PORTION_EVERY: Duration = Duration::from_millis(50);

/// Before a registry is asked again that may have been regained and lost.
const REGAIN_PAUSE: Duration = Duration::from_secs(1);

impl DeviceHub {
    /// Closes all sessions of this node, at most `rate` in a second, and returns when all have been told to. What a
    /// session has sent is acknowledged first when `reason` is [`CloseReason::Stopping`]. Sessions that begin meanwhile
    /// are closed too. Dropping the future stops it.
    pub async fn close_paced(&self, rate: u32, reason: CloseReason) {
        let began = Instant::now();
        let mut closed = 0_u64;
        loop {
            let mut told = std::collections::HashSet::new();
            for partition in self.parts.partitions.count().iter() {
                for live in self.local.of_partition(partition) {
                    told.insert(live.key);
                    let due = began + Duration::from_millis(closed * 1000 / u64::from(rate.max(1)));
                    if due > Instant::now() + PORTION_EVERY {
                        tokio::time::sleep_until(due).await;
                    }
                    self.tell_core(live.core, Message::close(&live, partition, reason, None), reason);
                    closed += 1;
                }
            }
            let has_more = self.parts.partitions.count().iter().any(|partition| {
                let state = self.local.state(partition);
                state.live.values().any(|live| !told.contains(&live.key))
            });
            if !has_more {
                if closed > 0 {
                    tracing::info!(sessions = closed, reason = reason.as_str(), "sessions have been closed");
                }
                return;
            }
        }
    }

    /// How many sessions this node has as a gateway.
    #[must_use]
    pub fn local_session_count(&self) -> usize {
        self.local.count()
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
