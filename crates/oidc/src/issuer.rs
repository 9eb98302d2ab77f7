//! The issuer's keys in memory, when they are fetched anew, and the check of a token.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_auth::bearer::{BearerRefusal, BearerToken, IssuerKeys, IssuerRules, Principal};
use holdfast_model::UnixMillis;
use holdfast_tasks::sync::Mutex;
use holdfast_tasks::{Phase, Stop, watch};
use tokio::sync::Notify;

use crate::{FetchError, OidcConfig, fetch, metrics};

/// Half of the pause after the first failed fetch while there are no keys; doubled up to the longest.
const HALF_FIRST_BACKOFF: Duration = Duration::from_millis(500);
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// The hub's issuer. Clones share its keys.
#[derive(Clone)]
pub struct Issuer(Arc<Shared>);

struct Shared {
    rules: IssuerRules,
    ca_file: Option<PathBuf>,
    refresh_interval: Duration,
    unknown_key_interval: Duration,
    /// `None` until they have been fetched once.
    keys: watch::Sender<Keys>,
    requests: Mutex<Requests>,
    requested: Notify,
}

/// The last good keys, and how many fetches have ended.
#[derive(Clone, Default)]
struct Keys {
    last_good: Option<Arc<IssuerKeys>>,
    fetches: u64,
}

/// Fetches that tokens with unknown keys ask for.
#[derive(Default)]
struct Requests {
    /// Whether a task fetches; without one nothing would ever come.
    is_followed: bool,
    /// One is on its way.
    is_pending: bool,
    /// When the last one was requested.
    last: Option<Instant>,
}

impl Issuer {
    /// The issuer of a configuration that has one. Without [`Self::follow`] it has no keys.
    #[must_use]
    pub fn new(config: &OidcConfig) -> Self {
        Self(Arc::new(Shared {
            rules: config.rules(),
            ca_file: config.ca_file.clone(),
            refresh_interval: config.refresh_interval.get(),
            unknown_key_interval: config.unknown_key_interval.get(),
            keys: watch::Sender::new(Keys::default()),
            requests: Mutex::default(),
            requested: Notify::new(),
        }))
    }

    /// Replaces the keys: for tests, and for keys that come from elsewhere.
    pub fn set_keys(&self, keys: IssuerKeys) {
        self.fetched(Some(keys));
    }

    /// Checks a token at `now` (hub clock) with the keys that there are. A token with an unknown key has them fetched, as often as
    /// `unknown_key_interval` allows: [`Self::settled`] returns after that, and then the token may be checked again.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check(&self, text: &str, now: UnixMillis) -> Result<Principal, BearerRefusal> {
        let token = BearerToken::parse(text)?;
        let keys = self.0.keys.borrow().last_good.clone();
        let checked = self.0.rules.check(&token, keys.as_deref(), now);
        if checked.as_ref().is_err_and(|refusal| refusal.needs_newer_keys()) {
            self.request();
        }
        checked
    }

    /// [`Self::check`], and once more after a fetch when its key is unknown. Waits at most as long as a fetch may take.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub async fn check_with_newest(&self, text: &str, now: UnixMillis) -> Result<Principal, BearerRefusal> {
        match self.check(text, now) {
            Err(refusal) if refusal.needs_newer_keys() && self.is_fetching() => {
                self.settled().await;
                self.check(text, now)
            }
            checked => checked,
        }
    }

    /// Whether a fetch that a token has requested is on its way.
    #[must_use]
    pub fn is_fetching(&self) -> bool {
        self.0.requests.lock().is_pending
    }

    /// Returns when no fetch that a token has requested is on its way. Cancel-safe.
    pub async fn settled(&self) {
        let mut keys = self.0.keys.subscribe();
        while self.is_fetching() && keys.changed().await.is_ok() {}
    }

    /// Requests a fetch, unless the last one was requested a moment ago.
    fn request(&self) {
        let mut requests = self.0.requests.lock();
        let is_early = requests
            .last
            .is_some_and(|last| last.elapsed() < self.0.unknown_key_interval);
        if !requests.is_followed || requests.is_pending || is_early {
            return;
        }
        requests.is_pending = true;
        requests.last = Some(Instant::now());
        drop(requests);
        self.0.requested.notify_one();
    }

    /// Keeps the keys current until the node closes: fetches them now, at every interval and on request, and again and again
    /// while there are none.
    pub async fn follow(self, stop: Stop) {
        self.0.requests.lock().is_followed = true;
        let mut backoff = HALF_FIRST_BACKOFF;
        loop {
            let fetched = tokio::select! {
                biased;
                () = stop.reached(Phase::Closing) => return,
                fetched = fetch::keys(&self.0.rules.issuer, self.0.ca_file.clone()) => fetched,
            };
            self.report(&fetched);
            self.fetched(fetched.ok());
            let wait = match self.has_keys() {
                true => self.0.refresh_interval,
                false => {
                    backoff = (backoff * 2).min(MAX_BACKOFF);
                    backoff
                }
            };
            tokio::select! {
                biased;
                () = stop.reached(Phase::Closing) => return,
                () = self.0.requested.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn has_keys(&self) -> bool {
        self.0.keys.borrow().last_good.is_some()
    }

    /// A fetch has ended; the checks that wait for it continue.
    fn fetched(&self, keys: Option<IssuerKeys>) {
        self.0.requests.lock().is_pending = false;
        let mut current = self.0.keys.borrow().clone();
        current.fetches += 1;
        if let Some(keys) = keys {
            #[expect(clippy::cast_precision_loss, reason = "a hundred at most")]
            metrics::keys().set(keys.count() as f64);
            current.last_good = Some(Arc::new(keys));
        }
        self.0.keys.send_replace(current);
    }

    fn report(&self, fetched: &Result<IssuerKeys, FetchError>) {
        let issuer = &self.0.rules.issuer;
        match fetched {
            Ok(keys) => {
                metrics::key_fetches("done").increment(1);
                tracing::info!(issuer, ?keys, "the keys of the bearer tokens' issuer have been read");
            }
            Err(error) => {
                metrics::key_fetches("failed").increment(1);
                tracing::warn!(
                    issuer,
                    error = error as &dyn std::error::Error,
                    has_keys = self.has_keys(),
                    "the keys of the bearer tokens' issuer cannot be read; those that there are stay"
                );
            }
        }
    }
}
