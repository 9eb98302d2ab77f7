//! A device uploads a file: it begins, writes straight to storage, and reports the end (Spec rest §5).
//!
//! The correlation id is the same in the answer, in the hub's log, in the notification, and as the name of the upload in storage's log
//! by its blob.
//! Invariant: a device gets a signature for a blob below its own id alone.

use std::pin::Pin;

use holdfast_device_hub::{Requester, ThrottleClass, UploadError, UploadedFile};
use holdfast_model::limits::{MAX_BLOB_NAME_CHARS, MAX_BLOB_NAME_SEGMENTS};
use holdfast_model::{ErrorCode, UnixMillis};
use holdfast_net::http_api::{Reply, RequestBody};
use serde_json::{Value, json};

use super::answer::HttpsError;
use super::batch::read_json;
use super::call::Request;

/// Largest body of these calls.
const MAX_BODY_BYTES: usize = 16 * 1024;

/// Longest correlation id that is looked up; ours have 32 characters.
const MAX_CORRELATION_ID_CHARS: usize = 128;

/// Where a device writes a blob, until the end of its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadLocation {
    /// The storage's host, with a port unless it is 443.
    pub host: String,
    /// The container.
    pub container: String,
    /// The query with the signature, `?` included.
    pub sas: String,
}

/// The description of a blob, or why there is none.
pub type UploadedBlob = Pin<Box<dyn Future<Output = Result<Option<UploadedFile>, String>>>>;

/// The storage that devices upload to.
pub trait UploadStorage: Send + Sync {
    /// A signature for `blob`, from `now` on.
    fn location(&self, blob: &str, now: UnixMillis) -> UploadLocation;

    /// The blob as it is; `Ok(None)`: it is not there; an error says why that is not known.
    fn find(&self, blob: &str) -> UploadedBlob;
}

impl From<UploadError> for HttpsError {
    fn from(error: UploadError) -> Self {
        let code = match error {
            UploadError::Full { .. } => ErrorCode::DeviceMaximumActiveFileUploadLimitExceeded,
            UploadError::UnknownId => ErrorCode::InvalidFileUploadCorrelationId,
            UploadError::Expired => ErrorCode::ExpiredFileUploadCorrelationId,
            UploadError::Gone => ErrorCode::DeviceNotFound,
            UploadError::NoOwner | UploadError::Unreadable | UploadError::Unknown => ErrorCode::ServiceUnavailable,
        };
        Self::new(code, error.to_string())
    }
}

/// The storage, or the refusal of a hub without one.
fn storage<'a>(request: &Request<'a>) -> Result<&'a dyn UploadStorage, HttpsError> {
    if request.requester.identity().module.is_some() {
        let text = "modules have no file upload; their device has";
        return Err(HttpsError::new(ErrorCode::FeatureNotSupported, text));
    }
    request.front.uploads.as_deref().ok_or_else(|| {
        let text = "no storage is configured for file uploads (upload.storage in the hub's configuration)";
        HttpsError::new(ErrorCode::InvalidStorageEndpointProperty, text)
    })
}

async fn body(request: &mut Request<'_>) -> Result<Value, HttpsError> {
    let front = request.front;
    let body = std::mem::replace(&mut request.body, holdfast_net::empty_body());
    let mut body = RequestBody::new(
        request.headers,
        body,
        front.bodies.clone(),
        front.config.body_timeout.get(),
    );
    let (bytes, _held) = body.read(MAX_BODY_BYTES).await?;
    read_json(&bytes, "body")
}

/// A field, found in any case (Spec rest §1.5).
fn field<'v>(body: &'v Value, name: &str) -> Option<&'v Value> {
    let found = body.as_object()?.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value).filter(|value| !value.is_null())
}

/// The name of the blob in storage: below the device's id.
fn blob_name(requester: &Requester, name: &str) -> Result<String, HttpsError> {
    let invalid = |text: String| Err(HttpsError::invalid(text));
    let is_bad = |c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}' | '\\');
    let blob = format!("{}/{name}", requester.identity().device);
    let segments = || blob.split('/');
    if name.is_empty() || blob.chars().count() > MAX_BLOB_NAME_CHARS {
        invalid(format!(
            "blobName, with the device's id before it, has 1 to {MAX_BLOB_NAME_CHARS} characters"
        ))
    } else if segments().count() > MAX_BLOB_NAME_SEGMENTS {
        invalid(format!(
            "blobName, with the device's id before it, has at most {MAX_BLOB_NAME_SEGMENTS} segments"
        ))
    } else if blob.chars().any(is_bad) {
        invalid("blobName has no control characters and no backslash".to_owned())
    } else if segments().any(|segment| matches!(segment, "" | "." | "..")) {
        invalid("no segment of blobName is empty, . or ..".to_owned())
    } else {
        Ok(blob)
    }
}

