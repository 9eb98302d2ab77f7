//! Registrations and errors as devices and back ends read them (Spec provisioning §3.3, §3.4).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_model::{ErrorCode, UnixMillis, round_trip};
use holdfast_registry::{Registration, RegistrationOutcome};
use serde_json::{Value, json};

/// `2030-07-19T23:06:40.0000000Z`.
#[must_use]
pub fn timestamp(at: UnixMillis) -> String {
    i64::try_from(at.0)
        .ok()
        .and_then(round_trip)
        .unwrap_or_else(|| "0001-01-01T00:00:00.0000000Z".to_owned())
}

/// The state of a registration.
#[must_use]
pub fn registration_state(registration: &Registration) -> Value {
    let mut state = json!({
        "registrationId": registration.id,
        "createdDateTimeUtc": timestamp(registration.created),
        "lastUpdatedDateTimeUtc": timestamp(registration.updated),
        // Base64 of a text in quotes.
        "etag": STANDARD.encode(format!("\"{}\"", registration.etag)),
        registration.attestation: {},
    });
    match &registration.outcome {
        RegistrationOutcome::Assigned {
            hub,
            device_id,
            substatus,
        } => {
            state["status"] = json!("assigned");
            state["substatus"] = json!(substatus.as_str());
            state["assignedHub"] = json!(hub);
            state["deviceId"] = json!(device_id.as_str());
        }
        RegistrationOutcome::Failed { code, text } => {
            state["status"] = json!("failed");
            state["errorCode"] = json!(code.number());
            state["errorMessage"] = json!(text);
        }
    }
    state
}

/// The body of an error.
#[must_use]
pub fn error_body(code: ErrorCode, text: &str, tracking_id: &str, now: UnixMillis) -> Value {
    json!({
        "errorCode": code.number(),
        "trackingId": tracking_id,
        "message": text,
        "timestampUtc": timestamp(now),
    })
}
