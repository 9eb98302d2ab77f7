//! The registry: identities, settings and members of the hub; one Raft group, replicated to every node.
//!
//! Why: a credential check never leaves the node, and a write is known to all nodes in one order.
//! Wire facts: Spec rest §2, auth-and-limits §2, §9.2.
//! Invariants: the effects of apply are defined in [`state`] alone and the same on every replica; log, state and snapshots
//! contain secrets only sealed, and they are opened in memory for checks; no full copy of the identities in memory.
//! Not here: checking credentials (`auth`, `device-hub`), JSON (`service-api`), twins and connection states
//! (`partition`).
//! Start at [`Registry`], then [`state::apply`].
#![warn(missing_docs)]

mod authorities;
pub mod backup;
mod cache;
mod change_feed;
mod cluster;
mod config;
mod convert;
mod enrollment_groups;
mod error;
mod feature_level;
mod hot_records;
mod identity;
mod issuance;
mod lease;
mod linked_hub;
mod local;
mod machine;
mod metrics;
mod pending;
mod policy_write;
mod provisioning;
mod provisioning_replica;
mod quota;
mod read_barrier;
mod registration;
mod registry;
mod revocations;
mod saved_query;
mod scan;
mod secrets;
mod settings;
mod snapshot;
pub mod state;
mod tpm;
mod write;

pub use authorities::{Authorities, Authority};
pub use change_feed::{Changes, RegistryEvent};
pub use cluster::{
    ClusterView, JoinToken, MAX_JOIN_TOKEN_LIFETIME, MAX_JOIN_TOKENS, MAX_NODES, MAX_REPLICAS, MAX_REPLICATION_FACTOR,
    NodeInfo, NodeRole, NodeState, Placement, join_token_id,
};
pub use config::RegistryConfig;
pub use enrollment_groups::EnrollmentGroups;
pub use error::{RegistryError, UnavailableReason};
pub use feature_level::FeatureLevel;
pub use identity::{Authentication, Identity, InvalidThumbprint, Status, Thumbprint, Thumbprints, TwinSeed};
pub use issuance::{
    DeviceCertificates, IssuanceForm, IssuancePolicy, IssuanceReference, IssueWrite, IssuedCertificate, Issuer,
    IssuerKey, IssuerWrite, Issuers,
};
pub use lease::{LeaseState, LeaseWatch};
pub use linked_hub::{HubLogin, LinkedHub, LinkedHubContent, MAX_HUB_WEIGHT};
pub use local::{DevicePage, Statistics};
pub use metrics::METRICS;
pub use pending::{IssuedChain, PendingCertificate, PendingRegistration};
pub use policy_write::{PolicyCondition, PolicyKeys, PolicyWrite};
pub use provisioning::{
    AllocationPolicy, Attestation, AttestationWrite, CertificateSource, CustomAllocation, Enrollment,
    EnrollmentContent, EnrollmentKind, EnrollmentOperation, EnrollmentWrite, ProvisioningSettings, ReprovisionPolicy,
    WebhookQuery, X509Attestation, check_registration_id,
};
pub use quota::{NodeQuotaUse, QuotaUse};
pub use registration::{
    DevicePlace, EnrollmentReference, LeftDevice, MAX_RETURNED_PAYLOAD_BYTES, PastOperation, Registration,
    RegistrationOutcome, RegistrationWrite, Substatus, WebhookAnswer,
};
pub use registry::{EnrollmentOutcome, Outcome, PROVISIONING_POLICY, Registry, StartError, Written};
pub use revocations::{CaCrl, DeniedCertificate, REVOCATION_REASONS, RevokedCertificate};
pub use saved_query::{SavedQueries, SavedQuery, SavedQueryCondition, SavedQueryWrite};
pub use scan::{DeviceRange, IdentityKind, IdentitySummary, Scan, Scanned, SeedScan};
pub use secrets::SecretError;
pub use settings::{ChangeSource, Founding, HubSettings, SettingsChange};
pub use state::{COMMAND_VERSION, Change, ChangeKind, DEFAULT_CONSUMER_GROUP, Rejection};
pub use tpm::{MAX_TPM_KEY_BYTES, RegistrationTpm, TpmAttestation, TpmEnrollmentKeys};
pub use write::{
    AuthenticationWrite, IdentityContent, IdentityWrite, IfMatch, KeyChoice, KeyRegeneration, ScopeWrite,
    WriteOperation,
};
