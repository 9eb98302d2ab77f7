//! Nodes: their environment and their processes.

pub mod certificates;
pub mod config;
pub mod disk;
mod process;
pub mod shims;

pub use process::{Ended, Node, Plan};
