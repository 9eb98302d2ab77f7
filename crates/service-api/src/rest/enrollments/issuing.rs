//! Issuing CAs, their policies, and issued certificates: calls of our own beside those of the original (docs/provisioning.md).
//!
//! Invariants: a key goes in and never comes out; a CA keeps its certificate.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use data_encoding::HEXUPPER;
use holdfast_auth::x509::{CertificateInfo, KeyType, read_certificate};
use holdfast_model::json::quoted;
use holdfast_model::{DeviceId, ErrorCode};
use holdfast_net::http_api::Reply;
use holdfast_provisioning::{CaKeySource, NewCa, ProvisioningError, timestamp};
use holdfast_registry::{IfMatch, IssuancePolicy, IssuedCertificate, Issuer, IssuerKey, RevokedCertificate};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::super::error::ApiError;
use super::super::etag;
use super::super::json::{Fields, object};
use super::EnrollmentRequest;

const DAY_SECONDS: u64 = 24 * 60 * 60;

/// How long a CA that the hub makes is valid, unless the caller says otherwise, in days.
const CA_VALIDITY_DAYS: u64 = 3650;
const MAX_CA_VALIDITY_DAYS: u64 = 36_500;

/// How long a certificate is valid, unless its policy says otherwise, in days.
const LEAF_VALIDITY_DAYS: u64 = 90;

/// The policy that a new CA has, unless others are given.
const DEFAULT_POLICY: &str = "default";

const DEFAULT_REASON: &str = "unspecified";

/// A call about issuing. Names are decoded, not yet checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum IssuingCall {
    ListCas,
    GetCa(String),
    PutCa(String),
    DeleteCa(String),
    PutPolicy(String, String),
    DeletePolicy(String, String),
    Issue(String),
    /// The certificates of a device.
    List(String),
    /// Of all that the device has.
    RevokeAll(String),
    Revoke(String, String),
}

pub(super) async fn run(call: IssuingCall, mut request: EnrollmentRequest<'_>) -> Result<Reply, ApiError> {
    match call {
        IssuingCall::ListCas => list(&request).await,
        IssuingCall::GetCa(name) => Ok(shown(&*find(&name, &request).await?)),
        IssuingCall::PutCa(name) => create(name, &mut request).await,
        IssuingCall::DeleteCa(name) => {
            let if_match = etag::if_match(request.headers)?.unwrap_or(IfMatch::Any);
            request.shared.registry().remove_issuer(&name, &if_match).await?;
            request.changed("delete", "issuing CA", &name);
            Ok(Reply::no_content())
        }
        IssuingCall::PutPolicy(ca, name) => put_policy(&ca, name, &mut request).await,
        IssuingCall::DeletePolicy(ca, name) => delete_policy(&ca, &name, &request).await,
        IssuingCall::Issue(ca) => issue(&ca, &mut request).await,
        IssuingCall::List(device) => issued(&device, &request).await,
        IssuingCall::RevokeAll(device) => revoke_all(&device, &mut request).await,
        IssuingCall::Revoke(device, serial) => revoke(&device, &serial, &mut request).await,
    }
}

async fn list(request: &EnrollmentRequest<'_>) -> Result<Reply, ApiError> {
    let registry = request.shared.registry();
    registry.read_barrier().await?;
    let all: Vec<Value> = registry.issuers().iter().map(|issuer| document(issuer)).collect();
    Ok(Reply::ok(Value::Array(all)))
}

async fn find(name: &str, request: &EnrollmentRequest<'_>) -> Result<Arc<Issuer>, ApiError> {
    let registry = request.shared.registry();
    registry.read_barrier().await?;
    let found = registry.issuers().get(name).cloned();
    let missing = || {
        let text = format!("issuing CA {} does not exist", quoted(name));
        ApiError::new(ErrorCode::CertificateNotFound, text)
    };
    found.ok_or_else(missing)
}

async fn create(name: String, request: &mut EnrollmentRequest<'_>) -> Result<Reply, ApiError> {
    let body = request.body.json().await?;
    let fields = object(&body)?;
    let policies = match fields.array("policies")? {
        None => vec![IssuancePolicy {
            name: DEFAULT_POLICY.to_owned(),
            validity: Duration::from_secs(LEAF_VALIDITY_DAYS * DAY_SECONDS),
            key_types: Vec::new(),
            names: Vec::new(),
        }],
        Some(given) => {
            let read = |value| {
                let fields = object(value)?;
                let missing = || ApiError::new(ErrorCode::ArgumentNull, "the name of a policy is missing");
                policy(fields.text("name")?.ok_or_else(missing)?.to_owned(), &fields)
            };
            given.iter().map(read).collect::<Result<_, _>>()?
        }
    };
    let source = source(&name, &fields)?;
    let new = NewCa { name, policies, source };
    let created = request.shared.service.create_ca(new).await.map_err(refused)?;
    request.changed("create", "issuing CA", &created.name);
    Ok(shown(&created))
}

