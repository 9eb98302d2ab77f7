//! The property bag: properties of a message inside its topic.
//!
//! Wire facts: Spec device-mqtt §5.2 (device to cloud), §6 (cloud to device), §4.2 (escapes).
//! Invariants: values without escapes are borrowed; a name occurs once, the last value counts; a device
//! cannot send the properties that the hub sets.
//! Not here: the topics that carry a bag ([`crate::topic`]), names for readers (`holdfast_model::property`).

mod devicebound;
mod parse;
mod size;
mod time;
mod write;

pub use devicebound::{Devicebound, devicebound};
pub(crate) use parse::mark;
pub use parse::{fill, parse, telemetry};
pub use size::check_size;
pub use time::{format_utc, parse_utc};
pub use write::write;

#[cfg(test)]
mod tests;
