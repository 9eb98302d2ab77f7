//! Calls between gateways and owners.

pub(crate) mod client;
pub(crate) mod codec;
#[expect(dead_code, reason = "twins and queues use it")]
pub(crate) mod owner_call;
mod server;
