//! Signers outside of the hub, over a small HTTP interface (docs/provisioning.md).
//!
//! Invariant: what a signer returns is believed only as far as it is checked: the key is that of the request, the name the device's, and
//! the chain ends at the issuing CA.

use std::pin::Pin;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use data_encoding::HEXLOWER;
use holdfast_auth::x509::{CaSet, ClientCertificate, verify_chain};
use holdfast_model::limits::MAX_CHAIN_CERTIFICATES;
use holdfast_model::{CertificateChain, UnixMillis};
use serde_json::{Value, json};

use super::order::Order;

/// The longest part of a signer's answer that an error shows, in characters.
const MAX_SHOWN_CHARS: usize = 200;

/// The longest chain, in bytes of DER: an operation is stored with it.
const MAX_CHAIN_BYTES: usize = 32 * 1024;

/// How much longer than the policy says a signer's certificate may be valid: signers round up.
const LENIENCE_MS: u64 = 24 * 60 * 60 * 1000;

/// A call of a signer.
#[derive(Debug, Clone)]
pub struct SignerCall {
    /// Where it listens.
    pub url: String,
    /// A bearer token for it.
    pub token: Option<String>,
    /// The JSON body of the POST.
    pub body: String,
}

/// The answer of a signer.
#[derive(Debug, Clone)]
pub struct SignerAnswer {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

/// What a call comes to; the error is for people.
pub type SignerFuture = Pin<Box<dyn Future<Output = Result<SignerAnswer, String>> + Send>>;

/// Makes the calls; bounded in time and in bytes of the answer.
pub type CallSigner = dyn Fn(SignerCall) -> SignerFuture + Send + Sync;

/// The body of the call for an order.
pub(super) fn body(order: &Order, epoch: Option<&[u8; 16]>, until: UnixMillis) -> String {
    let mut body = json!({
        "csr": STANDARD.encode(&order.csr),
        "commonName": order.device.as_str(),
        "certificateAuthorityName": order.issuer.name,
        "certificatePolicyName": order.policy.name,
        "notAfterUtc": crate::document::timestamp(until),
    });
    if let Some(epoch) = epoch {
        body["deviceEpoch"] = json!(HEXLOWER.encode(epoch));
    }
    if let Some(operation) = &order.operation_id {
        body["operationId"] = json!(operation);
    }
    body.to_string()
}

/// The chain that a signer has returned, leaf first.
pub(super) fn read(
    answer: &SignerAnswer,
    order: &Order,
    until: UnixMillis,
    now: UnixMillis,
) -> Result<Vec<Vec<u8>>, String> {
    if answer.status != 200 {
        let text = String::from_utf8_lossy(&answer.body);
        let text: String = text
            .chars()
            .take(MAX_SHOWN_CHARS)
            .flat_map(char::escape_debug)
            .collect();
        return Err(format!("the signer answered {}: {text}", answer.status));
    }
    let malformed = || "the answer of the signer is not {\"certificates\": [base64 of DER, …]}".to_owned();
    let value: Value = serde_json::from_slice(&answer.body).map_err(|_| malformed())?;
    let given = value["certificates"].as_array().ok_or_else(malformed)?;
    if given.is_empty() || given.len() > MAX_CHAIN_CERTIFICATES {
        return Err(format!("the signer returned {} certificates", given.len()));
    }
    let mut chain = Vec::with_capacity(given.len());
    for certificate in given {
        let text = certificate.as_str().ok_or_else(malformed)?;
        chain.push(STANDARD.decode(text).map_err(|_| malformed())?);
    }
    if chain.iter().map(Vec::len).sum::<usize>() > MAX_CHAIN_BYTES {
        return Err(format!(
            "the chain of the signer is larger than {MAX_CHAIN_BYTES} bytes"
        ));
    }
    check(&chain, order, until, now)?;
    if chain.len() == 1 {
        chain.extend(order.issuer.chain.iter().map(|der| der.to_vec()));
    }
    Ok(chain)
}

fn check(chain: &[Vec<u8>], order: &Order, until: UnixMillis, now: UnixMillis) -> Result<(), String> {
    let wrong = |error: holdfast_auth::x509::CertificateRefusal| format!("the signer's certificate: {error}");
    let whole = CertificateChain::new(chain.iter().map(|der| der.clone().into()))
        .ok_or_else(|| "the signer returned no certificate".to_owned())?;
    let leaf = ClientCertificate::parse(whole.leaf()).map_err(wrong)?;
    if leaf.key() != order.request.key() {
        return Err("the signer's certificate has another key than the request".to_owned());
    }
    leaf.check_common_name(order.device.as_str()).map_err(wrong)?;
    if leaf.ends().0 > until.0.saturating_add(LENIENCE_MS) {
        return Err("the signer's certificate is valid for longer than the policy allows".to_owned());
    }
    let authorities = CaSet::new([std::sync::Arc::clone(&order.issuer.certificate)]);
    verify_chain(&whole, &leaf, &authorities, &(), now).map_err(wrong)?;
    Ok(())
}
