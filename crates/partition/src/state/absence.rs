//! Gateways that sessions have begun without, as the log of the partition says it.
//!
//! Why: a gateway that was cut off comes back with sessions whose successors may have begun and ended meanwhile. Each owner
//! knows that of its own term only; what all later ones must know stands in the log (docs/decisions/0026).
//! A *mark* is a batch without records, in a stream that a gateway has for this alone: it is away while the number of the
//! last one is odd. So marks are counted once, carried by snapshots and stored with the state as all streams are, and a
//! version that does not know them gives them the same effect.
//! Not here: who is marked, and when (`device-hub`).

use super::Streams;
use crate::record::StreamId;

/// Set in the gateway's node of a stream of marks. Ids of nodes are shorter.
const MARK: u64 = 1 << 63;

/// The stream of a gateway's marks.
pub(crate) fn marks_of(gateway: u64) -> StreamId {
    StreamId {
        gateway_node: gateway | MARK,
        incarnation: 1,
        core: 0,
    }
}

impl Streams {
    /// Whether the gateway is marked as away.
    #[must_use]
    pub fn is_away(&self, gateway: u64) -> bool {
        is_away(self.last_batch(&marks_of(gateway)))
    }

    /// The gateways that are marked as away, in the order of their ids.
    pub fn away(&self) -> impl Iterator<Item = u64> {
        let marks = self.positions.range((MARK, 0)..);
        marks
            .filter(|(_, position)| is_away(position.last_batch))
            .map(|((node, _), _)| node & !MARK)
    }
}

fn is_away(last_mark: u64) -> bool {
    last_mark % 2 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_mark_says_whether_a_gateway_is_away() {
        let mut streams = Streams::default();
        for (gateway, marks) in [(3, 1), (7, 2), (9, 3)] {
            for mark in 1..=marks {
                streams.advance(&marks_of(gateway), mark, mark);
            }
        }
        let gateway = |core| StreamId {
            gateway_node: 5,
            incarnation: 4,
            core,
        };
        streams.advance(&gateway(0), 1, 9);
        assert_eq!(streams.away().collect::<Vec<_>>(), [3, 9]);
        assert!(streams.is_away(3) && !streams.is_away(7) && streams.is_away(9) && !streams.is_away(5));
        assert_eq!(streams.newest_incarnation(3), None, "marks are no life of the gateway");
    }
}
