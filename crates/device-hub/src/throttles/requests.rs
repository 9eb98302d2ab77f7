//! The rate of one device over HTTPS, where a device has requests and no connection of its own.
//!
//! Why: a rate that was its connection's would begin anew with each connection, and clients such as curl open one for each message.
//! Invariants: bounded: of [`MAX_DEVICES`] at most the rates are kept, those that were used longest ago are forgotten first; a device that was
//! forgotten begins with the tokens of one second, like a new connection. Counted by each node alone.
//! Not here: the hub's own rates ([`super::node`]).

use std::collections::HashMap;

use holdfast_model::IdentityId;
use holdfast_tasks::sync::Mutex;
use tokio::time::Instant;

use super::class::ThrottleClass;
use super::node::{Effect, Throttled};
use super::sender::OwnRate;
use crate::DeviceHub;
use crate::api::connect_request::Protocol;

/// Devices whose rates a node keeps. 100 bytes each.
const MAX_DEVICES: usize = 100_000;

/// See the module.
#[derive(Default)]
pub(crate) struct RequestRates(Mutex<Generations>);

/// The rates that were used since the last change of generations, and those before; a change forgets the latter.
#[derive(Default)]
struct Generations {
    recent: HashMap<IdentityId, OwnRate>,
    before: HashMap<IdentityId, OwnRate>,
}

impl Generations {
    fn rate(&mut self, identity: &IdentityId, new: impl FnOnce() -> OwnRate) -> &mut OwnRate {
        if !self.recent.contains_key(identity) && self.recent.len() >= MAX_DEVICES / 2 {
            self.before = std::mem::take(&mut self.recent);
        }
        let before = &mut self.before;
        self.recent
            .entry(identity.clone())
            .or_insert_with(|| before.remove(identity).unwrap_or_else(new))
    }
}

impl DeviceHub {
    /// A turn for `count` messages of `identity` by the rate of one device (`throttles.device_d2c_sends`); `None`: now.
    ///
    /// # Errors
    /// It must not be stored now.
    pub fn admit_request(
        &self,
        identity: &IdentityId,
        count: u32,
        protocol: Protocol,
    ) -> Result<Option<Instant>, Throttled> {
        let Some(rate) = self.throttles.device_sends else {
            return Ok(None);
        };
        let mut generations = self.request_rates.0.lock();
        let own = generations.rate(identity, || OwnRate::new(Some(rate), &self.throttles));
        own.reserve(
            &self.throttles,
            ThrottleClass::TelemetrySends,
            count,
            protocol,
            Effect::Refused,
        )
    }
}

#[cfg(test)]
mod tests {
    use holdfast_model::DeviceId;

    use super::*;

    #[test]
    fn the_rates_of_so_many_devices_are_kept_and_those_in_use_are_not_forgotten() {
        let device = |number: usize| IdentityId::device(DeviceId::parse(&format!("d-{number}")).unwrap());
        let mut generations = Generations::default();
        let made = std::cell::Cell::new(0);
        let mut used = |number: usize| {
            generations.rate(&device(number), || {
                made.set(made.get() + 1);
                OwnRate::none()
            });
            assert!(generations.recent.len() + generations.before.len() <= MAX_DEVICES);
        };
        for number in 0..MAX_DEVICES * 2 {
            used(number);
            used(0);
        }
        assert_eq!(made.get(), MAX_DEVICES * 2, "device 0 was made once");
        used(1);
        assert_eq!(made.get(), MAX_DEVICES * 2 + 1, "device 1 was forgotten");
    }
}
