//! Gateways without which sessions have begun, as recorded in the log of the partition.
//!
//! Why: a gateway that was cut off may return with sessions whose successors have begun and ended meanwhile. An owner
//! knows that for its own term only; later owners read it here (docs/decisions/0026).
//! A record is a batch without records in a stream of its own per gateway: the gateway is absent while the number of that
//! stream's last batch is odd. So each record is counted once, and snapshots and the persisted state carry it like any
//! stream; versions that do not know these streams handle them the same way.
//! Not here: the decision to record a gateway as absent (`device-hub`).

use super::Streams;
use crate::log::record::StreamId;

/// Set in the gateway node of a presence stream. Node ids have fewer bits.
const PRESENCE_BIT: u64 = 1 << 63;

/// Whether sessions may have begun without a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatewayPresence {
    /// They may have: all sessions that the gateway knows may be over.
    Absent,
    /// They have not.
    Present,
}

/// The stream that records the presence of a gateway.
pub(crate) fn presence_stream(gateway: u64) -> StreamId {
    StreamId {
        gateway_node: gateway | PRESENCE_BIT,
        incarnation: 1,
        core: 0,
    }
}

impl Streams {
    /// The recorded presence of a gateway.
    #[must_use]
    pub fn presence(&self, gateway: u64) -> GatewayPresence {
        presence(self.last_batch(&presence_stream(gateway)))
    }

    /// The gateways recorded as absent, in the order of their ids.
    pub fn absent_gateways(&self) -> impl Iterator<Item = u64> {
        self.positions
            .range((PRESENCE_BIT, 0)..)
            .filter(|(_, position)| presence(position.last_batch) == GatewayPresence::Absent)
            .map(|((node, _), _)| node & !PRESENCE_BIT)
    }
}

fn presence(last_batch: u64) -> GatewayPresence {
    if last_batch % 2 == 1 {
        GatewayPresence::Absent
    } else {
        GatewayPresence::Present
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_record_decides_whether_a_gateway_is_absent() {
        let mut streams = Streams::default();
        for (gateway, records) in [(3, 1), (7, 2), (9, 3)] {
            for record in 1..=records {
                streams.advance(&presence_stream(gateway), record, record);
            }
        }
        let gateway = |core| StreamId {
            gateway_node: 5,
            incarnation: 4,
            core,
        };
        streams.advance(&gateway(0), 1, 9);
        assert_eq!(streams.absent_gateways().collect::<Vec<_>>(), [3, 9]);
        let recorded = [3, 7, 9, 5].map(|gateway| streams.presence(gateway));
        use GatewayPresence::{Absent, Present};
        assert_eq!(recorded, [Absent, Present, Absent, Present]);
        assert_eq!(
            streams.newest_incarnation(3),
            None,
            "a presence stream is no incarnation of the gateway"
        );
    }
}
