//! The provisioning service: it finds out who a device is, assigns it to a hub, and keeps its registration (Spec provisioning).
//!
//! Why: a device boots with what its factory gave it, and gets an identity at a hub without anyone who registers it by hand.
//! Invariants: a device that was answered `assigned` can connect: its registration and its identity at this hub are committed by one
//! command before the answer leaves; an answer is given within the request, never held; a refusal that a stale replica could cause
//! is confirmed first; wrong credentials are penalised per credential and source, never per device.
//! Not here: HTTP and MQTT of devices (`gateway`), the service API (`service-api`), how enrollments are kept (`registry`).
//! Start at [`Provisioning`].
#![warn(missing_docs)]

mod allocation;
mod attestation;
mod config;
mod document;
mod error;
mod metrics;
mod registering;
mod request;
mod service;
mod version;

pub use config::ProvisioningConfig;
pub use document::{error_body, registration_state, timestamp};
pub use error::ProvisioningError;
pub use metrics::METRICS;
pub use request::{DeviceCall, MAX_BODY_BYTES, RegisterBody};
pub use service::{Answer, Provisioning};
pub use version::{KNOWN_VERSIONS, check_version};
