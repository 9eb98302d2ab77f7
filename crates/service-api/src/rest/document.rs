//! Device and module documents, both ways (Spec rest §2.1, §2.3).

use holdfast_auth::{Key, KeyPair};
use holdfast_device_hub::ConnectionState;
use holdfast_model::ErrorCode;
use holdfast_registry::{
    Authentication, AuthenticationWrite, Identity, IdentityContent, ScopeWrite, Status, Thumbprint, Thumbprints,
    TwinSeed,
};
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::json::{Fields, format_error, quoted};
use super::timestamps;

/// The document of a device or module. It contains the keys: only for callers with a registry right.
pub(super) fn show(identity: &Identity, connection: ConnectionState) -> Value {
    let mut document = Map::new();
    let mut put = |name: &str, value: Value| document.insert(name.to_owned(), value);
    let is_device = identity.id.module.is_none();
    if let Some(module) = &identity.id.module {
        put("moduleId", json!(module.as_str()));
        put("managedBy", json!(identity.managed_by));
    }
    put("deviceId", json!(identity.id.device.as_str()));
    put("generationId", json!(identity.generation.to_string()));
    put("etag", json!(identity.etag.0));
    put("connectionState", json!(connection_state(connection.is_connected)));
    if is_device {
        put("status", json!(status_name(identity.status)));
        put("statusReason", json!(identity.status_reason));
    }
    put("connectionStateUpdatedTime", json!(timestamps::iso(connection.updated)));
    if is_device {
        put("statusUpdatedTime", json!(timestamps::iso(identity.status_updated)));
    }
    put("lastActivityTime", json!(timestamps::iso(connection.last_activity)));
    put("cloudToDeviceMessageCount", json!(connection.cloud_messages));
    put("authentication", show_authentication(&identity.authentication));
    if is_device {
        put("capabilities", json!({"iotEdge": identity.iot_edge}));
        if let Some(scope) = &identity.device_scope {
            put("deviceScope", json!(scope));
        }
        // An edge device without a parent has an empty list; other devices without a parent have no such field.
        if identity.iot_edge || identity.parent_scope.is_some() {
            put("parentScopes", json!(identity.parent_scope.iter().collect::<Vec<_>>()));
        }
    }
    Value::Object(document)
}

pub(super) fn connection_state(is_connected: bool) -> &'static str {
    if is_connected { "Connected" } else { "Disconnected" }
}

pub(super) fn status_name(status: Status) -> &'static str {
    match status {
        Status::Enabled => "enabled",
        Status::Disabled => "disabled",
    }
}

fn show_authentication(authentication: &Authentication) -> Value {
    let (primary, secondary) = match authentication {
        Authentication::Sas(keys) => (Some(keys.primary.to_base64()), Some(keys.secondary.to_base64())),
        _ => (None, None),
    };
    let (first, second) = match authentication {
        Authentication::SelfSigned(prints) => (
            Some(prints.primary.as_str()),
            prints.secondary.as_ref().map(Thumbprint::as_str),
        ),
        _ => (None, None),
    };
    json!({
        "symmetricKey": {"primaryKey": primary.as_deref(), "secondaryKey": secondary.as_deref()},
        "x509Thumbprint": {"primaryThumbprint": first, "secondaryThumbprint": second},
        "type": authentication.type_name(),
    })
}

/// Reads the writable fields of a document, for single calls and bulk entries.
pub(super) fn read(fields: &Fields<'_>) -> Result<IdentityContent, ApiError> {
    Ok(IdentityContent {
        status: read_status(fields)?,
        status_reason: fields.text("statusReason")?.map(str::to_owned),
        authentication: fields
            .object("authentication")?
            .map(|given| read_authentication(&given))
            .transpose()?
            .flatten(),
        iot_edge: match fields.object("capabilities")? {
            Some(capabilities) => capabilities.boolean("iotEdge")?,
            None => None,
        },
        device_scope: match fields.get("deviceScope") {
            None => ScopeWrite::Keep,
            Some(_) => scope(fields.text("deviceScope")?),
        },
        parent_scope: read_parent_scopes(fields)?,
        managed_by: fields.text("managedBy")?.map(str::to_owned),
        twin: TwinSeed::default(),
    })
}

fn read_status(fields: &Fields<'_>) -> Result<Status, ApiError> {
    match fields.text("status")? {
        None => Ok(Status::Enabled),
        Some(text) if text.eq_ignore_ascii_case("enabled") => Ok(Status::Enabled),
        Some(text) if text.eq_ignore_ascii_case("disabled") => Ok(Status::Disabled),
        Some(text) => Err(ApiError::invalid(format!(
            "status {} is neither enabled nor disabled",
            quoted(text)
        ))),
    }
}

fn scope(text: Option<&str>) -> ScopeWrite {
    match text {
        None | Some("") => ScopeWrite::Remove,
        Some(text) => ScopeWrite::Set(text.to_owned()),
    }
}

