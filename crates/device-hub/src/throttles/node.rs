//! The rates of a hub as one node applies them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use holdfast_model::{Clock, ErrorCode, Rate};
use holdfast_tasks::sync::Mutex;
use thiserror::Error;
use tokio::time::Instant;

use super::class::ThrottleClass;
use super::config::ThrottlesConfig;
use super::quota::count::QuotaCount;
use super::reservation::Reservation;
use super::shaper::{RefusedTurn, Shaper, Turn};
use super::share_book::{Report, Table};
use crate::DeviceHub;
use crate::api::connect_request::Protocol;
use crate::metrics;

/// How often the log has a line about one class.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// A node without a share still has a rate, of which nothing comes.
const MIN_SHARE: f64 = 1e-6;

/// The longest time to retry after, in seconds: shares change meanwhile.
const MAX_RETRY_AFTER: u128 = 60;

/// What does not allow a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    /// A rate of the hub.
    Rate(Rate),
    /// A rate of the device.
    DeviceRate(Rate),
    /// The daily quota, of so many messages.
    Quota(u64),
}

/// A request that is not carried out because a rate or the daily quota is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub struct Throttled {
    /// The kind of operation.
    pub class: ThrottleClass,
    /// The number for the client.
    pub code: ErrorCode,
    /// When it is worth to ask again.
    pub retry_after: Duration,
    limit: Limit,
}

impl fmt::Display for Throttled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (class, seconds) = (self.class.describe(), self.retry_after_seconds());
        match self.limit {
            Limit::Rate(rate) => write!(f, "{class} are limited to {rate}; retry after {seconds} s"),
            Limit::DeviceRate(rate) => {
                write!(
                    f,
                    "{class} are limited to {rate} for one device; retry after {seconds} s"
                )
            }
            Limit::Quota(limit) => write!(
                f,
                "the hub's quota of {limit} messages a day is used up, and {class} count; it begins anew at 00:00 UTC, in {seconds} s"
            ),
        }
    }
}

impl Throttled {
    pub(super) fn new(class: ThrottleClass, rate: Rate, cause: RefusedTurn, retry_after: Duration) -> Self {
        Self {
            class,
            code: match cause {
                RefusedTurn::Exhausted => ErrorCode::ThrottlingException,
                RefusedTurn::QueueFull => ErrorCode::ThrottleBacklogLimitExceeded,
                RefusedTurn::TooLate => ErrorCode::ThrottlingBacklogTimeout,
            },
            retry_after,
            limit: Limit::Rate(rate),
        }
    }

    /// The same for the rate of one device.
    pub(super) fn of_device(class: ThrottleClass, rate: Rate, retry_after: Duration) -> Self {
        Self {
            class,
            code: ErrorCode::DeviceThrottlingLimitExceeded,
            retry_after,
            limit: Limit::DeviceRate(rate),
        }
    }

    /// The same for the daily quota.
    fn of_quota(class: ThrottleClass, quota: &QuotaCount) -> Self {
        Self {
            class,
            code: ErrorCode::IotHubQuotaExceeded,
            retry_after: quota.until_reset(),
            limit: Limit::Quota(quota.limit()),
        }
    }

    /// Whether the daily quota is the cause, and no rate.
    #[must_use]
    pub fn is_quota(&self) -> bool {
        matches!(self.limit, Limit::Quota(_))
    }

    /// [`Self::retry_after`] in whole seconds, at least 1.
    #[must_use]
    pub fn retry_after_seconds(&self) -> u64 {
        let most = if self.is_quota() { u128::MAX } else { MAX_RETRY_AFTER };
        self.retry_after.as_millis().div_ceil(1000).clamp(1, most) as u64
    }
}

/// What became of a request that met a used-up rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// It waits for its turn.
    Delayed,
    /// It is answered with a refusal.
    Refused,
    /// It is lost, as its sender has agreed to.
    Dropped,
}

impl Effect {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Delayed => "delayed",
            Self::Refused => "refused",
            Self::Dropped => "dropped",
        }
    }
}

