//! `POST /devices/keys/regenerate` (Spec rest §2.2).

use holdfast_model::limits::MAX_BULK_IDENTITIES;
use holdfast_model::{DeviceId, ErrorCode, IdentityId, ModuleId};
use holdfast_registry::{IfMatch, KeyChoice, KeyRegeneration};
use serde_json::{Value, json};

use super::super::error::ApiError;
use super::super::etag;
use super::super::json::{Fields, format_error, object, quoted};
use super::super::reply::Reply;
use super::Request;

pub(super) async fn regenerate(mut request: Request<'_>) -> Result<Reply, ApiError> {
    let body = request.body.json().await?;
    let fields = object(&body)?;
    let choice = match fields.text("policyKey")? {
        Some(text) if text.eq_ignore_ascii_case("primaryKey") => KeyChoice::Primary,
        Some(text) if text.eq_ignore_ascii_case("secondaryKey") => KeyChoice::Secondary,
        Some(text) if text.eq_ignore_ascii_case("both") => KeyChoice::Both,
        _ => {
            let text = "policyKey must be primaryKey, secondaryKey or both";
            return Err(ApiError::new(ErrorCode::InvalidPolicyKey, text));
        }
    };
    let items = fields.array("devices")?.unwrap_or_default();
    if items.is_empty() {
        return Err(ApiError::invalid("devices has no entry"));
    }
    if items.len() > MAX_BULK_IDENTITIES {
        let text = format!(
            "devices has {} entries, at most {MAX_BULK_IDENTITIES} are allowed",
            items.len()
        );
        return Err(ApiError::new(ErrorCode::TooManyDevices, text));
    }
    let entries = items.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let wanted: Vec<_> = entries
        .iter()
        .filter_map(|(_, entry)| entry.as_ref().ok().cloned())
        .collect();
    let mut outcomes = request
        .within(request.shared.registry().regenerate_keys(wanted, choice))
        .await?
        .into_iter();
    let mut errors = Vec::new();
    for (name, entry) in &entries {
        let error = match entry {
            Err(error) => Some(error.clone()),
            Ok(_) => outcomes.next().and_then(Result::err).map(ApiError::from),
        };
        request.audit("regenerateKeys", name, error.as_ref().map(|error| error.code));
        if let Some(error) = error {
            errors.push(json!({"id": name, "errorCode": error.code.name(), "errorStatus": error.text}));
        }
    }
    let status = match errors.len() {
        0 => 200,
        some if some < entries.len() => 207,
        _ => 400,
    };
    Ok(Reply::json(
        status,
        json!({"isSuccessful": errors.is_empty(), "errors": errors}),
    ))
}

type Entry = (String, Result<KeyRegeneration, ApiError>);

fn read(item: &Value) -> Result<Entry, ApiError> {
    let Value::Object(map) = item else {
        return Err(format_error("every entry of devices must be an object"));
    };
    let fields = Fields::new(map)?;
    let device = fields.text("id")?.unwrap_or_default();
    let module = fields.text("moduleId")?.filter(|text| !text.is_empty());
    let if_match = fields.text("etag")?.map_or(IfMatch::Any, etag::parse);
    Ok((
        device.to_owned(),
        identity(device, module).map(|id| KeyRegeneration { id, if_match }),
    ))
}

fn identity(device: &str, module: Option<&str>) -> Result<IdentityId, ApiError> {
    let invalid = |text: &str, error| ApiError::invalid(format!("id {}: {error}", quoted(text)));
    let device = DeviceId::parse(device).map_err(|error| invalid(device, error))?;
    match module {
        None => Ok(IdentityId::device(device)),
        Some(module) => Ok(IdentityId::module(
            device,
            ModuleId::parse(module).map_err(|error| invalid(module, error))?,
        )),
    }
}
