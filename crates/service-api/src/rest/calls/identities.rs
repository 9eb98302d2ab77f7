//! Single devices and modules: read, write, delete (Spec rest §2.2, §2.3).

use holdfast_model::{ErrorCode, IdentityId, ModuleId};
use holdfast_registry::{IdentityContent, IdentityWrite, IfMatch, WriteOperation};

use super::super::error::ApiError;
use super::super::{document, json};
use super::{Request, device_id, device_not_found};
use holdfast_net::http_api::Reply;

/// The identity of a path; the ids are texts of the path.
pub(super) fn identity_id(device: &str, module: Option<&str>) -> Result<IdentityId, ApiError> {
    let device = device_id(device)?;
    let Some(module) = module else {
        return Ok(IdentityId::device(device));
    };
    if module.contains('/') {
        let text = "a module cannot be registered below a module";
        return Err(ApiError::new(ErrorCode::CannotRegisterModuleToModule, text));
    }
    let module = ModuleId::parse(module).map_err(|error| ApiError::invalid(format!("module id: {error}")))?;
    Ok(IdentityId::module(device, module))
}

pub(super) async fn put(id: &IdentityId, mut request: Request<'_>) -> Result<Reply, ApiError> {
    let if_match = request.if_match()?;
    let body = request.body.json().await?;
    let fields = json::object(&body)?;
    check_same("deviceId", fields.text("deviceId")?, id.device.as_str())?;
    if let Some(module) = &id.module {
        check_same("moduleId", fields.text("moduleId")?, module.as_str())?;
    }
    let operation = put_operation(if_match, document::read(&fields)?);
    let is_create = matches!(operation, WriteOperation::Create(_));
    let name = match (is_create, &id.module) {
        (true, None) => "createDevice",
        (true, Some(_)) => "createModule",
        (false, None) => "updateDevice",
        (false, Some(_)) => "updateModule",
    };
    let write = IdentityWrite {
        id: id.clone(),
        operation,
    };
    let written = request.write(name, write).await?;
    let identity = written.identity.ok_or_else(|| not_found(id))?;
    // Devices answer 200 both times, as the Swagger of the cloud has it.
    let status = if written.created && id.module.is_some() {
        201
    } else {
        200
    };
    Ok(request.show(status, &identity).await)
}

pub(super) async fn get(id: &IdentityId, request: &Request<'_>) -> Result<Reply, ApiError> {
    match request.within(request.shared.registry().get(id)).await? {
        Some(identity) => Ok(request.show(200, &identity).await),
        None => Err(not_found(id)),
    }
}

pub(super) async fn delete(id: IdentityId, request: &Request<'_>) -> Result<Reply, ApiError> {
    let operation = WriteOperation::Delete(request.if_match()?.unwrap_or(IfMatch::Any));
    let name = if id.module.is_some() {
        "deleteModule"
    } else {
        "deleteDevice"
    };
    request.write(name, IdentityWrite { id, operation }).await?;
    Ok(Reply::no_content())
}

/// Create without a condition, update with one (Spec rest §1.4).
fn put_operation(if_match: Option<IfMatch>, content: IdentityContent) -> WriteOperation {
    match if_match {
        None => WriteOperation::Create(content),
        Some(condition) => WriteOperation::Update(condition, content),
    }
}

/// Checks that the id in a document equals the id in the path.
fn check_same(field: &str, given: Option<&str>, path: &str) -> Result<(), ApiError> {
    match given {
        Some(given) if given == path => Ok(()),
        Some(_) => Err(ApiError::invalid(format!("{field} differs from the id in the path"))),
        None => Err(ApiError::invalid(format!("{field} is missing"))),
    }
}

pub(super) fn not_found(id: &IdentityId) -> ApiError {
    match id.module {
        None => device_not_found(&id.device),
        Some(_) => ApiError::new(ErrorCode::ModuleNotFound, format!("module '{id}' does not exist")),
    }
}