/// One class that has a rate.
struct Throttle {
    rate: Rate,
    state: Mutex<State>,
}

struct State {
    shaper: Shaper,
    /// Tokens that were requested since the last report.
    demand: u64,
    /// This node's part of the rate.
    share: f64,
    logged: Option<Duration>,
    /// Since the last line of the log.
    delayed: u64,
    refused: u64,
}

/// The rates of one node.
pub(crate) struct Throttles {
    /// The node's own time, which never goes back, begins here.
    origin: Instant,
    /// By [`ThrottleClass::index`]; `None`: without a rate.
    classes: [Option<Throttle>; ThrottleClass::ALL.len()],
    pub(super) device_sends: Option<Rate>,
    pub(super) device_twin_requests: Option<Rate>,
    pub(super) max_wait: Duration,
    /// The daily quota, if there is one.
    pub(crate) quota: Option<QuotaCount>,
}

impl Throttles {
    pub(crate) fn new(config: &ThrottlesConfig, cores: u16, clock: &Clock) -> Self {
        let throttle = |class| {
            let rate = config.rate(class);
            let shaper = Shaper::full(
                rate.per_second()?,
                config.max_wait.get(),
                config.max_waiting,
                Duration::ZERO,
            );
            Some(Throttle {
                rate,
                state: Mutex::new(State {
                    shaper,
                    demand: 0,
                    share: 1.0,
                    logged: None,
                    delayed: 0,
                    refused: 0,
                }),
            })
        };
        let limited = |rate: Option<Rate>| rate.filter(|rate| *rate != Rate::Unlimited);
        Self {
            origin: Instant::now(),
            classes: ThrottleClass::ALL.map(throttle),
            device_sends: limited(config.device_d2c_sends),
            device_twin_requests: limited(config.device_twin_requests),
            max_wait: config.max_wait.get(),
            quota: config
                .quota()
                .map(|(limit, meter)| QuotaCount::new(limit, meter, cores, clock.clone())),
        }
    }

    /// Whether the daily quota leaves room for an operation.
    fn check_quota(&self, class: ThrottleClass, protocol: Protocol, effect: Effect) -> Result<(), Throttled> {
        match &self.quota {
            Some(quota) if class.is_metered() && quota.is_used_up() => {
                metrics::over_quota(class, protocol, effect.as_str());
                Err(Throttled::of_quota(class, quota))
            }
            _ => Ok(()),
        }
    }

    /// Whether any class has a rate.
    pub(super) fn has_rates(&self) -> bool {
        self.classes.iter().any(Option::is_some)
    }

    /// The demand at this node since the last report, and the shares that it uses.
    pub(super) fn take_report(&self) -> Report {
        let mut report = Report {
            demand: [0; ThrottleClass::ALL.len()],
            in_use: self.shares(),
        };
        for (demand, throttle) in report.demand.iter_mut().zip(&self.classes) {
            if let Some(throttle) = throttle {
                *demand = std::mem::take(&mut throttle.state.lock().demand);
            }
        }
        report
    }

    /// The shares that this node uses.
    pub(super) fn shares(&self) -> Table<f64> {
        self.classes
            .each_ref()
            .map(|throttle| throttle.as_ref().map_or(0.0, |throttle| throttle.state.lock().share))
    }

    /// From now on this node uses these shares of the rates.
    pub(super) fn set_shares(&self, shares: &Table<f64>) {
        let now = self.now();
        for ((throttle, share), class) in self.classes.iter().zip(shares).zip(ThrottleClass::ALL) {
            let Some(throttle) = throttle else { continue };
            let Some(rate) = throttle.rate.per_second() else {
                continue;
            };
            let mut state = throttle.state.lock();
            state.share = *share;
            state.shaper.set_rate(rate * share.max(MIN_SHARE), now);
            metrics::show_share(class, *share);
        }
    }

    fn of(&self, class: ThrottleClass) -> Option<&Throttle> {
        self.classes[class.index()].as_ref()
    }

