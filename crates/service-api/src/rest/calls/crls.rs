//! The revocation lists of the hub's CAs under `/holdfast/v1/certificates/{name}/crl`. An upload is the list itself, PEM or DER.

use bytes::Bytes;
use data_encoding::HEXUPPER;
use holdfast_auth::x509::read_crl;
use holdfast_model::limits::MAX_CRL_BYTES;
use holdfast_model::{ErrorCode, UnixMillis};
use holdfast_registry::{CaCrl, RegistryError};
use serde_json::{Value, json};

use super::super::error::ApiError;
use super::super::timestamps::iso;
use super::Request;
use holdfast_net::http_api::Reply;

/// PEM is a third longer than DER, and has line ends.
const MAX_UPLOAD_BYTES: usize = MAX_CRL_BYTES / 2 * 3;

/// `GET /holdfast/v1/certificates/{name}/crl`: what is known of the list, without its entries.
pub(super) async fn get(name: &str, request: &Request<'_>) -> Result<Reply, ApiError> {
    request.within(request.shared.registry().authority(name)).await?;
    let authorities = request.shared.registry().authorities();
    let crl = authorities.crl(name).ok_or_else(|| {
        let text = format!("CA '{name}' has no CRL");
        ApiError::new(ErrorCode::CertificateNotFound, text)
    })?;
    Ok(Reply::ok(show(crl, request.shared.hub.clock().now())))
}

/// `PUT /holdfast/v1/certificates/{name}/crl`: 201 for the first list of the CA, else 200.
pub(super) async fn put(name: &str, mut request: Request<'_>) -> Result<Reply, ApiError> {
    let (bytes, _permit) = request.body.read(MAX_UPLOAD_BYTES).await?;
    let der = read_crl(&bytes).map_err(|error| ApiError::invalid(error.to_string()))?;
    let registry = request.shared.registry();
    let outcome = request.within(registry.put_crl(name, Bytes::from(der), None)).await;
    request.audit("putCrl", name, outcome.as_ref().err().map(RegistryError::code));
    let (created, crl) = outcome?;
    let document = show(&crl, request.shared.hub.clock().now());
    Ok(Reply::json(if created { 201 } else { 200 }, document))
}

/// `DELETE /holdfast/v1/certificates/{name}/crl`.
pub(super) async fn delete(name: &str, request: &Request<'_>) -> Result<Reply, ApiError> {
    let outcome = request.within(request.shared.registry().remove_crl(name)).await;
    request.audit("deleteCrl", name, outcome.as_ref().err().map(RegistryError::code));
    outcome?;
    Ok(Reply::no_content())
}

fn show(crl: &CaCrl, now: UnixMillis) -> Value {
    let list = &crl.list;
    json!({
        "ca": list.ca,
        "number": list.number.to_string(),
        "entries": list.entries(),
        "thisUpdate": iso(Some(list.this_update)),
        "nextUpdate": iso(Some(list.next_update)),
        "hasEnded": list.has_ended(now),
        "sha256": HEXUPPER.encode(&crl.sha256),
        "source": crl.source,
        "updated": iso(Some(crl.updated)),
    })
}
