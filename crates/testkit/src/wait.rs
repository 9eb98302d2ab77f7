//! Waiting for a condition instead of sleeping.

use std::time::Duration;

use tokio::time::Instant;

/// How long a condition may take, on the clock of the test.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How often it is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Waits until `holds`, for a minute at most; simulated time counts where it is paused.
///
/// # Panics
/// When it does not hold in time.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
