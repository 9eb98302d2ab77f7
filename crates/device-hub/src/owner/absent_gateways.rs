//! The gateways that are absent, as the partition's log records it (docs/decisions/0026).
//!
//! An absence is recorded before a session begins that the gateway does not know of. Sessions that this ownership term lets
//! begin meanwhile are remembered one by one ([`super::ended_sessions`]); those of earlier terms are not known. So when a
//! gateway has been absent since before the term, every session that it reports may have had a successor, and has ended.
//! Pure: [`super::absence_log`] reads and writes the log.

use std::collections::BTreeSet;

use holdfast_model::NodeId;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct AbsentGateways {
    /// Gateways that have been absent since before this term; `None` until the log has been read.
    absent_before: Option<BTreeSet<NodeId>>,
    /// Gateways that the log records as absent, `absent_before` included.
    recorded: BTreeSet<NodeId>,
    /// Gateways that are back while the log still records them as absent.
    returned: BTreeSet<NodeId>,
}

impl AbsentGateways {
    /// Takes over the absences that the log recorded when the term began.
    pub(crate) fn load(&mut self, absent: &[NodeId]) {
        if self.absent_before.is_none() {
            self.recorded.extend(absent);
            self.absent_before = Some(absent.iter().copied().collect());
        }
    }

    pub(crate) fn is_loaded(&self) -> bool {
        self.absent_before.is_some()
    }

    /// Whether every session that the gateway reports has ended.
    pub(super) fn was_absent_before(&self, gateway: NodeId) -> bool {
        self.absent_before
            .as_ref()
            .is_some_and(|absent| absent.contains(&gateway))
    }

    /// Whether sessions may begin that the gateway does not know of.
    pub(crate) fn is_recorded(&self, gateway: NodeId) -> bool {
        self.recorded.contains(&gateway)
    }

    /// The log now records the gateway as absent.
    pub(super) fn record(&mut self, gateway: NodeId) {
        self.returned.remove(&gateway);
        self.recorded.insert(gateway);
    }

    /// All sessions of the gateway are known. Before anything begins again without it, its absence must be recorded again.
    pub(super) fn has_returned(&mut self, gateway: NodeId) {
        if let Some(absent) = &mut self.absent_before {
            absent.remove(&gateway);
        }
        if self.recorded.remove(&gateway) {
            self.returned.insert(gateway);
        }
    }

    /// The gateways whose absence is to be removed from the log.
    pub(crate) fn returned(&self) -> Vec<NodeId> {
        self.returned.iter().copied().collect()
    }

    /// The log no longer records the gateway as absent.
    pub(crate) fn clear(&mut self, gateway: NodeId) {
        self.returned.remove(&gateway);
    }
}
