//! Metrics of control (docs/metrics.md).

use metrics::{Counter, Gauge};

holdfast_model::metrics! {
    /// Steps towards the registry's desired state: members changed, leaders moved, replicas started and given up.
    counter steps(outcome) = "holdfast_control_steps_total";
    /// Groups led here whose members are not yet as wanted.
    gauge unsettled() = "holdfast_control_unsettled_groups";
    /// Groups that this node leads, the registry included.
    gauge leads() = "holdfast_control_led_groups";
    /// Replicas of partitions that run here.
    gauge replicas() = "holdfast_control_replicas";
    /// Leaderships that this node has handed over because it stops.
    counter transferred() = "holdfast_control_leaders_handed_over_total";
}

/// The handles of one node, from the recorder that is current when control starts.
pub(super) struct Metrics {
    pub(super) steps_done: Counter,
    pub(super) steps_failed: Counter,
    pub(super) unsettled: Gauge,
    pub(super) leads: Gauge,
    pub(super) replicas: Gauge,
    pub(super) transferred: Counter,
}

impl Metrics {
    pub(super) fn new() -> Self {
        Self {
            steps_done: steps("done"),
            steps_failed: steps("again"),
            unsettled: unsettled(),
            leads: leads(),
            replicas: replicas(),
            transferred: transferred(),
        }
    }
}
