//! A back end that continues to call while the keys of its policy are replaced.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, StatusCode};
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::TOKEN_LIFETIME;
use crate::http::Client;
use crate::hub::{Hub, sign};
use crate::target::Transport;

/// The back end's policy.
pub(super) const POLICY: &str = "swarm-back-end";
/// Before a caller whose connection broke connects again.
const RECONNECT_INTERVAL: Duration = Duration::from_millis(100);
/// How long all callers may take to have an answer under a new key.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two calls of a caller: the devices' connects share its thread.
const CALL_INTERVAL: Duration = Duration::from_millis(2);
/// Answers that each caller has under a new key before the next one is replaced.
const CALLS_A_KEY: u32 = 25;
/// Different reasons that are kept.
const MAX_REASONS: usize = 100;

/// Both keys of a policy, base64.
pub(super) struct PolicyKeys {
    pub(super) primary: String,
    secondary: String,
}

impl PolicyKeys {
    /// From a policy's document.
    ///
    /// # Errors
    /// When it has no keys.
    pub(super) fn read(policy: &Value) -> Result<Self> {
        let key = |name: &str| {
            policy[name]
                .as_str()
                .map(str::to_owned)
                .context("a policy without keys")
        };
        Ok(Self {
            primary: key("primaryKey")?,
            secondary: key("secondaryKey")?,
        })
    }

    /// `primary` or `secondary`.
    pub(super) fn of(&self, kind: &str) -> &str {
        if kind == "primary" {
            &self.primary
        } else {
            &self.secondary
        }
    }
}

struct Shared {
    hub: Hub,
    /// The device that is read.
    device: String,
    /// The token and its version, which grows with each key.
    token: RefCell<(Rc<str>, u64)>,
    /// Callers that have had [`CALLS_A_KEY`] answers to a token of the newest version.
    settled: Cell<usize>,
    changed: Notify,
    answered: Cell<u64>,
    failed: RefCell<BTreeMap<String, u64>>,
}

/// See the module.
pub(super) struct BackEnd {
    shared: Rc<Shared>,
    callers: Vec<JoinHandle<()>>,
}

impl BackEnd {
    /// Connects `callers` to `hub`, which read `device` again and again.
    ///
    /// # Errors
    /// When the hub cannot be reached.
    pub(super) async fn start(hub: &Hub, callers: u32, device: String, key: &str) -> Result<Self> {
        let shared = Rc::new(Shared {
            hub: hub.clone(),
            device,
            token: RefCell::new((token(hub, key)?, 0)),
            settled: Cell::new(0),
            changed: Notify::new(),
            answered: Cell::new(0),
            failed: RefCell::default(),
        });
        let mut tasks = Vec::new();
        for _ in 0..callers {
            let client = shared.connect().await?;
            let calling = call(Rc::clone(&shared), client);
            tasks.push(holdfast_tasks::spawn_local("back-end", Box::pin(calling)));
        }
        Ok(Self { shared, callers: tasks })
    }

    /// Signs with `key` from the next call on.
    ///
    /// # Errors
    /// When it is not base64.
    pub(super) fn use_key(&self, key: &str) -> Result<()> {
        let token = token(&self.shared.hub, key)?;
        let version = self.shared.token.borrow().1 + 1;
        *self.shared.token.borrow_mut() = (token, version);
        self.shared.settled.set(0);
        Ok(())
    }

    /// Waits until every caller has had [`CALLS_A_KEY`] answers under the newest key: no call under an older one is on its way.
    ///
    /// # Errors
    /// When that takes longer than [`SETTLE_TIMEOUT`].
    pub(super) async fn settled(&self) -> Result<()> {
        let waited = tokio::time::timeout(SETTLE_TIMEOUT, async {
            while self.shared.settled.get() < self.callers.len() {
                self.shared.changed.notified().await;
            }
        });
        if waited.await.is_err() {
            bail!(
                "calls with the new key are not answered: {:?}",
                self.shared.failed.borrow()
            );
        }
        Ok(())
    }

    /// Whether the hub accepts a call under `key`.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub(super) async fn try_key(&self, key: &str) -> Result<bool> {
        let token = token(&self.shared.hub, key)?;
        let status = self.shared.get(&mut self.shared.connect().await?, &token).await?;
        Ok(status == StatusCode::OK)
    }

    pub(super) fn answered(&self) -> u64 {
        self.shared.answered.get()
    }

    /// Failed calls, by reason.
    pub(super) fn failed(&self) -> BTreeMap<String, u64> {
        self.shared.failed.borrow().clone()
    }

    pub(super) async fn stop(self) {
        for caller in &self.callers {
            caller.abort();
        }
        for caller in self.callers {
            // An aborted task has ended, as it should.
            let _ = caller.await;
        }
    }
}

fn token(hub: &Hub, key: &str) -> Result<Rc<str>> {
    let key = STANDARD.decode(key).context("a policy's key is not base64")?;
    Ok(sign(hub.host(), &key, Some(POLICY), TOKEN_LIFETIME).into())
}

async fn call(shared: Rc<Shared>, mut client: Client) {
    let (mut answers, mut of) = (0, 0);
    loop {
        let (token, version) = shared.token.borrow().clone();
        match shared.get(&mut client, &token).await {
            Ok(StatusCode::OK) => {
                shared.answered.set(shared.answered.get() + 1);
                answers = if of == version { answers + 1 } else { 1 };
                of = version;
                if answers == CALLS_A_KEY && shared.token.borrow().1 == version {
                    shared.settled.set(shared.settled.get() + 1);
                    shared.changed.notify_one();
                }
            }
            Ok(status) => shared.fail(status.to_string()),
            Err(error) => {
                shared.fail(format!("{error:#}"));
                loop {
                    tokio::time::sleep(RECONNECT_INTERVAL).await;
                    match shared.connect().await {
                        Ok(opened) => break client = opened,
                        Err(error) => shared.fail(format!("{error:#}")),
                    }
                }
            }
        }
        tokio::time::sleep(CALL_INTERVAL).await;
    }
}

impl Shared {
    async fn connect(&self) -> Result<Client> {
        let tls = self.hub.tls(Transport::Tls13)?;
        Client::connect(self.hub.https_address()?, &self.hub.0.host_name, tls.as_ref()).await
    }

    async fn get(&self, client: &mut Client, token: &str) -> Result<StatusCode> {
        let path = format!("/devices/{}?api-version=2021-04-12", self.device);
        let (status, _) = client.request(Method::GET, &path, Some(token), Vec::new()).await?;
        Ok(status)
    }

    fn fail(&self, reason: String) {
        let mut failed = self.failed.borrow_mut();
        if failed.len() < MAX_REASONS || failed.contains_key(&reason) {
            *failed.entry(reason).or_default() += 1;
        }
    }
}