    pub(super) fn is_limited(&self, class: ThrottleClass) -> bool {
        self.of(class).is_some()
    }

    /// The node's own time.
    pub(super) fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// When that is for a timer.
    pub(super) fn instant(&self, time: Duration) -> Instant {
        self.origin + time
    }

    /// A turn for a request; `None`: now. `effect_of_refusal` is for the metrics.
    pub(super) fn reserve(
        &self,
        class: ThrottleClass,
        cost: u32,
        protocol: Protocol,
        effect_of_refusal: Effect,
    ) -> Result<Option<Duration>, Throttled> {
        self.check_quota(class, protocol, effect_of_refusal)?;
        let Some(throttle) = self.of(class) else {
            return Ok(None);
        };
        let (turn, now) = {
            let mut state = throttle.state.lock();
            state.demand = state.demand.saturating_add(cost.into());
            if state.shaper.take_untimed(cost) {
                return Ok(None);
            }
            let now = self.now();
            let turn = state.shaper.reserve(cost, now);
            state.count(class, throttle.rate, turn, now);
            (turn, now)
        };
        match turn {
            Turn::Now => Ok(None),
            Turn::After(wait) => {
                metrics::throttle(class, protocol, Effect::Delayed.as_str());
                Ok(Some(now + wait))
            }
            Turn::Refused { cause, retry_after } => {
                metrics::throttle(class, protocol, effect_of_refusal.as_str());
                Err(Throttled::new(class, throttle.rate, cause, retry_after))
            }
        }
    }

    /// A request with a turn does not wait any more. `returned`: the tokens that it has not used.
    pub(super) fn leave(&self, class: ThrottleClass, returned: u32) {
        if let Some(throttle) = self.of(class) {
            throttle.state.lock().shaper.leave(returned);
        }
    }
}

impl State {
    /// Counts for the log, and writes its line when one is due.
    fn count(&mut self, class: ThrottleClass, rate: Rate, turn: Turn, now: Duration) {
        match turn {
            Turn::Now => return,
            Turn::After(_) => self.delayed += 1,
            Turn::Refused { .. } => self.refused += 1,
        }
        if self
            .logged
            .is_some_and(|logged| now.saturating_sub(logged) < LOG_INTERVAL)
        {
            return;
        }
        tracing::warn!(
            class = class.as_str(),
            %rate,
            delayed = self.delayed,
            refused = self.refused,
            "a rate of section [throttles] is used up: requests wait, or are refused with 429; counts are since the last such line"
        );
        (self.logged, self.delayed, self.refused) = (Some(now), 0, 0);
    }
}

impl DeviceHub {
    /// A turn for an operation that counts `cost`: `None`: now; otherwise the caller waits for it.
    ///
    /// # Errors
    /// [`Throttled`]: the operation must not be carried out.
    pub fn admit(
        self: &Arc<Self>,
        class: ThrottleClass,
        cost: u32,
        protocol: Protocol,
    ) -> Result<Option<Reservation>, Throttled> {
        let due = self.throttles.reserve(class, cost, protocol, Effect::Refused)?;
        Ok(due.map(|due| Reservation::new(Arc::clone(self), class, cost, self.throttles.instant(due))))
    }

    /// [`Self::admit`] for an operation that does not wait: it is refused unless its turn is now.
    ///
    /// # Errors
    /// [`Throttled`]: the operation must not be carried out.
    pub fn admit_at_once(&self, class: ThrottleClass, protocol: Protocol) -> Result<(), Throttled> {
        let now = self.throttles.now();
        let Some(due) = self.throttles.reserve(class, 1, protocol, Effect::Refused)? else {
            return Ok(());
        };
        self.throttles.leave(class, 1);
        let rate = self
            .throttles
            .of(class)
            .map_or(Rate::Unlimited, |throttle| throttle.rate);
        Err(Throttled::new(
            class,
            rate,
            RefusedTurn::Exhausted,
            due.saturating_sub(now),
        ))
    }

