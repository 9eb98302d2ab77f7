//! The provisioning service: it finds out who a device is, assigns it to a hub, and keeps its registration (Spec provisioning).
//!
//! Why: a device boots with what its factory gave it, and gets an identity at a hub without anyone who registers it by hand.
//! Invariants: a device that was answered `assigned` can connect: its registration and its identity at this hub are committed by one
//! command before the answer leaves; an answer never waits for another server: what needs one is an operation, stored before the answer,
//! which the node that leads the registry's group carries on ([`Provisioning::run_operations`]); a refusal that a stale replica could
//! cause is confirmed first; wrong credentials are penalised per credential and source, never per device.
//! Not here: HTTP and MQTT of devices (`gateway`), the service API (`service-api`), how enrollments are kept (`registry`), connections
//! to other servers (the composition root's [`Outbound`]).
//! Start at [`Provisioning`].
#![warn(missing_docs)]

mod allocation;
mod attestation;
mod config;
mod document;
mod enrollment_document;
mod error;
mod hub_health;
mod hub_latency;
mod initial_twin;
mod issuance;
mod metrics;
mod operation;
mod operations;
mod outbound;
mod recent_groups;
mod registering;
mod remote_hub;
mod request;
mod request_rate;
mod service;
mod tpm;
mod version;
mod webhook;

pub use config::ProvisioningConfig;
pub use document::{error_body, registration_details, registration_state, timestamp};
pub use enrollment_document::{Keys, attestation_document, enrollment_document, id_field};
pub use error::ProvisioningError;
pub use initial_twin::read_initial_twin;
pub use issuance::{CaKeySource, CallSigner, NewCa, Renewal, SignerAnswer, SignerCall, SignerFuture};
pub use metrics::METRICS;
pub use outbound::{Outbound, OutboundAnswer, OutboundError, OutboundRequest};
pub use request::{DeviceCall, MAX_BODY_BYTES, RegisterBody};
pub use service::{Answer, Provisioning};
pub use tpm::TpmKeys;
pub use version::{KNOWN_VERSIONS, check_version, issues_certificates};
