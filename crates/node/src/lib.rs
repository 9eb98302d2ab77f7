//! A node of a hub: registry, partitions, device hub and control, put together from parts that are injected.
//!
//! Why a crate: the binary and the simulation build nodes here and nowhere else, so that the node that is simulated is
//! the node that ships.
//! Invariants: nothing here opens a file or a socket, reads a clock or makes a thread that it was not given (the one
//! exception is [`Core::start`], which makes the threads of a real node). A node stops top down: nothing is acknowledged
//! after its groups have ended.
//! Not here: the work of the parts; listeners, the data directory and the connections to other nodes (`holdfast`).
//! Start at [`NodeBuilder`].

mod builder;
mod error;
mod executor;
mod front_ends;
mod node;
mod replicas;
mod settings;

pub use builder::{NodeBuilder, NodeConfig, Origin, Placement};
pub use error::StartError;
pub use executor::{Core, CoreGone, CoreHandle, Executor};
pub use front_ends::FrontEnd;
pub use node::{Node, StopTimeouts, Stopped};
