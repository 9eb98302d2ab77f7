//! Credit for deliveries, as counters that only grow: lost, repeated and late reports do no harm.

use std::sync::atomic::{AtomicU64, Ordering};

/// A session's credit since it began: the deliveries and bytes that its front end has granted, and those that its gateway
/// has received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Credit {
    pub(crate) granted_messages: u64,
    pub(crate) granted_bytes: u64,
    pub(crate) used_messages: u64,
    pub(crate) used_bytes: u64,
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
    }
}

/// A session's credit at its gateway: written by its core, read by the tasks that report it.
#[derive(Debug, Default)]
pub(crate) struct SharedCredit {
    granted_messages: AtomicU64,
    granted_bytes: AtomicU64,
    used_messages: AtomicU64,
    used_bytes: AtomicU64,
}

impl SharedCredit {
    pub(crate) fn read(&self) -> Credit {
        Credit {
            granted_messages: self.granted_messages.load(Ordering::Acquire),
            granted_bytes: self.granted_bytes.load(Ordering::Acquire),
            used_messages: self.used_messages.load(Ordering::Acquire),
            used_bytes: self.used_bytes.load(Ordering::Acquire),
        }
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
