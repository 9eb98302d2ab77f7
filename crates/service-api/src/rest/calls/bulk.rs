//! `POST /devices`: up to 100 identities in one step (Spec rest §2.4).

use std::collections::HashSet;

use futures_util::future::join_all;
use holdfast_device_hub::{SectionName, ThrottleClass, TwinWrite, WriteMode, check_section};
use holdfast_model::limits::MAX_BULK_IDENTITIES;
use holdfast_model::{DeviceId, ErrorCode, IdentityId, ModuleId, redact};
use holdfast_registry::{IdentityWrite, IfMatch, TwinSeed, WriteOperation};
use serde_json::{Map, Value, json};

use super::super::error::ApiError;
use super::super::json::{Fields, array, format_error, quoted};
use super::super::{document, etag};
use super::{Request, identities, twins};
use holdfast_net::http_api::Reply;

/// One entry: its name in the answer, and its write or error.
struct Entry {
    device: String,
    module: Option<String>,
    mode: String,
    write: Result<EntryWrite, ApiError>,
}

/// The write of an entry.
enum EntryWrite {
    Identity(Box<IdentityWrite>),
    /// The identity stays as it is.
    Twin(IdentityId, TwinWrite),
}

/// A call that is refused as a whole has the shape of a result too: Python's SDK shows nothing else of a 400.
pub(super) async fn run(request: Request<'_>) -> Result<Reply, ApiError> {
    write_all(request).await.map_err(|error| match error.fields {
        None => as_result(error, ""),
        Some(_) => error,
    })
}

async fn write_all(mut request: Request<'_>) -> Result<Reply, ApiError> {
    let body = request.body.json().await?;
    let items = array(&body)?;
    if items.is_empty() {
        return Err(ApiError::invalid("the list has no entry"));
    }
    if items.len() > MAX_BULK_IDENTITIES {
        let text = format!(
            "the list has {} entries, at most {MAX_BULK_IDENTITIES} are allowed",
            items.len()
        );
        return Err(ApiError::new(ErrorCode::TooManyDevices, text));
    }
    request.turn(ThrottleClass::RegistryOperations, count(items)).await?;
    let entries = items.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    check_unique(&entries)?;
    let writes: Vec<_> = entries
        .iter()
        .filter_map(|entry| match &entry.write {
            Ok(EntryWrite::Identity(write)) => Some(IdentityWrite::clone(write)),
            Ok(EntryWrite::Twin(..)) | Err(_) => None,
        })
        .collect();
    let mut outcomes = match writes.is_empty() {
        true => Vec::new(),
        false => request.within(request.shared.registry().write_bulk(writes)).await?,
    }
    .into_iter();
    let twins = entries.iter().filter_map(|entry| match &entry.write {
        Ok(EntryWrite::Twin(id, write)) => Some(write_twin(id, write, &request)),
        Ok(EntryWrite::Identity(_)) | Err(_) => None,
    });
    let mut twins = join_all(twins).await.into_iter();
    let mut errors = Vec::new();
    for entry in &entries {
        let error = match &entry.write {
            Err(error) => Some(error.clone()),
            Ok(EntryWrite::Identity(_)) => outcomes.next().and_then(Result::err).map(ApiError::from),
            Ok(EntryWrite::Twin(..)) => twins.next().and_then(Result::err),
        };
        let subject = match &entry.module {
            Some(module) => format!("{}/{module}", entry.device),
            None => entry.device.clone(),
        };
        request.audit("bulk", &subject, error.as_ref().map(|error| error.code));
        if let Some(error) = error {
            errors.push(show_error(entry, &error));
        }
    }
    let status = if errors.is_empty() { 200 } else { 400 };
    Ok(Reply::json(
        status,
        json!({"isSuccessful": errors.is_empty(), "errors": errors, "warnings": []}),
    ))
}

/// What a call with so many entries counts.
pub(super) fn count(items: &[Value]) -> u32 {
    u32::try_from(items.len()).unwrap_or(u32::MAX)
}

async fn write_twin(id: &IdentityId, write: &TwinWrite, request: &Request<'_>) -> Result<(), ApiError> {
    let identity = request.within(request.shared.registry().get(id)).await?;
    let identity = identity.ok_or_else(|| identities::not_found(id))?;
    let timeout = request.shared.config.request_timeout.get();
    let hub = &request.shared.hub;
    hub.write_twin(id, &identity.generation, write.clone(), timeout).await?;
    Ok(())
}

fn show_error(entry: &Entry, error: &ApiError) -> Value {
    let mut shown = Map::new();
    shown.insert("deviceId".to_owned(), json!(redact(&entry.device)));
    if let Some(module) = &entry.module {
        shown.insert("moduleId".to_owned(), json!(redact(module)));
    }
    shown.insert("errorCode".to_owned(), json!(error.code.name()));
    shown.insert("errorStatus".to_owned(), json!(error.text));
    shown.insert("operation".to_owned(), json!(redact(&entry.mode)));
    Value::Object(shown)
}