fn read_parent_scopes(fields: &Fields<'_>) -> Result<ScopeWrite, ApiError> {
    if fields.get("parentScopes").is_none() {
        return Ok(ScopeWrite::Keep);
    }
    match fields.array("parentScopes")?.unwrap_or_default() {
        [] => Ok(ScopeWrite::Remove),
        [Value::String(text)] => Ok(scope(Some(text))),
        [_] => Err(format_error("field parentScopes must be an array of text")),
        _ => Err(ApiError::new(
            ErrorCode::InvalidDeviceScope,
            "parentScopes has at most one scope",
        )),
    }
}

/// `None` when the object contains neither type nor credentials.
fn read_authentication(given: &Fields<'_>) -> Result<Option<AuthenticationWrite>, ApiError> {
    let keys = read_keys(given)?;
    let prints = read_thumbprints(given)?;
    let kind = given.text("type")?;
    let is = |name: &str| kind.is_some_and(|kind| kind.eq_ignore_ascii_case(name));
    let write = if is("sas") {
        sas(keys)
    } else if is("selfSigned") {
        self_signed(prints)?
    } else if is("certificateAuthority") {
        AuthenticationWrite::CertificateAuthority
    } else if is("none") {
        AuthenticationWrite::None
    } else if let Some(kind) = kind {
        let text = format!(
            "authentication type {} is none of sas, selfSigned, certificateAuthority, none",
            quoted(kind)
        );
        return Err(ApiError::invalid(text));
    } else {
        // Old clients send no type.
        match (keys, prints) {
            (Secret::Absent, Secret::Absent | Secret::Empty) => return Ok(None),
            (Secret::Absent | Secret::Empty, Secret::Given(prints)) => AuthenticationWrite::SelfSigned(Some(prints)),
            (keys, _) => sas(keys),
        }
    };
    Ok(Some(write))
}

fn sas(keys: Secret<KeyPair>) -> AuthenticationWrite {
    match keys {
        Secret::Given(keys) => AuthenticationWrite::Sas(Some(keys)),
        Secret::Empty => AuthenticationWrite::SasWithNewKeys,
        Secret::Absent => AuthenticationWrite::Sas(None),
    }
}

fn self_signed(prints: Secret<Thumbprints>) -> Result<AuthenticationWrite, ApiError> {
    match prints {
        Secret::Given(prints) => Ok(AuthenticationWrite::SelfSigned(Some(prints))),
        // The caller believes that the old thumbprint no longer counts: it must not be kept silently.
        Secret::Empty => Err(ApiError::invalid(
            "selfSigned needs a primary thumbprint, the given one is empty",
        )),
        Secret::Absent => Ok(AuthenticationWrite::SelfSigned(None)),
    }
}

/// A pair of secrets in a document. An empty text is not the same as an absent one: it asks for the old secret to end.
enum Secret<T> {
    /// Neither field is there, or both are null.
    Absent,
    /// At least one is an empty text, and none has a value.
    Empty,
    Given(T),
}

fn read_keys(given: &Fields<'_>) -> Result<Secret<KeyPair>, ApiError> {
    let Some(keys) = given.object("symmetricKey")? else {
        return Ok(Secret::Absent);
    };
    let key =
        |name: &str, text: &str| Key::from_base64(text).map_err(|error| ApiError::invalid(format!("{name}: {error}")));
    match (keys.text("primaryKey")?, keys.text("secondaryKey")?) {
        (None, None) => Ok(Secret::Absent),
        (None | Some(""), None | Some("")) => Ok(Secret::Empty),
        (Some(primary), Some(secondary)) if !primary.is_empty() && !secondary.is_empty() => {
            Ok(Secret::Given(KeyPair {
                primary: key("primaryKey", primary)?,
                secondary: key("secondaryKey", secondary)?,
            }))
        }
        _ => Err(ApiError::invalid(
            "give both symmetric keys, both empty to have new ones generated, or none to keep them",
        )),
    }
}

fn read_thumbprints(given: &Fields<'_>) -> Result<Secret<Thumbprints>, ApiError> {
    let Some(prints) = given.object("x509Thumbprint")? else {
        return Ok(Secret::Absent);
    };
    let print =
        |name: &str, text: &str| Thumbprint::parse(text).map_err(|error| ApiError::invalid(format!("{name}: {error}")));
    let secondary = prints.text("secondaryThumbprint")?;
    match (
        prints.text("primaryThumbprint")?,
        secondary.filter(|text| !text.is_empty()),
    ) {
        (None, None) if secondary.is_none() => Ok(Secret::Absent),
        (None | Some(""), None) => Ok(Secret::Empty),
        (None | Some(""), Some(_)) => Err(ApiError::invalid("a secondary thumbprint needs a primary one")),
        (Some(primary), secondary) => Ok(Secret::Given(Thumbprints {
            primary: print("primaryThumbprint", primary)?,
            secondary: secondary
                .map(|secondary| print("secondaryThumbprint", secondary))
                .transpose()?,
        })),
    }
}
