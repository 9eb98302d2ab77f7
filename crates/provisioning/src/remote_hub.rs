//! Devices of another hub, through its REST API (Spec rest §2): a Holdfast cluster or an Azure IoT Hub.
//!
//! Invariants: every change of an existing device carries its ETag; a device is created with its twin by one request; an answer that
//! is not understood counts as none.
//! Not here: which hub, and in which order hubs are changed (`operations`).

use std::time::Duration;

use holdfast_auth::sign;
use holdfast_model::json::parse;
use holdfast_model::{DeviceId, UnixMillis};
use holdfast_registry::{AuthenticationWrite, EnrollmentContent, LinkedHub, TwinSeed};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::outbound::{Outbound, OutboundAnswer, OutboundRequest};

/// The version of the REST API.
const API_VERSION: &str = "api-version=2021-04-12";

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(8);

/// How long a token is valid, in seconds.
const TOKEN_SECONDS: u64 = 3600;

/// How much of a hub's answer is in texts for people, in characters.
const SHOWN_CHARS: usize = 300;

/// Why a request to a hub has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HubError {
    /// It does not answer, or is busy.
    Unavailable {
        /// Whether the request may have had its effect.
        may_have_effect: bool,
        /// For people.
        text: String,
    },
    /// It does not accept the credentials of the link.
    Credentials(String),
    /// It refuses the request.
    Refused(String),
    /// The device has been changed meanwhile.
    Changed,
}

/// A device there.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RemoteDevice {
    pub(crate) etag: String,
    pub(crate) generation: String,
    document: Map<String, Value>,
}

impl RemoteDevice {
    pub(crate) fn is_disabled(&self) -> bool {
        self.text("status").eq_ignore_ascii_case("disabled")
    }

    pub(crate) fn is_edge(&self) -> bool {
        self.document
            .get("capabilities")
            .and_then(|all| all["iotEdge"].as_bool())
            == Some(true)
    }

    fn text(&self, name: &str) -> &str {
        self.document.get(name).and_then(Value::as_str).unwrap_or_default()
    }
}

/// What a new device is made of.
pub(crate) struct NewDevice<'a> {
    pub(crate) id: &'a DeviceId,
    pub(crate) authentication: &'a AuthenticationWrite,
    pub(crate) is_edge: bool,
    pub(crate) is_disabled: bool,
    pub(crate) twin: TwinSeed,
}

/// Another hub.
pub(crate) struct RemoteHub<'a> {
    pub(crate) outbound: &'a dyn Outbound,
    pub(crate) link: &'a LinkedHub,
    pub(crate) now: UnixMillis,
}

