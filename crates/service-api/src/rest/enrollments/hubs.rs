//! Linked hubs, `/linkedHubs`: documents of the original's management API (Spec provisioning §8.1, §9.6). Unknown fields are refused.

use std::sync::Arc;

use holdfast_auth::ConnectionString;
use holdfast_auth::x509::read_certificate;
use holdfast_model::ErrorCode;
use holdfast_model::json::quoted;
use holdfast_net::http_api::Reply;
use holdfast_provisioning::timestamp;
use holdfast_registry::{HubLogin, IfMatch, LinkedHub, LinkedHubContent};
use serde_json::{Value, json};

use super::super::error::ApiError;
use super::super::etag;
use super::super::json::{Fields, object};
use super::EnrollmentRequest;

/// What readers see in place of a key; a writer that sends it keeps the stored one.
const HIDDEN_KEY: &str = "****";

/// The fields of a document.
const FIELDS: [&str; 13] = [
    "name",
    "hostName",
    "connectionString",
    "location",
    "allocationWeight",
    "applyAllocationPolicy",
    "authenticationType",
    "enabled",
    "endpoint",
    "caCertificate",
    "etag",
    "createdDateTimeUtc",
    "lastUpdatedDateTimeUtc",
];

/// `GET /linkedHubs`: all of them, this hub among them.
pub(super) async fn list(request: &EnrollmentRequest<'_>) -> Result<Reply, ApiError> {
    request.shared.registry().read_barrier().await?;
    let links = request.shared.registry().linked_hubs();
    let names = request.shared.hub().hub_names();
    let mut all: Vec<Value> = links.iter().map(|hub| document(hub)).collect();
    if !links.iter().any(|hub| names.contains(&hub.content.host_name)) {
        all.push(json!({
            "name": names.primary(),
            "hostName": names.primary(),
            "allocationWeight": 1,
            "applyAllocationPolicy": true,
            "enabled": true,
        }));
    }
    Ok(Reply::ok(Value::Array(all)))
}

/// `GET /linkedHubs/{host}`.
pub(super) async fn get(host: &str, request: &EnrollmentRequest<'_>) -> Result<Reply, ApiError> {
    request.shared.registry().read_barrier().await?;
    let found = find(host, request)?;
    Ok(Reply::ok(document(&found)).etag(&found.etag))
}

/// `PUT /linkedHubs/{host}`: links a hub; with `If-Match` changes the link.
pub(super) async fn put(host: &str, mut request: EnrollmentRequest<'_>) -> Result<Reply, ApiError> {
    let if_match = etag::if_match(request.headers)?;
    let body = request.body.json().await?;
    let is_own = request.shared.hub().hub_names().contains(host);
    let content = read(host, &object(&body)?, is_own)?;
    let registry = request.shared.registry();
    registry.put_linked_hub(&content, if_match.as_ref()).await?;
    request.changed("put", "linked hub", host);
    let found = find(host, &request)?;
    Ok(Reply::ok(document(&found)).etag(&found.etag))
}

/// `DELETE /linkedHubs/{host}`.
pub(super) async fn delete(host: &str, request: &EnrollmentRequest<'_>) -> Result<Reply, ApiError> {
    let if_match = etag::if_match(request.headers)?.unwrap_or(IfMatch::Any);
    request.shared.registry().remove_linked_hub(host, &if_match).await?;
    request.changed("delete", "linked hub", host);
    Ok(Reply::no_content())
}

fn find(host: &str, request: &EnrollmentRequest<'_>) -> Result<Arc<LinkedHub>, ApiError> {
    let links = request.shared.registry().linked_hubs();
    let found = links
        .iter()
        .find(|hub| hub.content.host_name.eq_ignore_ascii_case(host));
    found.cloned().ok_or_else(|| {
        let text = format!("hub {} is not linked", quoted(host));
        ApiError::new(ErrorCode::GenericNotFound, text)
    })
}

