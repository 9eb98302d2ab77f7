//! Enrollments as back ends and webhooks read them (Spec provisioning §9.2).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_auth::x509::CertificateInfo;
use holdfast_registry::{
    Attestation, CertificateSource, Enrollment, EnrollmentKind, IssuanceForm, IssuanceReference, Registration,
    TwinSeed, X509Attestation,
};
use serde_json::{Map, Value, json};

use crate::document::{registration_state, timestamp};

/// Whether a document has the symmetric keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// It has them.
    Shown,
    /// It has them not.
    Hidden,
}

/// The document of an enrollment; `registration`: that of the device of an individual one.
#[must_use]
pub fn enrollment_document(enrollment: &Enrollment, registration: Option<&Registration>, keys: Keys) -> Value {
    let content = &enrollment.content;
    let mut document = Map::new();
    let mut put = |name: &str, value: Value| document.insert(name.to_owned(), value);
    put(id_field(enrollment.kind), json!(enrollment.id));
    if let Some(id) = &content.device_id {
        put("deviceId", json!(id.as_str()));
    }
    if let Some(registration) = registration {
        put("registrationState", registration_state(registration));
    }
    put("attestation", attestation_document(&enrollment.attestation, keys));
    put("capabilities", json!({"iotEdge": content.iot_edge}));
    if let Some(host) = &content.iot_hub_host_name {
        put("iotHubHostName", json!(host));
    }
    if !content.iot_hubs.is_empty() {
        put("iotHubs", json!(content.iot_hubs));
    }
    if let Some(policy) = content.allocation {
        put("allocationPolicy", json!(policy.as_str()));
    }
    if let Some(custom) = &content.custom_allocation {
        let shown = json!({"webhookUrl": custom.shown_url(), "apiVersion": custom.api_version});
        put("customAllocationDefinition", shown);
    }
    if let Some(twin) = twin(&content.initial_twin) {
        put("initialTwin", twin);
    }
    if let Some(information) = &content.device_information {
        put("optionalDeviceInformation", stored(information));
    }
    let status = if content.is_disabled { "disabled" } else { "enabled" };
    put("provisioningStatus", json!(status));
    if let Some(policy) = content.reprovision {
        put(
            "reprovisionPolicy",
            json!({
                "updateHubAssignment": policy.update_hub_assignment,
                "migrateDeviceData": policy.migrate_device_data,
            }),
        );
    }
    if let Some(reference) = &content.issuance {
        for (name, value) in issuance(reference) {
            put(name, value);
        }
    }
    put("createdDateTimeUtc", json!(timestamp(enrollment.created)));
    put("lastUpdatedDateTimeUtc", json!(timestamp(enrollment.updated)));
    put("etag", json!(format!("\"{}\"", enrollment.etag)));
    Value::Object(document)
}

/// The field with the id.
#[must_use]
pub const fn id_field(kind: EnrollmentKind) -> &'static str {
    match kind {
        EnrollmentKind::Individual => "registrationId",
        EnrollmentKind::Group => "enrollmentGroupId",
    }
}

/// The attestation mechanism.
#[must_use]
pub fn attestation_document(attestation: &Attestation, keys: Keys) -> Value {
    let mut document = json!({"type": attestation.type_name()});
    match attestation {
        Attestation::SymmetricKey(pair) if keys == Keys::Shown => {
            document["symmetricKey"] = json!({
                "primaryKey": *pair.primary.to_base64(),
                "secondaryKey": *pair.secondary.to_base64(),
            });
        }
        Attestation::SymmetricKey(_) => {}
        Attestation::X509(certificates) => document["x509"] = x509(certificates),
        Attestation::Tpm(tpm) => {
            let mut keys = json!({"endorsementKey": STANDARD.encode(&tpm.keys.endorsement_key)});
            if let Some(key) = &tpm.keys.storage_root_key {
                keys["storageRootKey"] = json!(STANDARD.encode(key));
            }
            document["tpm"] = keys;
        }
    }
    document
}

/// The fields in which the writer has named the policy.
fn issuance(reference: &IssuanceReference) -> Vec<(&'static str, Value)> {
    let IssuanceReference { issuer, policy, .. } = reference;
    match reference.form {
        IssuanceForm::Names => {
            let mut fields = vec![
                ("certificateAuthorityName", json!(issuer)),
                ("certificatePolicyName", json!(policy)),
            ];
            if !reference.namespace.is_empty() {
                fields.push(("namespaceName", json!(reference.namespace)));
            }
            fields
        }
        IssuanceForm::CredentialPolicy => vec![("credentialPolicyName", json!(format!("{issuer}/{policy}")))],
        IssuanceForm::ClientCertificate => vec![(
            "clientCertificateIssuancePolicy",
            json!({"certificateAuthorityName": issuer}),
        )],
    }
}

fn x509(attestation: &X509Attestation) -> Value {
    let (name, show): (_, fn(&[u8]) -> Value) = match attestation.source {
        CertificateSource::Client => ("clientCertificates", info),
        CertificateSource::Signing => ("signingCertificates", info),
        CertificateSource::CaReferences => ("caReferences", |name| json!(String::from_utf8_lossy(name))),
    };
    let mut both = Map::new();
    for (slot, certificate) in [("primary", &attestation.primary), ("secondary", &attestation.secondary)] {
        if let Some(certificate) = certificate {
            both.insert(slot.to_owned(), show(certificate));
        }
    }
    json!({name: both})
}

fn info(der: &[u8]) -> Value {
    // It was read before it was stored.
    let Ok(info) = CertificateInfo::read(der) else {
        return json!({});
    };
    json!({"info": {
        "subjectName": info.subject,
        "sha1Thumbprint": info.fingerprints.sha1_hex(),
        "sha256Thumbprint": info.fingerprints.sha256_hex(),
        "issuerName": info.issuer,
        "notBeforeUtc": timestamp(info.from),
        "notAfterUtc": timestamp(info.until),
        "serialNumber": info.serial,
        "version": info.version,
    }})
}

fn twin(seed: &TwinSeed) -> Option<Value> {
    if seed.tags.is_none() && seed.desired.is_none() {
        return None;
    }
    let mut twin = Map::new();
    if let Some(tags) = &seed.tags {
        twin.insert("tags".to_owned(), stored(tags));
    }
    if let Some(desired) = &seed.desired {
        twin.insert("properties".to_owned(), json!({"desired": stored(desired)}));
    }
    Some(Value::Object(twin))
}

/// JSON that was checked when it was stored.
fn stored(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}
