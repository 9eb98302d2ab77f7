//! Points in time as they are stored and sent.

/// Milliseconds since 1970-01-01 UTC by the hub's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// Whole seconds since 1970, cut.
    #[must_use]
    pub fn seconds(self) -> u64 {
        self.0 / 1000
    }
}
