//! Nodes: what they run with, and the processes.

pub mod certificates;
pub mod config;
pub mod disk;
mod process;
pub mod shims;

pub use process::{Ended, Node, Plan};
