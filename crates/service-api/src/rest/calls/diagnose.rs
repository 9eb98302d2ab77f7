//! `GET /holdfast/v1/diagnose/{deviceId}[/modules/{moduleId}]`: why an identity can or cannot connect.

use data_encoding::HEXUPPER;
use holdfast_auth::x509::CertificateFingerprints;
use holdfast_device_hub::{DeliveryKind, Diagnosis, Offered, Operation, QueriedNode};
use holdfast_model::{IdentityId, NodeId, UnixMillis};
use holdfast_registry::{Authentication, Authorities, Identity};
use serde_json::{Value, json};

use super::super::error::ApiError;
use super::super::{document, timestamps};
use super::Request;
use holdfast_net::http_api::Reply;

/// Also answers for ids that are not registered: operators look for their refusals.
pub(super) async fn diagnose(id: &IdentityId, request: &Request<'_>) -> Result<Reply, ApiError> {
    let identity = request.within(request.shared.registry().get(id)).await?;
    let diagnosis = request.shared.hub.diagnose(id).await;
    let connection = document::connection_state(diagnosis.connection.is_connected);
    let nodes = Nodes(&diagnosis.nodes);
    let mut answer = json!({
        "deviceId": id.device.as_str(),
        "conclusion": conclusion(id, identity.as_deref(), &diagnosis, &nodes),
        "hubTime": timestamps::iso(Some(diagnosis.hub_time)),
        "registered": identity.is_some(),
        "identity": identity.as_deref().map(show_identity),
        "connectionState": diagnosis.is_connection_known.then_some(connection),
        "connectionStateUpdatedTime": timestamps::iso(diagnosis.connection.updated),
        "lastActivityTime": timestamps::iso(diagnosis.connection.last_activity),
        "session": show_session(&diagnosis, &nodes, &request.shared.registry().authorities()),
        "lastConnection": diagnosis.last.as_ref().map(|last| json!({
            "node": nodes.name(last.gateway),
            "protocol": last.protocol.as_str(),
            "address": last.address.to_string(),
        })),
        "refusals": show_refusals(&diagnosis, &nodes),
        "warnings": identity.as_deref().map(warnings).unwrap_or_default(),
        "notAsked": nodes.silent(),
    });
    if let Some(module) = &id.module {
        answer["moduleId"] = json!(module.as_str());
    }
    Ok(Reply::ok(answer))
}

/// The nodes of a diagnosis, for their names.
struct Nodes<'a>(&'a [QueriedNode]);

impl Nodes<'_> {
    /// The name, else the id.
    fn name(&self, node: NodeId) -> String {
        let known = self
            .0
            .iter()
            .find(|queried| queried.node == node && !queried.name.is_empty());
        known.map_or_else(|| node.to_string(), |queried| queried.name.clone())
    }

    /// Those that have not answered.
    fn silent(&self) -> Vec<Value> {
        let silent = self
            .0
            .iter()
            .filter_map(|queried| Some((queried.node, queried.fault.as_ref()?)));
        silent
            .map(|(node, fault)| json!({"node": self.name(node), "reason": fault}))
            .collect()
    }
}

/// The walk of the troubleshooting list, up to its first answer: exists, enabled, connected, refused, never seen.
fn conclusion(id: &IdentityId, identity: Option<&Identity>, diagnosis: &Diagnosis, nodes: &Nodes<'_>) -> String {
    let refused = diagnosis
        .refusals
        .iter()
        .rfind(|refusal| refusal.operation == Operation::Connect);
    let attempt = refused.map(|refusal| {
        let node = refusal
            .node
            .map(|node| format!(" to {}", nodes.name(node)))
            .unwrap_or_default();
        format!(
            "The last refused attempt was at {} from {} over {}{node}: {}: {}.",
            timestamps::iso(Some(refusal.time)),
            refusal.address,
            refusal.protocol.as_str(),
            refusal.reason.as_str(),
            refusal.reason.advice()
        )
    });
    let incomplete = match nodes.silent().len() {
        0 => String::new(),
        silent => format!(" {silent} of {} nodes did not answer (notAsked).", nodes.0.len()),
    };
    let text = match (identity, &diagnosis.session) {
        (None, _) => {
            let attempt = attempt.unwrap_or_else(|| "No attempt with this id is known.".to_owned());
            format!("{id} is not registered. {attempt}")
        }
        (Some(identity), _) if !identity.is_enabled() => format!(
            "{id} is disabled: enable it with `holdfast device update {} --status enabled`.",
            id.device
        ),
        (_, Some(session)) => format!(
            "{id} is connected to {} over {} since {}.",
            nodes.name(session.gateway),
            session.protocol.as_str(),
            timestamps::iso(Some(session.since))
        ),
        (Some(_), None) if !diagnosis.is_connection_known => {
            "The owner of its partition did not answer: whether it is connected is not known.".to_owned()
        }
        (Some(_), None) => attempt.unwrap_or_else(|| {
            format!(
                "{id} is registered and enabled, and no refused attempt is known: it may not reach the hub. \
                 `holdfast doctor` where the device is says which step fails."
            )
        }),
    };
    text + &incomplete
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

fn show_session(diagnosis: &Diagnosis, nodes: &Nodes<'_>, authorities: &Authorities) -> Option<Value> {
    let session = diagnosis.session.as_ref()?;
    Some(json!({
        "number": format!("{}.{}", session.number.term, session.number.counter),
        "gateway": session.gateway.to_string(),
        "node": nodes.name(session.gateway),
        "address": session.address.map(|address| address.to_string()),
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

/// The refused attempts of one kind, the newest last, and the nodes that have not answered.
pub(in crate::rest) fn refusals_of(mut diagnosis: Diagnosis, operation: Operation) -> (Vec<Value>, Vec<Value>) {
    diagnosis.refusals.retain(|refusal| refusal.operation == operation);
    let nodes = Nodes(&diagnosis.nodes);
    (show_refusals(&diagnosis, &nodes), nodes.silent())
}

fn show_refusals(diagnosis: &Diagnosis, nodes: &Nodes<'_>) -> Vec<Value> {
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
            "node": record.node.map(|node| nodes.name(node)),
            "offered": record.offered.as_deref().map(|offered| show_offered(offered, record.time)),
        })
    });
    shown.collect()
}

/// The credential of an attempt at `time`.
fn show_offered(offered: &Offered, time: UnixMillis) -> Value {
    // A token that never expires has the largest time.
    let expires = offered.expires.filter(|expires| *expires != UnixMillis(u64::MAX));
    let ended = expires.filter(|expires| *expires < time);
    let certificate = offered.certificate.as_ref();
    json!({
        "kind": offered.kind.as_str(),
        "audience": offered.audience.as_deref(),
        "policy": offered.policy.as_deref(),
        "tokenExpiryTime": expires.map(|expires| timestamps::iso(Some(expires))),
        // By the hub's clock. A device that signs a new token for each attempt has a clock that is behind by this, plus
        // the lifetime of its tokens.
        "tokenEndedSecondsBefore": ended.map(|expires| (time.0 - expires.0) / 1000),
        "sha1Thumbprint": certificate.map(CertificateFingerprints::sha1_hex),
        "sha256Thumbprint": certificate.map(CertificateFingerprints::sha256_hex),
        "tlsVersion": offered.tls.as_ref().map(|tls| tls.version.as_ref()),
        "tlsCipher": offered.tls.as_ref().map(|tls| tls.cipher.as_ref()),
    })
}
