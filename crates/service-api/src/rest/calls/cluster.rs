//! The cluster's members under `/holdfast/v1/cluster` and `/holdfast/v1/nodes`.

use std::sync::Arc;
use std::time::Duration;

use holdfast_model::ErrorCode;
use holdfast_registry::MAX_REPLICATION_FACTOR;
use serde_json::{Value, json};

use super::super::admin::{AdminAnswer, ClusterAdmin, Standing};
use super::super::error::ApiError;
use super::super::json::{object, shown};
use super::super::reply::Reply;
use super::super::times::iso;
use super::Request;

/// How long a join token is good for unless the caller says otherwise.
const DEFAULT_TOKEN_SECONDS: u64 = 3_600;
/// The longest life of a join token.
const MAX_TOKEN_SECONDS: u64 = 7 * 24 * 3_600;

/// `GET /holdfast/v1/cluster`.
pub(super) async fn status(request: &Request<'_>) -> Result<Reply, ApiError> {
    let cluster = cluster(request)?;
    Ok(Reply::ok(answer(request, cluster.status()).await?))
}

/// `PUT /holdfast/v1/cluster/replication` with `{"factor": n}`.
pub(super) async fn set_replication(mut request: Request<'_>) -> Result<Reply, ApiError> {
    let body = request.body.json().await?;
    let fields = object(&body)?;
    if let Some(unknown) = fields.unknown(&["factor"]) {
        return Err(ApiError::invalid(format!("field {} is unknown", shown(unknown))));
    }
    let factor = fields.get("factor").and_then(Value::as_u64);
    let factor = factor
        .and_then(|factor| u8::try_from(factor).ok())
        .filter(|factor| (1..=MAX_REPLICATION_FACTOR).contains(factor))
        .ok_or_else(|| ApiError::invalid(format!("factor wants 1 to {MAX_REPLICATION_FACTOR}")))?;
    let work = cluster(&request)?;
    audited(
        &request,
        "setReplicationFactor",
        "cluster",
        work.set_replication(factor),
    )
    .await
    .map(Reply::ok)
}

/// `POST /holdfast/v1/nodes/tokens` with `{"validSeconds": n, "role": "core" | "gateway"}`, both optional.
pub(super) async fn create_token(mut request: Request<'_>) -> Result<Reply, ApiError> {
    let (mut seconds, mut gateway) = (DEFAULT_TOKEN_SECONDS, false);
    if let Some(body) = request.body.optional_json().await? {
        let fields = object(&body)?;
        if let Some(unknown) = fields.unknown(&["validSeconds", "role"]) {
            return Err(ApiError::invalid(format!("field {} is unknown", shown(unknown))));
        }
        if let Some(given) = fields.get("validSeconds") {
            seconds = given
                .as_u64()
                .filter(|given| (1..=MAX_TOKEN_SECONDS).contains(given))
                .ok_or_else(|| ApiError::invalid(format!("validSeconds wants 1 to {MAX_TOKEN_SECONDS}")))?;
        }
        gateway = match fields.text("role")? {
            None | Some("core") => false,
            Some("gateway") => true,
            Some(_) => return Err(ApiError::invalid("role is core or gateway")),
        };
    }
    let cluster = cluster(&request)?;
    let made = answer(&request, cluster.create_token(Duration::from_secs(seconds), gateway)).await;
    // The audit log names the token by its id: who joins with it, or revokes it, is found by that.
    let subject = made.as_ref().map_or("", |made| made.id.as_str());
    request.audit("createJoinToken", subject, made.as_ref().err().map(|error| error.code));
    let made = made?;
    Ok(Reply::json(
        201,
        json!({
            "token": made.secret,
            "id": made.id,
            "validSeconds": seconds,
            "expires": iso(Some(made.expires)),
        }),
    ))
}

/// `GET /holdfast/v1/nodes/tokens`: without secrets, which are kept nowhere.
pub(super) async fn list_tokens(request: &Request<'_>) -> Result<Reply, ApiError> {
    let cluster = cluster(request)?;
    let tokens = answer(request, cluster.tokens()).await?;
    let tokens = tokens.iter().map(|token| {
        let (state, used_by) = match &token.standing {
            Standing::Waiting => ("waiting", None),
            Standing::Used(node) => ("used", Some(node)),
            Standing::Revoked => ("revoked", None),
            Standing::Expired => ("expired", None),
        };
        json!({
            "id": token.id,
            "state": state,
            "role": if token.gateway { "gateway" } else { "core" },
            "created": iso(Some(token.created)),
            "expires": iso(Some(token.expires)),
            "usedBy": used_by,
        })
    });
    Ok(Reply::ok(Value::Array(tokens.collect())))
}

/// `DELETE /holdfast/v1/nodes/tokens/{id}`.
pub(super) async fn revoke_token(id: &str, request: &Request<'_>) -> Result<Reply, ApiError> {
    let work = cluster(request)?;
    audited(request, "revokeJoinToken", id, work.revoke_token(id.to_owned())).await?;
    Ok(Reply::ok(json!({"id": id, "state": "revoked"})))
}

/// `POST /holdfast/v1/nodes/{name}/drain`.
pub(super) async fn drain(node: &str, request: &Request<'_>) -> Result<Reply, ApiError> {
    let work = cluster(request)?;
    audited(request, "drainNode", node, work.drain(node.to_owned()))
        .await
        .map(Reply::ok)
}

/// `DELETE /holdfast/v1/nodes/{name}/drain`.
pub(super) async fn undrain(node: &str, request: &Request<'_>) -> Result<Reply, ApiError> {
    let work = cluster(request)?;
    audited(request, "undrainNode", node, work.undrain(node.to_owned()))
        .await
        .map(Reply::ok)
}

/// `DELETE /holdfast/v1/nodes/{name}[?force=true]`.
pub(super) async fn remove(node: &str, request: &Request<'_>) -> Result<Reply, ApiError> {
    let query = request.uri.query().unwrap_or_default();
    let force = query.split('&').any(|part| part.eq_ignore_ascii_case("force=true"));
    let work = cluster(request)?;
    audited(request, "removeNode", node, work.remove(node.to_owned(), force))
        .await
        .map(Reply::ok)
}

fn cluster(request: &Request<'_>) -> Result<Arc<dyn ClusterAdmin>, ApiError> {
    let missing = || ApiError::new(ErrorCode::FeatureNotSupported, "this hub runs without a cluster");
    request.shared.cluster.clone().ok_or_else(missing)
}

async fn audited<T>(
    request: &Request<'_>,
    operation: &'static str,
    subject: &str,
    work: AdminAnswer<'_, T>,
) -> Result<T, ApiError> {
    let outcome = answer(request, work).await;
    request.audit(operation, subject, outcome.as_ref().err().map(|error| error.code));
    outcome
}

async fn answer<T>(request: &Request<'_>, work: AdminAnswer<'_, T>) -> Result<T, ApiError> {
    match tokio::time::timeout(request.shared.config.request_timeout.get(), work).await {
        Ok(outcome) => outcome.map_err(|error| ApiError::new(error.code, error.text)),
        Err(_) => Err(ApiError::new(
            ErrorCode::ServiceUnavailable,
            "the cluster did not answer in time; `holdfast cluster status` shows whether the change was taken",
        )),
    }
}
