//! Modules of a device (Spec rest §2.3).

use holdfast_registry::{IdentityWrite, IfMatch, WriteOperation};
use serde_json::Value;

use super::super::error::ApiError;
use super::super::reply::Reply;
use super::super::{document, json as input};
use super::{Request, check_same, device_id, device_not_found, module_id, module_not_found, put_operation};

pub(super) async fn put(device: &str, module: &str, mut request: Request<'_>) -> Result<Reply, ApiError> {
    let id = module_id(device, module)?;
    let if_match = request.if_match()?;
    let body = request.body.json().await?;
    let fields = input::object(&body)?;
    check_same("deviceId", fields.text("deviceId")?, device)?;
    check_same("moduleId", fields.text("moduleId")?, module)?;
    let operation = put_operation(if_match, document::read(&fields)?);
    let name = if matches!(operation, WriteOperation::Create(_)) {
        "createModule"
    } else {
        "updateModule"
    };
    let written = request
        .write(
            name,
            IdentityWrite {
                id: id.clone(),
                operation,
            },
        )
        .await?;
    let identity = written.identity.ok_or_else(|| module_not_found(&id))?;
    Ok(request.show(if written.created { 201 } else { 200 }, &identity).await)
}

pub(super) async fn get(device: &str, module: &str, request: &Request<'_>) -> Result<Reply, ApiError> {
    let id = module_id(device, module)?;
    match request.within(request.shared.registry().get(&id)).await? {
        Some(identity) => Ok(request.show(200, &identity).await),
        None => Err(module_not_found(&id)),
    }
}

pub(super) async fn delete(device: &str, module: &str, request: &Request<'_>) -> Result<Reply, ApiError> {
    let id = module_id(device, module)?;
    let operation = WriteOperation::Delete(request.if_match()?.unwrap_or(IfMatch::Any));
    request.write("deleteModule", IdentityWrite { id, operation }).await?;
    Ok(Reply::no_content())
}

pub(super) async fn list(device: &str, request: &Request<'_>) -> Result<Reply, ApiError> {
    let device = device_id(device)?;
    let Some(modules) = request.within(request.shared.registry().list_modules(&device)).await? else {
        return Err(device_not_found(&device));
    };
    let documents = request.show_all(modules.iter()).await;
    Ok(Reply::ok(Value::Array(documents)))
}
