//! Credit for deliveries, as counters that only grow: lost, repeated and late reports do no harm.

use std::sync::atomic::{AtomicU64, Ordering};

use super::delivery::{DeliveryKind, DeliveryKinds};

/// The bits of the kinds in [`Credit::kinds`].
const KINDS_BITS: u32 = 8;
const KINDS_MASK: u64 = (1 << KINDS_BITS) - 1;

/// A session's credit since it began: the deliveries and bytes that its front end has granted, and those that its gateway
/// has received; and the kinds of deliveries that it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Credit {
    pub(crate) granted_messages: u64,
    pub(crate) granted_bytes: u64,
    pub(crate) used_messages: u64,
    pub(crate) used_bytes: u64,
    /// The kinds that the front end takes, in the low byte; above it, how often they have changed.
    pub(crate) kinds: u64,
}

impl Credit {
    /// Whether one more delivery may be sent. The last one may exceed the bytes, so that every window takes any delivery.
    pub(crate) fn is_available(&self) -> bool {
        self.used_messages < self.granted_messages && self.used_bytes < self.granted_bytes
    }

    /// Uses credit for a delivery of `bytes`, if there is some; returns its sequence number, from 1.
    pub(crate) fn take(&mut self, bytes: usize) -> Option<u64> {
        if !self.is_available() {
            return None;
        }
        self.used_messages += 1;
        self.used_bytes = self.used_bytes.saturating_add(bytes as u64);
        Some(self.used_messages)
    }

    /// Takes over a grant, unless a later one has been reported already.
    pub(crate) fn merge_grant(&mut self, reported: Self) {
        self.granted_messages = self.granted_messages.max(reported.granted_messages);
        self.granted_bytes = self.granted_bytes.max(reported.granted_bytes);
        self.kinds = self.kinds.max(reported.kinds);
    }

    /// Whether the front end takes deliveries of this kind.
    pub(crate) fn takes(&self, kind: DeliveryKind) -> bool {
        self.kinds & DeliveryKinds::default().with(kind).bits() != 0
    }

    /// The kinds of deliveries that the front end takes.
    pub(crate) fn taken_kinds(&self) -> DeliveryKinds {
        let taken = DeliveryKind::ALL.into_iter().filter(|kind| self.takes(*kind));
        taken.fold(DeliveryKinds::default(), DeliveryKinds::with)
    }
}

/// A session's credit at its gateway: written by its core, read by the tasks that report it.
#[derive(Debug, Default)]
pub(crate) struct SharedCredit {
    granted_messages: AtomicU64,
    granted_bytes: AtomicU64,
    used_messages: AtomicU64,
    used_bytes: AtomicU64,
    /// Written by the core alone.
    kinds: AtomicU64,
}

impl SharedCredit {
    pub(crate) fn read(&self) -> Credit {
        Credit {
            granted_messages: self.granted_messages.load(Ordering::Acquire),
            granted_bytes: self.granted_bytes.load(Ordering::Acquire),
            used_messages: self.used_messages.load(Ordering::Acquire),
            used_bytes: self.used_bytes.load(Ordering::Acquire),
            kinds: self.kinds.load(Ordering::Acquire),
        }
    }

    /// The front end takes these kinds from now on; `false`: it did before.
    pub(crate) fn take_kinds(&self, kinds: DeliveryKinds) -> bool {
        let before = self.kinds.load(Ordering::Acquire);
        let has_changed = before & KINDS_MASK != kinds.bits();
        if has_changed {
            let changes = (before >> KINDS_BITS) + 1;
            self.kinds
                .store(changes << KINDS_BITS | kinds.bits(), Ordering::Release);
        }
        has_changed
    }

    /// The front end takes so many more deliveries and bytes.
    pub(crate) fn grant(&self, messages: u64, bytes: u64) {
        self.granted_messages.fetch_add(messages, Ordering::AcqRel);
        self.granted_bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Counts a received delivery.
    pub(crate) fn received(&self, bytes: usize) {
        self.used_messages.fetch_add(1, Ordering::AcqRel);
        self.used_bytes.fetch_add(bytes as u64, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_reports_of_kinds_the_later_one_counts() {
        let shared = SharedCredit::default();
        let both = DeliveryKinds::default()
            .with(DeliveryKind::CloudToDevice)
            .with(DeliveryKind::Method);
        let mut known = Credit::default();
        assert!(!known.takes(DeliveryKind::CloudToDevice));
        assert!(shared.take_kinds(both) && !shared.take_kinds(both));
        let early = shared.read();
        assert!(shared.take_kinds(DeliveryKinds::default().with(DeliveryKind::Method)));
        known.merge_grant(shared.read());
        known.merge_grant(early);
        assert!(!known.takes(DeliveryKind::CloudToDevice) && known.takes(DeliveryKind::Method));
    }
}
