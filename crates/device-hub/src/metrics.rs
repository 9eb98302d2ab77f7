//! Counters of the device-session API.

use metrics::{Counter, Gauge, counter, gauge};

use crate::api::session::CloseReason;

/// Handles made once per hub.
pub(crate) struct Metrics {
    pub(crate) acknowledged: Counter,
    pub(crate) retried: Counter,
    /// Batches that could never be committed.
    pub(crate) rejected: Counter,
    pub(crate) paused: Counter,
    pub(crate) taken_over: Counter,
    /// Entries that were committed while the lease had expired.
    pub(crate) held: Counter,
    /// Messages of superseded sessions that were not stored.
    pub(crate) dropped: Counter,
    pub(crate) links_failed: Counter,
    /// Gateways recorded as absent.
    pub(crate) absences_recorded: Counter,
    /// Connections refused because too many were waiting.
    pub(crate) turned_away: Counter,
    /// Begins, ends and activity of connections that have been written into logs.
    pub(crate) connections_recorded: Counter,
    /// Values of deleted identities that have been removed.
    pub(crate) dead_states_removed: Counter,
    pub(crate) deliveries_queued: Counter,
    /// Deliveries that were not taken: no session, a full queue, another owner.
    pub(crate) deliveries_refused: Counter,
    sessions: Gauge,
    owned_sessions: Gauge,
    closed: [(CloseReason, Counter); 5],
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let reasons = [
            CloseReason::TakenOver,
            CloseReason::TokenExpired,
            CloseReason::Revoked,
            CloseReason::Stopping,
            CloseReason::Unavailable,
        ];
        Self {
            acknowledged: counter!("holdfast_d2c_telemetry_ingress_success_total"),
            retried: counter!("holdfast_device_hub_entries_retried_total"),
            rejected: counter!("holdfast_device_hub_entries_rejected_total"),
            paused: counter!("holdfast_device_hub_reads_paused_total"),
            taken_over: counter!("holdfast_device_hub_sessions_taken_over_total"),
            held: counter!("holdfast_device_hub_entries_held_total"),
            dropped: counter!("holdfast_device_hub_messages_dropped_total"),
            links_failed: counter!("holdfast_device_hub_links_failed_total"),
            absences_recorded: counter!("holdfast_device_hub_gateways_marked_away_total"),
            turned_away: counter!("holdfast_device_hub_connects_turned_away_total"),
            connections_recorded: counter!("holdfast_device_hub_connections_recorded_total"),
            dead_states_removed: counter!("holdfast_device_hub_dead_states_removed_total"),
            deliveries_queued: counter!("holdfast_device_hub_deliveries_queued_total"),
            deliveries_refused: counter!("holdfast_device_hub_deliveries_refused_total"),
            sessions: gauge!("holdfast_device_hub_sessions"),
            owned_sessions: gauge!("holdfast_device_hub_owned_sessions"),
            closed: reasons.map(|reason| {
                (
                    reason,
                    counter!("holdfast_device_hub_sessions_closed_total", "reason" => reason.as_str()),
                )
            }),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "no node has 2^52 sessions")]
    pub(crate) fn count(&self, here: usize, owned: u64) {
        self.sessions.set(here as f64);
        self.owned_sessions.set(owned as f64);
    }

    pub(crate) fn closed(&self, reason: CloseReason) {
        if let Some((_, counter)) = self.closed.iter().find(|(known, _)| *known == reason) {
            counter.increment(1);
        }
    }
}
