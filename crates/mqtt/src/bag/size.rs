//! How large a message is (Spec query-and-routing §12).

use holdfast_model::TelemetryMessage;

use crate::limits::MAX_TELEMETRY_BYTES;
use crate::violation::Violation;

/// Refuses messages above 262,144 bytes.
///
/// # Errors
/// [`Violation::MessageTooLarge`] with the size.
pub fn check_size(message: &TelemetryMessage<'_>) -> Result<(), Violation> {
    match message.size() {
        size if size <= MAX_TELEMETRY_BYTES => Ok(()),
        size => Err(Violation::MessageTooLarge(u32::try_from(size).unwrap_or(u32::MAX))),
    }
}
