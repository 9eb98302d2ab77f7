//! This node as a gateway: its sessions, and its links with the owners of their partitions.

pub(crate) mod attach;
pub(crate) mod drain;
pub(crate) mod link_renewal;
pub(crate) mod revocation;
pub(crate) mod session_table;
pub(crate) mod subscription_requests;
