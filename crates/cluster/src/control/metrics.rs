//! What control counts (docs/metrics.md).

use metrics::{Counter, Gauge, counter, gauge};

/// Handles made once, under the recorder that is current when control starts.
pub(super) struct Metrics {
    pub(super) steps_done: Counter,
    /// Not done, and to be tried again.
    pub(super) steps_again: Counter,
    /// Groups led here whose members are not yet as placed.
    pub(super) unsettled: Gauge,
    pub(super) leads: Gauge,
    pub(super) replicas: Gauge,
    pub(super) handed_over: Counter,
}

impl Metrics {
    pub(super) fn new() -> Self {
        Self {
            steps_done: counter!("holdfast_control_steps_total", "outcome" => "done"),
            steps_again: counter!("holdfast_control_steps_total", "outcome" => "again"),
            unsettled: gauge!("holdfast_control_unsettled_groups"),
            leads: gauge!("holdfast_control_led_groups"),
            replicas: gauge!("holdfast_control_replicas"),
            handed_over: counter!("holdfast_control_leaders_handed_over_total"),
        }
    }
}
