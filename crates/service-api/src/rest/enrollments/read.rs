//! Reads enrollments that back ends write (Spec provisioning §9.2).
//!
//! Invariants: a field that this version cannot honour is refused, never dropped silently; what the service itself writes into a document
//! is ignored, so that a document may be sent back as it was read.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use holdfast_auth::Key;
use holdfast_auth::tpm::TpmPublicKey;
use holdfast_auth::x509::{CaCertificate, CertificateInfo, read_certificate};
use holdfast_model::json::quoted;
use holdfast_model::{DeviceId, ErrorCode};
use holdfast_provisioning::{id_field, read_initial_twin};
use holdfast_registry::{
    AllocationPolicy, AttestationWrite, CertificateSource, CustomAllocation, EnrollmentContent, EnrollmentKind,
    IssuanceForm, IssuanceReference, MAX_TPM_KEY_BYTES, ReprovisionPolicy, TpmEnrollmentKeys, TwinSeed,
    X509Attestation,
};
use serde_json::Value;

use super::super::error::ApiError;
use super::super::json::Fields;

/// The policy that a name without one means.
const DEFAULT_POLICY: &str = "default";

/// An enrollment as it is written.
pub(super) struct Written {
    /// The id of the document.
    pub(super) id: Option<String>,
    pub(super) etag: Option<String>,
    pub(super) attestation: AttestationWrite,
    pub(super) content: EnrollmentContent,
}

/// Reads a document.
pub(super) fn enrollment(kind: EnrollmentKind, fields: &Fields<'_>) -> Result<Written, ApiError> {
    let attestation = fields
        .object("attestation")?
        .ok_or_else(|| ApiError::new(ErrorCode::ArgumentNull, "attestation is missing"))?;
    Ok(Written {
        id: fields.text(id_field(kind))?.map(str::to_owned),
        etag: fields.text("etag")?.map(str::to_owned),
        attestation: self::attestation(kind, &attestation)?,
        content: content(fields)?,
    })
}

fn content(fields: &Fields<'_>) -> Result<EnrollmentContent, ApiError> {
    let text = |name| Ok::<_, ApiError>(fields.text(name)?.filter(|text| !text.is_empty()));
    let device_id = text("deviceId")?
        .map(DeviceId::parse)
        .transpose()
        .map_err(|error| ApiError::invalid(format!("deviceId: {error}")))?;
    let iot_edge = match fields.object("capabilities")? {
        Some(capabilities) => capabilities.boolean("iotEdge")?.unwrap_or(false),
        None => false,
    };
    let mut iot_hubs = Vec::new();
    for hub in fields.array("iotHubs")?.unwrap_or_default() {
        let name = hub
            .as_str()
            .ok_or_else(|| ApiError::invalid("iotHubs must be host names"))?;
        iot_hubs.push(name.to_owned());
    }
    let allocation = match text("allocationPolicy")? {
        None => None,
        Some(name) => Some(AllocationPolicy::parse(name).ok_or_else(|| {
            let known = AllocationPolicy::ALL.map(AllocationPolicy::as_str).join(", ");
            ApiError::invalid(format!(
                "allocationPolicy {} is unknown; there are {known}",
                quoted(name)
            ))
        })?),
    };
    let is_disabled = match text("provisioningStatus")? {
        None => false,
        Some(status) if status.eq_ignore_ascii_case("enabled") => false,
        Some(status) if status.eq_ignore_ascii_case("disabled") => true,
        Some(_) => return Err(ApiError::invalid("provisioningStatus is enabled or disabled")),
    };
    let reprovision = match fields.object("reprovisionPolicy")? {
        None => None,
        Some(policy) => Some(ReprovisionPolicy {
            update_hub_assignment: policy.boolean("updateHubAssignment")?.unwrap_or(false),
            migrate_device_data: policy.boolean("migrateDeviceData")?.unwrap_or(false),
        }),
    };
    Ok(EnrollmentContent {
        is_disabled,
        device_id,
        iot_edge,
        iot_hubs,
        iot_hub_host_name: text("iotHubHostName")?.map(str::to_owned),
        allocation,
        custom_allocation: custom_allocation(fields)?,
        initial_twin: initial_twin(fields)?,
        device_information: fields.object_text("optionalDeviceInformation")?,
        reprovision,
        issuance: issuance(fields)?,
    })
}