fn source(name: &str, fields: &Fields<'_>) -> Result<CaKeySource, ApiError> {
    let chain = match fields.array("certificateChain")? {
        None => None,
        Some(given) => {
            let read = |value: &Value| {
                let text = value
                    .as_str()
                    .ok_or_else(|| ApiError::invalid("certificateChain has texts"))?;
                read_certificate(text).map_err(|error| ApiError::invalid(error.to_string()))
            };
            Some(given.iter().map(read).collect::<Result<Vec<_>, _>>()?)
        }
    };
    let signer = fields.object("externalSigner")?;
    match (chain, fields.text("privateKey")?, signer) {
        (None, None, None) => {
            let days = days(fields.get("validityDays"), CA_VALIDITY_DAYS, MAX_CA_VALIDITY_DAYS)?;
            Ok(CaKeySource::Generated {
                common_name: fields.text("commonName")?.unwrap_or(name).to_owned(),
                validity: days,
            })
        }
        (Some(chain), Some(key), None) => {
            let key = Zeroizing::new(
                STANDARD
                    .decode(key)
                    .map_err(|_| ApiError::invalid("privateKey is the base64 of PKCS#8 in DER"))?,
            );
            Ok(CaKeySource::Imported { chain, key })
        }
        (Some(chain), None, Some(signer)) => {
            let missing = || ApiError::new(ErrorCode::ArgumentNull, "externalSigner.url is missing");
            let url = signer.text("url")?.ok_or_else(missing)?.to_owned();
            let is_http = url.starts_with("http://") || url.starts_with("https://");
            if !is_http || url.parse::<http::Uri>().is_err() {
                return Err(ApiError::invalid("externalSigner.url is a URL with http or https"));
            }
            let token = signer.text("token")?.map(|token| Zeroizing::new(token.to_owned()));
            Ok(CaKeySource::External { chain, url, token })
        }
        _ => Err(ApiError::invalid(
            "an issuing CA has nothing, certificateChain and privateKey, or certificateChain and externalSigner",
        )),
    }
}

fn days(value: Option<&Value>, default: u64, most: u64) -> Result<Duration, ApiError> {
    let days = match value {
        None | Some(Value::Null) => default,
        Some(value) => value.as_u64().unwrap_or(0),
    };
    if !(1..=most).contains(&days) {
        return Err(ApiError::invalid(format!(
            "validityDays is a whole number from 1 to {most}"
        )));
    }
    Ok(Duration::from_secs(days * DAY_SECONDS))
}

fn policy(name: String, fields: &Fields<'_>) -> Result<IssuancePolicy, ApiError> {
    let texts = |field: &str| -> Result<Vec<String>, ApiError> {
        let given = fields.array(field)?.unwrap_or_default();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let texts: Option<Vec<String>> = given.iter().map(text).collect();
        texts.ok_or_else(|| ApiError::invalid(format!("{field} has texts")))
    };
    let mut key_types = Vec::new();
    for name in texts("keyTypes")? {
        let known = KeyType::ALL.map(KeyType::as_str).join(", ");
        let unknown = || ApiError::invalid(format!("key type {} is unknown; there are {known}", quoted(&name)));
        key_types.push(KeyType::parse(&name).ok_or_else(unknown)?);
    }
    Ok(IssuancePolicy {
        name,
        validity: days(fields.get("validityDays"), LEAF_VALIDITY_DAYS, CA_VALIDITY_DAYS)?,
        key_types,
        names: texts("names")?,
    })
}

async fn put_policy(ca: &str, name: String, request: &mut EnrollmentRequest<'_>) -> Result<Reply, ApiError> {
    let body = request.body.json().await?;
    let policy = policy(name, &object(&body)?)?;
    let issuer = find(ca, request).await?;
    let mut policies = issuer.policies.clone();
    policies.retain(|known| !known.name.eq_ignore_ascii_case(&policy.name));
    let id = format!("{ca}/{}", policy.name);
    policies.push(policy);
    policies.sort_by(|a, b| a.name.cmp(&b.name));
    let service = &request.shared.service;
    let stored = service.set_policies(&issuer, policies).await.map_err(refused)?;
    request.changed("put", "certificate policy", &id);
    Ok(shown(&stored))
}

async fn delete_policy(ca: &str, name: &str, request: &EnrollmentRequest<'_>) -> Result<Reply, ApiError> {
    let issuer = find(ca, request).await?;
    let mut policies = issuer.policies.clone();
    policies.retain(|known| !known.name.eq_ignore_ascii_case(name));
    if policies.len() == issuer.policies.len() {
        let text = format!("certificate policy {} does not exist", quoted(name));
        return Err(ApiError::new(ErrorCode::CertificateNotFound, text));
    }
    let service = &request.shared.service;
    service.set_policies(&issuer, policies).await.map_err(refused)?;
    request.changed("delete", "certificate policy", &format!("{ca}/{name}"));
    Ok(Reply::no_content())
}

