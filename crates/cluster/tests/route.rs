//! Partitions over a simulated network: nodes 1 to 3 have replicas of three partitions, node 4 has none.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "route/append.rs"]
mod append;
#[path = "route/common.rs"]
mod common;
#[path = "route/faults.rs"]
mod faults;
#[path = "route/hostile.rs"]
mod hostile;
#[path = "route/reader_leases.rs"]
mod reader_leases;
#[path = "route/readers.rs"]
mod readers;
#[path = "route/traces.rs"]
mod traces;
