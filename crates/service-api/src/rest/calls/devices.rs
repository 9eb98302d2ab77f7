//! Single devices, the list, and the counts (Spec rest §2.2).

use holdfast_model::IdentityId;
use holdfast_model::limits::MAX_LIST_DEVICES;
use holdfast_registry::{IdentityWrite, IfMatch, WriteOperation};
use serde_json::{Value, json};

use super::super::error::ApiError;
use super::super::reply::Reply;
use super::super::{document, json as input, path};
use super::{Request, check_same, device_id, device_not_found, put_operation};

pub(super) async fn put(id: &str, mut request: Request<'_>) -> Result<Reply, ApiError> {
    let id = IdentityId::device(device_id(id)?);
    let if_match = request.if_match()?;
    let body = request.body.json().await?;
    let fields = input::object(&body)?;
    check_same("deviceId", fields.text("deviceId")?, id.device.as_str())?;
    let operation = put_operation(if_match, document::read(&fields)?);
    let name = if matches!(operation, WriteOperation::Create(_)) {
        "createDevice"
    } else {
        "updateDevice"
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
    let identity = written.identity.ok_or_else(|| device_not_found(&id.device))?;
    Ok(request.show(200, &identity).await)
}

pub(super) async fn get(id: &str, request: &Request<'_>) -> Result<Reply, ApiError> {
    let id = IdentityId::device(device_id(id)?);
    match request.within(request.shared.registry().get(&id)).await? {
        Some(identity) => Ok(request.show(200, &identity).await),
        None => Err(device_not_found(&id.device)),
    }
}

pub(super) async fn delete(id: &str, request: &Request<'_>) -> Result<Reply, ApiError> {
    let id = IdentityId::device(device_id(id)?);
    let operation = WriteOperation::Delete(request.if_match()?.unwrap_or(IfMatch::Any));
    request.write("deleteDevice", IdentityWrite { id, operation }).await?;
    Ok(Reply::no_content())
}

pub(super) async fn list(request: &Request<'_>) -> Result<Reply, ApiError> {
    let top = match path::query(request.uri, "top") {
        None => MAX_LIST_DEVICES,
        Some(text) => match text.parse::<usize>() {
            Ok(top) if (1..=MAX_LIST_DEVICES).contains(&top) => top,
            _ => {
                return Err(ApiError::invalid(format!(
                    "top must be between 1 and {MAX_LIST_DEVICES}"
                )));
            }
        },
    };
    let devices = request.within(request.shared.registry().list_devices(top)).await?;
    let documents = request.show_all(devices.iter()).await;
    Ok(Reply::ok(Value::Array(documents)))
}

pub(super) async fn statistics(request: &Request<'_>) -> Result<Reply, ApiError> {
    let statistics = request.within(request.shared.registry().statistics()).await?;
    Ok(Reply::ok(json!({
        "totalDeviceCount": statistics.devices,
        "enabledDeviceCount": statistics.devices - statistics.disabled_devices.min(statistics.devices),
        "disabledDeviceCount": statistics.disabled_devices,
    })))
}
