//! This node as the owner of partitions: which identity is connected, and through which gateway.

pub(crate) mod absence_log;
mod absent_gateways;
pub(crate) mod close_superseded;
mod connection_changes;
pub(crate) mod connection_log;
mod ended_sessions;
pub(crate) mod hub_event;
pub(crate) mod lifecycle;
pub(crate) mod ownership;
mod ownership_term;
pub(crate) mod reconcile;
pub(crate) mod state_changes;
pub(crate) mod state_writer;
pub(crate) mod subscriptions;
#[cfg(test)]
mod tests;
