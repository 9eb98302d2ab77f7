//! The device-session API: the one door through which every protocol connects a device and sends for it.
//!
//! Why: authentication, takeover, rounds, acknowledgement order and back-pressure are the same for MQTT, AMQP and
//! HTTPS; front ends only translate (design, "Device sessions", "Threads and rounds").
//! Invariants: a receipt says `Committed` only after the partition's record is committed and synced; receipts of one
//! session come in the order of its messages; one identity has one session; everything that waits is counted in bytes.
//! Not here: MQTT, AMQP, HTTP; how records are stored (`partition`) or identities kept (`registry`).
//!
//! Start at [`DeviceHub`] (shared by the node), then [`Core`] (one per core), [`Core::connect`] and [`Core::send`].
#![warn(missing_docs)]

mod absence;
mod attach;
mod audit;
mod authenticate;
mod claim;
mod clock;
mod config;
mod connect;
mod core;
mod diagnose;
mod drain;
mod hand_over;
mod hub;
mod keeper;
mod lane;
mod local;
mod mailbox;
mod metrics;
mod owner;
mod peers;
mod revoke;
mod room;
mod service;
mod session;
mod sessions;
mod takeover;
mod wire;

pub use audit::{Audit, AuditRecord, Operation};
pub use authenticate::{Verified, authenticate};
pub use claim::{Claim, Protocol, Refusal};
pub use clock::Clock;
pub use config::DeviceHubConfig;
pub use connect::Attempt;
pub use core::{Core, Receipt, ReceiptTarget};
pub use diagnose::{ConnectionFacts, Diagnosis, LiveSession};
pub use drain::close_when_draining;
pub use hub::{DeviceHub, HubParts};
pub use keeper::keep_sessions;
pub use lane::Outcome;
pub use mailbox::Mailbox;
pub use revoke::watch_registry;
pub use session::{CloseReason, Session, SessionTarget};
pub use sessions::SessionNumber;

pub use holdfast_partition as partition;