impl RemoteHub<'_> {
    /// The device; `None`: there is none.
    pub(crate) async fn device(&self, id: &DeviceId) -> Result<Option<RemoteDevice>, HubError> {
        let answer = self.call("GET", &device_path(id), None, Value::Null).await?;
        match answer.status {
            404 => Ok(None),
            200 => {
                let Some(Value::Object(document)) = object(&answer) else {
                    return Err(unreadable());
                };
                let text = |name: &str| {
                    document
                        .get(name)
                        .and_then(Value::as_str)
                        .unwrap_or_default()
                        .to_owned()
                };
                Ok(Some(RemoteDevice {
                    etag: text("etag"),
                    generation: text("generationId"),
                    document,
                }))
            }
            _ => Err(refused(&answer)),
        }
    }

    /// How long the hub takes to answer a read over a connection that is open; `None`: it does not answer.
    pub(crate) async fn latency(&self) -> Option<Duration> {
        let mut latency = None;
        // The first one may have to connect.
        for _ in 0..2 {
            let begun = Instant::now();
            match self.call("GET", "/statistics/devices", None, Value::Null).await {
                Ok(_) | Err(HubError::Credentials(_) | HubError::Refused(_) | HubError::Changed) => {}
                Err(HubError::Unavailable { .. }) => return None,
            }
            latency = Some(begun.elapsed());
        }
        latency
    }

    /// The content of the device's twin; `None`: there is no such device.
    pub(crate) async fn twin(&self, id: &DeviceId) -> Result<Option<TwinSeed>, HubError> {
        let path = format!("/twins/{}", escaped(id));
        let answer = self.call("GET", &path, None, Value::Null).await?;
        match answer.status {
            404 => Ok(None),
            200 => {
                let Some(twin) = object(&answer) else {
                    return Err(unreadable());
                };
                Ok(Some(twin_content(&twin)))
            }
            _ => Err(refused(&answer)),
        }
    }

    /// Creates a device with its twin; whether it was not there yet.
    pub(crate) async fn create(&self, device: NewDevice<'_>) -> Result<bool, HubError> {
        let stored = |text: &Option<String>| text.as_deref().and_then(|text| parse(text).ok());
        let mut entry = json!({
            "id": device.id.as_str(),
            "importMode": "create",
            "status": if device.is_disabled { "disabled" } else { "enabled" },
            "authentication": authentication(device.authentication),
            "capabilities": {"iotEdge": device.is_edge},
        });
        if let Some(tags) = stored(&device.twin.tags) {
            entry["tags"] = tags;
        }
        for (name, text) in [("desired", &device.twin.desired), ("reported", &device.twin.reported)] {
            if let Some(content) = stored(text) {
                entry["properties"][name] = content;
            }
        }
        let answer = self.call("POST", "/devices", None, json!([entry])).await?;
        if !matches!(answer.status, 200 | 400) {
            return Err(refused(&answer));
        }
        let Some(result) = object(&answer) else {
            return Err(unreadable());
        };
        if result["isSuccessful"].as_bool() == Some(true) {
            return Ok(true);
        }
        let code = &result["errors"][0]["errorCode"];
        let exists = code.as_u64() == Some(409_001) || code.as_str() == Some("DeviceAlreadyExists");
        match exists {
            true => Ok(false),
            false => Err(refused(&answer)),
        }
    }

    /// Gives a device that is there its credentials, if it has others. What an operator has switched off stays off.
    pub(crate) async fn update(
        &self,
        id: &DeviceId,
        device: &RemoteDevice,
        wanted: &AuthenticationWrite,
        content: &EnrollmentContent,
    ) -> Result<(), HubError> {
        let authentication = authentication(wanted);
        let has_credentials = device.document.get("authentication").is_some_and(|found| {
            let same = |name: &str| authentication.get(name).is_none_or(|wanted| found[name] == *wanted);
            ["type", "symmetricKey", "x509Thumbprint"].into_iter().all(same)
        });
        if has_credentials && (device.is_edge() || !content.iot_edge) {
            return Ok(());
        }
        let mut document = device.document.clone();
        document.insert("authentication".to_owned(), authentication);
        document.insert(
            "capabilities".to_owned(),
            json!({"iotEdge": device.is_edge() || content.iot_edge}),
        );
        let body = Value::Object(document);
        let answer = self.call("PUT", &device_path(id), Some(&device.etag), body).await?;
        match answer.status {
            200 => Ok(()),
            404 | 412 => Err(HubError::Changed),
            _ => Err(refused(&answer)),
        }
    }

    /// Deletes a device with its ETag; one that is not there is no error.
    pub(crate) async fn delete(&self, id: &DeviceId, etag: &str) -> Result<(), HubError> {
        let answer = self.call("DELETE", &device_path(id), Some(etag), Value::Null).await?;
        match answer.status {
            200 | 204 | 404 => Ok(()),
            412 => Err(HubError::Changed),
            _ => Err(refused(&answer)),
        }
    }

    /// An answer that says something about the device.
    async fn call(
        &self,
        method: &'static str,
        path: &str,
        if_match: Option<&str>,
        body: Value,
    ) -> Result<OutboundAnswer, HubError> {
        let content = &self.link.content;
        let host = &content.host_name;
        let Some((policy, key)) = content
            .login
            .as_ref()
            .and_then(|login| Some((&login.policy, login.key.as_ref()?)))
        else {
            return Err(HubError::Credentials(format!("the link of {host} has no key")));
        };
        let expiry = self.now.seconds() + TOKEN_SECONDS;
        let mut headers = vec![("authorization", sign(host, key.as_bytes(), Some(policy), expiry))];
        if let Some(etag) = if_match {
            headers.push(("if-match", format!("\"{etag}\"")));
        }
        let request = OutboundRequest {
            method,
            url: format!("https://{host}{path}?{API_VERSION}"),
            connect_to: content.endpoint.clone(),
            ca_certificate: content.ca_certificate.clone(),
            is_kept: true,
            headers,
            body: match body {
                Value::Null => Vec::new(),
                body => body.to_string().into_bytes(),
            },
            timeout: TIMEOUT,
        };
        let answer = self
            .outbound
            .send(request)
            .await
            .map_err(|error| HubError::Unavailable {
                may_have_effect: error.may_have_been_sent && method != "GET",
                text: format!("the hub {host} does not answer: {}", error.text),
            })?;
        match answer.status {
            401 | 403 if !is_quota(&answer) => Err(HubError::Credentials(format!(
                "the hub {host} refuses the credentials of its link: {}",
                shown(&answer)
            ))),
            429 | 500.. => Err(HubError::Unavailable {
                may_have_effect: answer.status != 429 && method != "GET",
                text: format!("the hub {host} is busy: {}", shown(&answer)),
            }),
            _ => Ok(answer),
        }
    }
}

