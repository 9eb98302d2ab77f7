//! The log of refused connections and broken rules, rate-limited so that a node that retries every second does not fill it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use holdfast_tasks::sync::Mutex;

/// Interval at which the same kind of problem of the same address is logged as a warning.
const INTERVAL: Duration = Duration::from_secs(60);

/// Limit of remembered problems.
const MAX_ENTRIES: usize = 256;

/// See the module.
#[derive(Default)]
pub(super) struct RateLimitedLog(Mutex<HashMap<(IpAddr, &'static str), Instant>>);

impl RateLimitedLog {
    /// Logs a warning, or a debug message if the same problem was logged within [`INTERVAL`].
    pub(super) fn warn(&self, from: SocketAddr, kind: &'static str, reason: &str) {
        let now = Instant::now();
        let mut entries = self.0.lock();
        if entries.len() >= MAX_ENTRIES {
            entries.retain(|_, at| now.duration_since(*at) < INTERVAL);
        }
        let is_recent = entries
            .get(&(from.ip(), kind))
            .is_some_and(|at| now.duration_since(*at) < INTERVAL);
        if is_recent || entries.len() >= MAX_ENTRIES {
            tracing::debug!(%from, kind, reason, "refused a peer");
        } else {
            entries.insert((from.ip(), kind), now);
            tracing::warn!(%from, kind, reason, "refused a peer");
        }
    }
}
