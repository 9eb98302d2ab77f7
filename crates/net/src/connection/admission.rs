//! The bound on connections that have not authenticated: past it, the one that has waited longest is closed.

use std::cell::Cell;
use std::collections::VecDeque;

use holdfast_tasks::sync::SharedCell;

/// A row of the table: key, and the number of the connection in it, since rows are used again.
pub(super) type Row = (usize, u64);

/// The connections of one core that have not authenticated.
pub(super) struct Admission {
    max: usize,
    /// Longest waiting first; rows of connections that have authenticated or ended are skipped.
    waiting: SharedCell<VecDeque<Row>>,
    count: Cell<usize>,
}

impl Admission {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            waiting: SharedCell::default(),
            count: Cell::new(0),
        }
    }

    /// Adds a connection. Returns the row to evict for it, if the bound is reached; `is_waiting` tells whether a row's
    /// connection has not authenticated yet.
    pub(super) fn add(&self, row: Row, is_waiting: impl Fn(Row) -> bool) -> Option<Row> {
        let mut waiting = self.waiting.borrow_mut();
        while waiting.front().is_some_and(|row| !is_waiting(*row)) {
            waiting.pop_front();
        }
        // An evicted connection counts until its task has run; one eviction per newcomer is enough.
        let evicted = if self.count.get() < self.max {
            None
        } else {
            waiting.pop_front()
        };
        waiting.push_back(row);
        self.count.set(self.count.get() + 1);
        evicted
    }

    /// A connection has authenticated, or ended before that.
    pub(super) fn remove(&self) {
        self.count.set(self.count.get() - 1);
    }
}
