//! Fixtures that the tests of several crates share: waiting for a condition, the host of a node's groups, an issuer of bearer tokens,
//! and a TPM.
//!
//! Invariant: a dev-dependency only, below every crate that it serves. Not here: whole nodes, which `holdfast_node` builds,
//! whole clusters (`holdfast_simulation`), and what one crate alone needs.
#![allow(clippy::unwrap_used, reason = "a fixture that cannot be set up fails its test")]

mod host;
pub mod issuer;
pub mod tpm;
mod wait;

pub use host::{fail_the_test, ignore_failures, on_runtime, on_sim_network, on_threads};
pub use wait::eventually;
