//! A back end that disables devices and enables them again, for the check of revocation.
//!
//! Every change carries the ETag that was read before it: one without an answer cannot take effect after a later one.

use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use http::{Method, StatusCode};
use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::Shared;
use super::service::{Caller, identity};
use crate::history::RightsChange;

/// How long a device is disabled, in milliseconds.
const DISABLED_MS: Range<u64> = 1_300..2_500;
/// Between two changes.
const PAUSE_MS: Range<u64> = 200..800;
/// How often a change is tried before the device is left for later.
const ATTEMPTS: u32 = 20;

pub(super) async fn run(shared: Rc<Shared>, devices: Range<u32>, mut rng: StdRng) {
    let Ok(mut caller) = Caller::new(&shared.reach) else {
        return;
    };
    let mut disabled: Option<u32> = None;
    while !shared.is_stopping() {
        let (number, allowed) = match disabled.take() {
            Some(number) => (number, true),
            None => (rng.random_range(devices.clone()), false),
        };
        let done = set(&shared, &mut caller, number, allowed, &mut rng).await;
        if !allowed || !done {
            // Enabled again in any case, however long it takes.
            disabled = Some(number);
        }
        let pause = if allowed { PAUSE_MS } else { DISABLED_MS };
        tokio::time::sleep(Duration::from_millis(rng.random_range(pause))).await;
    }
    // What it still owes must be acknowledged at the end.
    if let Some(number) = disabled {
        set(&shared, &mut caller, number, true, &mut rng).await;
    }
}

/// Enables or disables a device; whether that was answered.
async fn set(shared: &Shared, caller: &mut Caller, number: u32, allowed: bool, rng: &mut StdRng) -> bool {
    let device = shared.reach.names().name(number);
    for _ in 0..ATTEMPTS {
        match try_set(shared, caller, &device, allowed, rng).await {
            Ok(true) => return true,
            Ok(false) => {}
            Err(error) => shared.recorder.failure(format!("revoker: {error:#}")),
        }
        if shared.is_ended() {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    false
}

async fn try_set(shared: &Shared, caller: &mut Caller, device: &str, allowed: bool, rng: &mut StdRng) -> Result<bool> {
    let endpoint = shared.reach.any(rng).context("there is no node")?;
    let path = identity(device);
    let mut document = caller.must(endpoint, Method::GET, &path, None).await?;
    let etag = document
        .get("etag")
        .and_then(Value::as_str)
        .context("no etag")?
        .to_owned();
    document["status"] = json!(if allowed { "enabled" } else { "disabled" });
    let asked = shared.recorder.now();
    let answer = caller
        .call(endpoint, Method::PUT, &path, Some(&etag), Some(&document))
        .await;
    let answered = match answer {
        Ok((StatusCode::OK, _)) => Some(shared.recorder.now()),
        // Known not to have happened.
        Ok((status, _)) if status.is_client_error() => return Ok(false),
        Ok(_) => None,
        Err(error) if !error.perhaps_done => return Ok(false),
        Err(_) => None,
    };
    shared.recorder.history().rights.push(RightsChange {
        device: device.to_owned(),
        allowed,
        asked,
        answered,
    });
    Ok(answered.is_some())
}
