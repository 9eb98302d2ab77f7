//! The hub's shared access policies under `/holdfast/v1/policies` (Spec rest §10, auth-and-limits §2), in the shape of Azure's
//! management calls. Unknown fields are refused.
//!
//! Invariant: keys leave only for callers with all rights, or with the role for it. A caller with fewer would otherwise keep the keys of other policies
//! when its own is taken away.

use std::sync::Arc;

use holdfast_auth::{Key, Policy, Rights};
use holdfast_registry::{IfMatch, KeyChoice, PolicyCondition, PolicyKeys, PolicyWrite, RegistryError};
use serde_json::{Value, json};

use super::super::error::ApiError;
use super::super::etag;
use super::super::json::{Fields, object, quoted};
use super::Request;
use holdfast_net::http_api::Reply;

/// `GET /holdfast/v1/policies`.
pub(super) async fn list(request: &Request<'_>) -> Result<Reply, ApiError> {
    request.within(request.shared.registry().read_barrier()).await?;
    let settings = request.shared.registry().settings()?;
    let shown: Vec<Value> = settings.policies.iter().map(|policy| show(policy, request)).collect();
    Ok(Reply::ok(json!({"value": shown})))
}

/// `GET /holdfast/v1/policies/{name}`.
pub(super) async fn get(name: &str, request: &Request<'_>) -> Result<Reply, ApiError> {
    request.within(request.shared.registry().read_barrier()).await?;
    let policy = request.shared.registry().policy_here(name)?;
    Ok(Reply::ok(show(&policy, request)))
}

/// `PUT /holdfast/v1/policies/{name}`: 201, or 200 when it existed. `If-None-Match: *` creates only, `If-Match: *` changes
/// only.
pub(super) async fn put(name: &str, mut request: Request<'_>) -> Result<Reply, ApiError> {
    let condition = match (etag::must_create(request.headers)?, request.if_match()?) {
        (true, None) => PolicyCondition::Absent,
        (true, Some(_)) => return Err(ApiError::invalid("a request has either If-Match or If-None-Match")),
        (false, None) => PolicyCondition::Any,
        (false, Some(IfMatch::Any)) => PolicyCondition::Present,
        (false, Some(IfMatch::ETag(_))) => {
            return Err(ApiError::invalid("policies have no ETag: If-Match must be *"));
        }
    };
    let body = request.body.json().await?;
    let fields = known(&body, &["keyName", "primaryKey", "secondaryKey", "rights"])?;
    if fields
        .text("keyName")?
        .is_some_and(|given| !given.eq_ignore_ascii_case(name))
    {
        return Err(ApiError::invalid("keyName differs from the name in the path"));
    }
    let rights = fields.text("rights")?.map(Rights::parse).transpose();
    let write = PolicyWrite {
        name: name.to_owned(),
        condition,
        rights: rights.map_err(|error| ApiError::invalid(error.to_string()))?,
        keys: PolicyKeys::Set {
            primary: key(&fields, "primaryKey")?,
            secondary: key(&fields, "secondaryKey")?,
        },
    };
    let (created, policy) = write_audited("putPolicy", &write, &request).await?;
    Ok(Reply::json(if created { 201 } else { 200 }, show(&policy, &request)))
}

/// `DELETE /holdfast/v1/policies/{name}`.
pub(super) async fn delete(name: &str, request: &Request<'_>) -> Result<Reply, ApiError> {
    let outcome = request.within(request.shared.registry().remove_policy(name)).await;
    request.audit("deletePolicy", name, outcome.as_ref().err().map(RegistryError::code));
    outcome?;
    Ok(Reply::no_content())
}

/// `POST /holdfast/v1/policies/{name}/regenerateKey`.
pub(super) async fn regenerate_key(name: &str, mut request: Request<'_>) -> Result<Reply, ApiError> {
    let body = request.body.json().await?;
    let fields = known(&body, &["keyType"])?;
    let choice = match fields.text("keyType")? {
        Some(text) if text.eq_ignore_ascii_case("primary") => KeyChoice::Primary,
        Some(text) if text.eq_ignore_ascii_case("secondary") => KeyChoice::Secondary,
        _ => return Err(ApiError::invalid("keyType must be primary or secondary")),
    };
    change_keys("regeneratePolicyKey", name, PolicyKeys::Regenerate(choice), &request).await
}

/// `POST /holdfast/v1/policies/{name}/swapKeys`.
pub(super) async fn swap_keys(name: &str, request: &Request<'_>) -> Result<Reply, ApiError> {
    change_keys("swapPolicyKeys", name, PolicyKeys::Swap, request).await
}

async fn change_keys(
    operation: &'static str,
    name: &str,
    keys: PolicyKeys,
    request: &Request<'_>,
) -> Result<Reply, ApiError> {
    let write = PolicyWrite {
        name: name.to_owned(),
        condition: PolicyCondition::Present,
        rights: None,
        keys,
    };
    let (_, policy) = write_audited(operation, &write, request).await?;
    Ok(Reply::ok(show(&policy, request)))
}

async fn write_audited(
    operation: &'static str,
    write: &PolicyWrite,
    request: &Request<'_>,
) -> Result<(bool, Arc<Policy>), ApiError> {
    let outcome = request.within(request.shared.registry().write_policy(write)).await;
    request.audit(operation, &write.name, outcome.as_ref().err().map(RegistryError::code));
    Ok(outcome?)
}

fn known<'a>(body: &'a Value, known: &[&str]) -> Result<Fields<'a>, ApiError> {
    let fields = object(body)?;
    match fields.unknown(known) {
        Some(unknown) => Err(ApiError::invalid(format!("field {} is unknown", quoted(unknown)))),
        None => Ok(fields),
    }
}

fn key(fields: &Fields<'_>, name: &str) -> Result<Option<Key>, ApiError> {
    let key = fields.text(name)?.map(Key::from_base64).transpose();
    key.map_err(|error| ApiError::invalid(format!("{name}: {error}")))
}

/// The policy's document, its keys `null` for a caller that may not have them.
fn show(policy: &Policy, request: &Request<'_>) -> Value {
    let text = |key: &Key| request.caller.sees_policy_keys.then(|| key.to_base64().to_string());
    json!({
        "keyName": policy.name,
        "primaryKey": text(&policy.keys.primary),
        "secondaryKey": text(&policy.keys.secondary),
        "rights": policy.rights.to_string(),
    })
}
