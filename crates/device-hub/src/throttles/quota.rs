//! The daily quota of messages (Spec auth-and-limits §9.1): which operations count, which node counts them, and when it is used up.
//!
//! Messages, calls and twin operations count in blocks of the tier's meter; the count begins anew at 00:00 UTC.
//! Invariants: a node counts what passes through it, with one addition to memory of the core's own; the owner of partition 0 adds up what all
//! nodes report and keeps it in the registry every few seconds; without a quota nothing is counted.
//! Not here: how a protocol says it (`gateway`, `service-api`).

pub(crate) mod book;
pub(crate) mod count;
pub(crate) mod exchange;
