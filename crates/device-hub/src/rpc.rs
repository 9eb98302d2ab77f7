//! Calls between gateways and owners.

pub(crate) mod client;
pub(crate) mod codec;
pub(crate) mod owner_call;
mod server;
