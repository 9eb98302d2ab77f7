//! Rates that clients of the hub may not exceed, and the queues in which they wait before they are refused.
//!
//! Why: one client that runs wild must not take what all need, and a compatibility test needs the limits of Azure IoT Hub's
//! tiers (Spec auth-and-limits §9.1).
//! Invariants: without a configured rate nothing is counted and no core touches memory of another one; a request that waits
//! is refused beforehand if its turn would come too late; waiting requests are bounded.
//! Not here: how a protocol says it (`gateway`, `service-api`).

pub(crate) mod class;
pub(crate) mod config;
pub(crate) mod node;
pub(crate) mod profile;
pub(crate) mod quota;
pub(crate) mod requests;
pub(crate) mod reservation;
pub(crate) mod sender;
pub(crate) mod shaper;
mod share_book;
pub(crate) mod share_out;
