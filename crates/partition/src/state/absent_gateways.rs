//! Gateways that sessions may have begun without, as recorded in the log of the partition.
//!
//! Why: a gateway that was cut off may return with sessions whose successors have begun and ended meanwhile. An owner
//! knows that for its own term only; later owners read it here (docs/decisions/0026).
//! Set by the effects `GatewayAbsent` and `GatewayPresent`. Entries of version 1 recorded the same as batches without
//! records in a stream of its own per gateway, absent while the number of the last batch is odd: such entries and states
//! keep their meaning (docs/decisions/0027).
//! Not here: the decision to record a gateway as absent (`device-hub`).

use std::collections::BTreeSet;

use holdfast_model::NodeId;

use super::Streams;
use crate::log::record::StreamId;

/// Set in the gateway node of a presence stream of version 1. Node ids have fewer bits.
const PRESENCE_BIT: u64 = 1 << 63;

/// Absent gateways recorded in a partition: far more than a cluster has nodes.
pub const MAX_ABSENT_GATEWAYS: usize = 4096;

/// Whether sessions may have begun without a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatewayPresence {
    /// They may have: all sessions that the gateway knows may be over.
    Absent,
    /// They have not.
    Present,
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AbsentGateways(BTreeSet<NodeId>);

impl AbsentGateways {
    /// Those of a stored state of version 2.
    pub(super) fn restored(gateways: impl IntoIterator<Item = u64>) -> Self {
        Self(gateways.into_iter().map(NodeId).collect())
    }

    /// Those of a stored state of version 1, which knows the streams alone.
    pub(super) fn of_streams(streams: &Streams) -> Self {
        let absent = streams
            .positions
            .range((NodeId(PRESENCE_BIT), 0)..)
            .filter(|(_, position)| presence_of(position.last_batch) == GatewayPresence::Absent);
        Self(absent.map(|((node, _), _)| gateway_of(*node)).collect())
    }

    /// A batch has been counted: one of a presence stream says whether its gateway is absent.
    pub(super) fn apply_batch(&mut self, stream: &StreamId, batch_number: u64) {
        if stream.gateway_node >= NodeId(PRESENCE_BIT) {
            self.set(gateway_of(stream.gateway_node), presence_of(batch_number));
        }
    }

    /// Beyond the limit the smallest id is dropped: ids of nodes grow, so that it is the oldest node.
    pub(super) fn set(&mut self, gateway: NodeId, presence: GatewayPresence) {
        match presence {
            GatewayPresence::Absent => {
                self.0.insert(gateway);
                if self.0.len() > MAX_ABSENT_GATEWAYS {
                    self.0.pop_first();
                }
            }
            GatewayPresence::Present => {
                self.0.remove(&gateway);
            }
        }
    }

    /// The recorded presence of a gateway.
    #[must_use]
    pub fn presence(&self, gateway: NodeId) -> GatewayPresence {
        if self.0.contains(&gateway) {
            GatewayPresence::Absent
        } else {
            GatewayPresence::Present
        }
    }

    /// In the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = NodeId> {
        self.0.iter().copied()
    }
}

/// The gateway that a presence stream of version 1 is about.
fn gateway_of(stream_node: NodeId) -> NodeId {
    NodeId(stream_node.get() & !PRESENCE_BIT)
}

fn presence_of(last_batch: u64) -> GatewayPresence {
    if last_batch % 2 == 1 {
        GatewayPresence::Absent
    } else {
        GatewayPresence::Present
    }
}

#[cfg(test)]
mod tests {
    use holdfast_model::Incarnation;

    use super::*;

    fn presence_stream(gateway: u64) -> StreamId {
        StreamId {
            gateway_node: NodeId(gateway | PRESENCE_BIT),
            incarnation: Incarnation(1),
            core: 0,
        }
    }

    #[test]
    fn records_of_version_1_keep_their_meaning() {
        let (mut streams, mut applied) = (Streams::default(), AbsentGateways::default());
        for (gateway, records) in [(3, 1), (7, 2), (9, 3)] {
            for record in 1..=records {
                streams.advance(&presence_stream(gateway), record, record);
                applied.apply_batch(&presence_stream(gateway), record);
            }
        }
        let gateway = |core| StreamId {
            gateway_node: NodeId(5),
            incarnation: Incarnation(4),
            core,
        };
        streams.advance(&gateway(0), 1, 9);
        applied.apply_batch(&gateway(0), 1);
        assert_eq!(applied.iter().collect::<Vec<_>>(), [NodeId(3), NodeId(9)]);
        assert_eq!(AbsentGateways::of_streams(&streams), applied, "from a stored state");
        let recorded = [3, 7, 9, 5].map(|gateway| applied.presence(NodeId(gateway)));
        use GatewayPresence::{Absent, Present};
        assert_eq!(recorded, [Absent, Present, Absent, Present]);
        assert_eq!(
            streams.newest_incarnation(NodeId(3)),
            None,
            "a presence stream is no incarnation of the gateway"
        );
    }

    #[test]
    fn the_number_of_absent_gateways_is_bounded() {
        let mut absent = AbsentGateways::default();
        for gateway in 0..MAX_ABSENT_GATEWAYS as u64 + 3 {
            absent.set(NodeId(gateway), GatewayPresence::Absent);
        }
        assert_eq!(absent.iter().count(), MAX_ABSENT_GATEWAYS);
        assert_eq!(absent.presence(NodeId(2)), GatewayPresence::Present);
        assert_eq!(absent.presence(NodeId(3)), GatewayPresence::Absent);
    }
}