/// 403 is the status of a hub that is full, too.
fn is_quota(answer: &OutboundAnswer) -> bool {
    answer.status == 403 && !String::from_utf8_lossy(&answer.body).contains("nauthorized")
}

fn device_path(id: &DeviceId) -> String {
    format!("/devices/{}", escaped(id))
}

/// Device ids have characters that a path does not.
fn escaped(id: &DeviceId) -> String {
    use std::fmt::Write as _;
    let mut path = String::with_capacity(id.as_str().len());
    for byte in id.as_str().bytes() {
        match byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            true => path.push(char::from(byte)),
            false => {
                let _ = write!(path, "%{byte:02X}");
            }
        }
    }
    path
}

fn object(answer: &OutboundAnswer) -> Option<Value> {
    let text = std::str::from_utf8(&answer.body).ok()?;
    parse(text).ok().filter(Value::is_object)
}

fn unreadable() -> HubError {
    HubError::Unavailable {
        may_have_effect: true,
        text: "the hub's answer cannot be read".to_owned(),
    }
}

fn refused(answer: &OutboundAnswer) -> HubError {
    HubError::Refused(format!("the hub has answered {}: {}", answer.status, shown(answer)))
}

fn shown(answer: &OutboundAnswer) -> String {
    String::from_utf8_lossy(&answer.body)
        .chars()
        .take(SHOWN_CHARS)
        .collect()
}

/// The authentication method as the REST API writes it.
fn authentication(write: &AuthenticationWrite) -> Value {
    match write {
        AuthenticationWrite::Sas(Some(keys)) => json!({
            "type": "sas",
            "symmetricKey": {
                "primaryKey": *keys.primary.to_base64(),
                "secondaryKey": *keys.secondary.to_base64(),
            },
        }),
        AuthenticationWrite::SelfSigned(Some(thumbprints)) => json!({
            "type": "selfSigned",
            "x509Thumbprint": {
                "primaryThumbprint": thumbprints.primary.as_str(),
                "secondaryThumbprint": thumbprints.secondary.as_ref().map(|thumbprint| thumbprint.as_str()),
            },
        }),
        AuthenticationWrite::CertificateAuthority => json!({"type": "certificateAuthority"}),
        // An attestation always gives the device its credentials.
        AuthenticationWrite::Sas(None)
        | AuthenticationWrite::SasWithNewKeys
        | AuthenticationWrite::SelfSigned(None)
        | AuthenticationWrite::None => json!({"type": "sas"}),
    }
}

/// The content of a twin's document, without what the hub writes into it.
pub(crate) fn twin_content(twin: &Value) -> TwinSeed {
    let content = |value: &Value| {
        let Value::Object(members) = value else { return None };
        let mut members = members.clone();
        members.shift_remove("$version");
        members.shift_remove("$metadata");
        (!members.is_empty()).then(|| Value::Object(members).to_string())
    };
    TwinSeed {
        tags: content(&twin["tags"]),
        desired: content(&twin["properties"]["desired"]),
        reported: content(&twin["properties"]["reported"]),
    }
}
