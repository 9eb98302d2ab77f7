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
    /// Members that this node does not reach, by role: core, gateway.
    gauge members_down(role) = "holdfast_control_members_down";
    /// How far this node's clock is ahead of that of the registry's leader; negative: behind. 0 on the leader itself.
    gauge clock_offset() = "holdfast_control_clock_offset_seconds";
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
    pub(super) core_down: Gauge,
    pub(super) gateways_down: Gauge,
    pub(super) clock_offset: Gauge,
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
            core_down: members_down("core"),
            gateways_down: members_down("gateway"),
            clock_offset: clock_offset(),
        }
    }
}
