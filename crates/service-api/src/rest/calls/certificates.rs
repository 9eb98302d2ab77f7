//! The hub's CAs under `/holdfast/v1/certificates` (Spec rest §10, auth-and-limits §3), in the shape of Azure's management
//! calls. Unknown fields are refused.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_auth::x509::{CaError, read_certificate};
use holdfast_model::UnixMillis;
use holdfast_registry::{Authority, IfMatch, RegistryError};
use serde_json::{Value, json};

use super::super::error::ApiError;
use super::super::json::{Fields, object, quoted};
use super::super::timestamps::rfc_1123;
use super::Request;
use holdfast_net::http_api::Reply;

/// `GET /holdfast/v1/certificates`.
pub(super) async fn list(request: &Request<'_>) -> Result<Reply, ApiError> {
    request.within(request.shared.registry().read_barrier()).await?;
    let authorities = request.shared.registry().authorities();
    let shown: Vec<Value> = authorities.iter().map(show).collect();
    Ok(Reply::ok(json!({"value": shown})))
}

/// `GET /holdfast/v1/certificates/{name}`.
pub(super) async fn get(name: &str, request: &Request<'_>) -> Result<Reply, ApiError> {
    let authority = request.within(request.shared.registry().authority(name)).await?;
    Ok(reply(200, &authority, show(&authority)))
}

/// `PUT /holdfast/v1/certificates/{name}`: 201, or 200 when `If-Match` names the one that it replaces.
pub(super) async fn put(name: &str, mut request: Request<'_>) -> Result<Reply, ApiError> {
    let if_match = request.if_match()?;
    let body = request.body.json().await?;
    let fields = properties(&body, &["certificate", "isVerified"])?;
    let der = certificate(&fields)?;
    let is_verified = fields.boolean("isVerified")?;
    let registry = request.shared.registry();
    let outcome = registry.put_authority(name, &der, is_verified, if_match.as_ref());
    let outcome = request.within(outcome).await;
    request.audit("putCertificate", name, outcome.as_ref().err().map(RegistryError::code));
    let (created, authority) = outcome?;
    Ok(reply(if created { 201 } else { 200 }, &authority, show(&authority)))
}

/// `DELETE /holdfast/v1/certificates/{name}`.
pub(super) async fn delete(name: &str, request: &Request<'_>) -> Result<Reply, ApiError> {
    let if_match = request.if_match()?.unwrap_or(IfMatch::Any);
    let outcome = request
        .within(request.shared.registry().remove_authority(name, &if_match))
        .await;
    request.audit(
        "deleteCertificate",
        name,
        outcome.as_ref().err().map(RegistryError::code),
    );
    outcome?;
    Ok(Reply::no_content())
}

/// `POST /holdfast/v1/certificates/{name}/generateVerificationCode`.
pub(super) async fn generate_code(name: &str, request: &Request<'_>) -> Result<Reply, ApiError> {
    let if_match = request.if_match()?.unwrap_or(IfMatch::Any);
    let registry = request.shared.registry();
    let outcome = request.within(registry.new_verification_code(name, &if_match)).await;
    request.audit(
        "generateVerificationCode",
        name,
        outcome.as_ref().err().map(RegistryError::code),
    );
    let authority = outcome?;
    let mut document = show(&authority);
    document["properties"]["verificationCode"] = json!(authority.verification_code);
    Ok(reply(200, &authority, document))
}

/// `POST /holdfast/v1/certificates/{name}/verify`.
pub(super) async fn verify(name: &str, mut request: Request<'_>) -> Result<Reply, ApiError> {
    let if_match = request.if_match()?.unwrap_or(IfMatch::Any);
    let body = request.body.json().await?;
    let proof = certificate(&properties(&body, &["certificate"])?)?;
    let registry = request.shared.registry();
    let outcome = request.within(registry.verify_authority(name, &if_match, &proof)).await;
    request.audit(
        "verifyCertificate",
        name,
        outcome.as_ref().err().map(RegistryError::code),
    );
    let authority = outcome?;
    Ok(reply(200, &authority, show(&authority)))
}

fn reply(status: u16, authority: &Authority, document: Value) -> Reply {
    Reply::json(status, document).etag(&authority.etag.0)
}

fn show(authority: &Authority) -> Value {
    let certificate = &authority.certificate;
    json!({
        "name": authority.name,
        "etag": authority.etag.0,
        "properties": {
            "subject": certificate.subject(),
            // `notAfter` is the last second.
            "expiry": rfc_1123(UnixMillis(certificate.ends().0.saturating_sub(1000))),
            "thumbprint": certificate.fingerprints().sha1_hex(),
            "sha256Thumbprint": certificate.fingerprints().sha256_hex(),
            "isVerified": authority.is_verified,
            "created": rfc_1123(authority.created),
            "updated": rfc_1123(authority.updated),
            "certificate": STANDARD.encode(certificate.der()),
        },
    })
}

/// The fields of a body: bare, or in an object `properties` as in Azure's calls.
fn properties<'a>(body: &'a Value, known: &[&str]) -> Result<Fields<'a>, ApiError> {
    let outer = object(body)?;
    let fields = match outer.object("properties")? {
        Some(inner) => {
            check_known(&outer, &["properties"])?;
            inner
        }
        None => outer,
    };
    check_known(&fields, known)?;
    Ok(fields)
}

fn check_known(fields: &Fields<'_>, known: &[&str]) -> Result<(), ApiError> {
    match fields.unknown(known) {
        Some(unknown) => Err(ApiError::invalid(format!("field {} is unknown", quoted(unknown)))),
        None => Ok(()),
    }
}

fn certificate(fields: &Fields<'_>) -> Result<Vec<u8>, ApiError> {
    let text = fields.text("certificate")?;
    let text = text.ok_or_else(|| ApiError::invalid("certificate is missing: PEM, or base64 of DER"))?;
    read_certificate(text).map_err(|error: CaError| ApiError::invalid(error.to_string()))
}
