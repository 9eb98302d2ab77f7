//! The hub's OpenID Connect issuer: where its keys come from, and bearer tokens checked against them (Spec auth-and-limits §5).
//!
//! Why a crate: REST and AMQP accept the same tokens, and one copy of the keys per node is enough.
//! Invariants: a check of a token touches no network; keys are replaced as a whole, and only by ones that can be used, so that an
//! issuer that is down or broken leaves the last good ones; unknown keys cause at most one fetch per `unknown_key_interval`,
//! whatever clients send; a fetch is bounded in time and bytes, over TLS, and follows no redirect.
//! Not here: the rules of a token (`auth::bearer`), which action a call needs (`service-api`).
//! Start at [`Issuer`].
#![warn(missing_docs)]

mod config;
mod fetch;
mod issuer;
mod metrics;

pub use config::OidcConfig;
pub use fetch::FetchError;
pub use issuer::Issuer;
pub use metrics::METRICS;
