//! Lists of devices and modules, and the counts (Spec rest §2.2, §2.3, §10).

use holdfast_model::DeviceId;
use serde_json::{Value, json};

use super::super::error::ApiError;
use super::super::path::{page_size, query};
use super::{Request, device_id, device_not_found};
use holdfast_net::http_api::Reply;

/// The header of a list that has more entries than the answer: the body is an array, as SDKs expect it.
const TRUNCATED: &str = "holdfast-truncated";

/// `GET /devices?top=…`: the first page only, as in the cloud.
pub(super) async fn devices(request: &Request<'_>) -> Result<Reply, ApiError> {
    let top = page_size(request.uri, "top")?;
    let page = request.within(request.shared.registry().device_page(None, top)).await?;
    let documents = request.show_all(page.devices.iter()).await;
    let reply = Reply::ok(Value::Array(documents));
    Ok(if page.has_more {
        reply.header(TRUNCATED, "true")
    } else {
        reply
    })
}

/// `GET /holdfast/v1/devices?top=…&after=…`: `continuation` is the `after` of the next page, null on the last one.
pub(super) async fn device_page(request: &Request<'_>) -> Result<Reply, ApiError> {
    let top = page_size(request.uri, "top")?;
    let after = query(request.uri, "after").filter(|after| !after.is_empty());
    let after: Option<DeviceId> = after.as_deref().map(device_id).transpose()?;
    let page = request
        .within(request.shared.registry().device_page(after.as_ref(), top))
        .await?;
    let documents = request.show_all(page.devices.iter()).await;
    let last = page.devices.last().filter(|_| page.has_more);
    Ok(Reply::ok(json!({
        "devices": documents,
        "continuation": last.map(|identity| identity.id.device.as_str()),
    })))
}

/// `GET /devices/{id}/modules`: at most 50, so that the list is always whole.
pub(super) async fn modules(device: &str, request: &Request<'_>) -> Result<Reply, ApiError> {
    let device = device_id(device)?;
    let Some(modules) = request.within(request.shared.registry().list_modules(&device)).await? else {
        return Err(device_not_found(&device));
    };
    let documents = request.show_all(modules.iter()).await;
    Ok(Reply::ok(Value::Array(documents)))
}

/// `GET /statistics/devices`.
pub(super) async fn statistics(request: &Request<'_>) -> Result<Reply, ApiError> {
    let statistics = request.within(request.shared.registry().statistics()).await?;
    Ok(Reply::ok(json!({
        "totalDeviceCount": statistics.devices,
        "enabledDeviceCount": statistics.devices - statistics.disabled_devices.min(statistics.devices),
        "disabledDeviceCount": statistics.disabled_devices,
    })))
}
