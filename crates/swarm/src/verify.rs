//! Verification: compares the events that readers found with the acknowledgements that a fleet received.
//!
//! Pure; a reader passes the events of each partition in their order. For each connection (epoch) of a device the hub
//! must store every acknowledged message (else *lost*), each once (else *doubled*), in the order sent (else *out of
//! order*), and none without the ones before it (else a *gap*). Messages sent and not acknowledged may be stored or not.
//! Messages that a later connection sent again are not duplicates, since the client repeated them.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::ledger::{Ledger, Span};
use crate::marker::{MessageMarker, filler_is_intact};
use crate::target::DeviceNames;

/// How many findings are described one by one.
const MAX_EXAMPLES: usize = 20;

/// The result of the comparison. Every count but the first five is a violation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Events of this run that were read.
    pub events: u64,
    /// Events of other runs or senders, ignored.
    pub other_events: u64,
    /// Acknowledgements in the ledger.
    pub acknowledged: u64,
    /// Events stored although no acknowledgement arrived: allowed.
    pub unacknowledged_kept: u64,
    /// Messages stored more than once because the client sent them again: allowed.
    pub resent_kept: u64,
    /// Acknowledged and not stored.
    pub lost: u64,
    /// Stored twice although sent once.
    pub doubled: u64,
    /// Stored after a message that was sent later.
    pub out_of_order: u64,
    /// Not stored and never acknowledged, although a later message of the same connection is stored.
    pub gaps: u64,
    /// Stored although never sent.
    pub phantoms: u64,
    /// Body damaged or of another length, or under another device's name.
    pub corrupt: u64,
    /// Sequence numbers that did not follow the one before.
    pub sequence_jumps: u64,
    /// The first findings in words.
    pub examples: Vec<String>,
}

impl Verdict {
    /// Whether there is no violation.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let Self {
            lost,
            doubled,
            out_of_order,
            gaps,
            phantoms,
            corrupt,
            sequence_jumps,
            ..
        } = self;
        lost + doubled + out_of_order + gaps + phantoms + corrupt + sequence_jumps == 0
    }

    fn example(&mut self, text: impl FnOnce() -> String) {
        if self.examples.len() < MAX_EXAMPLES {
            self.examples.push(text());
        }
    }
}

/// Collects events and verifies them.
pub struct Judge<'a> {
    ledger: &'a Ledger,
    names: DeviceNames,
    devices: HashMap<u32, Found>,
    verdict: Verdict,
}

#[derive(Default)]
struct Found {
    last: Option<(u32, u64)>,
    epochs: BTreeMap<u32, Ranges>,
}

impl<'a> Judge<'a> {
    /// A judge without events.
    ///
    /// # Errors
    /// When the ledger's prefix is not a valid one.
    pub fn new(ledger: &'a Ledger) -> anyhow::Result<Self> {
        let names = DeviceNames::new(&ledger.device_prefix)?;
        Ok(Self {
            ledger,
            names,
            devices: HashMap::new(),
            verdict: Verdict::default(),
        })
    }

    /// Records that a partition's sequence numbers are not consecutive.
    pub fn sequence_jump(&mut self, partition: &str, expected: i64, found: i64) {
        self.verdict.sequence_jumps += 1;
        self.verdict
            .example(|| format!("partition {partition} continues with {found} instead of {expected}"));
    }

    /// Takes the next event of a partition. `device` is the sender as the hub names it.
    pub fn event(&mut self, device: &str, payload: &[u8]) {
        let Some(marker) = MessageMarker::read(payload).filter(|marker| marker.run == self.ledger.run) else {
            self.verdict.other_events += 1;
            return;
        };
        self.verdict.events += 1;
        let MessageMarker { epoch, number, .. } = marker;
        let intact = payload.len() == self.ledger.payload_bytes && filler_is_intact(payload);
        if !intact || device != self.names.name(marker.device) {
            self.verdict.corrupt += 1;
            self.verdict
                .example(|| format!("message {number} of epoch {epoch} of {device} is damaged"));
        }
        let found = self.devices.entry(marker.device).or_default();
        if !found.epochs.entry(epoch).or_default().insert(number) {
            self.verdict.doubled += 1;
            self.verdict
                .example(|| format!("message {number} of epoch {epoch} of {device} is there twice"));
            return;
        }
        match found.last {
            Some((last_epoch, _)) if epoch < last_epoch && self.ledger.may_be_late(marker.device, epoch, number) => {}
            Some((last_epoch, last_number)) if (epoch, number) < (last_epoch, last_number) => {
                self.verdict.out_of_order += 1;
                let at = format!("after {last_number} of epoch {last_epoch}");
                self.verdict
                    .example(|| format!("message {number} of epoch {epoch} of {device} is {at}"));
            }
            _ => found.last = Some((epoch, number)),
        }
    }

