//! The last counted batch of each gateway core: makes a resent batch harmless.
//!
//! Invariants: per (gateway node, core) only the newest incarnation is kept, and it never decreases; at most
//! [`MAX_STREAMS`] are kept, the least recently used is evicted first. An evicted or unknown stream must begin with
//! batch 1.

use std::collections::BTreeMap;

use holdfast_model::{Incarnation, NodeId};

use crate::log::record::StreamId;

/// The most streams kept in a partition: far more than the gateway cores of a hub (150 nodes of 16 cores are 2,400).
pub const MAX_STREAMS: usize = 4096;

/// The decision about a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It continues its stream.
    Next,
    /// It has been counted.
    Repeat {
        /// The last number counted.
        last: u64,
    },
    /// Batches before it are missing.
    Gap {
        /// The number that is due.
        expected: u64,
    },
    /// A later incarnation of the gateway has written.
    Stale {
        /// That incarnation.
        current: Incarnation,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) incarnation: Incarnation,
    pub(super) last_batch: u64,
    pub(super) last_used: u64,
}

/// The positions of all streams of a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Streams {
    pub(super) positions: BTreeMap<(NodeId, u32), Position>,
}

impl Streams {
    /// Decides without changing anything.
    #[must_use]
    pub fn check(&self, stream: &StreamId, batch_number: u64) -> Admission {
        let last = match self.positions.get(&(stream.gateway_node, stream.core)) {
            Some(position) if position.incarnation > stream.incarnation => {
                return Admission::Stale {
                    current: position.incarnation,
                };
            }
            Some(position) if position.incarnation == stream.incarnation => position.last_batch,
            _ => 0,
        };
        if batch_number <= last {
            Admission::Repeat { last }
        } else if batch_number == last + 1 {
            Admission::Next
        } else {
            Admission::Gap { expected: last + 1 }
        }
    }

    /// Counts a batch that [`Self::check`] called [`Admission::Next`]; `log_index` is its position.
    pub fn advance(&mut self, stream: &StreamId, batch_number: u64, log_index: u64) {
        let position = Position {
            incarnation: stream.incarnation,
            last_batch: batch_number,
            last_used: log_index,
        };
        self.positions.insert((stream.gateway_node, stream.core), position);
        if self.positions.len() > MAX_STREAMS {
            let silent = self
                .positions
                .iter()
                .min_by_key(|(_, position)| position.last_used)
                .map(|(key, _)| *key);
            if let Some(key) = silent {
                self.positions.remove(&key);
            }
        }
    }

    /// The last batch of the stream that was counted; 0 when none of this incarnation was.
    #[must_use]
    pub fn last_batch(&self, stream: &StreamId) -> u64 {
        self.positions
            .get(&(stream.gateway_node, stream.core))
            .filter(|position| position.incarnation == stream.incarnation)
            .map_or(0, |position| position.last_batch)
    }

    /// The newest incarnation of a gateway node that has written here; a restarted gateway must use a greater one.
    #[must_use]
    pub fn newest_incarnation(&self, gateway_node: NodeId) -> Option<Incarnation> {
        let range = (gateway_node, 0)..=(gateway_node, u32::MAX);
        self.positions
            .range(range)
            .map(|(_, position)| position.incarnation)
            .max()
    }

    /// The number of streams.
    #[must_use]
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    /// Whether nothing has been counted yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }
}
