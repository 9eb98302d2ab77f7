//! The hub's settings that an API may change, under `/holdfast/v1/settings` (Spec rest §10). Unknown fields are refused.
//!
//! Invariant: a retention that is set here stays in force until the configuration says another one than it said when it was applied
//! last; so the later of two changes counts, wherever it was made.

use std::time::Duration;

use holdfast_model::round_trip;
use holdfast_registry::{ChangeSource, RegistryError, SettingsChange};
use serde_json::{Value, json};

use super::super::error::ApiError;
use super::super::json::{Fields, object, quoted};
use super::super::state::Shared;
use super::Request;
use holdfast_net::http_api::Reply;

const FIELDS: [&str; 3] = ["retentionSeconds", "retentionBytes", "maxIdentities"];

/// `GET /holdfast/v1/settings`.
pub(super) async fn get(request: &Request<'_>) -> Result<Reply, ApiError> {
    request.within(request.shared.registry().read_barrier()).await?;
    Ok(Reply::ok(document(request.shared)?))
}

/// `PATCH /holdfast/v1/settings`: what is not named stays; `retentionBytes` null lifts the limit.
pub(super) async fn patch(mut request: Request<'_>) -> Result<Reply, ApiError> {
    let body = request.body.json().await?;
    let fields = object(&body)?;
    if let Some(unknown) = fields.unknown(&FIELDS) {
        return Err(ApiError::invalid(format!("field {} is unknown", quoted(unknown))));
    }
    let [retention, retention_bytes, max_identities] = FIELDS;
    let change = SettingsChange {
        source: ChangeSource::Api,
        hub_name: None,
        retention: number(&fields, retention)?.map(Duration::from_secs),
        retention_bytes: match fields.get(retention_bytes) {
            Some(Value::Null) => Some(None),
            _ => number(&fields, retention_bytes)?.map(|bytes| Some(bytes).filter(|bytes| *bytes > 0)),
        },
        max_identities: number(&fields, max_identities)?,
    };
    let outcome = request.within(request.shared.registry().update_settings(change)).await;
    let code = outcome.as_ref().err().map(RegistryError::code);
    request.audit("updateSettings", &changed(&fields), code);
    outcome?;
    Ok(Reply::ok(document(request.shared)?))
}

fn document(shared: &Shared) -> Result<Value, RegistryError> {
    let settings = shared.registry().settings()?;
    let quota = shared.hub.daily_quota();
    Ok(json!({
        "retentionSeconds": settings.retention.as_secs(),
        "retentionBytes": settings.retention_bytes,
        "maxIdentities": settings.max_identities,
        // Of the configuration, not to be changed here.
        "dailyMessages": quota.map(|quota| json!({
            "limit": quota.limit,
            "used": quota.used,
            "resetTime": round_trip(quota.resets.0.cast_signed()),
        })),
    }))
}

fn number(fields: &Fields<'_>, name: &str) -> Result<Option<u64>, ApiError> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64() {
            Some(number) => Ok(Some(number)),
            None => Err(ApiError::invalid(format!("{name} must be a whole number"))),
        },
    }
}

/// For the audit log: the changed fields with their values.
fn changed(fields: &Fields<'_>) -> String {
    let named = FIELDS.iter().filter_map(|name| Some((name, fields.get(name)?)));
    let texts: Vec<String> = named.map(|(name, value)| format!("{name}={value}")).collect();
    texts.join(" ")
}