    /// The verdict, once all partitions have been read to their ends.
    #[must_use]
    pub fn finish(mut self) -> Verdict {
        self.verdict.acknowledged = self.ledger.acknowledged();
        let nothing = Found::default();
        let devices = std::mem::take(&mut self.devices);
        for (device, spans) in &self.ledger.devices {
            self.judge_device(*device, spans, devices.get(device).unwrap_or(&nothing));
        }
        for (device, found) in &devices {
            if !self.ledger.devices.contains_key(device) {
                let count = found.epochs.values().map(Ranges::len).sum::<u64>();
                self.verdict.phantoms += count;
                self.verdict
                    .example(|| format!("{count} messages of device {device}, which the ledger does not know"));
            }
        }
        self.verdict
    }

    fn judge_device(&mut self, device: u32, spans: &[Span], found: &Found) {
        let mut everything = Ranges::default();
        let mut copies = 0;
        let empty = Ranges::default();
        for span in spans {
            let ranges = found.epochs.get(&span.epoch).unwrap_or(&empty);
            copies += ranges.len();
            everything.merge(ranges);
            self.judge_span(device, span, ranges);
        }
        self.verdict.resent_kept += copies - everything.len();
        let unknown = found
            .epochs
            .keys()
            .filter(|epoch| !spans.iter().any(|span| span.epoch == **epoch));
        self.verdict.phantoms += unknown.map(|epoch| found.epochs[epoch].len()).sum::<u64>();
    }

    fn judge_span(&mut self, device: u32, span: &Span, found: &Ranges) {
        let early_found = span
            .acknowledged_early
            .iter()
            .filter(|number| found.contains(**number))
            .count() as u64;
        let promised = span.acknowledged_below - span.first;
        let kept = found.count(span.first, span.acknowledged_below);
        let lost = promised - kept + span.acknowledged_early.len() as u64 - early_found;
        if lost > 0 {
            self.verdict.lost += lost;
            let first = (span.first..span.acknowledged_below).find(|number| !found.contains(*number));
            let epoch = span.epoch;
            self.verdict
                .example(|| format!("{lost} acknowledged of epoch {epoch} of device {device}, from {first:?}"));
        }
        let unacknowledged = found.count(span.acknowledged_below, span.sent_below) - early_found;
        self.verdict.unacknowledged_kept += unacknowledged;
        self.verdict.phantoms += found.len() - found.count(span.first, span.sent_below);
        // Messages missing below the highest one found, without those counted as lost.
        let reach = found.end().clamp(span.first, span.sent_below);
        let missing = reach - span.first - found.count(span.first, reach);
        let early_lost_below = span
            .acknowledged_early
            .iter()
            .filter(|n| **n < reach && !found.contains(**n))
            .count();
        let below = span.acknowledged_below.min(reach);
        let lost_below = below - span.first - found.count(span.first, below) + early_lost_below as u64;
        if missing > lost_below {
            self.verdict.gaps += missing - lost_below;
            let epoch = span.epoch;
            self.verdict
                .example(|| format!("messages of epoch {epoch} of device {device} are missing below {reach}"));
        }
    }
}

/// A set of numbers that mostly come in order: sorted, disjoint, half-open ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Whether `number` is new.
    fn insert(&mut self, number: u64) -> bool {
        if let Some((_, end)) = self.0.last_mut()
            && *end == number
        {
            *end += 1;
            return true;
        }
        // The first range that ends at or after the number.
        let at = self.0.partition_point(|(_, end)| *end < number);
        let Some((start, end)) = self.0.get_mut(at) else {
            self.0.push((number, number + 1));
            return true;
        };
        if *start <= number && number < *end {
            return false;
        }
        if *end == number {
            *end += 1;
            if let Some((next_start, next_end)) = self.0.get(at + 1).copied()
                && next_start == number + 1
            {
                self.0[at].1 = next_end;
                self.0.remove(at + 1);
            }
        } else if *start == number + 1 {
            *start = number;
        } else {
            self.0.insert(at, (number, number + 1));
        }
        true
    }

    fn contains(&self, number: u64) -> bool {
        let at = self.0.partition_point(|(_, end)| *end <= number);
        self.0.get(at).is_some_and(|(start, _)| *start <= number)
    }

    fn len(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }

    fn end(&self) -> u64 {
        self.0.last().map_or(0, |(_, end)| *end)
    }

    /// How many numbers of `from..to` are in the set.
    fn count(&self, from: u64, to: u64) -> u64 {
        self.0
            .iter()
            .map(|(start, end)| (*end).min(to).saturating_sub((*start).max(from)))
            .sum()
    }

    fn merge(&mut self, other: &Self) {
        self.0.extend_from_slice(&other.0);
        self.0.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::with_capacity(self.0.len());
        for (start, end) in self.0.drain(..) {
            match merged.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => merged.push((start, end)),
            }
        }
        self.0 = merged;
    }
}

#[cfg(test)]
mod tests;
