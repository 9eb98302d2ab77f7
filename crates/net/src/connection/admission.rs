//! The bound on connections that have not authenticated.
//!
//! Past it one of them is closed for each newcomer: the longest waiting one of those that have sent nothing, if these are
//! half of the bound, and otherwise of the others. So a crowd that never speaks does not close the connections of devices
//! in the middle of their handshakes, and a crowd that sends a byte not those of devices whose first byte is on its way.

use std::cell::Cell;
use std::collections::VecDeque;

use holdfast_tasks::sync::SharedCell;

/// A row of the table: key, and the number of the connection in it, since rows are used again.
pub(super) type Row = (usize, u64);

/// The progress of a connection towards authentication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing has been received.
    Silent,
    /// Something has been received: a TLS handshake has begun, or a packet.
    Speaking,
    /// It has authenticated or ended.
    Done,
}

/// The connections of one core that have not authenticated.
pub(super) struct Admission {
    max: usize,
    queues: SharedCell<Queues>,
    count: Cell<usize>,
}

/// Longest waiting first. Rows whose connections have made progress are moved or dropped when they reach the front.
#[derive(Default)]
struct Queues {
    silent: VecDeque<Row>,
    speaking: VecDeque<Row>,
}

impl Admission {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            queues: SharedCell::default(),
            count: Cell::new(0),
        }
    }

    /// Adds a connection. Returns the row to evict for it, if the bound is reached; `progress` tells how far a row's
    /// connection has come.
    pub(super) fn add(&self, row: Row, progress: impl Fn(Row) -> Progress) -> Option<Row> {
        let mut queues = self.queues.borrow_mut();
        queues.sort_front(progress);
        // An evicted connection counts until its task has run; one eviction per newcomer is enough.
        let evicted = if self.count.get() < self.max {
            None
        } else {
            queues.pop(self.max)
        };
        queues.silent.push_back(row);
        self.count.set(self.count.get() + 1);
        evicted
    }

    /// A connection has authenticated, or ended before that.
    pub(super) fn remove(&self) {
        self.count.set(self.count.get() - 1);
    }
}

impl Queues {
    /// The row to evict, of the kind that uses more than its half of `max`.
    fn pop(&mut self, max: usize) -> Option<Row> {
        let (first, second) = match self.silent.len() * 2 >= max {
            true => (&mut self.silent, &mut self.speaking),
            false => (&mut self.speaking, &mut self.silent),
        };
        first.pop_front().or_else(|| second.pop_front())
    }

    /// Leaves a silent row at the front of `silent` and a waiting one at the front of `speaking`, if there are any. A row
    /// is moved once: the cost per connection is constant.
    fn sort_front(&mut self, progress: impl Fn(Row) -> Progress) {
        while let Some(row) = self.silent.front() {
            match progress(*row) {
                Progress::Silent => break,
                Progress::Speaking => self.speaking.extend(self.silent.pop_front()),
                Progress::Done => drop(self.silent.pop_front()),
            }
        }
        while let Some(row) = self.speaking.front()
            && progress(*row) == Progress::Done
        {
            self.speaking.pop_front();
        }
    }
}
