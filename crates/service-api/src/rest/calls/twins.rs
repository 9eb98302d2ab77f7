//! `/twins/{id}[/modules/{id}]`: read, patch and replace a twin (Spec rest §3), and its history (§10).

use holdfast_device_hub::{TwinError, TwinView, TwinWrite, WriteMode};
use holdfast_model::{ErrorCode, IdentityId};
use holdfast_registry::{Identity, IfMatch};
use serde_json::{Value, json};

use super::super::error::ApiError;
use super::super::json::{Fields, object};
use super::super::twin_document;
use super::{Request, identities};
use holdfast_net::http_api::Reply;

pub(super) async fn get(id: &IdentityId, request: &Request<'_>) -> Result<Reply, ApiError> {
    let identity = registered(id, request).await?;
    let hub = &request.shared.hub;
    let twin = hub.twin(id, &identity.generation, timeout(request)).await?;
    show(&identity, &twin, request)
}

pub(super) async fn write(id: &IdentityId, mode: WriteMode, mut request: Request<'_>) -> Result<Reply, ApiError> {
    let if_match = request.if_match()?;
    let body = request.body.json().await?;
    let write = read(&object(&body)?, mode, if_match)?;
    let identity = registered(id, &request).await?;
    let hub = &request.shared.hub;
    let written = hub.write_twin(id, &identity.generation, write, timeout(&request)).await;
    let code = written.as_ref().err().map(TwinError::code);
    let operation = match mode {
        WriteMode::Merge => "updateTwin",
        WriteMode::Replace => "replaceTwin",
    };
    request.audit(operation, &id.to_string(), code);
    show(&identity, &written?, &request)
}

pub(super) async fn history(id: &IdentityId, request: &Request<'_>) -> Result<Reply, ApiError> {
    let identity = registered(id, request).await?;
    let hub = &request.shared.hub;
    let versions = hub.twin_history(id, &identity.generation, timeout(request)).await?;
    let versions: Vec<Value> = versions
        .iter()
        .map(holdfast_device_hub::TwinVersion::document)
        .collect();
    Ok(Reply::ok(json!({"versions": versions})))
}

/// The sections that a document writes. The others are read-only and ignored: clients send whole twins back.
pub(super) fn read(fields: &Fields<'_>, mode: WriteMode, if_match: Option<IfMatch>) -> Result<TwinWrite, ApiError> {
    let desired = match fields.object("properties")? {
        Some(properties) => properties.get("desired").map(Value::to_string),
        None => None,
    };
    Ok(TwinWrite {
        mode,
        tags: fields.get("tags").map(Value::to_string),
        desired,
        if_etag: match if_match {
            Some(IfMatch::ETag(etag)) => Some(etag),
            // Every identity has a twin.
            Some(IfMatch::Any) | None => None,
        },
    })
}

async fn registered(id: &IdentityId, request: &Request<'_>) -> Result<Identity, ApiError> {
    let identity = request.within(request.shared.registry().get(id)).await?;
    identity
        .map(|identity| Identity::clone(&identity))
        .ok_or_else(|| identities::not_found(id))
}

fn timeout(request: &Request<'_>) -> std::time::Duration {
    request.shared.config.request_timeout.get()
}

fn show(identity: &Identity, view: &TwinView, request: &Request<'_>) -> Result<Reply, ApiError> {
    // A module has the status of its device.
    let device = match identity.id.module {
        None => None,
        Some(_) => {
            let id = IdentityId::device(identity.id.device.clone());
            request.shared.registry().identity(&id)?
        }
    };
    let status = device.as_deref().unwrap_or(identity);
    let document = twin_document::show(identity, status, view.connection, &view.twin);
    Ok(Reply::ok(document).etag(&view.twin.etag()))
}

impl From<TwinError> for ApiError {
    fn from(error: TwinError) -> Self {
        if error.code() == ErrorCode::ServerError {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "a twin could not be read; the call is answered with an error"
            );
        }
        Self::new(error.code(), error.to_string())
    }
}
