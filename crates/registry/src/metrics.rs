//! Metrics of the registry (docs/metrics.md).

use metrics::{Counter, Gauge, counter, gauge};

/// Handles, created once under the recorder that is current when the registry starts.
pub(crate) struct Metrics {
    pub(crate) writes_done: Counter,
    pub(crate) writes_refused: Counter,
    pub(crate) writes_failed: Counter,
    pub(crate) cache_hits: Counter,
    pub(crate) cache_misses: Counter,
    pub(crate) confirms: Counter,
    pub(crate) devices: Gauge,
    pub(crate) modules: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            writes_done: counter!("holdfast_registry_writes_total", "outcome" => "done"),
            writes_refused: counter!("holdfast_registry_writes_total", "outcome" => "refused"),
            writes_failed: counter!("holdfast_registry_writes_total", "outcome" => "failed"),
            cache_hits: counter!("holdfast_registry_identity_cache_total", "outcome" => "hit"),
            cache_misses: counter!("holdfast_registry_identity_cache_total", "outcome" => "miss"),
            confirms: counter!("holdfast_registry_confirms_total"),
            devices: gauge!("holdfast_registry_devices"),
            modules: gauge!("holdfast_registry_modules"),
        }
    }
}

/// Metrics of the lease.
pub(crate) struct LeaseMetrics {
    pub(crate) held: Gauge,
    pub(crate) lost: Counter,
    pub(crate) renewed: Counter,
    pub(crate) failed: Counter,
}

impl LeaseMetrics {
    pub(crate) fn new() -> Self {
        Self {
            held: gauge!("holdfast_registry_lease_held"),
            lost: counter!("holdfast_registry_lease_lost_total"),
            renewed: counter!("holdfast_registry_lease_renewals_total", "outcome" => "done"),
            failed: counter!("holdfast_registry_lease_renewals_total", "outcome" => "failed"),
        }
    }
}
