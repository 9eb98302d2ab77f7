//! Registrations and errors as devices and back ends read them (Spec provisioning §3.3, §3.4).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_model::{ErrorCode, UnixMillis, json, round_trip};
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
    if let Some(payload) = registration.payload.as_deref().and_then(|text| json::parse(text).ok()) {
        state["payload"] = payload;
    }
    match (registration.failure(), &registration.outcome) {
        (Some((code, text)), _) => {
            state["status"] = json!("failed");
            state["errorCode"] = json!(code.number());
            state["errorMessage"] = json!(text);
        }
        (
            None,
            RegistrationOutcome::Assigned {
                hub,
                device_id,
                substatus,
            },
        ) => {
            state["status"] = json!("assigned");
            state["substatus"] = json!(substatus.as_str());
            state["assignedHub"] = json!(hub);
            state["deviceId"] = json!(device_id.as_str());
        }
        (None, RegistrationOutcome::Assigning(_) | RegistrationOutcome::Failed { .. }) => {
            state["status"] = json!("assigning");
        }
    }
    state
}

/// What operators see of a registration beside its state: the operation in progress, the webhook, what is left to do, and earlier
/// operations.
#[must_use]
pub fn registration_details(registration: &Registration) -> Value {
    let mut details = registration_state(registration);
    details["operationId"] = json!(registration.operation_id);
    details["enrollmentGroupId"] = json!(registration.group);
    details["pending"] = json!(registration.pending().map(|pending| json!({
        "startedDateTimeUtc": timestamp(pending.started),
        "deviceId": pending.device_id.as_str(),
        "hub": pending.target_hub,
        "certificate": pending.csr.as_ref().map(|_| match pending.certificate {
            Some(_) => "signed",
            None => "requested",
        }),
    })));
    details["webhook"] = json!(registration.webhook.as_ref().map(|answer| json!({
        "status": answer.status,
        "text": answer.text,
        "attempts": answer.attempts,
        "dateTimeUtc": timestamp(answer.at),
    })));
    let left = registration.left.iter();
    let left = left.map(|left| json!({"hub": left.place.hub, "deviceId": left.place.device_id.as_str()}));
    details["toBeDeletedAt"] = left.collect();
    let past = registration.past_operations().into_iter().map(|past| {
        json!({
            "operationId": past.operation_id,
            "endedDateTimeUtc": timestamp(past.ended),
            "status": if past.failure.is_some() { "failed" } else { "assigned" },
            "assignedHub": past.hub,
            "errorCode": past.failure.as_ref().map(|(code, _)| code.number()),
            "errorMessage": past.failure.as_ref().map(|(_, text)| text),
            "webhookStatus": past.webhook_status,
        })
    });
    details["history"] = past.collect();
    details
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
