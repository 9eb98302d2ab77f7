//! The webhook that chooses the hub of a device (Spec provisioning §8.2).
//!
//! Invariants: a URL is called only if the configuration names its host, and never another one: redirects are answers; a call is bounded
//! in time, and repeated once after an answer of 500 or more, or none; the request has no key; whatever the answer is, the operation is
//! decided by it.
//! Not here: HTTP (the composition root's [`Outbound`](crate::Outbound)), what the choice changes (`operations`).

use std::time::Duration;

use holdfast_device_hub::is_web_url;
use holdfast_model::json::{parse, quoted};
use holdfast_registry::{
    CustomAllocation, DevicePlace, Enrollment, EnrollmentContent, EnrollmentKind, MAX_RETURNED_PAYLOAD_BYTES,
    Registration, TwinSeed, WebhookAnswer, WebhookQuery,
};
use serde_json::{Map, Value, json};

use crate::allocation::Hubs;
use crate::enrollment_document::{Keys, enrollment_document};
use crate::initial_twin::{member, read_initial_twin};
use crate::metrics;
use crate::outbound::{Outbound, OutboundAnswer, OutboundError, OutboundRequest};

/// Calls before a webhook that does not answer has failed.
const ATTEMPTS: u32 = 2;

/// The pause between them.
const PAUSE: Duration = Duration::from_millis(250);

/// What a webhook has chosen.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) hub: String,
    pub(crate) twin: Option<TwinSeed>,
    /// A JSON object for the device.
    pub(crate) payload: Option<String>,
}

/// Checks that `hosts` of the configuration allow a URL.
///
/// # Errors
/// For people: why they do not.
pub(crate) fn check_url(url: &str, hosts: &[String]) -> Result<(), String> {
    if !is_web_url(url) {
        return Err("it must be a URL with http or https, without user and password".to_owned());
    }
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let host = match authority.rsplit_once(':') {
        Some((host, _)) if !host.contains(':') || host.ends_with(']') => host,
        _ => authority,
    };
    let is_allowed = hosts.iter().any(|entry| match entry.strip_prefix("http://") {
        Some(plain) => scheme == "http" && plain.eq_ignore_ascii_case(authority),
        None => {
            let named = entry.eq_ignore_ascii_case(authority) || entry.eq_ignore_ascii_case(host);
            scheme == "https" && (entry == "*" || named)
        }
    });
    match is_allowed {
        true => Ok(()),
        false => Err(format!(
            "provisioning.webhook_hosts of the configuration does not name {scheme}://{authority}"
        )),
    }
}

/// Calls the webhook. Whatever happens is in the answer for the record; `Err`: why there is no choice, for people.
pub(crate) async fn choose(
    outbound: &dyn Outbound,
    call: &WebhookCall<'_>,
    timeout: Duration,
) -> (WebhookAnswer, Result<Choice, String>) {
    let mut record = WebhookAnswer::default();
    let body = call.body().to_string().into_bytes();
    let mut last = Err(OutboundError {
        may_have_been_sent: false,
        text: "not called".to_owned(),
    });
    while record.attempts < ATTEMPTS {
        if record.attempts > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        record.attempts += 1;
        last = outbound
            .send(OutboundRequest {
                method: "POST",
                url: call.url(),
                connect_to: None,
                ca_certificate: None,
                is_kept: false,
                headers: Vec::new(),
                body: body.clone(),
                timeout,
            })
            .await;
        if last.as_ref().is_ok_and(|answer| answer.status < 500) {
            break;
        }
    }
    let (choice, label) = match last {
        Ok(answer) => {
            record.status = Some(answer.status);
            record.text = String::from_utf8_lossy(&answer.body).into_owned();
            let read = read(&answer, call);
            let label = if read.is_ok() { "chosen" } else { "refused" };
            (read, label)
        }
        Err(error) => {
            record.text.clone_from(&error.text);
            let text = format!("Custom allocation failed: the webhook does not answer: {}", error.text);
            (Err(text), "unanswered")
        }
    };
    metrics::webhook_calls(label).increment(1);
    (record, choice)
}

/// The facts that a webhook is called with.
pub(crate) struct WebhookCall<'a> {
    pub(crate) custom: &'a CustomAllocation,
    pub(crate) enrollment: &'a Enrollment,
    pub(crate) registration: &'a Registration,
    pub(crate) before: Option<&'a DevicePlace>,
    /// What the device sent, JSON.
    pub(crate) payload: Option<&'a str>,
    pub(crate) hubs: &'a Hubs,
}

impl WebhookCall<'_> {
    fn url(&self) -> String {
        match &self.custom.query {
            WebhookQuery::Known(query) if !query.is_empty() => format!("{}?{query}", self.custom.webhook_url),
            WebhookQuery::Known(_) | WebhookQuery::Kept => self.custom.webhook_url.clone(),
        }
    }

    fn body(&self) -> Value {
        let mut context = Map::new();
        context.insert("registrationId".to_owned(), json!(self.registration.id));
        if let Some(before) = self.before {
            context.insert("currentIotHubHostName".to_owned(), json!(before.hub));
            context.insert("currentDeviceId".to_owned(), json!(before.device_id.as_str()));
        }
        context.insert(self.enrollment.attestation.type_name().to_owned(), json!({}));
        if let Some(payload) = self.payload.and_then(|text| parse(text).ok()) {
            context.insert("payload".to_owned(), payload);
        }
        let enrollment = match self.enrollment.kind {
            EnrollmentKind::Individual => "individualEnrollment",
            EnrollmentKind::Group => "enrollmentGroup",
        };
        json!({
            enrollment: enrollment_document(self.enrollment, None, Keys::Hidden),
            "deviceRuntimeContext": context,
            "linkedHubs": self.hubs.names(&self.enrollment.content),
        })
    }
}

