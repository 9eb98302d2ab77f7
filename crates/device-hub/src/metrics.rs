//! Counters of the device-session API.

use metrics::{Counter, counter};

use crate::session::CloseReason;

/// Handles made once per hub.
pub(crate) struct Metrics {
    pub(crate) acknowledged: Counter,
    pub(crate) retried: Counter,
    pub(crate) paused: Counter,
    pub(crate) taken_over: Counter,
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
            paused: counter!("holdfast_device_hub_reads_paused_total"),
            taken_over: counter!("holdfast_device_hub_sessions_taken_over_total"),
            closed: reasons.map(|reason| {
                (
                    reason,
                    counter!("holdfast_device_hub_sessions_closed_total", "reason" => reason.as_str()),
                )
            }),
        }
    }

    pub(crate) fn closed(&self, reason: CloseReason) {
        if let Some((_, counter)) = self.closed.iter().find(|(known, _)| *known == reason) {
            counter.increment(1);
        }
    }
}
