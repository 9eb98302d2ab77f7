//! The deny list of certificates under `/holdfast/v1/revocations`. Unknown fields are refused.

use data_encoding::HEXUPPER;
use holdfast_auth::x509::{CertificateFingerprints, Serial, read_certificate};
use holdfast_model::ErrorCode;
use holdfast_registry::{DeniedCertificate, RegistryError, RevokedCertificate};
use serde_json::{Value, json};

use super::super::error::ApiError;
use super::super::json::{Fields, object, quoted};
use super::super::path::{page_size, query};
use super::super::timestamps::iso;
use super::Request;
use holdfast_net::http_api::Reply;

/// The reason of a revocation that names none.
const UNSPECIFIED: &str = "unspecified";

const FIELDS: [&str; 6] = ["thumbprint", "certificate", "ca", "serialNumber", "reason", "comment"];

/// `GET /holdfast/v1/revocations?top=…&after=…`: `continuation` is the `after` of the next page, null on the last one.
pub(super) async fn list(request: &Request<'_>) -> Result<Reply, ApiError> {
    let top = page_size(request.uri, "top")?;
    let after = query(request.uri, "after").filter(|after| !after.is_empty());
    let after = after
        .as_deref()
        .map(parse_id)
        .transpose()?
        .map(|after| after.to_string());
    request.within(request.shared.registry().read_barrier()).await?;
    let authorities = request.shared.registry().authorities();
    let mut entries: Vec<(String, &DeniedCertificate)> = authorities
        .denied()
        .iter()
        .map(|entry| (entry.certificate.to_string(), entry))
        .filter(|(id, _)| after.as_ref().is_none_or(|after| id > after))
        .collect();
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    let has_more = entries.len() > top;
    entries.truncate(top);
    let last = entries.last().filter(|_| has_more).map(|(id, _)| id.clone());
    let shown: Vec<Value> = entries.into_iter().map(|(_, entry)| show(entry)).collect();
    Ok(Reply::ok(json!({"value": shown, "continuation": last})))
}

/// `GET /holdfast/v1/revocations/{id}`.
pub(super) async fn get(id: &str, request: &Request<'_>) -> Result<Reply, ApiError> {
    let certificate = parse_id(id)?;
    request.within(request.shared.registry().read_barrier()).await?;
    let authorities = request.shared.registry().authorities();
    let found = authorities
        .denied()
        .iter()
        .find(|entry| entry.certificate == certificate);
    let found = found.ok_or_else(|| {
        ApiError::new(
            ErrorCode::CertificateNotFound,
            "the certificate is not on the deny list",
        )
    })?;
    Ok(Reply::ok(show(found)))
}

/// `POST /holdfast/v1/revocations`: 201, or 200 when the certificate is on the list already.
pub(super) async fn revoke(mut request: Request<'_>) -> Result<Reply, ApiError> {
    let body = request.body.json().await?;
    let fields = object(&body)?;
    if let Some(unknown) = fields.unknown(&FIELDS) {
        return Err(ApiError::invalid(format!("field {} is unknown", quoted(unknown))));
    }
    let (certificate, ca) = named(&fields, &request).await?;
    let reason = fields.text("reason")?.unwrap_or(UNSPECIFIED);
    let comment = fields.text("comment")?;
    let registry = request.shared.registry();
    let outcome = request
        .within(registry.revoke(certificate, reason, comment, ca.as_deref()))
        .await;
    let subject = certificate.to_string();
    request.audit(
        "revokeCertificate",
        &subject,
        outcome.as_ref().err().map(RegistryError::code),
    );
    let (created, entry) = outcome?;
    Ok(Reply::json(if created { 201 } else { 200 }, show(&entry)))
}

/// `DELETE /holdfast/v1/revocations/{id}`.
pub(super) async fn delete(id: &str, request: &Request<'_>) -> Result<Reply, ApiError> {
    let certificate = parse_id(id)?;
    let outcome = request.within(request.shared.registry().unrevoke(certificate)).await;
    let subject = certificate.to_string();
    request.audit(
        "unrevokeCertificate",
        &subject,
        outcome.as_ref().err().map(RegistryError::code),
    );
    outcome?;
    Ok(Reply::no_content())
}

/// The certificate that a body names, and the name of its CA when it is named by that.
async fn named(fields: &Fields<'_>, request: &Request<'_>) -> Result<(RevokedCertificate, Option<String>), ApiError> {
    let given = (
        fields.text("thumbprint")?,
        fields.text("certificate")?,
        fields.text("ca")?,
        fields.text("serialNumber")?,
    );
    match given {
        (Some(thumbprint), None, None, None) => match RevokedCertificate::parse(thumbprint) {
            Some(certificate @ RevokedCertificate::Digest(_)) => Ok((certificate, None)),
            _ => Err(ApiError::invalid(
                "thumbprint must be the SHA-256 of the certificate, 64 hexadecimal digits",
            )),
        },
        (None, Some(text), None, None) => {
            let der = read_certificate(text).map_err(|error| ApiError::invalid(error.to_string()))?;
            Ok((RevokedCertificate::Digest(CertificateFingerprints::sha256(&der)), None))
        }
        (None, None, Some(ca), Some(serial)) => {
            let serial = Serial::parse(serial).ok_or_else(|| {
                ApiError::invalid(
                    "serialNumber must be hexadecimal digits, with or without colons, of at most 20 bytes",
                )
            })?;
            let authority = request.within(request.shared.registry().authority(ca)).await?;
            let issuer = authority.certificate.issuer_id();
            Ok((RevokedCertificate::Issued(issuer, serial), Some(authority.name)))
        }
        _ => Err(ApiError::invalid(
            "name the certificate in one way: by thumbprint, by certificate, or by ca and serialNumber",
        )),
    }
}

fn parse_id(id: &str) -> Result<RevokedCertificate, ApiError> {
    RevokedCertificate::parse(id).ok_or_else(|| {
        ApiError::invalid("an entry's id is a SHA-256 of 64 digits, or that of an issuer, a hyphen and a serial number")
    })
}

fn show(entry: &DeniedCertificate) -> Value {
    let (thumbprint, issuer, serial) = match entry.certificate {
        RevokedCertificate::Digest(sha256) => (Some(HEXUPPER.encode(&sha256)), None, None),
        RevokedCertificate::Issued(issuer, serial) => {
            (None, Some(HEXUPPER.encode(&issuer.0)), Some(serial.to_string()))
        }
    };
    json!({
        "id": entry.certificate.to_string(),
        "thumbprint": thumbprint,
        "issuer": issuer,
        "serialNumber": serial,
        "ca": entry.ca,
        "reason": entry.reason,
        "comment": entry.comment,
        "revokedTime": iso(Some(entry.at)),
    })
}
