//! Starting tasks, work of low priority, what their panics cost, the order in which they stop, and budgets in bytes.
//!
//! Why: a panic in a detached task is silent, a queue counted in items is unbounded in bytes, and a stop without an
//! order loses what was acknowledged.
//! Invariants: every task has a name; a panic is logged and ends either one task or the process, never half of either;
//! a budget never goes below zero.
//! Not here: the work of tasks; runtimes (the composition root builds them).
#![warn(missing_docs)]

mod background;
mod blocking_pool;
mod budget;
mod panic;
mod spawn;
mod stop;
pub mod sync;
pub mod watch;

pub use background::{BackgroundThread, lower_priority};
pub use blocking_pool::BlockingPool;
pub use budget::{BudgetExceeded, ByteBudget, Permit};
#[cfg(debug_assertions)]
pub use panic::arm_panic_points;
pub use panic::{critical, end_process_on_panic, panic_point, panics};
pub use spawn::{
    block_inline_on_this_thread, spawn, spawn_blocking, spawn_critical, spawn_critical_local, spawn_local,
};
pub use stop::{Phase, Stop};
