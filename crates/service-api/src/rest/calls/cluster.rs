//! The cluster's members under `/holdfast/v1/cluster` and `/holdfast/v1/nodes`.

use std::time::Duration;

use holdfast_cluster::control::ControlError;
use holdfast_model::{ErrorCode, NodeId, UnixMillis};
use holdfast_registry::{JoinToken, MAX_REPLICATION_FACTOR, NodeRole, join_token_id};
use serde_json::{Value, json};

use super::super::error::ApiError;
use super::super::json::{object, quoted};
use super::super::timestamps::iso;
use super::Request;
use holdfast_net::http_api::Reply;

/// How long a join token is valid unless the caller gives a time.
const DEFAULT_TOKEN_SECONDS: u64 = 3_600;
/// The longest validity of a join token.
const MAX_TOKEN_SECONDS: u64 = 7 * 24 * 3_600;

/// `GET /holdfast/v1/cluster`: nodes, groups, leaders, lag, disk, sessions.
pub(super) async fn status(request: &Request<'_>) -> Result<Reply, ApiError> {
    let control = &request.shared.control;
    let status = answer(request, async { Ok(control.status().await) }).await?;
    let status = serde_json::to_value(status).map_err(|error| {
        tracing::error!(%error, "the cluster's status cannot be encoded; the call is answered with an error");
        ApiError::new(ErrorCode::ServerError, "the cluster's status cannot be encoded")
    })?;
    Ok(Reply::ok(status))
}

/// `PUT /holdfast/v1/cluster/replication` with `{"factor": n}`.
pub(super) async fn set_replication(mut request: Request<'_>) -> Result<Reply, ApiError> {
    let body = request.body.json().await?;
    let fields = object(&body)?;
    if let Some(unknown) = fields.unknown(&["factor"]) {
        return Err(ApiError::invalid(format!("field {} is unknown", quoted(unknown))));
    }
    let factor = fields.get("factor").and_then(Value::as_u64);
    let factor = factor
        .and_then(|factor| u8::try_from(factor).ok())
        .filter(|factor| (1..=MAX_REPLICATION_FACTOR).contains(factor))
        .ok_or_else(|| ApiError::invalid(format!("factor must be 1 to {MAX_REPLICATION_FACTOR}")))?;
    let work = request.shared.control.set_replication_factor(factor);
    let set = audited(&request, "setReplicationFactor", "cluster", work).await?;
    Ok(Reply::ok(json!({
        "replicationFactor": factor,
        "before": set.before,
        "warning": set.warning,
    })))
}

/// `POST /holdfast/v1/cluster/feature-level`: to the highest that all members support.
pub(super) async fn raise_feature_level(request: &Request<'_>) -> Result<Reply, ApiError> {
    let work = request.shared.control.raise_feature_level();
    let raised = audited(request, "raiseFeatureLevel", "cluster", work).await?;
    Ok(Reply::ok(
        json!({"featureLevel": raised.level, "before": raised.before}),
    ))
}

/// `POST /holdfast/v1/nodes/tokens` with `{"validSeconds": n, "role": "core" | "gateway"}`, both optional.
pub(super) async fn create_token(mut request: Request<'_>) -> Result<Reply, ApiError> {
    let (mut seconds, mut role) = (DEFAULT_TOKEN_SECONDS, NodeRole::Core);
    if let Some(body) = request.body.optional_json().await? {
        let fields = object(&body)?;
        if let Some(unknown) = fields.unknown(&["validSeconds", "role"]) {
            return Err(ApiError::invalid(format!("field {} is unknown", quoted(unknown))));
        }
        if let Some(given) = fields.get("validSeconds") {
            seconds = given
                .as_u64()
                .filter(|given| (1..=MAX_TOKEN_SECONDS).contains(given))
                .ok_or_else(|| ApiError::invalid(format!("validSeconds must be 1 to {MAX_TOKEN_SECONDS}")))?;
        }
        role = match fields.text("role")? {
            None | Some("core") => NodeRole::Core,
            Some("gateway") => NodeRole::Gateway,
            Some(_) => return Err(ApiError::invalid("role must be core or gateway")),
        };
    }
    // Computed before the token is created, so that it is not later than the registry's own time.
    let expires = UnixMillis(request.shared.now().0.saturating_add(seconds * 1000));
    let work = request.shared.control.create_token(Duration::from_secs(seconds), role);
    let created = answer(&request, work).await;
    let id = created.as_deref().ok().and_then(join_token_id).unwrap_or_default();
    // The audit records of the join and of a revocation carry the same id.
    request.audit("createJoinToken", &id, created.as_ref().err().map(|error| error.code));
    let secret = created?;
    Ok(Reply::json(
        201,
        json!({"token": secret, "id": id, "validSeconds": seconds, "expires": iso(Some(expires))}),
    ))
}