/// The policy by which devices get certificates, in one of three forms (Spec provisioning §11.4).
fn issuance(fields: &Fields<'_>) -> Result<Option<IssuanceReference>, ApiError> {
    let text = |name| Ok::<_, ApiError>(fields.text(name)?.filter(|text| !text.is_empty()));
    let (namespace, ca, policy) = (
        text("namespaceName")?,
        text("certificateAuthorityName")?,
        text("certificatePolicyName")?,
    );
    let names = match (ca, policy) {
        (Some(ca), Some(policy)) => Some((ca, policy, IssuanceForm::Names)),
        (None, None) if namespace.is_none() => None,
        _ => {
            let text = "certificateAuthorityName and certificatePolicyName belong together";
            return Err(ApiError::invalid(text));
        }
    };
    // A name of one part is that of the CA, whose policy is "default".
    let credential = text("credentialPolicyName")?.map(|name| {
        let (ca, policy) = name.split_once('/').unwrap_or((name, DEFAULT_POLICY));
        (ca, policy, IssuanceForm::CredentialPolicy)
    });
    let client = match fields.object("clientCertificateIssuancePolicy")? {
        None => None,
        Some(policy) => policy.text("certificateAuthorityName")?,
    };
    let client = client.map(|ca| (ca, DEFAULT_POLICY, IssuanceForm::ClientCertificate));
    let mut given = [names, credential, client].into_iter().flatten();
    let found = given.next().map(|(issuer, policy, form)| IssuanceReference {
        issuer: issuer.to_owned(),
        policy: policy.to_owned(),
        namespace: namespace.unwrap_or_default().to_owned(),
        form,
    });
    match given.next() {
        Some(_) => Err(ApiError::invalid("the policy for certificates is given in two forms")),
        None => Ok(found),
    }
}

fn initial_twin(fields: &Fields<'_>) -> Result<TwinSeed, ApiError> {
    match fields.get("initialTwin") {
        None | Some(Value::Null) => Ok(TwinSeed::default()),
        Some(Value::Object(twin)) => read_initial_twin(twin).map_err(ApiError::invalid),
        Some(_) => Err(ApiError::invalid("initialTwin must be an object")),
    }
}

fn custom_allocation(fields: &Fields<'_>) -> Result<Option<CustomAllocation>, ApiError> {
    let Some(definition) = fields.object("customAllocationDefinition")? else {
        return Ok(None);
    };
    let Some(url) = definition.text("webhookUrl")?.filter(|url| !url.is_empty()) else {
        return Ok(None);
    };
    let api_version = definition.text("apiVersion")?.unwrap_or_default();
    Ok(Some(CustomAllocation::of(url, api_version.to_owned())))
}

fn attestation(kind: EnrollmentKind, fields: &Fields<'_>) -> Result<AttestationWrite, ApiError> {
    let name = fields.text("type")?.unwrap_or_default();
    if name.eq_ignore_ascii_case("symmetricKey") {
        let mut keys = [None, None];
        if let Some(given) = fields.object("symmetricKey")? {
            for (slot, field) in keys.iter_mut().zip(["primaryKey", "secondaryKey"]) {
                let text = given.text(field)?.filter(|text| !text.is_empty());
                *slot = text
                    .map(Key::from_base64)
                    .transpose()
                    .map_err(|error| ApiError::invalid(format!("{field}: {error}")))?;
            }
        }
        let [primary, secondary] = keys;
        return Ok(AttestationWrite::SymmetricKey { primary, secondary });
    }
    if name.eq_ignore_ascii_case("x509") {
        let given = fields.object("x509")?;
        return Ok(AttestationWrite::X509(match given {
            Some(given) => certificates(kind, &given)?,
            None => None,
        }));
    }
    if name.eq_ignore_ascii_case("tpm") {
        if kind == EnrollmentKind::Group {
            let text = "an enrollment group has no attestation by TPM: each TPM has an individual enrollment";
            return Err(ApiError::invalid(text));
        }
        let given = fields.object("tpm")?;
        return Ok(AttestationWrite::Tpm(given.map(|given| tpm(&given)).transpose()?));
    }
    Err(ApiError::invalid(format!(
        "attestation.type {} is unknown; there are symmetricKey, x509 and tpm",
        quoted(name)
    )))
}

