//! Real nodes under faults, and the checker of the guarantees that they gave.
//!
//! Why: a cluster that loses nothing on a good day proves nothing. Real processes are killed, stopped, cut off, slowed
//! and damaged under load, on a schedule drawn from a seed, while devices, back ends and readers record the answers they
//! get; then the checker compares the recorded acknowledgements with the stored data.
//! Invariants: the checker ([`check`]) is pure, and every check of it has a test that makes it fail; nothing that the
//! harness starts (processes, namespaces, mounts) outlives it; only faults that were actually injected are counted.
//! Not here: the same in simulation (`holdfast_simulation`), durability of one node (`crates/holdfast/tests/durability`).
//! Start at [`check`] for the guarantees, and at docs/chaos.md for how to run it.
#![warn(missing_docs)]

pub mod check;
pub mod cluster;
pub mod history;
pub mod interrupt;
pub mod load;
pub mod nemesis;
pub mod net;
pub mod node;
pub mod recorder;
pub mod refusals;
pub mod report;
pub mod run;
pub mod targets;
