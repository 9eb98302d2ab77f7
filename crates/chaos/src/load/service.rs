//! Service calls over REST: one client with its connection, which it reopens when it breaks.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use holdfast_swarm::http::{Answer, Client};
use http::{HeaderName, Method, StatusCode, header};
use serde_json::{Value, json};

use crate::targets::{Endpoint, Targets};

/// Timeout of a connection, and of one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of the creation of devices, which happens before the faults.
const CREATE_TIMEOUT: Duration = Duration::from_secs(30);
/// The lifetime of tokens: longer than any run.
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// The most entries of a bulk call.
const ENTRIES_A_CALL: usize = 100;
pub(super) const VERSION: &str = "api-version=2021-04-12";

/// A REST client.
pub struct Caller {
    targets: Arc<Targets>,
    token: String,
    timeout: Duration,
    open: Option<(u32, Client)>,
}

impl Caller {
    /// A client with the owner's rights.
    ///
    /// # Errors
    /// When the owner's key is invalid.
    pub fn new(targets: &Arc<Targets>) -> Result<Self> {
        Self::waiting(targets, CALL_TIMEOUT)
    }

    /// As [`Self::new`], but it waits for an answer for `timeout`.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn waiting(targets: &Arc<Targets>, timeout: Duration) -> Result<Self> {
        Ok(Self {
            targets: targets.clone(),
            token: targets.token()?,
            timeout,
            open: None,
        })
    }

    /// One call. An error means that the outcome is unknown, unless the call was never sent ([`Unanswered`]).
    ///
    /// # Errors
    /// When there is no answer in time.
    pub async fn call(
        &mut self,
        endpoint: Endpoint,
        method: Method,
        path: &str,
        if_match: Option<&str>,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Bytes), Unanswered> {
        let quoted = if_match.map(|etag| format!("\"{etag}\""));
        let headers: Vec<_> = quoted
            .as_deref()
            .map(|etag| (header::IF_MATCH, etag))
            .into_iter()
            .collect();
        let answer = self.exchange(endpoint, method, path, &headers, body).await?;
        Ok((answer.status, answer.body))
    }

    /// As [`Self::call`], with any headers and those of the answer.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn exchange(
        &mut self,
        endpoint: Endpoint,
        method: Method,
        path: &str,
        more: &[(HeaderName, &str)],
        body: Option<&Value>,
    ) -> Result<Answer, Unanswered> {
        let mut client = match self.open.take() {
            Some((node, client)) if node == endpoint.node => client,
            _ => match tokio::time::timeout(CALL_TIMEOUT, self.targets.rest(endpoint)).await {
                Ok(Ok(client)) => client,
                Ok(Err(error)) => return Err(Unanswered::not_sent(&error)),
                Err(_) => return Err(Unanswered::not_sent(&anyhow::anyhow!("cannot connect in time"))),
            },
        };
        let mut headers = vec![(header::AUTHORIZATION, self.token.as_str())];
        headers.extend(more.iter().map(|(name, value)| (name.clone(), *value)));
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let request = client.exchange(method, path, &headers, body);
        match tokio::time::timeout(self.timeout, request).await {
            Ok(Ok(answer)) => {
                self.open = Some((endpoint.node, client));
                Ok(answer)
            }
            Ok(Err(error)) => Err(Unanswered::perhaps(&error)),
            Err(_) => Err(Unanswered::perhaps(&anyhow::anyhow!("no answer in time"))),
        }
    }

    /// As [`Self::call`], but anything other than success is an error; returns the answer as JSON.
    ///
    /// # Errors
    /// When it is refused or unanswered.
    pub async fn must(
        &mut self,
        endpoint: Endpoint,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value> {
        let (status, answer) = self.call(endpoint, method, path, None, body).await?;
        let text = String::from_utf8_lossy(&answer);
        ensure!(status.is_success(), "{path} is answered with {status}: {text}");
        if answer.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&answer).with_context(|| format!("{path} does not answer with JSON: {text}"))
    }
}

/// A call without an answer.
#[derive(Debug)]
pub struct Unanswered {
    /// Whether it may have taken effect nevertheless.
    pub perhaps_done: bool,
    why: String,
}

impl Unanswered {
    fn not_sent(error: &anyhow::Error) -> Self {
        Self {
            perhaps_done: false,
            why: format!("{error:#}"),
        }
    }

    fn perhaps(error: &anyhow::Error) -> Self {
        Self {
            perhaps_done: true,
            why: format!("{error:#}"),
        }
    }
}

impl std::fmt::Display for Unanswered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for Unanswered {}

/// The path of an identity.
#[must_use]
pub fn identity(device: &str) -> String {
    format!("/devices/{device}?{VERSION}")
}

/// The authentication part of a device's identity document.
///
/// # Errors
/// When the owner's key, from which the devices' keys are derived, is invalid.
pub fn device_keys(targets: &Targets, name: &str) -> Result<Value> {
    let devices = targets.hub().devices(TOKEN_LIFETIME)?;
    let (primary, secondary) = (devices.key(name), devices.secondary_key(name));
    Ok(json!({
        "type": "sas",
        "symmetricKey": {"primaryKey": STANDARD.encode(primary), "secondaryKey": STANDARD.encode(secondary)},
    }))
}

/// Creates the fleet's devices.
///
/// # Errors
/// When the hub refuses.
pub async fn create_devices(targets: &Arc<Targets>, endpoint: Endpoint, numbers: Range<u32>) -> Result<()> {
    let mut entries = numbers
        .map(|number| {
            let name = targets.names().name(number);
            let keys = device_keys(targets, &name)?;
            Ok(json!({"id": name, "importMode": "create", "status": "enabled", "authentication": keys}))
        })
        .collect::<Result<Vec<Value>>>()?;
    let mut caller = Caller::new(targets)?;
    let deadline = tokio::time::Instant::now() + CREATE_TIMEOUT;
    while !entries.is_empty() {
        let rest = entries.split_off(entries.len().min(ENTRIES_A_CALL));
        let body = Value::Array(entries);
        loop {
            // A repeated create is refused for devices that exist by now: no error.
            let answer = caller
                .call(
                    endpoint,
                    Method::POST,
                    &format!("/devices?{VERSION}"),
                    None,
                    Some(&body),
                )
                .await;
            match answer {
                Ok((StatusCode::OK, _)) => break,
                Ok((StatusCode::BAD_REQUEST, text)) if only_existing(&text) => break,
                Ok((status, text)) if tokio::time::Instant::now() > deadline => {
                    bail!("devices cannot be created: {status} {}", String::from_utf8_lossy(&text))
                }
                Err(error) if tokio::time::Instant::now() > deadline => {
                    return Err(error).context("devices cannot be created");
                }
                _ => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
        entries = rest;
    }
    Ok(())
}

fn only_existing(answer: &[u8]) -> bool {
    let Ok(answer) = serde_json::from_slice::<Value>(answer) else {
        return false;
    };
    let errors = answer.get("errors").and_then(Value::as_array);
    errors.is_some_and(|errors| {
        !errors.is_empty()
            && errors
                .iter()
                .all(|error| error.get("errorCode") == Some(&json!("DeviceAlreadyExists")))
    })
}
