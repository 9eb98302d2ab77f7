//! Shared access signatures, policies, rights, connection strings, bearer tokens with roles ([`bearer`]), and certificates of
//! devices ([`x509`]), and attestation by a TPM ([`tpm`]).
//!
//! Why: the same token arrives in the MQTT password, the AMQP `$cbs` put-token and the HTTP `Authorization` header, and
//! three front ends must decide alike.
//! Wire facts: Spec auth-and-limits §1, §2; amqp §5 (Event Hubs tokens). Test vectors were made by the SDKs.
//! Invariants: pure (the caller brings clock, keys and randomness); no input panics; signatures are compared in constant
//! time; `Debug` of nothing here shows a key or a signature, and keys are wiped from memory when dropped.
//! Not here: which key applies and whether the replica is fresh (`registry`, `device-hub`), the form of a refusal on the
//! wire (the front ends).
//! Start at [`SasToken::parse`], then [`verify`] for an identity's token or [`verify_policy`] for a policy's; [`bearer`] has the
//! tokens of an issuer.
#![warn(missing_docs)]

pub mod bearer;
mod connection_string;
mod key;
mod plain;
mod policy;
mod refusal;
mod refusal_backoff;
mod rights;
mod sas;
mod scope;
mod sign;
pub mod tpm;
mod verify;
pub mod x509;

pub use connection_string::{ConnectionString, ConnectionStringError, EventHubsConnection, IotConnection, Secret};
pub use key::{Key, KeyError, KeyFingerprint, KeyPair, KeySlot};
pub use plain::SaslUser;
pub use policy::{DEFAULT_POLICIES, Policy};
pub use refusal::{Defect, SasRefusal};
pub use refusal_backoff::{BackoffRule, CountedRefusal, RefusalBackoff, source};
pub use rights::{InvalidRights, Rights};
pub use sas::SasToken;
pub use scope::{HubNames, ResourcePath, ResourceScope, split_names};
pub use sign::{UnsignedToken, identity_resource, sign, sign_identity};
pub use verify::{
    Grant, KeyForm, check_claims, is_signed_by, verify, verify_policy, verify_policy_key, verify_signature,
};
