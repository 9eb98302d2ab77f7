//! The calling side: appends, queries, readers and reader leases at owners and replicas on other nodes.

pub(super) mod append;
pub(super) mod open_reader;
pub(super) mod owner_watch;
mod query;
pub(super) mod reader;
pub(super) mod reader_lease_renewal;
pub(super) mod reader_leases;
mod remote_reader;
mod source;