fn read(host: &str, fields: &Fields<'_>, is_own: bool) -> Result<LinkedHubContent, ApiError> {
    if let Some(unknown) = fields.unknown(&FIELDS) {
        return Err(ApiError::invalid(format!("there is no field {}", quoted(unknown))));
    }
    let text = |name| Ok::<_, ApiError>(fields.text(name)?.filter(|text| !text.is_empty()).map(str::to_owned));
    for name in ["name", "hostName"] {
        if text(name)?.is_some_and(|given| !given.eq_ignore_ascii_case(host)) {
            return Err(ApiError::invalid(format!("{name} differs from the host in the path")));
        }
    }
    let login = match text("connectionString")? {
        Some(connection) if !is_own => Some(login(host, &connection)?),
        None if !is_own => return Err(ApiError::new(ErrorCode::ArgumentNull, "connectionString is missing")),
        Some(_) => {
            return Err(ApiError::invalid(
                "the hub of the service itself needs no connectionString",
            ));
        }
        None => None,
    };
    let weight = match fields.get("allocationWeight") {
        None | Some(Value::Null) => 1,
        Some(value) => value
            .as_u64()
            .and_then(|weight| u32::try_from(weight).ok())
            .ok_or_else(|| ApiError::invalid("allocationWeight must be a whole number"))?,
    };
    let ca_certificate = text("caCertificate")?;
    if let Some(pem) = &ca_certificate {
        read_certificate(pem).map_err(|error| ApiError::invalid(format!("caCertificate: {error}")))?;
    }
    Ok(LinkedHubContent {
        host_name: host.to_owned(),
        login,
        weight,
        applies_allocation: fields.boolean("applyAllocationPolicy")?.unwrap_or(true),
        is_disabled: !fields.boolean("enabled")?.unwrap_or(true),
        endpoint: text("endpoint")?,
        ca_certificate,
        location: text("location")?,
    })
}

/// Reads a connection string, whose host must be the hub's.
fn login(host: &str, text: &str) -> Result<HubLogin, ApiError> {
    let invalid = |text: &str| ApiError::invalid(format!("connectionString: {text}"));
    let hidden = format!("SharedAccessKey={HIDDEN_KEY}");
    let keeps_key = text.contains(&hidden);
    // Any key takes the place of the hidden one.
    let text = text.replace(&hidden, "SharedAccessKey=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    let read = ConnectionString::parse(&text).map_err(|error| invalid(&error.to_string()))?;
    let ConnectionString::Iot(read) = read else {
        return Err(invalid("it is one of an event hub"));
    };
    if !read.host_name.eq_ignore_ascii_case(host) {
        return Err(invalid("its HostName is not the host in the path"));
    }
    match (read.policy, read.key) {
        (Some(policy), Some(key)) => Ok(HubLogin {
            policy,
            key: (!keeps_key).then_some(key),
        }),
        _ => Err(invalid("it needs SharedAccessKeyName and SharedAccessKey")),
    }
}

fn document(hub: &LinkedHub) -> Value {
    let content = &hub.content;
    let host = &content.host_name;
    let mut document = json!({
        "name": host,
        "hostName": host,
        "allocationWeight": content.weight,
        "applyAllocationPolicy": content.applies_allocation,
        "enabled": !content.is_disabled,
        "etag": format!("\"{}\"", hub.etag),
        "createdDateTimeUtc": timestamp(hub.created),
        "lastUpdatedDateTimeUtc": timestamp(hub.updated),
    });
    if let Some(login) = &content.login {
        let shown = format!(
            "HostName={host};SharedAccessKeyName={};SharedAccessKey={HIDDEN_KEY}",
            login.policy
        );
        document["connectionString"] = json!(shown);
        document["authenticationType"] = json!("keyBased");
    }
    for (name, value) in [
        ("location", &content.location),
        ("endpoint", &content.endpoint),
        ("caCertificate", &content.ca_certificate),
    ] {
        if let Some(value) = value {
            document[name] = json!(value);
        }
    }
    document
}
