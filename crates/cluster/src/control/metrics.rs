//! Metrics of control (docs/metrics.md).

use metrics::{Counter, Gauge, counter, gauge};

/// The handles of one node, from the recorder that is current when control starts.
pub(super) struct Metrics {
    pub(super) steps_done: Counter,
    /// Failed steps, which are retried.
    pub(super) steps_failed: Counter,
    /// Groups led by this node that are not in their desired state.
    pub(super) unsettled: Gauge,
    pub(super) leads: Gauge,
    pub(super) replicas: Gauge,
    pub(super) transferred: Counter,
}

impl Metrics {
    pub(super) fn new() -> Self {
        Self {
            steps_done: counter!("holdfast_control_steps_total", "outcome" => "done"),
            steps_failed: counter!("holdfast_control_steps_total", "outcome" => "again"),
            unsettled: gauge!("holdfast_control_unsettled_groups"),
            leads: gauge!("holdfast_control_led_groups"),
            replicas: gauge!("holdfast_control_replicas"),
            transferred: counter!("holdfast_control_leaders_handed_over_total"),
        }
    }
}