/// Opens a slot; the answer has a signature for one blob.
pub(super) async fn begin(mut request: Request<'_>) -> Result<Reply, HttpsError> {
    let storage = storage(&request)?;
    let body = body(&mut request).await?;
    let name = field(&body, "blobName").and_then(Value::as_str);
    let name = name.ok_or_else(|| HttpsError::invalid("the body has no text blobName"))?;
    let blob = blob_name(&request.requester, name)?;
    request.turn_of(ThrottleClass::UploadInitiations).await?;
    let correlation_id = format!("{:032x}", rand::random::<u128>());
    let hub = request.front.core.hub();
    hub.begin_upload(&request.requester, &correlation_id, &blob).await?;
    let location = storage.location(&blob, request.front.core.clock().now());
    tracing::info!(device = %request.requester.identity(), correlation_id, blob, "file upload begun");
    Ok(Reply::ok(json!({
        "correlationId": correlation_id,
        "hostName": location.host,
        "containerName": location.container,
        "blobName": blob,
        "sasToken": location.sas,
    })))
}

/// What a device reports.
struct Report {
    correlation_id: String,
    is_success: bool,
    status: Option<i64>,
    description: String,
}

fn report(body: &Value, from_path: Option<String>) -> Result<Report, HttpsError> {
    let malformed = |text: &str| HttpsError::new(ErrorCode::InvalidFileUploadCompletionStatus, text);
    let id = from_path.or_else(|| field(body, "correlationId")?.as_str().map(str::to_owned));
    let id = id.filter(|id| !id.is_empty() && id.chars().count() <= MAX_CORRELATION_ID_CHARS);
    let correlation_id = id.ok_or_else(|| {
        let text = "the correlation id is missing or too long, in the path and in correlationId";
        HttpsError::new(ErrorCode::InvalidFileUploadCorrelationId, text)
    })?;
    let is_success = field(body, "isSuccess").and_then(Value::as_bool);
    let description = field(body, "statusDescription")
        .and_then(Value::as_str)
        .unwrap_or_default();
    Ok(Report {
        correlation_id,
        is_success: is_success.ok_or_else(|| malformed("the body has no truth value isSuccess"))?,
        status: field(body, "statusCode").and_then(Value::as_i64),
        description: description.chars().take(256).collect(),
    })
}

/// Closes the slot; back ends hear of a file that is there.
pub(super) async fn end(mut request: Request<'_>, from_path: Option<String>) -> Result<Reply, HttpsError> {
    let storage = storage(&request)?;
    let body = body(&mut request).await?;
    let report = report(&body, from_path)?;
    let (hub, requester) = (request.front.core.hub(), &request.requester);
    let found = hub.find_upload(requester, &report.correlation_id).await?;
    let file = match report.is_success && !found.is_reported {
        true => uploaded(storage, &found.blob_name).await?,
        false => None,
    };
    hub.end_upload(requester, &report.correlation_id, file.as_ref()).await?;
    tracing::info!(
        device = %requester.identity(),
        correlation_id = report.correlation_id,
        blob = found.blob_name,
        is_success = report.is_success,
        status = report.status,
        description = &*holdfast_model::redact(&report.description),
        bytes = file.as_ref().map(|file| file.size),
        is_repeated = found.is_reported,
        "file upload reported"
    );
    Ok(Reply::no_content())
}

async fn uploaded(storage: &dyn UploadStorage, blob: &str) -> Result<Option<UploadedFile>, HttpsError> {
    match storage.find(blob).await {
        Ok(Some(file)) => Ok(Some(file)),
        Ok(None) => {
            let text = format!("the device reports success, and the storage has no blob {blob}");
            Err(HttpsError::new(ErrorCode::InvalidStorageEndpointOrBlob, text))
        }
        Err(error) => {
            tracing::warn!(blob, error, "the storage of file uploads does not answer");
            let text = "the storage of file uploads does not answer; report again";
            Err(HttpsError::new(ErrorCode::ServiceUnavailable, text))
        }
    }
}