/// `GET /holdfast/v1/nodes/tokens`: without secrets, which are not stored.
pub(super) async fn list_tokens(request: &Request<'_>) -> Result<Reply, ApiError> {
    let control = &request.shared.control;
    let tokens = answer(request, control.join_tokens()).await?;
    let status = answer(request, async { Ok(control.status().await) }).await?;
    let name = |id: u64| {
        let known = status.nodes.iter().find(|node| node.id == NodeId(id));
        known.map_or_else(|| id.to_string(), |node| node.name.clone())
    };
    let now = request.shared.now();
    let shown = tokens.iter().map(|token| {
        json!({
            "id": token.id,
            "state": state_of(token, now),
            "role": if token.role == NodeRole::Gateway { "gateway" } else { "core" },
            "created": iso(Some(token.created)),
            "expires": iso(Some(token.expires)),
            "usedBy": token.used_by.map(name),
        })
    });
    Ok(Reply::ok(Value::Array(shown.collect())))
}

fn state_of(token: &JoinToken, now: UnixMillis) -> &'static str {
    if token.used_by.is_some() {
        "used"
    } else if token.revoked.is_some() {
        "revoked"
    } else if token.expires <= now {
        "expired"
    } else {
        "waiting"
    }
}

/// `DELETE /holdfast/v1/nodes/tokens/{id}`.
pub(super) async fn revoke_token(id: &str, request: &Request<'_>) -> Result<Reply, ApiError> {
    let work = request.shared.control.revoke_token(id);
    audited(request, "revokeJoinToken", id, work).await?;
    Ok(Reply::ok(json!({"id": id, "state": "revoked"})))
}

/// `POST /holdfast/v1/nodes/{name}/drain`.
pub(super) async fn drain(node: &str, request: &Request<'_>) -> Result<Reply, ApiError> {
    audited(request, "drainNode", node, request.shared.control.drain(node)).await?;
    Ok(node_state(node, "draining"))
}

/// `DELETE /holdfast/v1/nodes/{name}/drain`.
pub(super) async fn undrain(node: &str, request: &Request<'_>) -> Result<Reply, ApiError> {
    audited(request, "undrainNode", node, request.shared.control.undrain(node)).await?;
    Ok(node_state(node, "active"))
}

/// `DELETE /holdfast/v1/nodes/{name}[?force=true]`.
pub(super) async fn remove(node: &str, request: &Request<'_>) -> Result<Reply, ApiError> {
    let query = request.uri.query().unwrap_or_default();
    let force = query.split('&').any(|part| part.eq_ignore_ascii_case("force=true"));
    let work = request.shared.control.remove(node, force);
    audited(request, "removeNode", node, work).await?;
    Ok(node_state(node, "removed"))
}

/// `GET /holdfast/v1/nodes/{name}/debug`: configuration without secrets, metrics, last log lines, versions and threads of a node.
pub(super) async fn debug(node: &str, request: &Request<'_>) -> Result<Reply, ApiError> {
    let files = audited(request, "debugNode", node, request.shared.control.debug_report(node)).await?;
    let files: Vec<Value> = files
        .into_iter()
        .map(|file| json!({"name": file.name, "text": file.text}))
        .collect();
    Ok(Reply::ok(json!({"node": node, "files": files})))
}

fn node_state(node: &str, state: &str) -> Reply {
    Reply::ok(json!({"node": node, "state": state}))
}

async fn audited<T>(
    request: &Request<'_>,
    operation: &'static str,
    subject: &str,
    work: impl Future<Output = Result<T, ControlError>>,
) -> Result<T, ApiError> {
    let outcome = answer(request, work).await;
    request.audit(operation, subject, outcome.as_ref().err().map(|error| error.code));
    outcome
}

async fn answer<T>(request: &Request<'_>, work: impl Future<Output = Result<T, ControlError>>) -> Result<T, ApiError> {
    match tokio::time::timeout(request.shared.config.request_timeout.get(), work).await {
        Ok(outcome) => outcome.map_err(|error| ApiError::new(error.code(), error.to_string())),
        Err(_) => Err(ApiError::new(
            ErrorCode::ServiceUnavailable,
            "the cluster did not answer in time; `holdfast cluster status` shows whether the change took effect",
        )),
    }
}
