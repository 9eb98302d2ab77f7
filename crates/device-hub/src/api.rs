//! The part that front ends use: the hub, its cores, connecting, sending, and why a connection was refused.

pub(crate) mod audit;
pub(crate) mod authenticate;
pub(crate) mod config;
pub(crate) mod connect;
pub(crate) mod connect_request;
pub(crate) mod core;
pub(crate) mod credential_check;
pub(crate) mod diagnose;
pub(crate) mod hub;
pub(crate) mod injected_faults;
pub(crate) mod offered;
pub(crate) mod penalties;
pub(crate) mod refusal_limiter;
pub(crate) mod requester;
pub(crate) mod session;
pub(crate) mod trace;
pub(crate) mod verified_paths;
