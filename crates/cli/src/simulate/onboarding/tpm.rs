//! A device whose key is in a TPM: enrolled by the TPM's endorsement key, registered by the challenge that only it opens
//! (Spec provisioning §7.1).

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_auth::UnsignedToken;
use holdfast_client::software_tpm::{PublicKeys, SoftwareTpm};
use holdfast_model::{DeviceId, IdentityId};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Onboarder, TOKEN_LIFETIME, exists, registration, service_call};
use crate::exit_code::{Failure, Outcome};
use crate::http::{answer, call, refusal};
use crate::hub::{Hub, expiry};
use crate::simulate::device::{Credential, signed_by};

/// Most devices of a fleet with TPMs: each has a process of its own.
pub(crate) const MAX_TPMS: u32 = 100;

/// Makes a TPM, enrolls it under `id` and registers the device.
pub(super) async fn register(
    onboarder: &Onboarder,
    service: &Hub,
    id: &DeviceId,
) -> Result<(IdentityId, Credential), Failure> {
    let (tpm, keys) = holdfast_tasks::spawn_blocking(|| {
        let tpm = SoftwareTpm::start()?;
        let keys = tpm.make_keys()?;
        anyhow::Ok((Arc::new(tpm), keys))
    })
    .await?;
    let name = id.as_str();
    enroll(service, name, &keys).await?;
    let body = json!({"tpm": {
        "endorsementKey": STANDARD.encode(&keys.endorsement),
        "storageRootKey": STANDARD.encode(&keys.storage_root),
    }});
    let device = onboarder.hub.without_credential();
    let request = registration(&onboarder.id_scope, name, body.clone());
    let challenge = answer(&device, request).await?;
    let json: Value = serde_json::from_slice(&challenge.body).unwrap_or(Value::Null);
    if challenge.status != StatusCode::UNAUTHORIZED || json["authenticationKey"].is_null() {
        return Err(refusal(challenge.status, &json, &challenge.body));
    }
    activate(&tpm, &json["authenticationKey"]).await?;
    let resource = format!("{}/registrations/{name}", onboarder.id_scope);
    let token = UnsignedToken::new(&resource, Some("registration"), expiry(TOKEN_LIFETIME));
    let device = onboarder.hub.with_token(&signed_by(&tpm, token).await?);
    let (identity, state) = onboarder.registered(&device, name, body).await?;
    activate(&tpm, &state["tpm"]["authenticationKey"]).await?;
    Ok((identity, Credential::Tpm(tpm)))
}

/// Enrolls the TPM, in place of the one that an earlier run has made.
async fn enroll(service: &Hub, name: &str, keys: &PublicKeys) -> Result<(), Failure> {
    let document = json!({
        "registrationId": name,
        "attestation": {"type": "tpm", "tpm": {"endorsementKey": STANDARD.encode(&keys.endorsement)}},
    });
    let put = |if_match| {
        let path = format!("/enrollments/{name}");
        let mut put = service_call(Method::PUT, path, Some(document.clone()));
        put.if_match = if_match;
        put
    };
    if exists(call(service, put(None)).await)? {
        call(service, put(Some("*"))).await?;
    }
    Ok(())
}

/// Loads the key in `blob`, base64, into the TPM.
async fn activate(tpm: &Arc<SoftwareTpm>, blob: &Value) -> Result<(), Failure> {
    let blob = blob.as_str().and_then(|text| STANDARD.decode(text).ok());
    let blob = blob.ok_or_else(|| Failure::new(Outcome::Failed, "the hub has sent no key for the TPM"))?;
    let tpm = Arc::clone(tpm);
    Ok(holdfast_tasks::spawn_blocking(move || tpm.activate(&blob)).await?)
}
