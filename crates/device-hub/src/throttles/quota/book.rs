//! What all nodes have counted on a day, as the owner of partition 0 adds it up.
//!
//! Nodes report their own count of the day, not what has come since the last report: so a lost report costs nothing, and a new owner
//! begins with what the registry has.
//! Invariant: the total of a day never shrinks, whichever nodes start anew, leave, or report late.
//! Pure: members and the day are arguments.

use std::collections::BTreeMap;

use holdfast_model::{Incarnation, NodeId};
use holdfast_registry::{NodeQuotaUse, QuotaUse};

use super::count::Counted;

/// Parts of the quota, in percent, whose use is logged.
const WARNINGS: [u64; 2] = [80, 100];

#[derive(Debug, Clone, Copy)]
struct Row {
    incarnation: Incarnation,
    before: u64,
    counted: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct QuotaBook {
    day: u64,
    gone: u64,
    rows: BTreeMap<NodeId, Row>,
    /// The greatest part that was logged today, in percent.
    warned: u64,
}

impl QuotaBook {
    /// Of a new owner.
    pub(crate) fn new(stored: Option<QuotaUse>, today: u64) -> Self {
        let stored = stored.filter(|stored| stored.day == today).unwrap_or_default();
        let row = |row: NodeQuotaUse| {
            let kept = Row {
                incarnation: row.incarnation,
                before: row.before,
                counted: row.counted,
            };
            (row.node, kept)
        };
        Self {
            day: today,
            gone: stored.gone,
            rows: stored.nodes.into_iter().map(row).collect(),
            warned: 0,
        }
    }

    fn begin(&mut self, today: u64) {
        if today > self.day {
            *self = Self::new(None, today);
        }
    }

    /// Takes the report of a run of a node; the total.
    pub(crate) fn report(
        &mut self,
        from: (NodeId, Incarnation),
        counted: Counted,
        members: &[NodeId],
        today: u64,
    ) -> Counted {
        self.begin(today);
        let (node, incarnation) = from;
        if counted.day == self.day {
            let row = self.rows.entry(node).or_insert(Row {
                incarnation,
                before: 0,
                counted: 0,
            });
            if incarnation > row.incarnation {
                *row = Row {
                    incarnation,
                    before: row.before.saturating_add(row.counted),
                    counted: 0,
                };
            }
            if incarnation == row.incarnation {
                row.counted = row.counted.max(counted.messages);
            }
        }
        let mut gone = self.gone;
        self.rows.retain(|member, row| {
            let stays = *member == node || members.contains(member);
            if !stays {
                gone = gone.saturating_add(row.before).saturating_add(row.counted);
            }
            stays
        });
        self.gone = gone;
        Counted {
            day: self.day,
            messages: self.used().total(),
        }
    }

    /// For the registry.
    pub(crate) fn used(&self) -> QuotaUse {
        let row = |(node, row): (&NodeId, &Row)| NodeQuotaUse {
            node: *node,
            incarnation: row.incarnation,
            before: row.before,
            counted: row.counted,
        };
        QuotaUse {
            day: self.day,
            gone: self.gone,
            nodes: self.rows.iter().map(row).collect(),
        }
    }

    /// The part of `limit`, in percent, that has been reached since the last call and is worth a line in the log.
    pub(crate) fn reached(&mut self, limit: u64) -> Option<u64> {
        let total = u128::from(self.used().total()) * 100;
        let is_reached = |part: &&u64| total >= u128::from(**part) * u128::from(limit);
        let reached = WARNINGS.iter().rev().find(is_reached).copied()?;
        if reached <= self.warned {
            return None;
        }
        self.warned = reached;
        Some(reached)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const TODAY: u64 = 20_000;

    fn counted(messages: u64) -> Counted {
        Counted { day: TODAY, messages }
    }

    #[test]
    fn reports_add_up_also_of_runs_that_have_ended() {
        let mut book = QuotaBook::new(None, TODAY);
        let members = [A, B];
        assert_eq!(
            book.report((A, Incarnation(5)), counted(10), &members, TODAY).messages,
            10
        );
        assert_eq!(
            book.report((B, Incarnation(1)), counted(4), &members, TODAY).messages,
            14
        );
        // Late, and of the run before.
        assert_eq!(
            book.report((A, Incarnation(5)), counted(8), &members, TODAY).messages,
            14
        );
        assert_eq!(
            book.report((A, Incarnation(6)), counted(1), &members, TODAY).messages,
            15
        );
        assert_eq!(
            book.report((A, Incarnation(5)), counted(99), &members, TODAY).messages,
            15
        );
        // B leaves; what it has counted stays.
        assert_eq!(book.report((A, Incarnation(6)), counted(2), &[A], TODAY).messages, 16);
        assert_eq!(book.used().nodes.len(), 1);
    }

    #[test]
    fn another_owner_continues_from_the_registry_without_counting_twice() {
        let mut book = QuotaBook::new(None, TODAY);
        book.report((A, Incarnation(1)), counted(10), &[A, B], TODAY);
        book.report((B, Incarnation(1)), counted(20), &[A, B], TODAY);
        let mut next = QuotaBook::new(Some(book.used()), TODAY);
        assert_eq!(
            next.report((B, Incarnation(1)), counted(25), &[A, B], TODAY).messages,
            35
        );
        // A has died and starts again.
        assert_eq!(
            next.report((A, Incarnation(2)), counted(0), &[A, B], TODAY).messages,
            35
        );
        let tomorrow = QuotaBook::new(Some(book.used()), TODAY + 1);
        assert_eq!(tomorrow.used().total(), 0);
    }

    #[test]
    fn the_day_is_that_of_the_owner() {
        let mut book = QuotaBook::new(None, TODAY);
        book.report((A, Incarnation(1)), counted(10), &[A], TODAY);
        let ahead = Counted {
            day: TODAY + 1,
            messages: 5,
        };
        assert_eq!(book.report((A, Incarnation(1)), ahead, &[A], TODAY), counted(10));
        assert_eq!(book.report((A, Incarnation(1)), ahead, &[A], TODAY + 1), ahead);
        assert_eq!(book.report((A, Incarnation(1)), counted(11), &[A], TODAY + 1), ahead);
    }

    #[test]
    fn four_fifths_and_the_whole_are_logged_once_a_day() {
        let mut book = QuotaBook::new(None, TODAY);
        let mut reached = |messages| {
            book.report((A, Incarnation(1)), counted(messages), &[A], TODAY);
            book.reached(100)
        };
        let parts: Vec<_> = [79, 80, 90, 100, 101].into_iter().map(&mut reached).collect();
        assert_eq!(parts, [None, Some(80), None, Some(100), None]);
    }
}
