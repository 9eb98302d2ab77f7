//! The one door for starting tasks, the order in which they stop, and budgets in bytes.
//!
//! Why: a panic in a detached task is silent, a queue counted in items is unbounded in bytes, and a stop without an
//! order loses what was acknowledged.
//! Invariants: every task has a name and an end that somebody sees; a budget never goes below zero.
//! Not here: what tasks do; runtimes (the composition root builds them).
#![warn(missing_docs)]

mod budget;
mod spawn;
mod stop;
pub mod watch;

pub use budget::{ByteBudget, Overdrawn, Permit};
pub use spawn::{panics, spawn, spawn_blocking, spawn_local};
pub use stop::{Phase, Stop};
