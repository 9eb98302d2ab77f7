//! Decides at the owner of a partition which batches are appended.

use std::sync::{Arc, OnceLock};

use holdfast_model::PartitionId;
use holdfast_partition::record::StreamId;

/// Accepts or refuses batches at the moment of appending. A refused batch is not counted, and may be sent again.
pub trait AppendAdmission: Send + Sync + 'static {
    /// Whether this owner accepts a batch of `stream` that its gateway has sent over `link`.
    fn admits(&self, partition: PartitionId, stream: &StreamId, link: u64) -> bool;
}

/// The admission of [`Partitions`](super::Partitions); every batch is accepted until one is installed.
#[derive(Clone, Default)]
pub(super) struct Admission(Arc<OnceLock<Arc<dyn AppendAdmission>>>);

impl Admission {
    pub(super) fn admits(&self, partition: PartitionId, stream: &StreamId, link: u64) -> bool {
        let admission = self.0.get();
        admission.is_none_or(|admission| admission.admits(partition, stream, link))
    }
}

/// Installs the admission. Made once with [`Partitions`](super::Partitions) and consumed by its use, so that a second
/// admission cannot be installed.
#[must_use = "without an admission every batch is accepted"]
pub struct AdmissionSlot(Admission);

impl AdmissionSlot {
    pub(super) fn new(admission: &Admission) -> Self {
        Self(admission.clone())
    }

    /// Lets `admission` decide from now on. To be called before the first append.
    pub fn install(self, admission: Arc<dyn AppendAdmission>) {
        // Cannot be set yet: only a slot sets it, and there is one.
        let _ = self.0.0.set(admission);
    }
}
