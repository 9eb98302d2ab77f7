//! The operations that have a rate of their own: rows of Spec auth-and-limits §9.1.

use std::fmt;

/// A kind of operation. Each has one rate for the whole hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ThrottleClass {
    /// Reads and writes of the identity registry; a bulk call counts each identity.
    RegistryOperations,
    /// New connections of devices whose credential is right.
    Connects,
    /// Messages of devices.
    TelemetrySends,
    /// Pages of queries.
    Queries,
    /// Messages to devices.
    CloudSends,
    /// Calls of methods, in begun blocks of 4 KiB of their payload.
    Methods,
    /// Reads of twins, by devices and back ends.
    TwinReads,
    /// Writes of twins, by devices and back ends.
    TwinUpdates,
    /// Tokens that back ends put to `$cbs`, renewals included.
    AmqpTokens,
    /// Requests to `$management`.
    AmqpManagement,
    /// Requests of devices over HTTPS for the next message to them.
    CloudReceives,
    /// File uploads that devices begin.
    UploadInitiations,
}

impl ThrottleClass {
    /// All, in the order of [`Self::index`].
    pub const ALL: [Self; 12] = [
        Self::RegistryOperations,
        Self::Connects,
        Self::TelemetrySends,
        Self::Queries,
        Self::CloudSends,
        Self::Methods,
        Self::TwinReads,
        Self::TwinUpdates,
        Self::AmqpTokens,
        Self::AmqpManagement,
        Self::CloudReceives,
        Self::UploadInitiations,
    ];

    /// Its place in a table.
    pub(crate) const fn index(self) -> usize {
        match self {
            Self::RegistryOperations => 0,
            Self::Connects => 1,
            Self::TelemetrySends => 2,
            Self::Queries => 3,
            Self::CloudSends => 4,
            Self::Methods => 5,
            Self::TwinReads => 6,
            Self::TwinUpdates => 7,
            Self::AmqpTokens => 8,
            Self::AmqpManagement => 9,
            Self::CloudReceives => 10,
            Self::UploadInitiations => 11,
        }
    }

    /// The word in logs and metric labels, and the key of section `[throttles]`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RegistryOperations => "registry_operations",
            Self::Connects => "connects",
            Self::TelemetrySends => "d2c_sends",
            Self::Queries => "queries",
            Self::CloudSends => "c2d_sends",
            Self::Methods => "methods",
            Self::TwinReads => "twin_reads",
            Self::TwinUpdates => "twin_updates",
            Self::AmqpTokens => "amqp_tokens",
            Self::AmqpManagement => "amqp_management",
            Self::CloudReceives => "c2d_receives",
            Self::UploadInitiations => "upload_initiations",
        }
    }

    /// For texts that clients get.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::RegistryOperations => "operations of the identity registry",
            Self::Connects => "new connections",
            Self::TelemetrySends => "messages of devices",
            Self::Queries => "queries",
            Self::CloudSends => "messages to devices",
            Self::Methods => "method calls",
            Self::TwinReads => "reads of twins",
            Self::TwinUpdates => "updates of twins",
            Self::AmqpTokens => "tokens over AMQP",
            Self::AmqpManagement => "requests to $management",
            Self::CloudReceives => "requests for messages to devices",
            Self::UploadInitiations => "file uploads that begin",
        }
    }

    /// Whether the daily quota counts the operations (Spec auth-and-limits §9.1).
    pub(crate) const fn is_metered(self) -> bool {
        match self {
            Self::TelemetrySends
            | Self::Queries
            | Self::CloudSends
            | Self::Methods
            | Self::TwinReads
            | Self::TwinUpdates
            | Self::UploadInitiations => true,
            // A message to a device counts when the device has completed it.
            Self::RegistryOperations
            | Self::Connects
            | Self::AmqpTokens
            | Self::AmqpManagement
            | Self::CloudReceives => false,
        }
    }

    /// What a method call with such a payload counts: begun blocks of 4 KiB, at least one.
    #[must_use]
    pub fn method_blocks(payload: usize) -> u32 {
        u32::try_from(payload.div_ceil(4096)).unwrap_or(u32::MAX).max(1)
    }
}

impl fmt::Display for ThrottleClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_its_own_place_and_word() {
        for (place, class) in ThrottleClass::ALL.into_iter().enumerate() {
            assert_eq!(class.index(), place);
            let same = ThrottleClass::ALL
                .into_iter()
                .filter(|other| other.as_str() == class.as_str());
            assert_eq!(same.count(), 1, "{class}");
        }
    }

    #[test]
    fn methods_are_metered_in_begun_blocks_of_4_kib() {
        for (bytes, blocks) in [(0, 1), (1, 1), (4096, 1), (4097, 2), (128 * 1024, 32)] {
            assert_eq!(ThrottleClass::method_blocks(bytes), blocks, "{bytes}");
        }
    }
}
