//! The property bag: what a topic says about its message, in both directions.
//!
//! Wire facts: Spec device-mqtt §5.2 (device to cloud), §6 and §4.2 (cloud to device).
//! Invariants: values without escapes are borrowed; a name stands once, the last value counts; what the hub stamps
//! cannot be sent by a device.
//! Not here: which topic carries a bag ([`crate::topic`]), what a reader calls a property (`holdfast_model::property`).

mod cloud;
mod parse;
mod size;
mod time;
mod write;

pub use cloud::CloudBag;
pub(crate) use parse::mark;
pub use parse::{fill, parse, telemetry};
pub use size::{check_size, message_size};
pub use time::{format_utc, parse_utc};
pub use write::write;

#[cfg(test)]
mod tests;
