//! How much of the daily quota of messages is used, as the registry keeps it.
//!
//! Why here: the registry is on every node, so that a restart or another leader continues the count of the day.
//! Not here: what counts, and who counts it (`device-hub`).

use holdfast_model::{Incarnation, NodeId};
use holdfast_proto::registry::v1 as proto;

/// The format of the record.
pub(crate) const RECORD_VERSION: u32 = 1;

/// What one node has counted on the day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeQuotaUse {
    /// The node.
    pub node: NodeId,
    /// Its run that is counting.
    pub incarnation: Incarnation,
    /// What its earlier runs have counted.
    pub before: u64,
    /// What this run has counted.
    pub counted: u64,
}

/// The count of one day.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QuotaUse {
    /// Days since 1970-01-01, UTC.
    pub day: u64,
    /// What nodes have counted that are no members any more.
    pub gone: u64,
    /// By node.
    pub nodes: Vec<NodeQuotaUse>,
}

impl QuotaUse {
    /// Messages of all nodes.
    #[must_use]
    pub fn total(&self) -> u64 {
        let of_nodes = self.nodes.iter().map(|row| row.before.saturating_add(row.counted));
        of_nodes.fold(self.gone, u64::saturating_add)
    }
}

impl From<&QuotaUse> for proto::QuotaUseRecord {
    fn from(used: &QuotaUse) -> Self {
        let row = |row: &NodeQuotaUse| proto::NodeQuotaUse {
            node: row.node.0,
            incarnation: row.incarnation.0,
            before: row.before,
            counted: row.counted,
        };
        Self {
            version: RECORD_VERSION,
            day: used.day,
            gone: used.gone,
            nodes: used.nodes.iter().map(row).collect(),
        }
    }
}

impl From<&proto::QuotaUseRecord> for QuotaUse {
    fn from(record: &proto::QuotaUseRecord) -> Self {
        let row = |row: &proto::NodeQuotaUse| NodeQuotaUse {
            node: NodeId(row.node),
            incarnation: Incarnation(row.incarnation),
            before: row.before,
            counted: row.counted,
        };
        Self {
            day: record.day,
            gone: record.gone,
            nodes: record.nodes.iter().map(row).collect(),
        }
    }
}
