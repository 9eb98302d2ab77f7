//! Readers neither skip nor go back, and all of them read the same, on whichever node.
//!
//! Events are added as they arrive. A reader may reconnect and continue at its next number, on any node; the events must
//! then be consecutive. All readers' events of a partition are compared by a digest under their sequence number.

use std::collections::{BTreeMap, HashMap};

use super::Findings;
use crate::history::Micros;

/// One event as a reader saw it.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// The partition.
    pub partition: u32,
    /// The number within it.
    pub sequence: i64,
    /// A digest of device and body.
    pub digest: u64,
    /// When it was read.
    pub at: Micros,
}

/// The events that readers have read so far.
#[derive(Debug)]
pub struct Readers {
    findings: Findings,
    /// The first digest seen of every event.
    truth: BTreeMap<u32, HashMap<i64, u64>>,
    /// The next number of each reader in each partition.
    next: BTreeMap<(String, u32), i64>,
}

impl Default for Readers {
    fn default() -> Self {
        Self {
            findings: Findings::about("readers neither skip nor go back, and read the same everywhere"),
            truth: BTreeMap::new(),
            next: BTreeMap::new(),
        }
    }
}

impl Readers {
    /// The next sequence number of `reader` in `partition`; 0 when it has read nothing.
    #[must_use]
    pub fn next(&self, reader: &str, partition: u32) -> i64 {
        self.next.get(&(reader.to_owned(), partition)).copied().unwrap_or(0)
    }

    /// Adds an event of a reader that reads from [`Self::next`] on.
    pub fn event(&mut self, reader: &str, node: u32, seen: Seen) {
        let Seen {
            partition,
            sequence,
            digest,
            at,
        } = seen;
        self.findings.checked += 1;
        let next = self.next.entry((reader.to_owned(), partition)).or_default();
        if sequence != *next {
            let what = if sequence > *next { "skips" } else { "goes back" };
            let expected = *next;
            self.findings.violation(Some(at), || {
                format!("{reader} on node {node} {what} in partition {partition}: {sequence} instead of {expected}")
            });
        }
        *next = sequence + 1;
        let first = *self
            .truth
            .entry(partition)
            .or_default()
            .entry(sequence)
            .or_insert(digest);
        if first != digest {
            self.findings.violation(Some(at), || {
                format!("{reader} on node {node} reads another event {sequence} of partition {partition} than was read before")
            });
        }
    }

    /// Checks a reader that received no more events of `partition`, which ends with `last`.
    pub fn end(&mut self, reader: &str, partition: u32, last: i64) {
        self.findings.checked += 1;
        let next = self.next(reader, partition);
        if next <= last {
            self.findings.violation(None, || {
                format!("{reader} stopped before {next} in partition {partition}, which goes to {last}")
            });
        }
        if next > last + 1 {
            self.findings.violation(None, || {
                format!(
                    "{reader} has read {} of partition {partition}, which goes to {last} only",
                    next - 1
                )
            });
        }
    }

    /// The findings so far.
    #[must_use]
    pub fn findings(&self) -> &Findings {
        &self.findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(sequence: i64, digest: u64) -> Seen {
        Seen {
            partition: 0,
            sequence,
            digest,
            at: 0,
        }
    }

    #[test]
    fn two_readers_in_order_pass_and_each_fault_is_found() {
        let mut readers = Readers::default();
        for sequence in 0..5 {
            readers.event("a", 1, seen(sequence, sequence as u64));
            readers.event("b", 2, seen(sequence, sequence as u64));
        }
        readers.end("a", 0, 4);
        assert!(readers.findings().is_clean() && readers.findings().checked == 11);
        readers.event("a", 1, seen(6, 6));
        assert_eq!(readers.findings().violations, 1, "a skip");
        readers.event("a", 1, seen(6, 6));
        assert_eq!(readers.findings().violations, 2, "going back");
        readers.event("b", 2, seen(5, 5));
        readers.event("b", 2, seen(6, 66));
        assert_eq!(readers.findings().violations, 3, "another event");
        readers.end("b", 0, 9);
        assert_eq!(readers.findings().violations, 4, "stopped short");
        readers.end("b", 0, 3);
        assert_eq!(readers.findings().violations, 5, "read what is gone");
    }
}
