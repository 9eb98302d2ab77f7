//! The rate at which one device may request what it already has: the state of its registration, or another challenge.
//!
//! Invariants: a device is counted only once it is known, or together with its address, so that no device uses up the rate of another
//! one; the table is bounded, and begins anew when it is full.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash, RandomState};

use holdfast_model::{ErrorCode, UnixMillis};
use holdfast_tasks::sync::Mutex;

use crate::error::ProvisioningError;

/// Requests of one device in one [`WINDOW_MS`] (Spec provisioning §10.2).
const MAX_REQUESTS: u32 = 5;

/// Milliseconds in which they are counted.
const WINDOW_MS: u64 = 10_000;

/// Devices that are counted.
const MAX_DEVICES: usize = 65_536;

/// The requests of the last seconds.
#[derive(Default)]
pub(crate) struct RequestRate {
    hasher: RandomState,
    /// By the hash of the caller: when the window began, and the requests in it.
    windows: Mutex<HashMap<u64, (UnixMillis, u32)>>,
}

impl RequestRate {
    /// Counts a request of `who`.
    ///
    /// # Errors
    /// [`ErrorCode::ThrottlingException`] beyond the rate.
    pub(crate) fn admit(&self, who: impl Hash, now: UnixMillis) -> Result<(), ProvisioningError> {
        let who = self.hasher.hash_one(who);
        let mut windows = self.windows.lock();
        if windows.len() >= MAX_DEVICES && !windows.contains_key(&who) {
            windows.clear();
        }
        let (begun, count) = windows.entry(who).or_insert((now, 0));
        if now.0.saturating_sub(begun.0) >= WINDOW_MS {
            (*begun, *count) = (now, 0);
        }
        if *count >= MAX_REQUESTS {
            let text = format!("a device asks at most {MAX_REQUESTS} times in {} s", WINDOW_MS / 1000);
            return Err(ProvisioningError::new(ErrorCode::ThrottlingException, text));
        }
        *count += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_beyond_its_rate_waits_for_the_next_window_and_others_do_not() {
        let rate = RequestRate::default();
        let at = |ms| UnixMillis(1_000_000 + ms);
        for request in 0..MAX_REQUESTS {
            rate.admit("dev-1", at(u64::from(request))).unwrap();
        }
        let error = rate.admit("dev-1", at(WINDOW_MS - 1)).unwrap_err();
        assert_eq!(error.code, ErrorCode::ThrottlingException);
        assert!(error.retry_after.is_some());
        rate.admit("dev-2", at(0)).unwrap();
        rate.admit("dev-1", at(WINDOW_MS)).unwrap();
    }

    #[test]
    fn a_crowd_is_not_kept() {
        let rate = RequestRate::default();
        for device in 0..MAX_DEVICES + 10 {
            rate.admit(device, UnixMillis(0)).unwrap();
        }
        assert!(rate.windows.lock().len() <= MAX_DEVICES);
    }
}