async fn issue(ca: &str, request: &mut EnrollmentRequest<'_>) -> Result<Reply, ApiError> {
    let body = request.body.json().await?;
    let fields = object(&body)?;
    let missing = || ApiError::new(ErrorCode::ArgumentNull, "csr is missing");
    let csr = fields.text("csr")?.ok_or_else(missing)?;
    let policy = fields.text("certificatePolicyName")?.unwrap_or(DEFAULT_POLICY);
    let chain = request
        .shared
        .service
        .issue_by_hand(ca, policy, csr)
        .await
        .map_err(refused)?;
    request.changed("issue", "issuing CA", ca);
    let chain: Vec<String> = chain.iter().map(|der| STANDARD.encode(der)).collect();
    Ok(Reply::ok(json!({"issuedCertificateChain": chain})))
}

fn device_id(text: &str) -> Result<DeviceId, ApiError> {
    DeviceId::parse(text).map_err(|error| ApiError::invalid(error.to_string()))
}

async fn issued(device: &str, request: &EnrollmentRequest<'_>) -> Result<Reply, ApiError> {
    let device = device_id(device)?;
    let registry = request.shared.registry();
    registry.read_barrier().await?;
    let found = registry.device_certificates(&device)?;
    let authorities = registry.authorities();
    let now = request.shared.now();
    let show = |issued: &IssuedCertificate| {
        let certificate = RevokedCertificate::Digest(issued.sha256);
        let is_revoked = authorities
            .denied()
            .iter()
            .any(|denied| denied.certificate == certificate);
        let status = match (is_revoked, issued.until <= now) {
            (true, _) => "revoked",
            (false, true) => "ended",
            (false, false) => "valid",
        };
        json!({
            "deviceId": device.as_str(),
            "serialNumber": issued.serial.to_string(),
            "sha256Thumbprint": HEXUPPER.encode(&issued.sha256),
            "notBeforeUtc": timestamp(issued.from),
            "notAfterUtc": timestamp(issued.until),
            "certificateAuthorityName": issued.issuer,
            "certificatePolicyName": issued.policy,
            "status": status,
        })
    };
    let all: Vec<Value> = found.iter().flat_map(|found| &found.issued).map(show).collect();
    Ok(Reply::ok(Value::Array(all)))
}

/// The reason and the comment of a revocation, which may have no body.
async fn reasons(request: &mut EnrollmentRequest<'_>) -> Result<(String, Option<String>), ApiError> {
    let Some(body) = request.body.optional_json().await? else {
        return Ok((DEFAULT_REASON.to_owned(), None));
    };
    let fields = object(&body)?;
    let reason = fields.text("reason")?.unwrap_or(DEFAULT_REASON).to_owned();
    Ok((reason, fields.text("comment")?.map(str::to_owned)))
}

async fn revoke_all(device: &str, request: &mut EnrollmentRequest<'_>) -> Result<Reply, ApiError> {
    let id = device_id(device)?;
    let (reason, _) = reasons(request).await?;
    let service = &request.shared.service;
    service.revoke_all_issued(&id, &reason).await.map_err(refused)?;
    request.changed("revoke", "certificates of device", device);
    Ok(Reply::no_content())
}

async fn revoke(device: &str, serial: &str, request: &mut EnrollmentRequest<'_>) -> Result<Reply, ApiError> {
    let id = device_id(device)?;
    let (reason, comment) = reasons(request).await?;
    let service = &request.shared.service;
    service
        .revoke_issued(&id, serial, &reason, comment.as_deref())
        .await
        .map_err(refused)?;
    request.changed("revoke", "certificate", &format!("{device}/{serial}"));
    Ok(Reply::no_content())
}

fn refused(error: ProvisioningError) -> ApiError {
    ApiError::new(error.code, error.text)
}

fn shown(issuer: &Issuer) -> Reply {
    Reply::ok(document(issuer)).etag(&issuer.etag)
}

fn document(issuer: &Issuer) -> Value {
    let policies: Vec<Value> = issuer
        .policies
        .iter()
        .map(|policy| {
            json!({
                "name": policy.name,
                "validityDays": policy.validity.as_secs() / DAY_SECONDS,
                "keyTypes": policy.key_types.iter().map(|kind| kind.as_str()).collect::<Vec<_>>(),
                "names": policy.names,
            })
        })
        .collect();
    let chain: Vec<String> = issuer.chain.iter().map(|der| STANDARD.encode(der)).collect();
    let mut document = json!({
        "name": issuer.name,
        "policies": policies,
        "certificateChain": chain,
        "key": "hub",
        "createdDateTimeUtc": timestamp(issuer.created),
        "lastUpdatedDateTimeUtc": timestamp(issuer.updated),
        "etag": format!("\"{}\"", issuer.etag),
    });
    // It was read before it was stored.
    if let Ok(info) = CertificateInfo::read(issuer.certificate.der()) {
        document["subjectName"] = json!(info.subject);
        document["sha256Thumbprint"] = json!(info.fingerprints.sha256_hex());
        document["notAfterUtc"] = json!(timestamp(info.until));
    }
    if let IssuerKey::External { url, .. } = &issuer.key {
        document["key"] = json!("external");
        document["externalSigner"] = json!({"url": url});
    }
    document
}
