//! The hub's settings and consumer groups under `/holdfast/v1` (Spec rest §10). Unknown fields are refused.

use holdfast_model::ErrorCode;
use holdfast_registry::RegistryError;
use serde_json::{Value, json};

use super::super::error::ApiError;
use super::super::json::{object, quoted};
use super::super::timestamps;
use super::Request;
use holdfast_net::http_api::Reply;

/// `GET /holdfast/v1/hub`.
pub(super) fn hub(request: &Request<'_>) -> Result<Reply, ApiError> {
    let settings = request.shared.registry().settings()?;
    Ok(Reply::ok(json!({
        "hubName": settings.hub_name,
        "hubId": settings.hub_id,
        "hostNames": request.shared.hub.hub_names().iter().collect::<Vec<_>>(),
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
        "createdTime": timestamps::iso(Some(settings.created)),
        "hubTime": timestamps::iso(Some(request.shared.now())),
    })))
}

/// `GET /holdfast/v1/consumerGroups`.
pub(super) async fn list_consumer_groups(request: &Request<'_>) -> Result<Reply, ApiError> {
    request.within(request.shared.registry().read_barrier()).await?;
    let settings = request.shared.registry().settings()?;
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
            return Err(ApiError::invalid(format!("field {} is unknown", quoted(unknown))));
        }
        if fields.text("name")?.is_some_and(|given| given != name) {
            return Err(ApiError::invalid("name differs from the name in the path"));
        }
    }
    let outcome = request.within(request.shared.registry().add_consumer_group(name)).await;
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
        .within(request.shared.registry().remove_consumer_group(name))
        .await;
    request.audit(
        "deleteConsumerGroup",
        name,
        outcome.as_ref().err().map(RegistryError::code),
    );
    outcome?;
    Ok(Reply::no_content())
}
