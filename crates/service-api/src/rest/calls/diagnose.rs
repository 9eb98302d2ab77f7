//! `GET /holdfast/v1/diagnose/{deviceId}[/modules/{moduleId}]`: why an identity can or cannot connect.

use data_encoding::HEXUPPER;
use holdfast_device_hub::{DeliveryKind, Diagnosis};
use holdfast_model::IdentityId;
use holdfast_registry::{Authentication, Authorities, Identity};
use serde_json::{Value, json};

use super::super::error::ApiError;
use super::super::reply::Reply;
use super::super::{document, timestamps};
use super::Request;

/// Also answers for ids that are not registered: operators look for their refusals.
pub(super) async fn diagnose(id: &IdentityId, request: &Request<'_>) -> Result<Reply, ApiError> {
    let identity = request.within(request.shared.registry().get(id)).await?;
    let diagnosis = request.shared.hub.diagnose(id).await;
    let connection = document::connection_state(diagnosis.connection.is_connected);
    let mut answer = json!({
        "deviceId": id.device.as_str(),
        "hubTime": timestamps::iso(Some(diagnosis.hub_time)),
        "registered": identity.is_some(),
        "identity": identity.as_deref().map(show_identity),
        "connectionState": connection,
        "connectionStateUpdatedTime": timestamps::iso(diagnosis.connection.updated),
        "session": show_session(&diagnosis, &request.shared.registry().authorities()),
        "refusals": show_refusals(&diagnosis),
        "warnings": identity.as_deref().map(warnings).unwrap_or_default(),
    });
    if let Some(module) = &id.module {
        answer["moduleId"] = json!(module.as_str());
    }
    Ok(Reply::ok(answer))
}

/// Without secrets.
fn show_identity(identity: &Identity) -> Value {
    json!({
        "status": document::status_name(identity.status),
        "statusReason": identity.status_reason,
        "statusUpdatedTime": timestamps::iso(identity.status_updated),
        "authenticationType": identity.authentication.type_name(),
        "generationId": identity.generation.to_string(),
        "etag": identity.etag.0,
        "createdTime": timestamps::iso(Some(identity.created)),
        "deviceScope": identity.device_scope,
    })
}

/// What still works and should be changed.
fn warnings(identity: &Identity) -> Vec<String> {
    let Authentication::SelfSigned(thumbprints) = &identity.authentication else {
        return Vec::new();
    };
    let deprecated = thumbprints.sha1().map(|thumbprint| {
        format!("thumbprint {thumbprint} is SHA-1, which is deprecated: register the SHA-256 of the certificate")
    });
    deprecated.collect()
}

fn show_session(diagnosis: &Diagnosis, authorities: &Authorities) -> Option<Value> {
    let session = diagnosis.session.as_ref()?;
    Some(json!({
        "number": format!("{}.{}", session.number.term, session.number.counter),
        "gateway": session.gateway.to_string(),
        "protocol": session.protocol.as_str(),
        "connectedTime": timestamps::iso(Some(session.since)),
        "authentication": if session.certificate.is_some() { "x509" } else { "sas" },
        "tokenEndTime": session.expires.filter(|_| session.certificate.is_none()).map(|time| timestamps::iso(Some(time))),
        "certificate": session.certificate.as_ref().map(|shown| json!({
            "sha1Thumbprint": shown.fingerprints.sha1_hex(),
            "sha256Thumbprint": shown.fingerprints.sha256_hex(),
            "caThumbprint": shown.ca.map(|ca| HEXUPPER.encode(&ca)),
            "ca": authorities
                .iter()
                .find(|authority| Some(authority.certificate.fingerprints().sha256) == shown.ca)
                .map(|authority| authority.name.as_str()),
            "sessionEndTime": session.expires.map(|time| timestamps::iso(Some(time))),
        })),
        "policy": session.policy,
        "receives": {
            "methods": session.receives.contains(DeliveryKind::Method),
            "messages": session.receives.contains(DeliveryKind::CloudToDevice),
            "desiredProperties": session.receives.contains(DeliveryKind::TwinChange),
        },
    }))
}

fn show_refusals(diagnosis: &Diagnosis) -> Vec<Value> {
    let shown = diagnosis.refusals.iter().map(|record| {
        json!({
            "time": timestamps::iso(Some(record.time)),
            "operation": record.operation.as_str(),
            "errorCode": record.code.number(),
            "errorName": record.code.name(),
            "reason": record.reason.as_str(),
            "advice": record.reason.advice(),
            "detail": record.detail.as_deref(),
            "protocol": record.protocol.as_str(),
            "address": record.address.to_string(),
        })
    });
    shown.collect()
}