/// Adds the shape of a result to the error of the whole call; `device` is the id that it concerns.
fn as_result(mut error: ApiError, device: &str) -> ApiError {
    let shown = json!({"deviceId": redact(device), "errorCode": error.code.name(), "errorStatus": error.text});
    let mut fields = Map::new();
    fields.insert("isSuccessful".to_owned(), json!(false));
    fields.insert("errors".to_owned(), json!([shown]));
    fields.insert("warnings".to_owned(), json!([]));
    error.fields = Some(Box::new(fields));
    error
}

fn check_unique(entries: &[Entry]) -> Result<(), ApiError> {
    let mut seen = HashSet::with_capacity(entries.len());
    for entry in entries {
        if !seen.insert((&entry.device, &entry.module)) {
            let text = format!("{} is in the list more than once", quoted(&entry.device));
            let error = ApiError::new(ErrorCode::DeviceDefinedMultipleTimes, text);
            return Err(as_result(error, &entry.device));
        }
    }
    Ok(())
}

/// Reads one entry. Wrong types refuse the whole call; wrong values are the error of the entry.
fn read(item: &Value) -> Result<Entry, ApiError> {
    let Value::Object(map) = item else {
        return Err(format_error("every entry of the list must be an object"));
    };
    let fields = Fields::new(map)?;
    let device = fields.text("id")?.unwrap_or_default().to_owned();
    let module = fields
        .text("moduleId")?
        .filter(|text| !text.is_empty())
        .map(str::to_owned);
    let mode = fields.text("importMode")?.unwrap_or("createOrUpdate").to_owned();
    let etag = fields.text("eTag")?;
    let write = match write(&fields, &device, module.as_deref(), &mode, etag) {
        Err(error) if error.code == ErrorCode::IotHubFormatError => return Err(error),
        write => write,
    };
    Ok(Entry {
        device,
        module,
        mode,
        write,
    })
}

fn write(
    fields: &Fields<'_>,
    device: &str,
    module: Option<&str>,
    mode: &str,
    etag: Option<&str>,
) -> Result<EntryWrite, ApiError> {
    let mut content = document::read(fields)?;
    let properties = fields.object("properties")?;
    content.twin = TwinSeed {
        tags: fields.object_text("tags")?,
        desired: properties
            .as_ref()
            .map(|properties| properties.object_text("desired"))
            .transpose()?
            .flatten(),
        // Of a device that comes from another hub.
        reported: properties
            .as_ref()
            .map(|properties| properties.object_text("reported"))
            .transpose()?
            .flatten(),
    };
    for (section, text) in [
        (SectionName::Tags, &content.twin.tags),
        (SectionName::Desired, &content.twin.desired),
        (SectionName::Reported, &content.twin.reported),
    ] {
        text.as_deref().map_or(Ok(()), |text| check_section(section, text))?;
    }
    let device = DeviceId::parse(device).map_err(|error| ApiError::invalid(format!("id: {error}")))?;
    let id = match module {
        None => IdentityId::device(device),
        Some(module) => {
            let module = ModuleId::parse(module);
            IdentityId::module(
                device,
                module.map_err(|error| ApiError::invalid(format!("moduleId: {error}")))?,
            )
        }
    };
    let condition = || match etag {
        Some(etag) => Ok(etag::parse(etag)),
        None => Err(ApiError::invalid("this importMode needs eTag")),
    };
    let is = |name: &str| mode.eq_ignore_ascii_case(name);
    let operation = if is("create") {
        WriteOperation::Create(content)
    } else if is("update") {
        WriteOperation::Update(IfMatch::Any, content)
    } else if is("updateIfMatchETag") {
        WriteOperation::Update(condition()?, content)
    } else if is("createOrUpdate") {
        WriteOperation::CreateOrUpdate(IfMatch::Any, content)
    } else if is("createOrUpdateIfMatchETag") {
        WriteOperation::CreateOrUpdate(condition()?, content)
    } else if is("delete") {
        WriteOperation::Delete(IfMatch::Any)
    } else if is("deleteIfMatchETag") {
        WriteOperation::Delete(condition()?)
    } else if is("updateTwin") || is("updateTwinIfMatchETag") {
        let tag = fields.text("twinETag")?.map(etag::parse);
        if is("updateTwinIfMatchETag") && tag.is_none() {
            return Err(ApiError::invalid("this importMode needs twinETag"));
        }
        let tag = tag.filter(|_| is("updateTwinIfMatchETag"));
        return Ok(EntryWrite::Twin(id, twins::read(fields, WriteMode::Replace, tag)?));
    } else {
        return Err(ApiError::invalid(format!("importMode {} is unknown", quoted(mode))));
    };
    Ok(EntryWrite::Identity(Box::new(IdentityWrite { id, operation })))
}
