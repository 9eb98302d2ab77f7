//! How the owner of partition 0 shares out each rate among the nodes, as data.
//!
//! Nodes report twice a second what was asked of them, and get a share for [`LEASE`]. A share follows the demand; a tenth of each rate
//! is spread evenly, so that a request at a quiet node passes too.
//! Invariants: the shares that nodes may be using add up to 1 at most, whichever answers were lost: a share is given only from what no other
//! node may have; a node without an answer uses no more than an even share, which is kept for it until it was silent for
//! [`FORGET_AFTER`].
//! Pure: members and time are arguments.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_model::NodeId;

use super::class::ThrottleClass;

/// How long an answer counts, from the sending of its report.
pub(super) const LEASE: Duration = Duration::from_secs(2);

/// A node that was silent so long takes no connections any more: it has left the registry's lease.
const FORGET_AFTER: Duration = Duration::from_secs(40);

/// The part of each rate that does not follow the demand.
const EVEN: f64 = 0.1;

/// A value for each class, by [`ThrottleClass::index`].
pub(super) type Table<T> = [T; ThrottleClass::ALL.len()];

/// What a node reports.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Report {
    /// The tokens that its clients have requested since its last report.
    pub(super) demand: Table<u64>,
    /// The shares that it uses.
    pub(super) in_use: Table<f64>,
}

#[derive(Debug)]
struct Row {
    reported: Duration,
    /// Tokens a second, smoothed.
    demand: Table<f64>,
    /// The greatest share that it may be using.
    most: Table<f64>,
}

/// The shares that this node has given as the owner of partition 0.
#[derive(Debug)]
pub(crate) struct ShareBook {
    began: Duration,
    rows: BTreeMap<NodeId, Row>,
}

impl ShareBook {
    /// Of a node that becomes the owner: nothing is known of the shares that the one before has given.
    pub(super) fn new(now: Duration) -> Self {
        Self {
            began: now,
            rows: BTreeMap::new(),
        }
    }

    /// Takes the report of a node; its shares for [`LEASE`].
    pub(super) fn report(&mut self, from: NodeId, report: &Report, members: &[NodeId], now: Duration) -> Table<f64> {
        self.rows.retain(|node, _| members.contains(node));
        let previous = self.rows.remove(&from);
        let mut row = Row {
            reported: now,
            demand: smoothed(report, previous.as_ref(), now),
            most: report.in_use,
        };
        let even = even_share(members.len());
        let mut shares = report.in_use;
        for (class, share) in shares.iter_mut().enumerate() {
            let others: f64 = members
                .iter()
                .filter(|node| **node != from)
                .map(|node| self.most(*node, class, even, now))
                .sum();
            let total: f64 = row.demand[class] + self.rows.values().map(|other| other.demand[class]).sum::<f64>();
            let by_demand = if total > 0.0 { row.demand[class] / total } else { even };
            let wanted = EVEN * even + (1.0 - EVEN) * by_demand;
            *share = if now.saturating_sub(self.began) < LEASE {
                // Until the answers of the owner before are over, no share grows.
                wanted.min(report.in_use[class])
            } else {
                wanted.min((1.0 - others).max(0.0))
            };
            // The answer may be lost.
            row.most[class] = share.max(report.in_use[class]);
        }
        self.rows.insert(from, row);
        shares
    }

    fn most(&self, node: NodeId, class: usize, even: f64, now: Duration) -> f64 {
        let row = self.rows.get(&node);
        let silent = now.saturating_sub(row.map_or(self.began, |row| row.reported));
        match row {
            _ if silent >= FORGET_AFTER => 0.0,
            Some(row) if silent < LEASE => row.most[class],
            _ => even,
        }
    }
}

/// The share of a node without an answer.
#[expect(clippy::cast_precision_loss, reason = "no hub has 2^52 nodes")]
pub(super) fn even_share(members: usize) -> f64 {
    1.0 / members.max(1) as f64
}

