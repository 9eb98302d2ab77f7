//! Metrics of the registry (docs/metrics.md).

use metrics::{Counter, Gauge};

holdfast_model::metrics! {
    /// Writes of identities and settings: done, refused, failed.
    counter writes(outcome) = "holdfast_registry_writes_total";
    /// Lookups of identities: hit in memory, or miss and a read of the disk.
    counter identity_cache(outcome) = "holdfast_registry_identity_cache_total";
    /// Confirmations that the local replica is not stale.
    counter confirms() = "holdfast_registry_confirms_total";
    /// Devices registered.
    gauge devices() = "holdfast_registry_devices";
    /// Modules registered.
    gauge modules() = "holdfast_registry_modules";
    /// The hub's feature level: which formats may be written. 0: none has been set yet, or the hub has not been created.
    gauge feature_level() = "holdfast_registry_feature_level";
    /// 1 while this node's replica of the registry is confirmed, and connections are accepted.
    gauge lease_held() = "holdfast_registry_lease_held";
    /// Times that the confirmation was lost.
    counter lease_lost() = "holdfast_registry_lease_lost_total";
    /// Attempts to renew it.
    counter lease_renewals(outcome) = "holdfast_registry_lease_renewals_total";
}

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
    pub(crate) feature_level: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            writes_done: writes("done"),
            writes_refused: writes("refused"),
            writes_failed: writes("failed"),
            cache_hits: identity_cache("hit"),
            cache_misses: identity_cache("miss"),
            confirms: confirms(),
            devices: devices(),
            modules: modules(),
            feature_level: feature_level(),
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
            held: lease_held(),
            lost: lease_lost(),
            renewed: lease_renewals("done"),
            failed: lease_renewals("failed"),
        }
    }
}
