//! The rates of one connected device: its own, and the hub's for what it sends.
//!
//! A device is shaped by its acknowledgements (Spec device-mqtt §10.3): a message whose turn is to come is stored at once and
//! acknowledged at its turn, so that the window of unacknowledged messages stops the device and its pings still arrive.

use std::sync::Arc;

use holdfast_model::Rate;
use tokio::time::Instant;

use super::class::ThrottleClass;
use super::node::{Effect, Throttled, Throttles};
use super::reservation::Reservation;
use super::shaper::{Shaper, Turn};
use crate::api::connect_request::Protocol;
use crate::metrics;
use crate::{Core, DeviceHub};

/// The rate of one device, if there is one.
pub(super) struct OwnRate(Option<(Rate, Shaper)>);

impl OwnRate {
    /// Without a rate.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self(None)
    }

    pub(super) fn new(rate: Option<Rate>, throttles: &Throttles) -> Self {
        let shaper = rate.and_then(|rate| {
            let per_second = rate.per_second()?;
            // The window of its connection bounds what waits.
            let full = Shaper::full(per_second, throttles.max_wait, usize::MAX, throttles.now());
            Some((rate, full.begun()))
        });
        Self(shaper)
    }

    /// A turn for `cost` operations together; `None`: now.
    pub(super) fn reserve(
        &mut self,
        throttles: &Throttles,
        class: ThrottleClass,
        cost: u32,
        protocol: Protocol,
        effect_of_refusal: Effect,
    ) -> Result<Option<Instant>, Throttled> {
        let Some((rate, shaper)) = &mut self.0 else {
            return Ok(None);
        };
        if shaper.take_untimed(cost) {
            return Ok(None);
        }
        let now = throttles.now();
        match shaper.reserve(cost, now) {
            Turn::Now => Ok(None),
            Turn::After(wait) => {
                // Its connection counts what waits.
                shaper.leave(0);
                metrics::device_throttle(class, protocol, "delayed");
                Ok(Some(throttles.instant(now + wait)))
            }
            Turn::Refused { retry_after, .. } => {
                let effect = match effect_of_refusal {
                    Effect::Dropped => "dropped",
                    Effect::Delayed | Effect::Refused => "refused",
                };
                metrics::device_throttle(class, protocol, effect);
                Err(Throttled::of_device(class, *rate, retry_after))
            }
        }
    }

    fn give_back(&mut self) {
        if let Some((_, shaper)) = &mut self.0 {
            shaper.give_back(1);
        }
    }
}

/// A message that may be stored, and when it may be acknowledged.
#[derive(Debug)]
pub struct AdmittedSend {
    /// When its turn comes; `None`: it has come.
    pub due: Option<Instant>,
    /// Its place among those that wait, until it is dropped.
    _waiting: Option<Reservation>,
}

/// The sends of one connection.
pub struct SendRates {
    hub: Arc<DeviceHub>,
    protocol: Protocol,
    own: OwnRate,
}

impl SendRates {
    /// A turn for a message that is acknowledged.
    ///
    /// # Errors
    /// It must not be stored now.
    pub fn admit(&mut self) -> Result<AdmittedSend, Throttled> {
        let class = ThrottleClass::TelemetrySends;
        let throttles = &self.hub.throttles;
        let own = self.own.reserve(throttles, class, 1, self.protocol, Effect::Refused)?;
        match self.hub.admit(class, 1, self.protocol) {
            Ok(reservation) => Ok(AdmittedSend {
                due: own.max(reservation.as_ref().map(Reservation::due)),
                _waiting: reservation.map(Reservation::used),
            }),
            Err(throttled) => {
                self.own.give_back();
                Err(throttled)
            }
        }
    }

    /// Whether a message that is not acknowledged may be stored: only if its turn has come.
    pub fn admits_now(&mut self) -> bool {
        let class = ThrottleClass::TelemetrySends;
        let throttles = &self.hub.throttles;
        let own = self.own.reserve(throttles, class, 1, self.protocol, Effect::Dropped);
        match own {
            Ok(None) => {}
            Ok(Some(_)) => {
                self.own.give_back();
                return false;
            }
            Err(_) => return false,
        }
        match throttles.reserve(class, 1, self.protocol, Effect::Dropped) {
            Ok(None) => true,
            Ok(Some(_)) => {
                throttles.leave(class, 1);
                self.own.give_back();
                false
            }
            Err(_) => {
                self.own.give_back();
                false
            }
        }
    }

    /// How long a connection may be kept unread before it is closed.
    #[must_use]
    pub fn max_wait(&self) -> std::time::Duration {
        self.hub.throttles.max_wait
    }
}

/// The requests of one connection about its twin.
pub struct TwinRates {
    protocol: Protocol,
    own: OwnRate,
}

impl TwinRates {
    /// A turn for a request; `None`: now.
    ///
    /// # Errors
    /// It must not be carried out.
    pub fn admit(
        &mut self,
        hub: &Arc<DeviceHub>,
        class: ThrottleClass,
    ) -> Result<Option<impl Future<Output = ()> + use<>>, Throttled> {
        let own = self
            .own
            .reserve(&hub.throttles, class, 1, self.protocol, Effect::Refused)?;
        let reservation = match hub.admit(class, 1, self.protocol) {
            Ok(reservation) => reservation,
            Err(throttled) => {
                self.own.give_back();
                return Err(throttled);
            }
        };
        if own.is_none() && reservation.is_none() {
            return Ok(None);
        }
        Ok(Some(async move {
            if let Some(own) = own {
                tokio::time::sleep_until(own).await;
            }
            if let Some(reservation) = reservation {
                reservation.come().await;
            }
        }))
    }
}

impl Core {
    /// The rates of the messages of a new connection.
    #[must_use]
    pub fn send_rates(&self, protocol: Protocol) -> SendRates {
        SendRates {
            hub: Arc::clone(&self.hub),
            protocol,
            own: OwnRate::new(self.hub.throttles.device_sends, &self.hub.throttles),
        }
    }

    /// The rates of the requests of a new connection about its twin.
    #[must_use]
    pub fn twin_rates(&self, protocol: Protocol) -> TwinRates {
        TwinRates {
            protocol,
            own: OwnRate::new(self.hub.throttles.device_twin_requests, &self.hub.throttles),
        }
    }
}