/// The public keys of a TPM, in base64.
fn tpm(fields: &Fields<'_>) -> Result<TpmEnrollmentKeys, ApiError> {
    let key = |field: &str| {
        let Some(text) = fields.text(field)?.filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let invalid = |text: String| ApiError::invalid(format!("tpm.{field}: {text}"));
        if text.len() > 2 * MAX_TPM_KEY_BYTES {
            return Err(invalid("it is too long".to_owned()));
        }
        let bytes = STANDARD
            .decode(text.trim())
            .map_err(|error| invalid(error.to_string()))?;
        let key = TpmPublicKey::parse(&bytes).map_err(|error| invalid(error.to_string()))?;
        Ok(Some(Bytes::from(key.to_bytes())))
    };
    Ok(TpmEnrollmentKeys {
        endorsement_key: key("endorsementKey")?
            .ok_or_else(|| ApiError::new(ErrorCode::ArgumentNull, "tpm.endorsementKey is missing"))?,
        storage_root_key: key("storageRootKey")?,
    })
}

/// The one source of certificates that has a value.
fn certificates(kind: EnrollmentKind, fields: &Fields<'_>) -> Result<Option<X509Attestation>, ApiError> {
    let mut found = None;
    for (field, source) in [
        ("clientCertificates", CertificateSource::Client),
        ("signingCertificates", CertificateSource::Signing),
        ("caReferences", CertificateSource::CaReferences),
    ] {
        let Some(both) = fields.object(field)? else { continue };
        let read = |slot: &str| match source {
            CertificateSource::CaReferences => Ok(both.text(slot)?.map(|name| Bytes::from(name.to_owned()))),
            CertificateSource::Client | CertificateSource::Signing => match both.object(slot)? {
                Some(given) => certificate(kind, &given).map_err(|error| named(error, field, slot)),
                None => Ok(None),
            },
        };
        let (primary, secondary) = (read("primary")?, read("secondary")?);
        if primary.is_none() && secondary.is_none() {
            continue;
        }
        let attestation = X509Attestation {
            source,
            primary,
            secondary,
        };
        if found.replace(attestation).is_some() {
            let text = "x509 has one of clientCertificates, signingCertificates and caReferences";
            return Err(ApiError::invalid(text));
        }
    }
    Ok(found)
}

fn named(error: ApiError, field: &str, slot: &str) -> ApiError {
    ApiError::new(error.code, format!("{field}.{slot}: {}", error.text))
}

/// The DER form of a certificate; `None`: only what a reader of the stored one has been given.
fn certificate(kind: EnrollmentKind, fields: &Fields<'_>) -> Result<Option<Bytes>, ApiError> {
    let Some(text) = fields.text("certificate")?.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let der = read_certificate(text).map_err(|error| ApiError::invalid(error.to_string()))?;
    match kind {
        EnrollmentKind::Group => {
            CaCertificate::parse(&der).map_err(|error| ApiError::invalid(error.to_string()))?;
        }
        EnrollmentKind::Individual => {
            CertificateInfo::read(&der).map_err(|error| ApiError::invalid(error.to_string()))?;
        }
    }
    Ok(Some(der.into()))
}
