//! `POST /devices/keys/regenerate` (Spec rest §2.2).

use holdfast_auth::Key;
use holdfast_device_hub::ThrottleClass;
use holdfast_model::limits::MAX_BULK_IDENTITIES;
use holdfast_model::{DeviceId, ErrorCode, IdentityId, ModuleId};
use holdfast_registry::{Authentication, IfMatch, KeyChoice, KeyRegeneration, Written};
use serde_json::{Value, json};

use super::super::error::ApiError;
use super::super::etag;
use super::super::json::{Fields, format_error, object, quoted};
use super::Request;
use holdfast_net::http_api::Reply;

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
    request
        .turn(ThrottleClass::RegistryOperations, super::bulk::count(items))
        .await?;
    let entries = items.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let wanted: Vec<_> = entries
        .iter()
        .filter_map(|entry| entry.regeneration.as_ref().ok().cloned())
        .collect();
    let mut outcomes = request
        .within(request.shared.registry().regenerate_keys(wanted, choice))
        .await?
        .into_iter();
    let (mut rotated, mut errors) = (Vec::new(), Vec::new());
    for entry in &entries {
        let outcome = match &entry.regeneration {
            Err(error) => Err(error.clone()),
            Ok(_) => outcomes.next().map_or_else(
                || {
                    Err(ApiError::new(
                        ErrorCode::ServerError,
                        "the registry did not answer for this entry",
                    ))
                },
                |outcome| outcome.map_err(ApiError::from),
            ),
        };
        let code = outcome.as_ref().err().map(|error| error.code);
        request.audit("regenerateKeys", &entry.subject(), code);
        match outcome {
            Ok(written) => rotated.extend(entry.show_rotated(&written, choice)),
            // An identity without symmetric keys has none to rotate: it is neither rotated nor an error.
            Err(error) if error.code == ErrorCode::InvalidOperation => {}
            Err(error) => errors.push(entry.show_error(&error)),
        }
    }
    let status = match errors.len() {
        0 => 200,
        some if some < entries.len() => 207,
        _ => 400,
    };
    let policy_key = match choice {
        KeyChoice::Primary => "primaryKey",
        KeyChoice::Secondary => "secondaryKey",
        KeyChoice::Both => "both",
    };
    Ok(Reply::json(
        status,
        json!({"policyKey": policy_key, "rotatedKeys": rotated, "errors": errors}),
    ))
}

/// One entry of the list: its ids as sent, and its regeneration or error.
struct Entry {
    device: String,
    module: Option<String>,
    regeneration: Result<KeyRegeneration, ApiError>,
}

impl Entry {
    /// For the audit log.
    fn subject(&self) -> String {
        match &self.module {
            Some(module) => format!("{}/{module}", self.device),
            None => self.device.clone(),
        }
    }

    /// The new keys; the key that was not rotated is null.
    fn show_rotated(&self, written: &Written, choice: KeyChoice) -> Option<Value> {
        let Authentication::Sas(keys) = &written.identity.as_ref()?.authentication else {
            return None;
        };
        let shown = |key: &Key, is_rotated: bool| is_rotated.then(|| key.to_base64().to_string());
        Some(json!({
            "id": self.device,
            "moduleId": self.module,
            "primaryKey": shown(&keys.primary, choice != KeyChoice::Secondary),
            "secondaryKey": shown(&keys.secondary, choice != KeyChoice::Primary),
        }))
    }

    fn show_error(&self, error: &ApiError) -> Value {
        json!({
            "id": self.device,
            "moduleId": self.module,
            "errorCode": error.code.name(),
            "errorStatus": error.text,
        })
    }
}

fn read(item: &Value) -> Result<Entry, ApiError> {
    let Value::Object(map) = item else {
        return Err(format_error("every entry of devices must be an object"));
    };
    let fields = Fields::new(map)?;
    let device = fields.text("id")?.unwrap_or_default();
    let module = fields.text("moduleId")?.filter(|text| !text.is_empty());
    let if_match = fields.text("etag")?.map_or(IfMatch::Any, etag::parse);
    Ok(Entry {
        device: device.to_owned(),
        module: module.map(str::to_owned),
        regeneration: identity(device, module).map(|id| KeyRegeneration { id, if_match }),
    })
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