    /// An operation that was admitted at once is not carried out.
    pub fn give_back(&self, class: ThrottleClass) {
        if let Some(throttle) = self.throttles.of(class) {
            throttle.state.lock().shaper.give_back(1);
        }
    }

    /// How long an operation may wait for its turn.
    #[must_use]
    pub fn longest_turn(&self, class: ThrottleClass) -> Duration {
        match self.throttles.is_limited(class) {
            true => self.throttles.max_wait,
            false => Duration::ZERO,
        }
    }

    /// Whether messages of devices have a rate, of the hub or of each device, or count for a quota.
    #[must_use]
    pub fn limits_sends(&self) -> bool {
        self.throttles.is_limited(ThrottleClass::TelemetrySends)
            || self.throttles.device_sends.is_some()
            || self.throttles.quota.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn throttles(config: ThrottlesConfig) -> Throttles {
        Throttles::new(
            &config,
            1,
            &Clock::from_fn(|| holdfast_model::UnixMillis(86_400_000 - 90_000)),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_used_up_quota_refuses_what_it_counts_and_nothing_else() {
        let throttles = throttles(ThrottlesConfig {
            daily_messages: Some(2),
            ..ThrottlesConfig::default()
        });
        let quota = throttles.quota.as_ref().unwrap();
        quota.charge(Some(0), 10);
        assert_eq!(reserve(&throttles, ThrottleClass::Queries), Ok(None));
        quota.charge(None, 10);
        for class in ThrottleClass::ALL {
            let refused = reserve(&throttles, class).err();
            assert_eq!(refused.is_some(), class.is_metered(), "{class}");
            let Some(refused) = refused else { continue };
            assert_eq!(
                (refused.code, refused.is_quota()),
                (ErrorCode::IotHubQuotaExceeded, true)
            );
            let text = refused.to_string();
            assert!(
                text.starts_with("the hub's quota of 2 messages a day is used up, and "),
                "{text}"
            );
            assert!(text.ends_with("it begins anew at 00:00 UTC, in 90 s"), "{text}");
        }
    }

    fn reserve(throttles: &Throttles, class: ThrottleClass) -> Result<Option<Duration>, Throttled> {
        throttles.reserve(class, 1, Protocol::Https, Effect::Refused)
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_has_the_number_of_its_cause_and_a_text_with_the_rate() {
        let class = ThrottleClass::Queries;
        for (max_wait, max_waiting, code) in [
            (0, 10, ErrorCode::ThrottlingException),
            (60, 0, ErrorCode::ThrottleBacklogLimitExceeded),
            (1, 10, ErrorCode::ThrottlingBacklogTimeout),
        ] {
            let throttles = throttles(ThrottlesConfig {
                queries: Some(Rate::PerMinute(2)),
                max_wait: holdfast_model::HumanDuration::secs(max_wait),
                max_waiting,
                ..ThrottlesConfig::default()
            });
            assert_eq!(
                (reserve(&throttles, class), reserve(&throttles, class)),
                (Ok(None), Ok(None))
            );
            let refused = reserve(&throttles, class).unwrap_err();
            assert_eq!(refused.code, code);
            let text = refused.to_string();
            assert!(text.starts_with("queries are limited to 2/min; retry after "), "{text}");
            assert_eq!(reserve(&throttles, ThrottleClass::TwinReads), Ok(None), "another class");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn turns_come_with_the_time_of_the_node() {
        let throttles = throttles(ThrottlesConfig {
            twin_reads: Some(Rate::PerSecond(1)),
            ..ThrottlesConfig::default()
        });
        let class = ThrottleClass::TwinReads;
        for _ in 0..60 {
            assert_eq!(reserve(&throttles, class), Ok(None));
        }
        assert_eq!(reserve(&throttles, class), Ok(Some(Duration::from_secs(1))));
        tokio::time::advance(Duration::from_secs(3)).await;
        throttles.leave(class, 0);
        assert_eq!(reserve(&throttles, class), Ok(None));
        assert!(throttles.is_limited(class) && !throttles.is_limited(ThrottleClass::Connects));
    }
}
