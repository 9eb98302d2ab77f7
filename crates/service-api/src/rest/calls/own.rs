//! Our own additions under `/holdfast/v1` (Spec rest §10): unknown fields are refused here.

use holdfast_model::{ErrorCode, IdentityId};
use holdfast_registry::RegistryError;
use serde_json::{Map, Value, json};

use super::super::error::ApiError;
use super::super::json::{object, shown};
use super::super::reply::Reply;
use super::super::{document, times};
use super::{Request, device_id, module_id};

/// `GET /holdfast/v1/hub`.
pub(super) fn hub(request: &Request<'_>) -> Result<Reply, ApiError> {
    let settings = request.shared.registry.settings()?;
    Ok(Reply::ok(json!({
        "hubName": settings.hub_name,
        "hubId": settings.hub_id,
        "hostNames": request.shared.hub_names.iter().collect::<Vec<_>>(),
        "partitionCount": settings.partition_count.get(),
        "retentionSeconds": settings.retention.as_secs(),
        "retentionBytes": settings.retention_bytes,
        "consumerGroups": settings.consumer_groups,
        "policies": settings
            .policies
            .iter()
            .map(|policy| json!({"keyName": policy.name, "rights": policy.rights.to_string()}))
            .collect::<Vec<_>>(),
        "maxIdentities": settings.max_identities,
        "createdTime": times::iso(Some(settings.created)),
        "hubTime": times::iso(Some((request.shared.clock)())),
    })))
}

/// `GET /holdfast/v1/diagnose/{deviceId}[/modules/{moduleId}]`: also for ids that are not registered, since their
/// refusals are what an operator looks for.
pub(super) async fn diagnose(device: &str, module: Option<&str>, request: &Request<'_>) -> Result<Reply, ApiError> {
    let id = match module {
        None => IdentityId::device(device_id(device)?),
        Some(module) => module_id(device, module)?,
    };
    let identity = request.within(request.shared.registry.get(&id)).await?;
    let mut answer = Map::new();
    answer.insert("deviceId".to_owned(), json!(id.device.as_str()));
    if let Some(module) = &id.module {
        answer.insert("moduleId".to_owned(), json!(module.as_str()));
    }
    answer.insert("hubTime".to_owned(), json!(times::iso(Some((request.shared.clock)()))));
    answer.insert("registered".to_owned(), json!(identity.is_some()));
    answer.insert(
        "identity".to_owned(),
        identity.map_or(Value::Null, |identity| {
            json!({
                "status": document::status_name(identity.status),
                "statusReason": identity.status_reason,
                "statusUpdatedTime": times::iso(identity.status_updated),
                "authenticationType": identity.authentication.type_name(),
                "generationId": identity.generation.to_string(),
                "etag": identity.etag.0,
                "createdTime": times::iso(Some(identity.created)),
                "deviceScope": identity.device_scope,
            })
        }),
    );
    if let Value::Object(connections) = request.shared.hub.diagnose(&id).await {
        for (name, value) in connections {
            answer.entry(name).or_insert(value);
        }
    }
    Ok(Reply::ok(Value::Object(answer)))
}

/// `GET /holdfast/v1/consumerGroups`.
pub(super) async fn list_consumer_groups(request: &Request<'_>) -> Result<Reply, ApiError> {
    request.within(request.shared.registry.confirm()).await?;
    let settings = request.shared.registry.settings()?;
    let groups: Vec<Value> = settings
        .consumer_groups
        .iter()
        .map(|name| json!({"name": name}))
        .collect();
    Ok(Reply::ok(Value::Array(groups)))
}

/// `PUT /holdfast/v1/consumerGroups/{name}`: 201, or 200 when it exists.
pub(super) async fn put_consumer_group(name: &str, mut request: Request<'_>) -> Result<Reply, ApiError> {
    if let Some(body) = request.body.optional_json().await? {
        let fields = object(&body)?;
        if let Some(unknown) = fields.unknown(&["name"]) {
            return Err(ApiError::invalid(format!("field {} is unknown", shown(unknown))));
        }
        if fields.text("name")?.is_some_and(|given| given != name) {
            return Err(ApiError::invalid("name differs from the name in the path"));
        }
    }
    let outcome = request.within(request.shared.registry.add_consumer_group(name)).await;
    request.audit(
        "createConsumerGroup",
        name,
        outcome.as_ref().err().map(RegistryError::code),
    );
    let answer = json!({"name": name});
    match outcome {
        Ok(()) => Ok(Reply::json(201, answer)),
        Err(error) if error.code() == ErrorCode::GenericConflict => Ok(Reply::ok(answer)),
        Err(error) => Err(error.into()),
    }
}

/// `DELETE /holdfast/v1/consumerGroups/{name}`.
pub(super) async fn delete_consumer_group(name: &str, request: &Request<'_>) -> Result<Reply, ApiError> {
    let outcome = request
        .within(request.shared.registry.remove_consumer_group(name))
        .await;
    request.audit(
        "deleteConsumerGroup",
        name,
        outcome.as_ref().err().map(RegistryError::code),
    );
    outcome?;
    Ok(Reply::no_content())
}
