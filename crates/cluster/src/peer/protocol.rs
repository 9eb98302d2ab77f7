//! The messages between two nodes over a connection (docs/peer-protocol.md). Pure: no sockets, no clocks, no tasks.

pub(crate) mod frame;
pub(crate) mod hello;
pub(crate) mod names;
pub(crate) mod outcome;
pub(crate) mod reassembly;
pub(crate) mod scheduler;