#[expect(clippy::cast_precision_loss, reason = "a measurement")]
fn smoothed(report: &Report, previous: Option<&Row>, now: Duration) -> Table<f64> {
    let Some(previous) = previous else {
        return report.demand.map(|demand| demand as f64);
    };
    let seconds = now.saturating_sub(previous.reported).as_secs_f64().max(0.1);
    let mut demand = previous.demand;
    for (smoothed, new) in demand.iter_mut().zip(report.demand) {
        *smoothed = (*smoothed + new as f64 / seconds) / 2.0;
        if *smoothed < 0.01 {
            *smoothed = 0.0;
        }
    }
    demand
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const C: NodeId = NodeId(3);
    const CLASS: usize = 0;

    /// Nodes with the shares that they use, and until when.
    struct Nodes {
        book: ShareBook,
        members: Vec<NodeId>,
        used: BTreeMap<NodeId, (f64, Duration)>,
        now: Duration,
    }

    impl Nodes {
        fn new(members: &[NodeId]) -> Self {
            Self {
                book: ShareBook::new(Duration::ZERO),
                members: members.to_vec(),
                used: BTreeMap::new(),
                now: Duration::ZERO,
            }
        }

        fn share(&self, node: NodeId) -> f64 {
            let even = even_share(self.members.len());
            match self.used.get(&node) {
                Some((share, until)) if *until > self.now => *share,
                // By then it is forgotten.
                Some((_, until)) if *until + FORGET_AFTER <= self.now + LEASE => 0.0,
                Some((share, _)) => share.min(even),
                None => even,
            }
        }

        fn report(&mut self, node: NodeId, demand: u64, is_answered: bool) {
            let report = Report {
                demand: [demand; ThrottleClass::ALL.len()],
                in_use: [self.share(node); ThrottleClass::ALL.len()],
            };
            let shares = self.book.report(node, &report, &self.members, self.now);
            if is_answered {
                self.used.insert(node, (shares[CLASS], self.now + LEASE));
            }
            self.check();
        }

        fn sum(&self) -> f64 {
            self.members.iter().map(|node| self.share(*node)).sum()
        }

        #[track_caller]
        fn check(&self) {
            assert!(self.sum() < 1.0 + 1e-9, "{} at {:?}", self.sum(), self.now);
        }

        fn pass(&mut self, ms: u64) {
            self.now += Duration::from_millis(ms);
            self.check();
        }
    }

    #[test]
    fn shares_follow_the_demand_within_seconds_and_leave_a_little_for_everybody() {
        let mut nodes = Nodes::new(&[A, B, C]);
        for _ in 0..12 {
            for (node, demand) in [(A, 300), (B, 100), (C, 0)] {
                nodes.report(node, demand, true);
            }
            nodes.pass(500);
        }
        let shares = [A, B, C].map(|node| (nodes.share(node) * 1000.0).round());
        assert_eq!(shares, [708.0, 258.0, 33.0]);
        for _ in 0..20 {
            for (node, demand) in [(A, 0), (B, 0), (C, 50)] {
                nodes.report(node, demand, true);
            }
            nodes.pass(500);
        }
        assert!(nodes.share(C) > 0.9, "{}", nodes.share(C));
    }

    #[test]
    fn a_silent_node_keeps_an_even_share_for_a_while_and_then_leaves_it_to_the_others() {
        let mut nodes = Nodes::new(&[A, B, C]);
        for round in 0..200 {
            nodes.report(A, 100, true);
            nodes.report(B, 100, true);
            if round < 20 {
                nodes.report(C, 100, true);
            }
            nodes.pass(500);
            if round == 40 {
                assert!((nodes.share(A) + nodes.share(B) - 2.0 / 3.0).abs() < 0.01);
            }
        }
        let both = nodes.book.rows[&A].most[CLASS] + nodes.book.rows[&B].most[CLASS];
        assert!(both > 0.65, "{both}");
        nodes.members = vec![A, B];
        for _ in 0..10 {
            nodes.report(A, 100, true);
            nodes.report(B, 100, true);
            nodes.pass(500);
        }
        assert!(nodes.sum() > 0.99, "{}", nodes.sum());
    }

    #[test]
    fn no_share_grows_while_answers_of_the_owner_before_count() {
        let mut nodes = Nodes::new(&[A, B]);
        nodes.used.insert(B, (0.9, Duration::from_secs(2)));
        nodes.used.insert(A, (0.1, Duration::from_secs(2)));
        for _ in 0..3 {
            nodes.report(A, 1000, true);
            assert!(nodes.share(A) <= 0.1 + 1e-9);
            nodes.pass(400);
        }
    }

    #[test]
    fn the_shares_never_exceed_the_rate_whichever_answers_are_lost() {
        for seed in 0..300_u64 {
            let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            let mut next = |below: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % below
            };
            let mut nodes = Nodes::new(&[A, B, C]);
            for _ in 0..300 {
                let node = [A, B, C][usize::try_from(next(3)).unwrap()];
                nodes.report(node, next(1000), next(4) > 0);
                nodes.pass(next(1200));
            }
        }
    }
}
