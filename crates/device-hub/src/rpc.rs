//! Calls between gateways and owners.

pub(crate) mod client;
pub(crate) mod codec;
mod server;
