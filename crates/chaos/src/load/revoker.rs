//! A back end that revokes and restores devices' rights, for the check of revocation: it disables the device, rolls the
//! key in use, or deletes the device.
//!
//! Every change carries the ETag that was read before it, so an unanswered change cannot take effect after a later one.
//! A creation cannot carry one, so a device with an unanswered creation is not changed any more.

use std::collections::HashSet;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use http::{Method, StatusCode};
use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::Shared;
use super::service::{Caller, device_keys, identity};
use crate::history::{Micros, RightsChange};

/// How long a device is without rights, in milliseconds.
const REVOKED_MS: Range<u64> = 1_300..2_500;
/// Interval between two changes.
const INTERVAL_MS: Range<u64> = 200..800;
/// Attempts of a change before it is postponed.
const ATTEMPTS: u32 = 20;

/// How a device loses its rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Revocation {
    Disable,
    RollKey,
    Delete,
}

struct Revoker {
    shared: Rc<Shared>,
    caller: Caller,
    rng: StdRng,
    /// Devices whose creation may still take effect.
    left_alone: HashSet<u32>,
}

pub(super) async fn run(shared: Rc<Shared>, devices: Range<u32>, rng: StdRng) {
    let Ok(caller) = Caller::new(&shared.targets) else {
        return;
    };
    let mut revoker = Revoker {
        shared,
        caller,
        rng,
        left_alone: HashSet::new(),
    };
    let mut revoked: Option<u32> = None;
    while !revoker.shared.is_stopping() {
        let pause = match revoked {
            Some(number) => {
                if revoker.restore(number).await {
                    revoked = None;
                }
                INTERVAL_MS
            }
            None => {
                let number = revoker.rng.random_range(devices.clone());
                if !revoker.left_alone.contains(&number) {
                    revoker.revoke(number).await;
                    // Restored in any case: the revocation may have taken effect without an answer.
                    revoked = Some(number);
                }
                REVOKED_MS
            }
        };
        tokio::time::sleep(Duration::from_millis(revoker.rng.random_range(pause))).await;
    }
    // Outstanding messages of devices must be acknowledged at the end.
    if let Some(number) = revoked {
        revoker.restore(number).await;
    }
}

impl Revoker {
    async fn revoke(&mut self, number: u32) {
        let way = match self.rng.random_range(0..4) {
            0 | 1 => Revocation::Disable,
            2 => Revocation::RollKey,
            _ => Revocation::Delete,
        };
        for _ in 0..ATTEMPTS {
            match self.try_revoke(number, way).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => self.failed(&error),
            }
            if !self.may_try_again().await {
                return;
            }
        }
    }

    async fn restore(&mut self, number: u32) -> bool {
        for _ in 0..ATTEMPTS {
            match self.try_restore(number).await {
                Ok(true) => return true,
                Ok(false) => {}
                Err(error) => self.failed(&error),
            }
            if !self.may_try_again().await {
                return false;
            }
        }
        false
    }

    fn failed(&self, error: &anyhow::Error) {
        self.shared.recorder.failure(format!("revoker: {error:#}"));
    }

    async fn may_try_again(&self) -> bool {
        tokio::time::sleep(Duration::from_millis(100)).await;
        !self.shared.is_ended()
    }

    /// The present identity; `None` when there is none.
    async fn read(&mut self, device: &str) -> Result<Option<(Value, String)>> {
        let endpoint = self.shared.targets.any(&mut self.rng).context("there is no node")?;
        let (status, body) = self
            .caller
            .call(endpoint, Method::GET, &identity(device), None, None)
            .await?;
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        ensure!(status == StatusCode::OK, "a read is answered with {status}");
        let document: Value = serde_json::from_slice(&body)?;
        let etag = document
            .get("etag")
            .and_then(Value::as_str)
            .context("no etag")?
            .to_owned();
        Ok(Some((document, etag)))
    }

    async fn try_revoke(&mut self, number: u32, way: Revocation) -> Result<bool> {
        let device = self.shared.targets.names().name(number);
        let asked = self.shared.recorder.now();
        let Some((mut document, etag)) = self.read(&device).await? else {
            // Deleted by an unanswered attempt.
            self.note(&device, false, asked, true);
            return Ok(true);
        };
        match way {
            Revocation::Disable => document["status"] = json!("disabled"),
            Revocation::RollKey => {
                document["authentication"]["symmetricKey"]["primaryKey"] = json!(random_key(&mut self.rng))
            }
            Revocation::Delete => {}
        }
        let (method, body) = match way {
            Revocation::Delete => (Method::DELETE, None),
            Revocation::Disable | Revocation::RollKey => (Method::PUT, Some(document)),
        };
        let done = self.change(&device, false, method, Some(&etag), body.as_ref()).await?;
        Ok(done == Some(true))
    }

    async fn try_restore(&mut self, number: u32) -> Result<bool> {
        let device = self.shared.targets.names().name(number);
        let keys = device_keys(&self.shared.targets, &device)?;
        let Some((mut document, etag)) = self.read(&device).await? else {
            let document = json!({"deviceId": device, "status": "enabled", "authentication": keys});
            let done = self.change(&device, true, Method::PUT, None, Some(&document)).await?;
            if done.is_none() {
                self.left_alone.insert(number);
            }
            return Ok(done == Some(true));
        };
        document["status"] = json!("enabled");
        document["authentication"] = keys;
        let done = self
            .change(&device, true, Method::PUT, Some(&etag), Some(&document))
            .await?;
        Ok(done == Some(true))
    }

    /// Makes one change; true when it took effect, `None` = unknown.
    async fn change(
        &mut self,
        device: &str,
        allowed: bool,
        method: Method,
        etag: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Option<bool>> {
        let endpoint = self.shared.targets.any(&mut self.rng).context("there is no node")?;
        let asked = self.shared.recorder.now();
        match self.caller.call(endpoint, method, &identity(device), etag, body).await {
            Ok((status, _)) if status.is_success() => {
                self.note(device, allowed, asked, true);
                Ok(Some(true))
            }
            Ok((status, _)) if status.is_client_error() => Ok(Some(false)),
            Err(error) if !error.perhaps_done => Ok(Some(false)),
            Ok(_) | Err(_) => {
                self.note(device, allowed, asked, false);
                Ok(None)
            }
        }
    }

    fn note(&self, device: &str, allowed: bool, asked: Micros, is_answered: bool) {
        let answered = is_answered.then(|| self.shared.recorder.now());
        self.shared.recorder.history().rights.push(RightsChange {
            device: device.to_owned(),
            allowed,
            asked,
            answered,
        });
    }
}

fn random_key(rng: &mut StdRng) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(rng.random::<[u8; 32]>())
}
