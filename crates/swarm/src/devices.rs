//! Registers a fleet's devices, and changes their credentials, on a hub by bulk calls (Spec rest §2.4).

use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::try_join_all;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::http::Client;
use crate::hub::Hub;
use crate::target::{DeviceNames, Transport};

/// The most entries of one bulk call.
const ENTRIES_A_CALL: u32 = 100;
/// Concurrent calls: enough that the hub can put several into one synced write.
const CONCURRENT_CALLS: u32 = 8;
/// Longer than any run's preparation.
const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct BulkAnswer {
    #[serde(default)]
    errors: Vec<BulkError>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct BulkError {
    device_id: String,
    error_code: Value,
    #[serde(default)]
    error_status: String,
}

/// Creates the devices `numbers` of `names`; existing ones are left unchanged: their keys are the same.
///
/// # Errors
/// When the hub refuses, or cannot be reached.
pub async fn create(hub: &Hub, names: &DeviceNames, numbers: Range<u32>) -> Result<()> {
    let devices = hub.devices(TOKEN_LIFETIME)?;
    write(hub, numbers, &|number| {
        let device = names.name(number);
        let (primary, secondary) = (devices.key(&device), devices.secondary_key(&device));
        entry(&device, "create", symmetric_keys(&primary, &secondary))
    })
    .await
}

/// Writes one entry of a bulk call for each of `numbers`; an entry that creates an existing device changes nothing.
///
/// # Errors
/// When the hub refuses, or cannot be reached.
pub async fn write(hub: &Hub, numbers: Range<u32>, entry: &impl Fn(u32) -> Value) -> Result<()> {
    let tasks = (0..CONCURRENT_CALLS).map(|task| write_share(hub, entry, numbers.clone(), task));
    try_join_all(tasks).await.map(drop)
}

/// The entry of an enabled device with `authentication`; `mode` is its `importMode` (Spec rest §2.4).
#[must_use]
pub fn entry(device: &str, mode: &str, authentication: Value) -> Value {
    json!({"id": device, "importMode": mode, "status": "enabled", "authentication": authentication})
}

/// Authentication by keys.
#[must_use]
pub fn symmetric_keys(primary: &[u8], secondary: &[u8]) -> Value {
    json!({
        "type": "sas",
        "symmetricKey": { "primaryKey": STANDARD.encode(primary), "secondaryKey": STANDARD.encode(secondary) },
    })
}

/// Authentication by the thumbprint of a certificate.
#[must_use]
pub fn thumbprint(primary: &str) -> Value {
    json!({"type": "selfSigned", "x509Thumbprint": {"primaryThumbprint": primary, "secondaryThumbprint": ""}})
}

/// Authentication by a certificate below one of the hub's CAs.
#[must_use]
pub fn certificate_authority() -> Value {
    json!({"type": "certificateAuthority"})
}

/// Makes every [`CONCURRENT_CALLS`]th call, from number `task` on, over a connection of its own.
async fn write_share(hub: &Hub, entry: &impl Fn(u32) -> Value, numbers: Range<u32>, task: u32) -> Result<()> {
    let calls = numbers.len() as u32 / ENTRIES_A_CALL + 1;
    if task >= calls {
        return Ok(());
    }
    let tls = hub.tls(Transport::Tls13)?;
    let token = hub.owner_token(TOKEN_LIFETIME)?;
    let mut client = Client::connect(hub.https_address()?, &hub.0.host_name, tls.as_ref()).await?;
    for call in (task..calls).step_by(CONCURRENT_CALLS as usize) {
        let first = numbers.start + call * ENTRIES_A_CALL;
        let entries: Vec<Value> = (first..(first + ENTRIES_A_CALL).min(numbers.end)).map(entry).collect();
        if entries.is_empty() {
            continue;
        }
        let body = serde_json::to_vec(&entries)?;
        let path = "/devices?api-version=2021-04-12";
        let (status, body) = client.request(Method::POST, path, Some(&token), body).await?;
        check(status, &body)?;
    }
    Ok(())
}

/// 200: all were created. 400 with a bulk answer: some were not; those that exist already are no error.
fn check(status: StatusCode, body: &[u8]) -> Result<()> {
    if status == StatusCode::OK {
        return Ok(());
    }
    let text = || String::from_utf8_lossy(body).chars().take(400).collect::<String>();
    if status != StatusCode::BAD_REQUEST {
        bail!("the hub answers {status} to a bulk call: {}", text());
    }
    let answer: BulkAnswer = serde_json::from_slice(body).with_context(|| format!("no bulk answer: {}", text()))?;
    if answer.errors.is_empty() {
        bail!("the hub refuses a bulk call: {}", text());
    }
    match answer.errors.iter().find(|error| !exists_already(&error.error_code)) {
        None => Ok(()),
        Some(error) => bail!(
            "cannot write {}: {} {}",
            error.device_id,
            error.error_code,
            error.error_status
        ),
    }
}

fn exists_already(code: &Value) -> bool {
    code.as_str() == Some("DeviceAlreadyExists") || code.as_u64() == Some(409_001)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_that_exist_already_are_no_failure_and_other_refusals_are() {
        let answer = |code: &str| {
            format!(
                r#"{{"isSuccessful":false,"errors":[{{"deviceId":"a","errorCode":"{code}","errorStatus":"x"}}],"warnings":[]}}"#
            )
        };
        assert!(check(StatusCode::OK, b"").is_ok());
        assert!(check(StatusCode::BAD_REQUEST, answer("DeviceAlreadyExists").as_bytes()).is_ok());
        assert!(check(StatusCode::BAD_REQUEST, answer("ThrottlingException").as_bytes()).is_err());
        assert!(check(StatusCode::BAD_REQUEST, br#"{"Message":"ErrorCode:ArgumentInvalid;x"}"#).is_err());
        assert!(check(StatusCode::UNAUTHORIZED, b"").is_err());
    }
}