fn read(answer: &OutboundAnswer, call: &WebhookCall<'_>) -> Result<Choice, String> {
    read_choice(answer, call.hubs, &call.enrollment.content)
}

fn read_choice(answer: &OutboundAnswer, hubs: &Hubs, content: &EnrollmentContent) -> Result<Choice, String> {
    if !(200..300).contains(&answer.status) {
        return Err(format!("Custom allocation failed with status code: {}", answer.status));
    }
    let failed = |text: String| Err(format!("Custom allocation failed: {text}"));
    let text = std::str::from_utf8(&answer.body).unwrap_or_default();
    let Ok(Value::Object(members)) = parse(text) else {
        return failed("the webhook's answer is not a JSON object".to_owned());
    };
    let Some(Value::String(name)) = member(&members, "iotHubHostName") else {
        return failed("the webhook's answer has no iotHubHostName".to_owned());
    };
    let hub = hubs.find(name).map(|hub| hub.host.as_str());
    let Some(hub) = hub.filter(|hub| hubs.names(content).contains(hub)) else {
        return failed(format!("the webhook chose {}, which is not a linked hub", quoted(name)));
    };
    let twin = match member(&members, "initialTwin") {
        None | Some(Value::Null) => None,
        Some(Value::Object(twin)) => match read_initial_twin(twin) {
            Ok(twin) => Some(twin),
            Err(text) => return failed(format!("the webhook's {text}")),
        },
        Some(_) => return failed("the webhook's initialTwin is not an object".to_owned()),
    };
    let payload = match member(&members, "payload") {
        None | Some(Value::Null) => None,
        // The Java client reads nothing else.
        Some(payload @ Value::Object(_)) => Some(payload.to_string()),
        Some(_) => return failed("the webhook's payload is not an object".to_owned()),
    };
    if payload
        .as_ref()
        .is_some_and(|payload| payload.len() > MAX_RETURNED_PAYLOAD_BYTES)
    {
        return failed(format!(
            "the webhook's payload is larger than {MAX_RETURNED_PAYLOAD_BYTES} bytes"
        ));
    }
    Ok(Choice {
        hub: hub.to_owned(),
        twin,
        payload,
    })
}

#[cfg(test)]
mod tests {
    use holdfast_auth::HubNames;

    use super::*;

    #[test]
    fn only_hosts_of_the_configuration_are_called() {
        let hosts = ["hooks.example.com", "other.example:8443", "http://127.0.0.1:80"].map(str::to_owned);
        for url in [
            "https://hooks.example.com/api",
            "https://HOOKS.example.com:444/",
            "https://other.example:8443/x",
            "http://127.0.0.1:80/x",
        ] {
            assert_eq!(check_url(url, &hosts), Ok(()), "{url}");
        }
        for url in [
            "http://hooks.example.com/api",
            "https://other.example/x",
            "http://127.0.0.1:81/x",
            "https://127.0.0.1:80/x",
            "https://hooks.example.com.evil.example/",
            "https://evil.example/?hooks.example.com",
            "https://hooks.example.com@evil.example/",
            "ftp://hooks.example.com/",
            "hooks.example.com",
            "",
        ] {
            assert!(check_url(url, &hosts).is_err(), "{url}");
        }
        assert_eq!(check_url("https://any.example/", &["*".to_owned()]), Ok(()));
        assert!(check_url("http://any.example/", &["*".to_owned()]).is_err());
    }

    #[test]
    fn answers_are_read_or_explained() {
        let hubs = Hubs::new(HubNames::new(["hub.example.com", "alias.example.com"]), &[]);
        let read = |status, body: &str| {
            let answer = OutboundAnswer {
                status,
                body: body.as_bytes().to_vec(),
            };
            read_choice(&answer, &hubs, &EnrollmentContent::default())
        };
        let chosen = read(
            200,
            r#"{"iotHubHostName":"ALIAS.example.com","payload":{"a":1},"initialTwin":{"tags":{"t":1}}}"#,
        )
        .unwrap();
        assert_eq!(chosen.hub, "hub.example.com");
        assert_eq!(chosen.payload.as_deref(), Some(r#"{"a":1}"#));
        assert_eq!(chosen.twin.unwrap().tags.as_deref(), Some(r#"{"t":1}"#));
        for (status, body, part) in [
            (404, "{}", "status code: 404"),
            (302, "", "status code: 302"),
            (200, "", "not a JSON object"),
            (200, "[1]", "not a JSON object"),
            (200, "{}", "no iotHubHostName"),
            (200, r#"{"iotHubHostName":"other"}"#, "not a linked hub"),
            (200, r#"{"iotHubHostName":"hub.example.com","payload":[1]}"#, "payload"),
            (
                200,
                r#"{"iotHubHostName":"hub.example.com","initialTwin":7}"#,
                "initialTwin",
            ),
            (
                200,
                r#"{"iotHubHostName":"hub.example.com","initialTwin":{"tags":7}}"#,
                "initialTwin.tags",
            ),
        ] {
            let text = read(status, body).unwrap_err();
            assert!(text.contains(part), "{text}");
        }
    }
}
